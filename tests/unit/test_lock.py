"""Who uses an image: the engines' locks are seen, ours meets only itself."""

import errno
import fcntl
import os
import struct
import subprocess
import sys

import pytest
from overlay.host import holders
from overlay.image import lock

MIB = 1 << 20

# Takes the lock of an older engine, which belongs to a process, and holds it until told.
CLASSIC = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
kind = fcntl.LOCK_EX if sys.argv[2] == "writer" else fcntl.LOCK_SH
fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, os.fstat(descriptor).st_size)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def opened(scratch):
    """Return a function that opens one image anew."""
    path = scratch / "image.ext3"
    path.write_bytes(bytes(MIB))
    descriptors = []

    def opened():
        descriptors.append(os.open(path, os.O_RDWR))
        return descriptors[-1]

    opened.path = path
    yield opened
    for descriptor in descriptors:
        os.close(descriptor)


def engine_lock(descriptor, kind):
    """Lock as Apptainer does: an open file description lock over the file's length."""
    number = fcntl.F_WRLCK if kind == "writer" else fcntl.F_RDLCK
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", number, 0, 0, MIB, 0))


TABLE = [
    (None, False, None),
    (None, True, None),
    ("reader", False, None),
    ("reader", True, "reader"),
    ("writer", False, "writer"),
    ("writer", True, "writer"),
]


@pytest.mark.parametrize(("held", "write", "expected"), TABLE)
def test_engine(opened, held, write, expected):
    """An engine's lock is in the way as it is in the engine's own."""
    if held:
        engine_lock(opened(), held)
    assert lock.holder(opened(), write=write) == expected


@pytest.mark.parametrize(("held", "write", "expected"), TABLE)
def test_classic(opened, held, write, expected):
    """The lock of an older engine, held by another process, is seen in the same way."""
    if not held:
        assert lock.holder(opened(), write=write) is None
        return
    holder = subprocess.Popen(
        [sys.executable, "-c", CLASSIC, opened.path, held],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "locked\n"
        assert lock.holder(opened(), write=write) == expected
        holder.stdin.close()
    assert lock.holder(opened(), write=write) is None


@pytest.mark.parametrize(
    ("first", "second", "busy"),
    [
        (True, True, True),
        (True, False, True),
        (False, True, False),
        (False, False, None),
    ],
)
def test_ours(opened, first, second, busy):
    """Our lock is one writer's or several readers'; Busy tells whether a writer has it."""
    assert lock.take(opened(), write=first) is True
    late = opened()
    if busy is None:
        assert lock.take(late, write=second) is True
        return
    with pytest.raises(lock.Busy) as error:
        lock.take(late, write=second)
    assert error.value.writer == busy


@pytest.mark.parametrize(("held", "write", "expected"), TABLE)
def test_ours_is_seen(opened, held, write, expected):
    """holder() sees our lock too."""
    if held:
        lock.take(opened(), write=held == "writer")
    assert lock.holder(opened(), write=write) == expected


def test_ours_leaves_the_engine_alone(opened):
    """Our lock is not in the way of the engine's, nor the engine's of ours."""
    lock.take(opened(), write=True)
    engine_lock(opened(), "writer")
    other = opened()
    with pytest.raises(BlockingIOError):
        engine_lock(other, "reader")


def test_shared(opened):
    """A shared session says how long it lingers, and hears of who wants the image."""
    keeper, other = opened(), opened()
    lock.announce_shared(keeper, 30.0)
    assert (lock.shared(other), lock.shared(keeper)) == (30, None)
    assert not lock.wanted(keeper)
    lock.want(other)
    assert lock.wanted(keeper)
    lock.want_no_more(other)
    assert not lock.wanted(keeper)
    lock.want(other)
    lock.release(other)
    assert not lock.wanted(keeper)
    lock.release(keeper)
    lock.announce_shared(keeper, float("inf"))
    assert lock.shared(other) > 10**9
    lock.release(keeper)
    # What locks all there is is nobody's word.
    fcntl.fcntl(keeper, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    assert lock.shared(other) is None
    lock.want(other)
    lock.announce_shared(other, 30.0)


def test_release(opened):
    """A released lock, and one whose descriptor is closed, is free."""
    one, two = opened(), opened()
    lock.take(one, write=True)
    lock.release(one)
    lock.take(two, write=True)
    lock.release(two)
    third = os.open(opened.path, os.O_RDWR)
    lock.take(third, write=True)
    os.close(third)
    assert lock.take(one, write=True) is True


def test_probe_changes_nothing(opened):
    """Asking does not take the lock."""
    lock.holder(opened(), write=True)
    engine_lock(opened(), "writer")


def test_survives_exec(opened):
    """A descriptor that a child inherits keeps the lock after we have closed ours."""
    mine = os.open(opened.path, os.O_RDWR)
    lock.take(mine, write=True)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[mine])
    os.close(mine)
    other = opened()
    with pytest.raises(lock.Busy):
        lock.take(other, write=True)
    child.communicate()
    assert lock.take(other, write=True) is True


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_no_locks(opened, monkeypatch, number):
    """Where the file system has no locks, there is none to take or to drop."""

    def without(*_arguments):
        raise OSError(number, os.strerror(number))

    descriptor = opened()
    monkeypatch.setattr(lock.fcntl, "fcntl", without)
    assert lock.take(descriptor, write=True) is False
    lock.release(descriptor)


def test_who_uses_it(monkeypatch):
    """Who has the image open is named before what runs inside, whatever their numbers are."""
    session = holders.Process(32760, 1, "run-overlay", ["run-overlay"], 5)
    server = holders.Process(300, 299, "fuse2fs", ["fuse2fs"], 5)
    inside = holders.Process(308, 299, "sh", ["sh"], 6)
    monkeypatch.setattr(holders, "_holding", lambda _identity: [(server, True), (session, True)])
    monkeypatch.setattr(holders, "_others_in", lambda spaces, known: [inside])
    monkeypatch.setattr(holders, "user_namespace", lambda pid: 1 if pid == server.pid else 2)
    assert holders.users((1, 2)) == ([session, inside, server], False)
