"""Shared sessions in jobs of a real Slurm: who shares with whom, and what ends with what."""

import os
import re
from pathlib import Path

import pytest
from support import wait_until
from test_slurm import JOBS, prepared, slurm  # noqa: F401

# Its jobs wait for each other, and are submitted once.
TOGETHER = True

RUN = "run-overlay -v --share -o overlay2.ext3:ro --"


def sessions(job):
    """Return which sessions the tasks of a job have joined, one for each task."""
    return re.findall(r"joins a session \(process (\d+)\)", job.output())


@pytest.fixture
def local(slurm, tmp_path):  # noqa: F811
    """Give the sessions of a test a directory of their own; see that nothing is left in it."""
    place = tmp_path / "local"
    place.mkdir()
    slurm.environ.update(OVERLAY_SCRATCH_LOCAL=str(place), OVERLAY_LAUNCH_LINGER="600")
    yield place
    assert not keepers(place)


def keepers(place):
    """Return the keepers of sessions whose files lie in a directory."""
    wanted = os.fsencode(f"OVERLAY_SCRATCH_LOCAL={place}")
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text() == "overlay-shared\n":
                if wanted in (comm.parent / "environ").read_bytes().split(b"\0"):
                    found.append(comm.parent.name)
        except OSError:
            continue  # it has just ended
    return found


def ends(job, place, state=("COMPLETED", 0, 0)):
    """See that a job ends in some way, and that all of its sessions end with it."""
    assert job.end() == state, job.output()
    wait_until(lambda: not keepers(place))


def test_guide(slurm, local):  # noqa: F811
    """The job script of the documentation."""
    job = slurm.submit(JOBS["share"])
    ends(job, local)
    for number in range(4):
        text = (slurm.directory / f"results.{number}").read_text()
        assert text == f"result of {number}\n"


def test_step(slurm, local):  # noqa: F811
    """Eight tasks of a step on a node are in one session, which ends with the step."""
    job = slurm.script(f"srun -N1 -n8 {RUN} sh -c 'echo task $SLURM_PROCID'", "-N1", "-n8")
    ends(job, local)
    assert sorted(re.findall(r"task (\d)", job.output())) == list("01234567")
    assert len(sessions(job)) == 8
    assert len(set(sessions(job))) == 1


def test_statuses(slurm, local):  # noqa: F811
    """A task that fails is the step's status, and the job's, as without --share."""
    line = f"srun -N1 -n4 {RUN} sh -c 'exit $((SLURM_PROCID == 2 ? 9 : 0))'"
    ends(slurm.script(line, "-N1", "-n4"), local, ("FAILED", 9, 0))


def test_steps(slurm, local):  # noqa: F811
    """Steps in turn and at once have one each; with one of the batch script's they join that."""
    steps = f"for n in 1 2; do srun -n1 --overlap {RUN} true & done; wait; srun -n1 {RUN} true\n"
    job = slurm.script(steps, "-N1", "-n2")
    ends(job, local)
    assert len(sessions(job)) == len(set(sessions(job))) == 3, job.output()
    job = slurm.script(f"{RUN} true\n{steps}", "-N1", "-n2")
    ends(job, local)
    assert len(sessions(job)) == 4
    assert len(set(sessions(job))) == 1


def test_jobs(slurm, local):  # noqa: F811
    """Elements of an array, and jobs submitted from within another, do not share."""
    job = slurm.script(f"{RUN} sh -c 'echo one; sleep 1'", "-N1", "--array=0-2")
    ends(job, local)
    assert job.output().count("one\n") == 3
    assert len(set(sessions(job))) == 3
    inner = f"#!/bin/bash\nmodule load overlay\n{RUN} echo inner\n"
    (slurm.directory / "inner.sh").write_text(inner)
    line = f"{RUN} true; sbatch -W -o inner.out inner.sh; {RUN} true"
    job = slurm.script(f"srun -n1 sh -c '{line}'", "-n1")
    ends(job, local)
    assert len(set(sessions(job))) == 1, job.output()
    [own] = set(sessions(job))
    text = (slurm.directory / "inner.out").read_text()
    assert "inner\n" in text
    assert own not in text


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_scancel(slurm, local, signal):  # noqa: F811
    """scancel ends commands and session, and nothing stays; the commands are told."""
    line = "trap 'ls /usr >/dev/null && echo told; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    (slurm.directory / "wait.sh").write_text(line)
    job = slurm.script(
        "srun -N1 -n2 run-overlay --share -o overlay2.ext3:ro -f wait.sh", "-N1", "-n2"
    )
    wait_until(lambda: job.output().count("ready") == 2)
    slurm.run("scancel", *(["-s", "KILL"] if signal == "KILL" else []), job.number)
    assert job.end()[0] in ("CANCELLED", "FAILED")
    if signal == "TERM":
        assert job.output().count("told") == 2
    wait_until(lambda: not keepers(local))
