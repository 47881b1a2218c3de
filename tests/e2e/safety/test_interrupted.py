"""A check, a repair or a growth killed at any moment: no name and no byte is lost."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time

import pytest
from e2e.conftest import copy
from e2e.safety.test_kill import at_work
from e2e.safety.trees import Session, debugfs, e2fsck, kill_tree
from overlay.image import ext3, ext3_size
from overlay.image.ext3_read import Reader
from support import tool

SEED = 8
OLD = 500, 3000  # names in the directories, which e2fsck -p rewrites to index them


def content(path):
    """Return a dictionary from each path inside an image to the checksum of what is there."""
    found, pending = {}, [(b"", ext3.ROOT_INODE)]
    with open(path, "rb") as file:
        reader = Reader(file.fileno(), ext3.read_superblock(file.fileno()))
        while pending:
            above, number = pending.pop()
            for name, other, _kind in reader.entries(reader.inode(number)):
                if name in (b".", b".."):
                    continue
                inode = reader.inode(other)
                if inode.is_directory:
                    pending.append((above + b"/" + name, other))
                    found[above + b"/" + name] = "directory"
                else:
                    data = b"".join(reader.data_blocks(inode))
                    found[above + b"/" + name] = inode.size, hashlib.md5(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the path of an image with large directories that have no index, and its content."""
    place = tmp_path_factory.mktemp("large")
    path, tree = place / "large.ext3", place / "tree"
    (tree / "work" / "work").mkdir(parents=True)
    for number in OLD:
        directory = tree / "upper" / "data" / str(number)
        directory.mkdir(parents=True)
        for file in range(number):
            (directory / f"a-file-with-a-long-name-{file}").write_text(f"{file} " * (file % 900))
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    options = ext3_size.mke2fs_options(64 << 20, 8000)
    assert tool("mke2fs", *options, "-d", tree, path).returncode == 0
    return path, content(path)


def unclean(path):
    """Leave an image as a killed session does: not marked as clean, and free counts are wrong."""
    debugfs(path, "setb 15000 9", "ssv free_blocks_count 77", "ssv state 0")


CASES = {
    "clean": (["check-overlay", "a.ext3"], False),
    "unclean": (["check-overlay", "a.ext3"], True),
    "session": (["run-overlay", "-o", "a.ext3", "--", "true"], True),
    "growth": (["resize-overlay", "-q", "a.ext3", "-s", "+100M"], False),
}


@pytest.fixture
def put(large, scratch):
    """Return a function that puts a fresh copy of the image into place, for a case."""

    def put(case):
        path = copy(large[0], scratch / "a.ext3")
        if CASES[case][1]:
            unclean(path)
        return path

    return put


def losses(run, path, before):
    """Let the next session find an image; return what is wrong then, in words."""
    result = run("check-overlay", path.name)
    wrong = []
    if result.status:
        wrong.append(f"check-overlay ends with {result.status}: {result.stderr}")
        if run("check-overlay", "--repair", path.name).status:
            return [*wrong, "and --repair does not help"]
    after = content(path)
    if after != before:
        gone = sum(after.get(name) != what for name, what in before.items())
        wrong.append(f"{gone} of {len(before)} files lost")
    status, words = e2fsck(path)
    if status:
        wrong.append(f"e2fsck: {words}")
    beside = set(os.listdir(path.parent)) - {path.name}
    return wrong + [f"left beside: {name}" for name in beside]


# A disk on which every write takes two milliseconds, as on many a network.
SLOW = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]
SLOW += ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=2000"]


@pytest.fixture
def slowly(words, environ, scratch):
    """Return a function that starts a line of a case on a slow disk."""

    def slowly(line):
        program, *arguments = line
        options = {"env": environ, "cwd": scratch, "start_new_session": True}
        return Session([*SLOW, *words(program), *arguments], **options)

    return slowly


@pytest.mark.parametrize("case", CASES)
def test_at_random(run, slowly, put, large, rounds, count, case):
    """Killed at a random moment, the whole tree."""
    moments, number, lost, whole = random.Random(SEED), rounds(2, 200), [], 0
    line = CASES[case][0]
    put(case)
    begun = time.monotonic()
    with slowly(line) as session:
        assert session.end()[0] == 0
    seconds = time.monotonic() - begun
    for _turn in range(number):
        path = put(case)
        with slowly(line) as session:
            at_work(session, "e2fsck")
            time.sleep(moments.uniform(0, 0.5 if case == "session" else 0.8 * seconds))
            whole += session.poll() is not None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session.pid, signal.SIGKILL)  # at once; then what is in another group
            kill_tree(session, path)
        wrong = losses(run, path, large[1])
        if wrong:
            lost.append(wrong)
    count(f"{case} killed: {number} rounds ({whole} were done), {len(lost)} with a loss")
    assert not lost, (len(lost), lost[:3])


# What a program does to files, and at which time of it it is killed.
CALLS = {"pwrite64": (1, 2, 5, 13, 40), "write": (1, 2), "fsync": (1, 2), "ftruncate": (1,)}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", ["clean", "unclean", "growth"])
def test_at_each(run, words, environ, scratch, put, large, case, call):
    """Killed at a certain call: each program that is started, and we ourselves."""
    for when in CALLS[call]:
        path = put(case)
        trace = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={when}"]
        program, *arguments = CASES[case][0]
        subprocess.run(
            [*trace, *words(program), *arguments],
            env=environ,
            cwd=scratch,
            capture_output=True,
            check=False,
        )
        wrong = losses(run, path, large[1])
        assert not wrong, (when, wrong)
