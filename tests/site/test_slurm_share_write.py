"""Tasks of a real Slurm that write into one overlay with --share: as safely as one alone."""

import re
import subprocess

import pytest
from slurm import Slurm, environment, is_sound, state_of
from support import BASE, ROOT, wait_until
from test_slurm import WRITER, prepared, slurm, written  # noqa: F401
from test_slurm_share import ends, keepers, local, node, sessions, statuses  # noqa: F401

# Its jobs wait for each other, and are submitted once.
TOGETHER = True

RUN = "run-overlay -v --share -o overlay1.ext3 -o overlay2.ext3 --"

# As WRITER of the tests without --share, each task in a directory of its own.
WRITERS = WRITER.replace("/data", "/data/$SLURM_PROCID").replace(
    "echo written", "echo task $SLURM_PROCID written"
)


def clean(slurm):  # noqa: F811
    """Wait until the overlay was closed, and see that it is sound."""
    path = slurm.directory / "overlay1.ext3"
    wait_until(lambda: state_of(path) == "clean", 10)
    assert is_sound(path)


def test_step(slurm, local, node):  # noqa: F811
    """Eight tasks of a step write into one overlay; one that fails is the status of the step."""
    line = "mkdir -p /r; echo $SLURM_PROCID >/r/$SLURM_PROCID; exit $((SLURM_PROCID == 2 ? 9 : 0))"
    job = slurm.script(f"srun -N1 -n8 {RUN} sh -c '{line}'", "-N1", "-w", node, "-n8")
    ends(job, local, ("FAILED", 9, 0))
    assert len(sessions(job)) == 8
    clean(slurm)
    found = slurm.ours("run-overlay", "-o", "overlay1.ext3:ro", "--", "sh", "-c", "cat /r/*")
    assert found.split() == list("01234567"), job.output()


def test_array(slurm, local, node):  # noqa: F811
    """Elements of an array are jobs: one works, the others are told, as without --share."""
    ended = slurm.directory / "ended"
    ended.mkdir()
    work = f"until [ $(ls {ended} | wc -l) = 2 ]; do sleep 0.1; done"
    line = f"{RUN} sh -c '{work}'; echo status $?; mktemp -q -p {ended}"
    job = slurm.script(line, "-N1", "-w", node, "--array=0-2")
    ends(job, local)
    assert statuses(job) == ["status 0", "status 75", "status 75"], job.output()
    assert "or let each write into a layer of its own over it: --per-task" in job.output()
    clean(slurm)


def nothing_is_lost(slurm, job, local, tasks):  # noqa: F811
    """See that all which some tasks said to have synced is there, once nothing of the job is left."""
    wait_until(lambda: not keepers(local))
    done = slurm.run(ROOT / "bin" / "check-overlay", "--recover", "overlay1.ext3")
    assert done.returncode == 0, done
    check = 'for n in $(seq "$2"); do [ "$(cat /data/$1/f$n)" = $n ] || echo lost $1 $n; done'
    for task in tasks:
        last = max(map(int, re.findall(rf"task {task} written (\d+)\n", job.output())))
        words = ["-o", "overlay1.ext3:ro", "--", "sh", "-c", check, "sh", task, last]
        assert slurm.ours("run-overlay", *words) == ""
    clean(slurm)


@pytest.fixture(scope="module", autouse=True)
def limited(prepared, tmp_path_factory):  # noqa: F811
    """Submit at the start what a time limit ends: Slurm looks at those every half minute."""
    place = tmp_path_factory.mktemp("limited")
    for name in ("overlay1.ext3", "overlay2.ext3"):
        subprocess.run(["cp", "--sparse=always", prepared / name, place], check=True)
    local = place / "local"  # noqa: F811
    local.mkdir()
    slurm = Slurm(environment(place / "site", BASE), place)  # noqa: F811
    slurm.environ.update(OVERLAY_SCRATCH_LOCAL=str(local))
    (place / "write.sh").write_text(WRITERS)
    line = f"srun -N1 -n2 {RUN[: -len('--')]} -f write.sh"
    yield slurm.script(line, "-N1", "-w", "node1", "-n2", "-t1"), local
    slurm.cancel()


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_scancel(slurm, local, node, signal):  # noqa: F811
    """scancel in the midst of writing: all that was synced is there, nothing stays."""
    (slurm.directory / "write.sh").write_text(WRITERS)
    line = f"srun -N1 -n4 {RUN[: -len('--')]} -f write.sh"
    job = slurm.script(line, "-N1", "-w", node, "-n4")
    wait_until(lambda: len(set(re.findall(r"task (\d) written 5\n", job.output()))) == 4)
    words = ["-s", "KILL"] if signal == "KILL" else []
    slurm.run("scancel", *words, job.number)
    assert job.end()[0] in ("CANCELLED", "FAILED")
    nothing_is_lost(slurm, job, local, "0123")


def test_requeue(slurm, local, node):  # noqa: F811
    """A job that is requeued goes on in the same overlay."""
    line = (
        "echo run ${SLURM_RESTART_COUNT:-0} >>/runs; sync /runs; cat /runs;"
        " [ $SLURM_RESTART_COUNT ] || sleep 100"
    )
    script = f"srun -n1 {RUN} sh -c '{line}'"
    job = slurm.script(script, "-N1", "-w", node, "--requeue", "--open-mode=append").says("run 0")
    assert slurm.run("scontrol", "requeue", job.number).returncode == 0
    wait_until(lambda: job.state() == "PENDING", 30)
    wait_until(lambda: not keepers(local))
    slurm.run("scontrol", "update", f"JobId={job.number}", "StartTime=now+5")
    ends(job, local)
    assert statuses(job) == ["run 0", "run 0", "run 1"]
    clean(slurm)


def test_left_in_the_background(slurm, local, node):  # noqa: F811
    """What a task leaves behind is named, and does not keep the step."""
    line = "mkdir -p /r; echo $SLURM_PROCID >/r/$SLURM_PROCID; (sleep 300) >/dev/null 2>&1 &"
    job = slurm.script(f"srun -N1 -n2 {RUN} sh -c '{line}'", "-N1", "-w", node, "-n2")
    ends(job, local)
    assert job.output().count("still running when the commands ended: ") == 2
    clean(slurm)


def test_time_limit(limited):
    """The time limit: state and code are as alone, and all that was synced is there."""
    job, place = limited
    assert job.end(200)[0] == "TIMEOUT"
    nothing_is_lost(job.slurm, job, place, "01")
