"""Programs are started, and ended, so that none works on behind our back."""

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from overlay.errors import OverlayError
from overlay.host import ending, foreground, process
from overlay.plan import Step

ENVIRON = {"PATH": "/usr/bin:/bin"}


class Alarm(BaseException):
    """What a signal becomes here, as KeyboardInterrupt does."""


@pytest.fixture
def alarm(monkeypatch):
    """Return a function that lets an exception come when a line of shell has ended."""
    monkeypatch.setattr(process, "_PATIENCE", 0.3)

    def ring(_number, _frame):
        raise Alarm

    before = signal.signal(signal.SIGTERM, ring)
    children = []

    def alarm(line):
        line = f"{line}; kill -TERM {os.getpid()}"
        children.append(subprocess.Popen(["/bin/sh", "-c", line]))

    yield alarm
    for child in children:
        child.wait()
    signal.signal(signal.SIGTERM, before)


def test_output_and_input():
    """Both streams come back apart, undecodable bytes escaped; the input is handed on."""
    line = "cat; printf '\\377' >&2; exit 3"
    result = process.run(["/bin/sh", "-c", line], ENVIRON, text="größe")
    assert (result.status, result.output, result.errors) == (3, "größe", "\\xff")
    assert process.run(["/bin/sh", "-c", "kill -9 $$"], ENVIRON).status == -9


def test_open_file(tmp_path):
    """A number stands for an open file: the program gets that, wherever its name leads."""
    path = tmp_path / "a?b"
    path.write_text("one")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    path.unlink()
    path.write_text("two")
    assert process.run(["/bin/cat", descriptor], ENVIRON).output == "one"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("line", ["exec sleep 90", "trap '' TERM; sleep 90 & wait; wait"])
def test_ended_with_us(alarm, tmp_path, line):
    """A signal that ends us ends the program first, also one that does not heed TERM."""
    alarm(f"until [ -s {tmp_path}/pid ]; do sleep 0.1; done; sleep 0.2")
    start = time.monotonic()
    with pytest.raises(Alarm):
        process.run(["/bin/sh", "-c", f"echo $$ >{tmp_path}/pid; {line}"], ENVIRON)
    assert time.monotonic() - start < 60
    assert not os.path.exists(f"/proc/{int((tmp_path / 'pid').read_text())}")


def test_ended_at_any_moment(alarm, tmp_path):
    """Whenever the signal comes, the program is not left behind."""
    for turn in range(40):
        mark = f"overlay-test-{os.getpid()}-{turn}"
        with pytest.raises(Alarm):
            alarm(f"sleep {0.0005 * (turn % 8)}")
            process.run(["/bin/sleep", "20"], {**ENVIRON, "MARK": mark})
            time.sleep(1)
        left = subprocess.run(
            ["/bin/sh", "-c", f"grep -lz {mark} /proc/[0-9]*/environ 2>/dev/null"],
            capture_output=True,
            env=ENVIRON,
            check=False,
        )
        assert left.stdout == b""


def test_what_is_ignored_stays_so():
    """After what cleans up, signals mean what they meant before: nohup holds."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending.cleaning_up():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Full:
    """A log on a full disk."""

    def write(self, _data):
        """Fail."""
        raise OSError(errno.ENOSPC, "full")


def test_log_cannot_be_written(tmp_path):
    """What cannot be supervised any longer is ended; signals and descriptors are as before."""
    before = foreground.handlers(), os.listdir("/proc/self/fd")
    line = f"echo $$ >{tmp_path}/pid; echo said; exec sleep 20"
    with pytest.raises(OSError, match="full"):
        foreground.stay(Step(["/bin/sh", "-c", line]), ENVIRON, copy=Full())
    assert not os.path.exists(f"/proc/{int((tmp_path / 'pid').read_text())}")
    assert (foreground.handlers(), os.listdir("/proc/self/fd")) == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_not_started():
    """A program that is not there leaves nothing blocked, and no handler of ours."""
    before = foreground.handlers()
    with pytest.raises(OverlayError):
        foreground.stay(Step(["/none"]), ENVIRON)
    assert foreground.handlers() == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_cleaning_up_in_another(tmp_path):
    """A signal within two such contexts: both tidy up before it ends the process."""
    child = os.fork()
    if not child:
        try:
            with ending.cleaning_up():
                try:
                    with ending.cleaning_up():
                        os.kill(os.getpid(), signal.SIGTERM)
                        signal.pause()
                finally:
                    (tmp_path / "outer").touch()
        finally:
            os._exit(1)  # not reached: the signal is sent again
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert (tmp_path / "outer").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("e2image 1.47.0 (5-Feb-2023)\n", "it fails"),
        (
            "e2image 1.47.0 (5-Feb-2023)\nerror writing block 5: No space left on device\n",
            "error writing block 5: No space left on device",
        ),
        (
            "mount: /m: permission denied.\n       dmesg(1) may have more information after failed"
            " mount system call.\n",
            "mount: /m: permission denied.",
        ),
        (
            "Filesystem uses lzma compression, this is unsupported by this version\n"
            "Decompressors available:\n\tgzip\n\tlzma (legacy)\n",
            "Filesystem uses lzma compression, this is unsupported by this version",
        ),
        ("one\ntwo\n\n", "two"),
        (" \n", "it fails"),
    ],
)
def test_last_line(said, why):
    """Of what a tool says, the line is taken that says why, and not what it says about itself."""
    assert process.last_line(said, otherwise="it fails") == why


def test_ask_tells_and_ends():
    """What takes its time is told of once, its output is whole, and it is ended after the limit."""
    told = []
    words = ["/bin/sh", "-c", "echo one; while [ ! -e /proc/self/fd/9 ]; do sleep 0.1; done"]
    with pytest.raises(TimeoutError):
        process.ask(words, {}, 0.2, told=(0.1, lambda: told.append(1)))
    assert told == [1]
    result = process.ask(
        ["/bin/sh", "-c", "echo one; sleep 1; echo two"], {}, None, told=(0.1, int)
    )
    assert result.output == "one\ntwo\n"


def children():
    """Return the numbers of the processes that are children of this one: proc(5), stat."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # it has just ended
        if int(parent) == os.getpid():
            found.add(path.parent.name)
    return found


def test_beside():
    """A program runs while we go on; what it printed is there at its end, and no child is left."""
    before = children()  # another test may have left some
    with process.Beside(["/bin/sh", "-c", "echo out; echo bad >&2; exit 3"], ENVIRON) as running:
        result = running.result()
        assert running.result() is result
    assert (result.status, result.output, result.errors) == (3, "out\n", "bad\n")
    with pytest.raises(KeyError), process.Beside(["/bin/sleep", "600"], ENVIRON) as running:
        raise KeyError
    assert children() <= before
    with pytest.raises(OverlayError, match="cannot start"), process.Beside(["/nowhere"], ENVIRON):
        pass
