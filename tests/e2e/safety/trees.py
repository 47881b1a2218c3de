"""Process trees that a test has started, and the images that they hold open."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from support import tool, wait_until

SERVERS = ("fuse2fs", "fuse-overlayfs", "squashfuse_ll")


def descendants(pid):
    """Return the numbers of all processes below one, children before their own."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in file.read_text().split():
                found += [int(child), *descendants(child)]
    return found


def holders(path):
    """Return the numbers of the other processes that have a file open."""
    wanted, found = os.stat(path), set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), wanted):
                        found.add(int(pid))
    return found - {os.getpid()}


def program(pid):
    """Return the short name of a process; None when it has ended."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text()
        name, _close, rest = state.partition("(")[2].rpartition(")")
        return None if rest.split()[0] == "Z" else name
    return None


def named(pids, *names):
    """Return those of some processes that run a program of a name."""
    return [pid for pid in pids if program(pid) in names]


def kill(pids, number=signal.SIGKILL):
    """Send a signal to processes, as good as at once; those that have ended do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_tree(session, *paths, spare=()):
    """SIGKILL a session with all below it and all that hold its images; wait for their end.

    spare  names of programs that are left alive
    """
    pids = {session.pid, *descendants(session.pid)}
    for path in paths:
        pids |= holders(path)
    # The server first: the others' end must not make it write out what it holds.
    doomed = sorted((pid for pid in pids if program(pid) not in spare), key=_server_first)
    kill(doomed)
    session.wait()

    def gone():
        # What was being started meanwhile was not below it yet, and has the image open.
        late = set().union(*map(holders, paths))
        late = [pid for pid in late if program(pid) not in (None, *spare)]
        kill(late)
        doomed.extend(late)
        return not any(program(pid) for pid in doomed)

    wait_until(gone)
    return sorted(pids - set(doomed))


def _server_first(pid):
    return program(pid) != "fuse2fs"


class Session(subprocess.Popen):
    """A program under test in the background, which says and is told words line by line."""

    def __init__(self, words, **options):
        pipe = subprocess.PIPE
        super().__init__(
            list(map(str, words)),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            **options,
        )

    def says(self, line):
        """Wait until it has printed a line."""
        found = self.stdout.readline()
        assert found == line + "\n", (found, self.stderr.read() if not found else None)

    def complains(self, word):
        """Wait until it has printed a line with a word on standard error, and return that."""
        for line in self.stderr:
            if word in line:
                return line
        raise AssertionError(f"it never said {word!r}")

    def end(self, answer="\n"):
        """Let it go on, wait for its end, and return (status, standard error)."""
        _output, errors = self.communicate(answer, timeout=60)
        return self.returncode, errors


def superblock(path):
    """Return the fields of an image's superblock that dumpe2fs names."""
    lines = tool("dumpe2fs", "-h", path).stdout.splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: value.strip() for name, value in pairs}


def debugfs(path, *lines):
    """Change an image with debugfs."""
    words = ["/usr/sbin/debugfs", "-w", "-f", "-", str(path)]
    subprocess.run(words, input="\n".join(lines) + "\n", text=True, check=True, capture_output=True)


def e2fsck(path):
    """Return (status, words) of e2fsck, which changes nothing."""
    done = tool("e2fsck", "-fn", path)
    return done.returncode, done.stdout


CLEAN = 0, "clean"


def state(path):
    """Return (status of e2fsck, state in the superblock) of an image."""
    return e2fsck(path)[0], superblock(path).get("Filesystem state")
