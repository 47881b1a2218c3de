"""Shared sessions of which something stands still, or has no room, or no locks: nobody waits for it."""

import fcntl
import re
import signal
import subprocess

import pytest
from e2e.safety.trees import descendants, kill, program
from e2e.test_share import LEASE, end_sessions, files, inside, keepers, local  # noqa: F401
from support import execute, from_environment, wait_until

SHARE = ["-v", "--share", "-o", "env.ext3:ro", "--", "echo", "done"]
WHY = re.compile(r"a session of its own: (.*)")


@pytest.fixture
def share(run, overlay, local):  # noqa: F811
    """Return a function that runs a command with --share: which session it joined, or why none."""
    overlay("env.ext3")

    def share(**options):
        result = run("run-overlay", *SHARE, **options)
        assert result[:2] == (0, "done\n"), result
        joined = LEASE.search(result.stderr)
        return int(joined[1]) if joined else WHY.search(result.stderr)[1]

    return share


def test_keeper(share, run, local):  # noqa: F811
    """A keeper that was stopped: its session is joined; it is woken when it is to let go."""
    first = share()
    [keeper] = keepers(local)
    kill([keeper], signal.SIGSTOP)
    assert share() == first
    assert run("run-overlay", "-o", "env.ext3", "--", "echo", "written").stdout == "written\n"
    share()
    kill(keepers(local), signal.SIGSTOP)
    assert run("overlay-admin", "sessions", "--end") == (0, "", "overlay-admin: ended: 1\n")


def test_all(share, run, local):  # noqa: F811
    """A whole session that was stopped, as a batch system does it: who wants the overlay is told."""
    share()
    [keeper] = keepers(local)
    stopped = [keeper, *descendants(keeper)]
    kill(stopped, signal.SIGSTOP)
    for name, *words in (
        ["check-overlay", "env.ext3"],
        ["run-overlay", "-o", "env.ext3", "--", "true"],
    ):
        result = run(name, *words)
        assert result.status == 75
        told = r"in use: sessions are reading it \(process \d+ .*'a shared session'\)\n"
        assert re.search(told, result.stderr)
        hint = rf"{name}: hint: nobody is in it, and it does not end: kill -KILL (\d+)\n"
        # The keeper was woken, and waits for the end of the others.
        assert int(re.search(hint, result.stderr)[1]) in stopped
    kill(stopped, signal.SIGCONT)
    wait_until(lambda: not files(local))
    assert run("check-overlay", "-q", "env.ext3").status == 0


def test_keeper_that_starts(share, local, site, tmp_path):  # noqa: F811
    """A keeper that is stopped while it starts: its command, and others, go alone."""
    engine = tmp_path / "engine"
    keeps = f'[ -e "{tmp_path}/no" ] || [ "$(cat /proc/$PPID/comm)" != overlay-shared ]'
    engine.write_text(f'#!/bin/sh\n{keeps} || kill -STOP $PPID\nexec apptainer "$@"\n')
    engine.chmod(0o755)
    site.write_text(f"{site.read_text()}[engine]\ncommands = {engine}\n")
    why = share()
    keeper = int(re.fullmatch(r"its keeper is stopped \(process (\d+)\)", why)[1])
    assert program(keeper) == "overlay-shared"
    tree = [keeper, *descendants(keeper)]
    kill([keeper])
    wait_until(lambda: not any(map(program, tree)))
    (tmp_path / "no").touch()
    assert isinstance(share(), int)


def test_starter(share, local):  # noqa: F811
    """A command that is stopped while it starts a session, as by Ctrl-Z: others do not wait for it."""
    share()
    [lease] = [path for path in local.glob("overlay-*/*.lease")]
    gate = lease.with_suffix(".gate")
    end_sessions(local)
    gate.parent.mkdir(mode=0o700, exist_ok=True)
    starter = subprocess.Popen(["sleep", "1000"])
    try:
        starter.send_signal(signal.SIGSTOP)
        with gate.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.write(f"by {starter.pid}")
            held.flush()
            assert share() == f"the command that starts it is stopped (process {starter.pid})"
    finally:
        starter.kill()
        starter.wait()
    assert isinstance(share(), int)


def test_lease(share, local):  # noqa: F811
    """A lease that somebody keeps, as a keeper that is stopped while it looks: another session."""
    first = share()
    [lease] = [path for path in local.glob("overlay-*/*.lease")]
    [keeper] = keepers(local)
    with lease.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        again = share()
        assert isinstance(again, int)
        assert again != first
    # Its lease has lost its name, so that nobody could join any more.
    wait_until(lambda: not program(keeper))
    assert share() == again


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("flock", "ENOLCK", "files on scratch cannot be locked: No locks available"),
        ("pidfd_open", "ENOSYS", "the kernel has no pidfd_open(2): Linux 5.3"),
    ],
)
def test_without(words, environ, scratch, overlay, local, call, error, said):  # noqa: F811
    """Without flock(2), as on some network file systems, or on an older kernel: each goes alone."""
    overlay("env.ext3")
    trace = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error={error}"]
    line = [*trace, *words("run-overlay"), *SHARE]
    result = execute(line, environ=environ, cwd=scratch)
    assert result[:2] == (0, "done\n")
    assert WHY.search(result.stderr)[1] == said
    assert not keepers(local)


def test_no_room(run, overlay, environ, small):
    """Scratch without room: each has a session of its own, and nothing of another is left."""
    overlay("env.ext3")
    scratch = from_environment("OVERLAY_SMALL")
    environ["OVERLAY_SCRATCH_LOCAL"] = str(scratch)
    with (small / "full").open("wb", buffering=0) as file, pytest.raises(OSError):
        while file.write(bytes(1 << 16)):
            pass
    for _time in range(2):
        result = run("run-overlay", *SHARE)
        assert result[:2] == (0, "done\n")
        assert WHY.search(result.stderr)[1] == "its keeper failed: No space left on device"
        assert not keepers(scratch)
    wait_until(lambda: not files(scratch, ".lease"))
    (small / "full").unlink()
    assert LEASE.search(run("run-overlay", *SHARE).stderr)
    end_sessions(scratch)
