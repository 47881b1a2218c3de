"""Jobs that are ended at random moments, a node that fails, and large copies: the long rounds."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "site"))

from slurm import HOME, is_sound, state_of  # noqa: E402
from support import BASE, wait_until  # noqa: E402
from test_slurm import WRITER, prepared, slurm, written  # noqa: E402, F401

WRITES = f"run-overlay -o %s -f - <<'END'\n{WRITER}\nEND"


def synced(slurm, job, overlay):  # noqa: F811
    """Return how many files a job synced, all of them seen to be there; none is none."""
    return written(slurm, job, overlay) if "written" in job.output() else 0


def test_scancel(slurm, rounds, count):  # noqa: F811
    """scancel at random moments of a job that writes; the next job takes the same overlay."""
    files, repaired = 0, 0
    number = rounds(2, 10)
    for _round in range(number):
        job = slurm.script("rm -f go; " + WRITES % "overlay1.ext3").runs()
        time.sleep(random.uniform(0, 3))
        slurm.run("scancel", job.number)
        assert job.end()[0] == "CANCELLED"
        repaired += state_of(slurm.directory / "overlay1.ext3") != "clean"
        files += synced(slurm, job, "overlay1.ext3")
        assert is_sound(slurm.directory / "overlay1.ext3")
    count(f"scancel: {number} rounds, {files} synced files all there, {repaired} not clean at once")


def test_time_limit(slurm, rounds, count):  # noqa: F811
    """The time limit, which Slurm looks at every half minute, in as many jobs as rounds."""
    number, jobs = rounds(2, 10), {}
    for place in range(number):
        name = f"limit{place}.ext3"
        subprocess.run(["cp", "overlay1.ext3", name], cwd=slurm.directory, check=True)
        jobs[name] = slurm.script(WRITES % name, "-t", "1")
        time.sleep(random.uniform(0, 2))
    files = 0
    for name, job in jobs.items():
        assert job.end(240)[0] == "TIMEOUT"
        files += synced(slurm, job, name)
        assert is_sound(slurm.directory / name)
    count(f"time limit: {number} jobs, {files} synced files all there")


def test_node_failure(slurm, count):  # noqa: F811
    """A node dies with all on it: the job is requeued elsewhere and repairs what it finds."""
    loop = WRITER.replace("n=0", 'n=$(ls /data | wc -l); echo "begin $n"')
    job = slurm.script(
        f"run-overlay -o overlay1.ext3 -f - <<'END'\n{loop}\nEND",
        "--requeue",
        "--open-mode=append",
        "-w",
        "node3",
    ).says("written 30")
    failed = HOME / "fail" / "node3"
    try:
        failed.touch()
        wait_until(lambda: job.state() != "RUNNING", 60)
        assert job.state() == "PENDING"
        before = job.output()
        slurm.run("scontrol", "update", f"JobId={job.number}", "ReqNodeList=", "StartTime=now")
        wait_until(lambda: job.output().count("begin") == 2, 60)
        last = int(before.split()[-1])
        assert f"begin {last}" in job.output() or f"begin {last + 1}" in job.output()
        job.says(f"written {last + 10}")
        slurm.run("scancel", job.number)
        assert job.end()[0] == "CANCELLED"
        assert written(slurm, job, "overlay1.ext3") >= last + 10
        assert is_sound(slurm.directory / "overlay1.ext3")
        words = [line for line in job.output().splitlines() if line.startswith("run-overlay: ")]
        count("node failure: " + " | ".join(words))
    finally:
        failed.unlink()
    wait_until(lambda: "idle" in slurm.run("sinfo", "-h", "-n", "node3", "-o", "%T").stdout, 60)


@pytest.fixture
def gigabyte(slurm):  # noqa: F811
    """Make big.ext3 with a gigabyte of data."""
    slurm.ours("create-overlay", "-q", "--sparse", "-s", 1200, "-n", 1, "-o", "big")
    line = "head -c 1G /dev/urandom > /data; sha256sum < /data > /sum"
    slurm.ours("run-overlay", "-o", "big.ext3", "--", "sh", "-c", line, timeout=300)


def test_stage(slurm, gigabyte):  # noqa: F811
    """A gigabyte by eight tasks on two nodes, in two jobs at once: one copy a node and job."""
    check = "sha256sum < /data | diff - /sum && echo right"
    line = f"srun run-overlay --stage -o big.ext3:ro -- sh -c '{check}'"
    jobs = [slurm.script(line, "-N2", "-n8", "--ntasks-per-node=4") for _number in range(2)]
    for job in jobs:
        assert job.end(300) == ("COMPLETED", 0, 0), job.output()
        assert job.output().count("staged big.ext3 in ") == 2, job.output()
        assert job.output().count("right\n") == 8


def test_start_of_sixteen(slurm, rounds, count):  # noqa: F811
    """Sixteen tasks at once on one node, medians, against the bare engine."""
    number, words = rounds(1, 5), []
    for name, line in (
        ("apptainer", f"apptainer exec --overlay overlay2.ext3:ro {BASE} true"),
        ("run-overlay", "run-overlay -o overlay2.ext3:ro -- true"),
        ("--stage", "run-overlay --stage -o overlay2.ext3:ro -- true"),
        ("--per-task", "run-overlay --per-task -o overlay2.ext3:ro -- true"),
    ):
        durations = []
        for _round in range(number):
            text = f"s=$EPOCHREALTIME; srun {line} && echo $s $EPOCHREALTIME"
            job = slurm.script(text, "-N1", "-n16")
            assert job.end() == ("COMPLETED", 0, 0), job.output()
            start, end = map(float, job.output().split()[-2:])
            durations.append(end - start)
        words.append(f"{name} {sorted(durations)[number // 2]:.1f} s")
    count("16 tasks on one node: " + ", ".join(words))
