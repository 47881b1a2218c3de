"""Layers of tasks and staged copies: what is decided without a batch system."""

import errno
import os
import subprocess

import pytest
from overlay.cli import parse
from overlay.errors import DATA_LOST, USAGE, OverlayError
from overlay.host import private, task
from overlay.image import lock
from overlay.jobs import staging
from overlay.jobs.layer import keep_layer, plan_layer, plan_making
from overlay.jobs.session import _Job
from overlay.launch.request import Overlay, Session
from overlay.safety import blocks
from overlay.safety.unused import remove_unused


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "host-7"),
        ({"SLURM_JOB_ID": "12", "SLURM_PROCID": "3"}, "job12-task3"),
        ({"SLURM_JOB_ID": "12"}, "job12"),
        (
            {
                "SLURM_JOB_ID": "15",
                "SLURM_ARRAY_JOB_ID": "12",
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_PROCID": "0",
            },
            "job12_4-task0",
        ),
        ({"OMPI_COMM_WORLD_RANK": "5"}, "host-7-task5"),
        ({"SLURM_JOB_ID": "../../x", "SLURM_PROCID": "1"}, "host-7-task1"),
    ],
)
def test_task_name(environ, expected):
    """By job, array index and rank, else by host and process; nothing but numbers is taken."""
    assert task.task_name(environ, "host", 7) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_NTASKS": "8"}, True),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_ARRAY_TASK_ID": "0"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"PMI_SIZE": "many"}, False),
    ],
)
def test_is_parallel(environ, expected):
    """Several tasks, or an array."""
    assert task.is_parallel(environ) is expected


def test_ways_out():
    """The three are named, with a file name that can be pasted."""
    hint = task.ways_out("my work.ext3", {"SLURM_ARRAY_TASK_ID": "1"})
    assert "-o 'my work.ext3':ro" in hint and "--per-task" in hint
    assert "-o 'my work-'$SLURM_ARRAY_TASK_ID.ext3;" in hint
    assert "-o a/b-$SLURM_PROCID;" in task.ways_out("a/b", {})
    assert "--share" not in hint
    assert "write into it together: --share;" in task.ways_out("a", {}, together=True)


def test_copy_sparse(tmp_path):
    """The content is the same; holes, and zeros that take blocks, become holes."""
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.write(b"begin" + bytes(5 << 20))
        file.seek(20 << 20)
        file.write(os.urandom(1234567))
        file.truncate(50 << 20)
    with open(source, "rb") as old, open(target, "wb") as new:
        written = blocks.copy_sparse(old.fileno(), new.fileno())
    assert source.read_bytes() == target.read_bytes()
    assert written < 5 << 20 and target.stat().st_blocks * 512 < 5 << 20


@pytest.mark.parametrize("shared", [True, False])
def test_copy_used(tmp_path, shared):
    """What the bitmaps say is in use has the same content, whoever copies it; holes stay holes."""
    source, target = tmp_path / "source", tmp_path / "target"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(os.urandom(1234567))
    words = ["-q", "-t", "ext3", "-b", "4096", "-d", tmp_path / "tree", source, "300M"]
    subprocess.run(["/usr/sbin/mke2fs", *words], check=True)
    with open(source, "rb") as old, open(target, "wb") as new:
        blocks.copy_used(old.fileno(), new.fileno(), shared=shared)
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks


def test_copy_used_without_the_kernel(tmp_path, monkeypatch):
    """Where the kernel cannot copy, or stops in the midst, what is left is read and written."""
    source, target = tmp_path / "source", tmp_path / "target"
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext3", source, "40M"], check=True)
    left = [4096, OSError(errno.EXDEV, "")]

    def copy_file_range(_source, _target, _count, _from, _to):
        now = left.pop(0)
        if isinstance(now, OSError):
            raise now
        return now

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    with open(source, "rb") as old, open(target, "wb") as new:
        blocks.copy_used(old.fileno(), new.fileno(), shared=True)
    assert not left and source.read_bytes() == target.read_bytes()


def test_directory_of_somebody_else(tmp_path, monkeypatch):
    """Where a link, or another user's directory, is in the place of ours, that has another name."""
    usual = tmp_path / f"overlay-{os.getuid()}"
    usual.symlink_to("/")
    (tmp_path / f"{usual.name}-0").symlink_to("/")
    made = private.make(str(tmp_path))
    assert made.startswith(f"{usual}-") and len(made) > len(f"{usual}-") + 15
    assert os.stat(made).st_mode & 0o777 == 0o700
    assert private.name(str(tmp_path)) == made
    monkeypatch.setattr(private, "_instead", {})  # as in another process
    assert private.make(str(tmp_path)) == made
    work = private.make_work(str(tmp_path), "host", 1)
    assert os.path.dirname(work) == made
    private.leave(str(tmp_path), work)
    assert sorted(os.listdir(tmp_path)) == [usual.name, f"{usual.name}-0"]


def test_remove_unused(tmp_path):
    """What is locked stays, and so does what was used lately; the oldest goes first."""
    for number, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (number, number))
    os.utime(tmp_path / "d")
    with open(tmp_path / "a", "rb+") as file:
        lock.take(file.fileno(), write=False)
        remove_unused(str(tmp_path), enough=lambda: not (tmp_path / "b").exists())
        assert sorted(os.listdir(tmp_path)) == ["a", "c", "d"]
        remove_unused(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == ["a", "d"]


def test_exclusive():
    """One layer is enough."""
    with pytest.raises(OverlayError) as caught:
        parse("run-overlay", ["-o", "a", "--per-task", "--discard-writes", "--", "true"])
    assert caught.value.status == USAGE


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["-o", "a.ext3", "--keep", "d"], "--keep goes with --per-task\n"),
        (["-o", "a.ext3:ro", "-s", "3"], "-s goes with --per-task or --discard-writes\n"),
        (
            ["-o", "a.ext3:ro", "--stage", "-s", "3", "-n", "1"],
            "-s and -n go with --per-task or --discard-writes\n",
        ),
        (["-o", "a.ext3", "--stage"], "there is nothing to stage: a.ext3 is to be written"),
        (["-o", "a.ext3:rw", "--per-task"], "a.ext3 cannot be :rw"),
        (["-o", "a.ext3", "--discard-writes", "--keep", "d"], "--keep goes with --per-task\n"),
        (["--per-task"], "no overlay is named"),
    ],
)
def test_refused(line, expected, run):
    """What does not go together is said before anything is looked at."""
    result = run("run-overlay", *line, "--", "true")
    assert result.status == USAGE and expected in result.stderr, result


@pytest.fixture
def layer(scratch, settings, environ):
    """Return a function that plans the layer of a task, with a directory where it is kept."""

    environ |= {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0"}

    def layer(keep=None):
        return plan_layer(
            settings(),
            scratch=str(scratch),
            size=16 << 20,
            files=1000,
            keep=keep,
        )

    return layer


def test_layer_of_another_session(layer, settings):
    """Two sessions of a task have a layer each, and one that could not be made leaves the other."""
    config, one, two = settings(), layer(), layer()
    assert one.name == two.name == "job12-task0.ext3" and one.path != two.path
    plan_making(one, config).do()
    two.request.size = 1  # mke2fs refuses
    with pytest.raises(OverlayError):
        _Job(Session([Overlay("a.ext3")]), config, two, stage=False, wait=None, output=None).do()
    found = [name for name in os.listdir(os.path.dirname(one.path)) if name.endswith(".ext3")]
    assert found == [os.path.basename(one.path)]


def test_layer_that_is_gone(layer, scratch):
    """What is no longer there cannot be kept, and that is said as the loss that it is."""
    with pytest.raises(OverlayError) as error:
        keep_layer(layer(), str(scratch))
    assert error.value.status == DATA_LOST and "could not be moved" in error.value.what


def test_not_staged(tmp_path, settings, make_image):
    """Where scratch cannot be used, the original is, and a line says why."""
    path, said = str(make_image()), []
    scratch = tmp_path / "scratch"
    own = scratch / f"overlay-{os.getuid()}"

    def stage():
        return staging.stage(
            path,
            settings(),
            scratch=str(scratch),
            wait=None,
            notice=lambda *words: said.append(words),
        )

    assert stage() == path
    (own / ".lock").mkdir(parents=True)
    assert stage() == path
    assert ["is not staged: " in text for text, _level in said] == [True, True]
