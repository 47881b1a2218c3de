"""Shared sessions in jobs of a real Slurm: who shares with whom, and what ends with what."""

import os
import re
import shutil
from pathlib import Path

import pytest
from e2e.safety.trees import descendants
from slurm import Slurm, environment, state_of
from support import BASE, wait_until
from test_slurm import JOBS, prepared, slurm  # noqa: F401

# Its jobs wait for each other, and are submitted once.
TOGETHER = True

RUN = "run-overlay -v --share -o overlay2.ext3:ro --"
ALONE = RUN.replace("--share", "--no-share")

# Of one the processes are tracked by their parents, of the other by control groups where root
# can make these: see tests/slurm-up.
NODES = ("node1", "node4")


def sessions(job):
    """Return which sessions the tasks of a job have joined, one for each task."""
    return re.findall(r"joins a session \(process (\d+)\)", job.output())


@pytest.fixture(params=NODES)
def node(request):
    """Return a node for a job."""
    return request.param


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


def statuses(job):
    """Return what the commands of a job said with a word before it, in order of the words."""
    return sorted(re.findall(r"^(?:status|result|run) .*$", job.output(), re.M))


def ends(job, place, state=("COMPLETED", 0, 0)):
    """See that a job ends in some way, and that all of its sessions end with it."""
    assert job.end(240) == state, job.output()  # others may be on the node
    wait_until(lambda: not keepers(place))


def test_guide(slurm, local):  # noqa: F811
    """The job script of the documentation."""
    job = slurm.submit(JOBS["share"])
    ends(job, local)
    for number in range(4):
        text = (slurm.directory / f"results.{number}").read_text()
        assert text == f"result of {number}\n"


def test_guide_together(slurm, local):  # noqa: F811
    """The job script of the documentation: the tasks of a node write into one overlay."""
    job = slurm.submit(JOBS["together"])
    ends(job, local)
    assert job.output() == ""
    assert state_of(slurm.directory / "overlay1.ext3") == "clean"
    line = ["-o", "overlay1.ext3:ro", "--", "sh", "-c", "cat /results/?"]
    text = "".join(f"result of {number}\n" for number in range(4))
    assert slurm.ours("run-overlay", *line) == text


def test_step(slurm, local, node):  # noqa: F811
    """Eight tasks of a step on a node are in one session, which ends with the step."""
    line = f"srun -N1 -n8 {RUN} sh -c 'echo task $SLURM_PROCID'"
    job = slurm.script(line, "-N1", "-w", node, "-n8")
    ends(job, local)
    assert sorted(re.findall(r"task (\d)", job.output())) == list("01234567")
    assert len(sessions(job)) == 8
    assert len(set(sessions(job))) == 1


def test_control_group(slurm, local, node):  # noqa: F811
    """Keeper and servers are in the control groups of the step that has started them."""
    os.mkfifo(slurm.directory / "go")
    job = slurm.script(
        f"srun -n1 {RUN} sh -c 'cat /proc/self/cgroup; read x <go'", "-N1", "-w", node
    )
    wait_until(lambda: "0::/" in job.output())
    own = re.findall(r"^\d+:.*\n", job.output(), re.M)
    [keeper] = keepers(local)
    found = [Path(f"/proc/{pid}/cgroup").read_text() for pid in (keeper, *descendants(keeper))]
    assert len(found) > 3
    assert set(found) == {"".join(own)}
    (slurm.directory / "go").write_text("\n")
    ends(job, local)


def test_statuses(slurm, local, node):  # noqa: F811
    """A task that fails is the step's status, and the job's, as without --share."""
    for line in (RUN, ALONE):
        line = f"srun -N1 -n4 {line} sh -c 'exit $((SLURM_PROCID == 2 ? 9 : 0))'"
        ends(slurm.script(line, "-N1", "-w", node, "-n4"), local, ("FAILED", 9, 0))


FARM = """
for n in 1 2 3 4 5 6; do
    srun -N1 -n1 --exact RUN sh -c 'echo result $1; exit $((3 * ($1 % 3)))' sh $n &
done
while wait -n; s=$?; [ $s != 127 ]; do echo status $s; done
srun -n1 RUN sh -c 'kill -TERM $$'; echo status $?
exit 4
"""


@pytest.mark.parametrize("before", ["", f"{RUN} true"], ids=["steps", "batch"])
def test_farm(slurm, local, node, before):  # noqa: F811
    """Steps in the background of a batch script: results, statuses, and the job's, as alone."""
    found = []
    for run in (RUN, ALONE):
        job = slurm.script(before + FARM.replace("RUN", run), "-N1", "-w", node, "-n6")
        ends(job, local, ("FAILED", 4, 0))
        found.append(statuses(job))
        if run == RUN:
            assert len(set(sessions(job))) == (1 if before else 7), job.output()
    assert found[0] == found[1]
    assert [line for line in found[0] if "result" in line] == [f"result {n}" for n in range(1, 7)]
    assert len(found[0]) == 13


def test_requeue(slurm, local, node):  # noqa: F811
    """A job that is requeued starts anew, with another session."""
    line = "echo run ${SLURM_RESTART_COUNT:-0}; [ $SLURM_RESTART_COUNT ] || sleep 100"
    for run in (RUN, ALONE):
        script = f"srun -n1 {run} sh -c '{line}'"
        job = slurm.script(script, "-N1", "-w", node, "--requeue", "--open-mode=append").says(
            "run 0"
        )
        held = keepers(local)
        assert len(held) == (run == RUN)
        assert slurm.run("scontrol", "requeue", job.number).returncode == 0
        wait_until(lambda job=job: job.state() == "PENDING", 30)
        wait_until(lambda: not keepers(local))
        slurm.run("scontrol", "update", f"JobId={job.number}", "StartTime=now+5")
        ends(job, local)
        assert statuses(job) == ["run 0", "run 1"]
        assert len(set(sessions(job))) == (2 if run == RUN else 0)


WAITS = "trap 'echo status told; exit 3' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture(scope="module", autouse=True)
def limited(prepared, tmp_path_factory):  # noqa: F811
    """Submit at the start what a time limit ends: Slurm looks at those every half minute."""
    place = tmp_path_factory.mktemp("limited")
    shutil.copy(prepared / "overlay2.ext3", place)
    local = place / "local"
    local.mkdir()
    slurm = Slurm(environment(place / "site", BASE), place)  # noqa: F811
    slurm.environ.update(OVERLAY_SCRATCH_LOCAL=str(local), OVERLAY_LAUNCH_LINGER="600")
    (place / "wait.sh").write_text(WAITS)
    jobs = {}
    for node in NODES:
        for run in (RUN, ALONE):
            line = run[: -len("--")] + "-f wait.sh"
            for step in ("", "srun -n2 "):
                jobs[node, run, step] = slurm.script(step + line, "-N1", "-w", node, "-n2", "-t1")
    yield jobs, local
    slurm.cancel()


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


def test_time_limit(limited):
    """The time limit: state and code are as alone, and the sessions end.

    Whether the commands live to say that they were told is chance: with the script's end Slurm
    may KILL what is left.
    """
    jobs, place = limited
    found = {which: job.end(200) for which, job in jobs.items()}
    for (node, _run, step), end in found.items():
        assert end == found[node, ALONE, step]
        assert end[0] == "TIMEOUT"
    for (_node, run, step), job in jobs.items():
        assert job.output().count("ready\n") == (2 if step else 1)
        assert len(set(sessions(job))) == (run == RUN)
    wait_until(lambda: not keepers(place))
