"""Overlays in jobs of a real Slurm of four nodes; tests/slurm-up brings it up."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from slurm import HOME, Slurm, environment, is_sound, kill_environment, scripts, seconds, state_of
from support import BASE, ROOT, wait_until

# Its jobs wait for minutes, and are submitted once.
TOGETHER = True

GUIDE = (ROOT / "docs" / "jobs.md").read_text()
JOBS, FILES = scripts(GUIDE)
# The other node's Slurm KILLs all of a job at the end of its script: see tests/slurm-up.
BY_PARENTS = ("-x", "node4")

COMPUTE = "#!/bin/sh\necho result of ${SLURM_ARRAY_TASK_ID:-$SLURM_PROCID}\n"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Return a directory with the overlays and files that the guide speaks of."""
    assert (HOME / "slurm.conf").exists(), "let root run tests/slurm-up first"
    place = tmp_path_factory.mktemp("slurm")
    slurm = Slurm(environment(place / "site", BASE), place)
    for number in (1, 2):
        slurm.ours("create-overlay", "-q", "--sparse", "-s", 64, "-n", 2, "-o", f"overlay{number}")
    for name, text in FILES.items():
        (place / name).write_text(text)
    (place / "compute").write_text(COMPUTE)
    seed = (
        "mkdir -p /opt/env/bin; cp compute /opt/env/bin; chmod 755 /opt/env/bin/compute;"
        " echo 'PATH=/opt/env/bin:$PATH' > /opt/env/bin/activate; mkdir /usr-local;"
    )
    slurm.ours("run-overlay", "-o", "overlay2.ext3", "--", "sh", "-c", seed)
    return place


@pytest.fixture
def slurm(prepared, tmp_path):
    """Return a Slurm whose directory holds overlays of the guide; its jobs end with the test."""
    place = tmp_path / "work"
    place.mkdir()
    for path in prepared.iterdir():
        if path.is_file() and not path.name.startswith("job"):
            subprocess.run(["cp", "--sparse=always", path, place], check=True)
    found = environment(tmp_path / "site", BASE)
    # `compute` of the guide is anybody's program: here one in the overlay.
    found["APPTAINERENV_PREPEND_PATH"] = "/opt/env/bin"
    slurm = Slurm(found, place)
    yield slurm
    slurm.cancel()


@pytest.fixture(scope="module", autouse=True)
def limited(prepared, tmp_path_factory):
    """Submit at the start what ends only with a time limit, or a minute or so before."""
    place = tmp_path_factory.mktemp("limited")
    for path in prepared.iterdir():
        if path.is_file():
            subprocess.run(["cp", "--sparse=always", path, place], check=True)
    slurm = Slurm(environment(place / "site", BASE), place)
    for name in ("limit", "usr1"):
        shutil.copy(place / "overlay1.ext3", place / f"{name}.ext3")
    jobs = {
        "limit": slurm.script(
            f"run-overlay -o limit.ext3 -f - <<'END'\n{WRITER}\nEND", "-t", "1", *BY_PARENTS
        ),
        "signal": slurm.submit(JOBS["signal"]),
        "usr1": slurm.script(
            "srun run-overlay -o usr1.ext3 -- bash -c '"
            'trap "echo saved; exit 3" USR1; while :; do sleep 0.1; done\'',
            "-t",
            "2",
            "--signal=USR1@30",
        ),
    }
    yield jobs
    slurm.cancel()


WRITER = """\
mkdir -p /data
trap 'echo TERM; exit 143' TERM
n=0
while :; do
    n=$((n + 1))
    echo $n > /data/f$n && sync /data/f$n && echo written $n
    sleep 0.01
done"""


def written(slurm, job, overlay):
    """Return how many files a job says that it synced, after seeing that all are there."""
    numbers = [int(number) for number in re.findall(r"written (\d+)", job.output())]
    check = 'for n in $(seq "$1"); do [ "$(cat /data/f$n)" = $n ] || echo lost $n; done'
    last = max(numbers)
    words = ["--wait", "60", "-o", f"{overlay}:ro", "--", "sh", "-c", check, "sh", last]
    assert slurm.ours("run-overlay", *words) == ""
    return last


# --------------------------------------------------------------- the guide --


def test_guide_one(slurm):
    """The job script of the documentation, with `module load overlay` in it."""
    job = slurm.submit(JOBS["one"])
    assert job.end() == ("COMPLETED", 0, 0), job.output()
    line = ("-o", "overlay1.ext3:ro", "--", "cat", "/data/results.txt")
    assert slurm.ours("run-overlay", *line) == "result of 0\n"
    assert job.output() == "" and state_of(slurm.directory / "overlay1.ext3") == "clean"


def test_job_of_the_mission(slurm):
    """Memory and time asked for, conda activated, python run; a failing line is the job's."""
    (slurm.directory / "file.txt").write_text(
        "conda() { echo conda $@; }\nconda activate /opt/conda-envs/myenv\npython3 abc.py\n"
    )
    (slurm.directory / "abc.py").write_text("import sys; print('abc'); sys.exit(9)\n")
    job = slurm.submit(
        "#!/bin/bash\n#SBATCH --mem=8GB\n#SBATCH --time=1:00:00\n\nmodule load overlay\n"
        "run-overlay -o overlay1.ext3 -o overlay2.ext3 -f file.txt\n"
    )
    assert job.end() == ("FAILED", 9, 0)
    assert job.output() == "conda activate /opt/conda-envs/myenv\nabc\n"


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("here", [""]), ("array", range(1, 33)), ("nodes", range(8)), ("stage", range(8))],
)
def test_guide_reading(slurm, name, numbers):
    """The job scripts that read: every result is there and right."""
    job = slurm.submit(JOBS[name])
    assert job.end(120) == ("COMPLETED", 0, 0), job.output()
    for number in numbers:
        file = slurm.directory / (f"results.{number}" if number != "" else "results.txt")
        assert file.read_text() == f"result of {number or 0}\n"


def test_guide_tasks(slurm):
    """Sixteen writers on four nodes, each into an overlay of its own, all of them kept."""
    job = slurm.submit(JOBS["tasks"])
    assert job.end(120) == ("COMPLETED", 0, 0), job.output()
    kept = slurm.directory / "kept"
    names = [f"job{job.number}-task{number}.ext3" for number in range(16)]
    assert sorted(os.listdir(kept)) == sorted(names)
    for number, name in enumerate(names):
        assert state_of(kept / name) == "clean" and is_sound(kept / name)
        line = ("-o", f"kept/{name}:ro", "-o", "overlay2.ext3", "--", "cat", "/data/results.txt")
        assert slurm.ours("run-overlay", *line) == f"result of {number}\n"


def test_guide_discard(slurm):
    """Four tasks write over one overlay, and nothing of that stays."""
    before = (slurm.directory / "overlay2.ext3").read_bytes()
    job = slurm.submit(JOBS["discard"])
    assert job.end() == ("COMPLETED", 0, 0), job.output()
    for number in range(4):
        text = (slurm.directory / f"results.{number}").read_text()
        assert text == f"result of {number}\n"
    assert (slurm.directory / "overlay2.ext3").read_bytes() == before


def test_guide_steps(slurm):
    """A job that is requeued, and one that is submitted again, goes on where it was."""
    slow = "#!/bin/sh\n[ $SLURM_RESTART_COUNT ] || sleep 1\necho run ${SLURM_RESTART_COUNT:-0}\n"
    (slurm.directory / "compute").write_text(slow)
    line = ("-o", "overlay2.ext3", "--", "cp", "compute", "/opt/env/bin/compute")
    slurm.ours("run-overlay", *line)
    text = JOBS["steps"].replace("compute >", "/opt/env/bin/compute >")
    job = slurm.submit(text.replace("mv ", "echo done $step; mv ")).says("done 2")
    assert slurm.run("scontrol", "requeue", job.number).returncode == 0
    wait_until(lambda: job.state() == "PENDING", 30)
    # Not at once: for some seconds Slurm takes the job's credential for the revoked one.
    slurm.run("scontrol", "update", f"JobId={job.number}", "StartTime=now+5")
    assert job.end() == ("COMPLETED", 0, 0), job.output()
    line = "cd /data; ls; cat step.[1-5]"
    found = slurm.ours("run-overlay", "-o", "overlay1.ext3:ro", "--", "sh", "-c", line).split("\n")
    assert found[:5] == [f"step.{number}" for number in range(1, 6)]
    runs = [line for line in found if line.startswith("run")]
    assert len(runs) == 5 and runs == sorted(runs) and {"run 0", "run 1"} == set(runs)
    again = slurm.submit(text)
    assert again.end() == ("COMPLETED", 0, 0)


# ------------------------------------------------------- many want to write --


@pytest.mark.parametrize("where", ["step", "array"])
def test_many_writers(slurm, where):
    """One of eight works as long as the others are there; these end with 75 and three ways out."""
    ended = slurm.directory / "ended"
    ended.mkdir()
    work = f"until [ $(ls {ended} | wc -l) = 7 ]; do sleep 0.1; done"
    line = f"run-overlay -o overlay1.ext3 -- sh -c '{work}'; echo status $?; mktemp -q -p {ended}"
    if where == "step":
        (slurm.directory / "task.sh").write_text(line)
        job = slurm.script("srun bash task.sh", "-N4", "-n8")
        variable = "SLURM_PROCID"
    else:
        job = slurm.script(line, "--array=0-7")
        variable = "SLURM_ARRAY_TASK_ID"
    assert job.end() == ("COMPLETED", 0, 0)
    output = job.output()
    assert sorted(re.findall(r"status (\d+)", output)) == ["0"] + ["75"] * 7, output
    # The nodes are one machine here.
    share = (
        "let the tasks of a node write into it together: --share; or " if where == "step" else ""
    )
    hint = (
        f"run-overlay: hint: one task at a time can write an overlay; {share}in a parallel job let all"
        " tasks read it: -o overlay1.ext3:ro; or give each its own, made before: -o overlay1-$"
        f"{variable}.ext3; or let each write into a layer of its own over it: --per-task"
    )
    assert output.count(hint) == 7 and output.count("overlay1.ext3 is in use") == 7, output


def test_one_writer_and_readers(slurm):
    """Nothing is guessed: a task that has its overlay alone writes it, whatever its rank."""
    for number in range(4):
        shutil.copy(slurm.directory / "overlay1.ext3", slurm.directory / f"work-{number}.ext3")
    line = "srun sh -c 'run-overlay -o work-$SLURM_PROCID.ext3 -o overlay2.ext3 -- mkdir /mine'"
    assert slurm.script(line, "-n4").end() == ("COMPLETED", 0, 0)
    for number in range(4):
        slurm.ours("run-overlay", "-o", f"work-{number}.ext3:ro", "--", "ls", "/mine")


# ----------------------------------------------------------------- what is kept --


@pytest.fixture
def elsewhere():
    """Return a directory on another, small file system."""
    path = HOME / "small" / f"kept-{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def test_kept_names(slurm, elsewhere):
    """A name that is taken gets a number; another file system gets a copy."""
    (slurm.directory / "kept").mkdir()
    line = "run-overlay -o overlay2.ext3 --per-task -s 64 -n 1 --keep"
    lines = [f"srun {line} {place} -- mkdir /{place}" for place in ("kept", "kept")]
    job = slurm.script("\n".join([*lines, f"srun {line} {elsewhere} -- sh -c 'echo x > /x'"]))
    assert job.end() == ("COMPLETED", 0, 0), job.output()
    name = f"job{job.number}-task0"
    assert sorted(os.listdir(slurm.directory / "kept")) == [f"{name}-2.ext3", f"{name}.ext3"]
    assert os.listdir(elsewhere) == [f"{name}.ext3"]
    assert is_sound(elsewhere / f"{name}.ext3")
    line = ("-o", elsewhere / f"{name}.ext3:ro", "--", "cat", "/x")
    assert slurm.ours("run-overlay", *line) == "x\n"


def test_kept_without_room(slurm, elsewhere):
    """No room where it is to be kept: 74, and a line says where it lies."""
    slurm.environ["OVERLAY_SCRATCH_LOCAL"] = str(slurm.directory)
    line = ("-o", "overlay2.ext3", "--per-task", "-s", 200, "-n", 1, "--keep", elsewhere)
    fill = "head -c 100M /dev/urandom > /x"
    done = slurm.run(ROOT / "bin" / "run-overlay", *line, "--", "sh", "-c", fill)
    assert done.returncode == 74 and "could not be moved" in done.stderr, done
    path = re.search(r"it lies on this node \(\S+\), for a day at least: (\S+)\n", done.stderr)[1]
    line = ("-o", f"{path}:ro", "--", "stat", "-c", "%s", "/x")
    assert slurm.ours("run-overlay", *line) == "104857600\n" and os.listdir(elsewhere) == []


# ------------------------------------------------------------------- ended --


def test_scancel(slurm):
    """scancel in the midst of writing: cancelled, clean, all that was synced is there.

    Whether the commands live to say that they were told is chance here: this Slurm finds its
    processes by their parents, and sends TERM to the engine's servers at the same time.
    """
    job = slurm.script(f"run-overlay -o overlay1.ext3 -f - <<'END'\n{WRITER}\nEND", *BY_PARENTS)
    job.says("written 20")
    slurm.run("scancel", job.number)
    assert job.end()[0] == "CANCELLED"
    wait_until(lambda: state_of(slurm.directory / "overlay1.ext3") == "clean", 10)
    assert written(slurm, job, "overlay1.ext3") >= 20
    assert is_sound(slurm.directory / "overlay1.ext3")


def test_killed(slurm):
    """Everything of a job killed at once: the next session repairs, synced files are there."""
    job = slurm.script(f"run-overlay -o overlay1.ext3 -f - <<'END'\n{WRITER}\nEND")
    job.says("written 20")
    kill_environment("SLURM_JOB_ID", job.number)
    assert job.end()[0] == "FAILED"
    # The engine's servers have not the job's environment, and may outlive it.
    done = slurm.run(ROOT / "bin" / "check-overlay", "--recover", "overlay1.ext3")
    assert done.returncode == 0, done
    assert written(slurm, job, "overlay1.ext3") >= 20
    assert is_sound(slurm.directory / "overlay1.ext3")


def test_per_task_scancel(slurm):
    """A cancelled task still keeps what it wrote; one that throws it away leaves nothing."""
    (slurm.directory / "kept").mkdir()
    line = "srun run-overlay -o overlay1.ext3 --per-task -s 64 -n 2"
    job = slurm.script(f"{line} --keep kept -f - <<'END'\n{WRITER}\nEND").says("written 20")
    other = slurm.script(f"{line} -f - <<'END'\n{WRITER}\nEND").says("written 1")
    scratch = [HOME / "scratch" / f"node{node}" / str(other.number) for node in range(1, 5)]
    assert any(list(place.glob("overlay-*/job*.ext3")) for place in scratch)
    slurm.run("scancel", job.number, other.number)
    assert job.end()[0] == other.end()[0] == "CANCELLED"
    [name] = wait_until(lambda: os.listdir(slurm.directory / "kept"))
    assert name == f"job{job.number}-task0.ext3"
    assert written(slurm, job, f"kept/{name}") >= 20
    assert not any(place.exists() for place in scratch)


# ------------------------------------------------------------------ staging --


@pytest.fixture
def staging(slurm):
    """Return a function that starts sessions with --stage outside of jobs, with one scratch."""
    scratch = slurm.directory / "scratch"
    scratch.mkdir()
    slurm.environ["OVERLAY_SCRATCH_LOCAL"] = str(scratch)
    start = [ROOT / "bin" / "run-overlay", "--stage", "-o", "big.ext3:ro", "--"]
    return lambda *words: [*start, *(words or ["cat", "/id"])]


@pytest.fixture(scope="session")
def big_template(prepared):
    """Make an overlay with 300 MB of data that do not compress, and /id."""
    slurm = Slurm(environment(prepared / "site", BASE), prepared)
    (prepared / "big").mkdir()
    slurm.ours("create-overlay", "-q", "--sparse", "-s", 400, "-n", 1, "-o", "big/big")
    line = "head -c 300M /dev/urandom > /data; echo first > /id; sha256sum < /data > /sum"
    slurm.ours("run-overlay", "-o", "big/big.ext3", "--", "sh", "-c", line)
    return prepared / "big" / "big.ext3"


@pytest.fixture
def big(slurm, big_template):
    """Return big.ext3 of that, fresh."""
    subprocess.run(["cp", "--sparse=always", big_template, slurm.directory], check=True)
    return slurm.directory / "big.ext3"


def test_stage_in_jobs(slurm, big):
    """Eight tasks on two nodes, and two such jobs at once: one copy a node and job."""
    check = "sha256sum < /data | diff - /sum; cat /id"
    line = f"srun run-overlay --stage -o big.ext3:ro -- sh -c '{check}'"
    jobs = [slurm.script(line, "-N2", "-n8", "--ntasks-per-node=4") for _number in range(2)]
    for job in jobs:
        assert job.end() == ("COMPLETED", 0, 0), job.output()
        assert job.output().count("staged big.ext3 in ") == 2, job.output()
        assert job.output().count("first\n") == 8
    # What was staged in the job's own scratch directory has gone with it.
    assert not list((HOME / "scratch").glob("*/*/overlay-*"))


def test_stage_shared(slurm, big):
    """Two jobs on one node with one scratch: copied once; the original is free meanwhile."""
    shared = slurm.directory / "scratch"
    shared.mkdir()
    slurm.environ["OVERLAY_SCRATCH_LOCAL"] = str(shared)
    wait = f"until [ -e {slurm.directory}/go ]; do sleep 0.1; done"
    line = f"srun run-overlay --stage -o big.ext3:ro -- sh -c 'cat /id; {wait}'"
    jobs = [slurm.script(line, "-w", "node1", "-n4") for _number in range(2)]
    for job in jobs:
        job.says("first")
    wait_until(lambda: sum(job.output().count("first\n") for job in jobs) == 8)
    slurm.ours("run-overlay", "-o", "big.ext3", "--", "touch", "/free")
    (slurm.directory / "go").touch()
    assert [job.end() for job in jobs] == [("COMPLETED", 0, 0)] * 2
    assert sum(job.output().count("staged big.ext3") for job in jobs) == 1


def test_stage_changed(slurm, big, staging):
    """A changed original is copied anew, and the old copy goes."""
    assert slurm.run(*staging()).stdout == "first\n"
    slurm.ours("run-overlay", "-o", "big.ext3", "--", "sh", "-c", "echo second > /id")
    done = slurm.run(*staging())
    assert done.stdout == "second\n" and "staged big.ext3" in done.stderr
    done = slurm.run(*staging())
    assert (done.stdout, done.stderr) == ("second\n", "")
    assert len(list((slurm.directory / "scratch").glob("overlay-*/staged-*"))) == 1


def test_stage_without_room(slurm, big, staging):
    """A scratch that is too small: a line, and the original."""
    slurm.environ["OVERLAY_SCRATCH_LOCAL"] = str(HOME / "small")
    done = slurm.run(*staging())
    assert (done.returncode, done.stdout) == (0, "first\n")
    assert re.fullmatch(
        r"run-overlay: big.ext3 is not staged: it needs 3\d\d MiB in \S+, and \S+ \S+ are free\n",
        done.stderr,
    ), done.stderr


def test_stage_killed(slurm, big, staging):
    """A killed copier does not block the next, and leaves nothing that is taken for whole."""
    environ = {**slurm.environ, "LC_ALL": "C.UTF-8"}
    copier = subprocess.Popen(staging(), env=environ, cwd=slurm.directory)
    partial = slurm.directory / "scratch" / f"overlay-{os.getuid()}" / "partial"
    end = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_blocks > 2048):
        assert copier.poll() is None and time.monotonic() < end
    copier.send_signal(signal.SIGKILL)
    copier.wait()
    assert partial.exists()
    took, done = seconds(lambda: slurm.run(*staging("sh", "-c", "sha256sum < /data | diff - /sum")))
    assert (done.returncode, done.stdout) == (0, "") and "staged big.ext3" in done.stderr
    assert took < 15 and not partial.exists()


def test_stage_ended(slurm, big, staging):
    """TERM while copying: nothing stays."""
    copier = subprocess.Popen(staging(), env=slurm.environ, cwd=slurm.directory)
    place = slurm.directory / "scratch" / f"overlay-{os.getuid()}"
    end = time.monotonic() + 20
    while not (place / "partial").exists():
        assert copier.poll() is None and time.monotonic() < end
    copier.terminate()
    assert copier.wait() == -signal.SIGTERM and os.listdir(place) == [".lock"]


# ------------------------------------------------------------------ start-up --


def test_start_of_sixteen(slurm, capsys):
    """Sixteen tasks at once on one node: how long, against the bare engine."""
    found = {}
    for name, line in (
        ("apptainer", f"apptainer exec --overlay overlay2.ext3:ro {BASE} true"),
        ("run-overlay", "run-overlay -o overlay2.ext3:ro -- true"),
        ("--stage", "run-overlay --stage -o overlay2.ext3:ro -- true"),
    ):
        text = f"s=$EPOCHREALTIME; srun {line} && echo $s $EPOCHREALTIME"
        job = slurm.script(text, "-N1", "-n16")
        assert job.end() == ("COMPLETED", 0, 0), job.output()
        start, end = map(float, job.output().split()[-2:])
        found[name] = end - start
    words = ", ".join(f"{name} {duration:.1f} s" for name, duration in found.items())
    with capsys.disabled():
        print(f"\n16 tasks on one node: {words}")


# --------------------------------------------------------------- time limits --


def test_time_limit(limited):
    """The time limit: the state is TIMEOUT, the overlay clean, what was synced is there."""
    job = limited["limit"]
    assert job.end(150)[0] == "TIMEOUT"
    wait_until(lambda: state_of(job.slurm.directory / "limit.ext3") == "clean", 10)
    assert written(job.slurm, job, "limit.ext3") >= 20


def test_signal_to_the_script(limited):
    """--signal=B:TERM@30 and exec: the commands of the guide save their state and end well."""
    job = limited["signal"]
    assert job.end(150) == ("COMPLETED", 0, 0), job.output()
    line = ("-o", "overlay1.ext3:ro", "--", "cat", "/data/state")
    assert job.slurm.ours("run-overlay", *line) == "saved\n"


def test_signal_to_the_steps(limited):
    """--signal=USR1@30 and srun: a trap inside answers; its status is the job's."""
    job = limited["usr1"]
    assert job.end(150) == ("FAILED", 3, 0) and "saved\n" in job.output()
