"""Signals and terminals: the commands get them, the status is right, the overlay is clean."""

import os
import re
import signal
import time

import pexpect
import pytest
from e2e.safety.trees import CLEAN, SERVERS, descendants, holders, kill, named, program, state
from support import execute, wait_until

# A command that cleans up when it is told to end, and one that does not.
TRAP = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
PLAIN = "echo ready; exec sleep 60"


def ended(child):
    """Wait for the end of a terminal's program; return its status as a shell says it."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus if child.signalstatus is None else 128 + child.signalstatus


def clean(path):
    """See that nobody has the overlay any more, and that it is clean."""
    wait_until(lambda: not holders(path))
    assert state(path) == CLEAN


# ------------------------------------------------------------ without a terminal --


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        (TRAP, signal.SIGTERM, 5),
        (PLAIN, signal.SIGTERM, -signal.SIGTERM),
        (PLAIN, signal.SIGHUP, -signal.SIGHUP),
        (TRAP.replace("TERM", "USR1"), signal.SIGUSR1, 5),
        (TRAP.replace("TERM", "USR2"), signal.SIGUSR2, 5),
    ],
)
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_kill(start, make, line, number, status, mode):
    """kill without a terminal: the commands get the signal, the status is theirs."""
    path = make()
    session = start("run-overlay", "-o", f"a.ext3{mode}", "--", "bash", "-c", line)
    session.says("ready")
    session.send_signal(number)
    assert session.wait(timeout=60) == status
    assert session.stdout.read() == ("told\n" if status == 5 else "")
    clean(path)


COUNT = """
import signal, sys, time
wanted = [signal.SIGINT, signal.SIGQUIT]
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
signal.sigwaitinfo(wanted)
more = signal.sigtimedwait(wanted, 0.7)
print("once" if more is None else "again", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_interrupted_alone(start, make, number, mode):
    """INT and QUIT for our process alone, by a parent's send_signal, reach the commands, once."""
    path = make()
    for words, status, said in (
        (["bash", "-c", TRAP.replace("TERM", number.name[3:])], 5, "told\n"),
        (["sh", "-c", PLAIN], -number, ""),  # bash ignores QUIT until it is the sleep
        (["python3", "-c", COUNT], 0, "once\n"),
    ):
        session = start("run-overlay", "-o", f"a.ext3{mode}", "--", *words)
        session.says("ready")
        session.send_signal(number)
        assert session.wait(timeout=60) == status
        assert session.stdout.read() == said
        clean(path)


def test_timeout_in_the_foreground(words, environ, scratch, make):
    """timeout --foreground -s INT ends the commands, and then itself with 124."""
    path = make()
    arguments = ["timeout", "--foreground", "-s", "INT", "5", *words("run-overlay")]
    start = time.monotonic()
    result = execute(
        [*arguments, "-o", "a.ext3", "--", "bash", "-c", PLAIN], environ=environ, cwd=scratch
    )
    assert (result.status, result.stdout) == (124, "ready\n")
    assert time.monotonic() - start < 60
    clean(path)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_to_all_processes(start, make, mode, number):
    """Sent to all processes of a job, as by Slurm, USR1 is for the commands; the servers stay."""
    path = make()
    line = f"trap 'sleep 0.3; ls / >/dev/null && echo told; exit 5' {number.name[3:]}; echo ready"
    line += "; while :; do sleep 0.05; done"
    session = start("run-overlay", "-o", f"a.ext3{mode}", "--", "bash", "-c", line)
    session.says("ready")
    pids = {session.pid, *descendants(session.pid)}
    servers = named(pids | holders(path), *SERVERS)
    assert {program(pid) for pid in servers} >= {"fuse2fs", "squashfuse_ll"}
    kill(pids.union(servers), number)
    session.says("told")
    assert session.end()[0] == 5
    clean(path)


@pytest.mark.parametrize(("line", "status"), [(TRAP, 5), (PLAIN, 124)])
def test_timeout(words, environ, scratch, make, line, status):
    """timeout -s TERM, as in job scripts; it says 124 unless the commands' own is preserved.

    It sends TERM to its child and then to their process group: a trap may run once more.
    """
    path = make()
    keep = ["--preserve-status"] if status == 5 else []
    arguments = ["timeout", *keep, "-s", "TERM", "5", *words("run-overlay"), "-o", "a.ext3"]
    result = execute([*arguments, "--", "bash", "-c", line], environ=environ, cwd=scratch)
    assert result.status == status
    ready, *told = result.stdout.split()
    assert (ready, set(told)) == ("ready", {"told"} if status == 5 else set())
    clean(path)


def test_killed_inside(run, make):
    """A command that dies of a signal inside: the status is what a shell makes of it."""
    path = make()
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "kill -KILL $$").status == -9
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "kill -TERM $$").status == -15
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "sh -c 'kill -9 $$'; :").status == 0
    clean(path)


def test_ignored_hangup(start, make):
    """Started by nohup, a session does not hear of HUP, and its commands neither."""
    path = make()
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        line = "echo ready; read x; echo still here"
        session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    finally:
        signal.signal(signal.SIGHUP, old)
    session.says("ready")
    session.send_signal(signal.SIGHUP)
    session.stdin.write("\n")
    session.stdin.flush()
    session.says("still here")
    assert session.end()[0] == 0
    clean(path)


# --------------------------------------------------------------- with a terminal --


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        (TRAP, signal.SIGTERM, 5),
        (PLAIN, signal.SIGTERM, 128 + signal.SIGTERM),
        (PLAIN, signal.SIGHUP, 128 + signal.SIGHUP),
    ],
)
def test_kill_in_terminal(terminal, make, line, number, status):
    """kill of a session in the foreground of a terminal reaches the commands as well."""
    path = make()
    child = terminal("run-overlay", "-o", "a.ext3", "--", "bash", "-c", line)
    child.expect("ready")
    child.kill(number)
    assert ended(child) == status
    assert ("told" in child.before) == (status == 5)
    clean(path)


@pytest.mark.parametrize(("line", "status"), [(TRAP.replace("TERM", "INT"), 5), (PLAIN, 130)])
def test_ctrl_c(terminal, make, line, status):
    """Ctrl-C reaches the commands once, by the terminal; the status is theirs."""
    path = make()
    child = terminal("run-overlay", "-o", "a.ext3", "--", "bash", "-c", line)
    child.expect("ready")
    child.sendintr()
    assert ended(child) == status
    assert child.before.count("told") == (status == 5)
    clean(path)


@pytest.mark.parametrize("sent", ["\x03", "\x1c", signal.SIGINT, signal.SIGQUIT])
def test_counts_once(terminal, make, sent):
    """A key of the terminal reaches the commands once; a kill of our process does as well."""
    path = make()
    child = terminal("run-overlay", "-o", "a.ext3", "--", "python3", "-c", COUNT)
    child.expect("ready")
    child.send(sent) if isinstance(sent, str) else child.kill(sent)
    child.expect("(once|again)\r\n")
    assert child.match.group(1) == "once"
    assert ended(child) == 0
    clean(path)


def test_shell(terminal, make):
    """In mount-overlay: Ctrl-C at a sleep ends the sleep, TERM nothing, HUP all; sizes follow."""
    path = make()
    child = terminal("mount-overlay", "-o", "a.ext3")
    child.expect_exact("[a.ext3]")
    child.sendline("sleep 50; echo next$((1 + 1))")
    wait_until(lambda: "sleep" in inside(child))
    child.sendintr()
    child.expect_exact("[a.ext3]")
    child.kill(signal.SIGTERM)
    child.sendline("echo $((6 * 7)); stty size")
    child.expect("42")
    child.expect("40 200")
    child.setwinsize(30, 100)
    child.sendline("stty size")
    child.expect("30 100")
    child.kill(signal.SIGHUP)
    assert ended(child) == 128 + signal.SIGHUP
    clean(path)


def inside(child):
    """Return the names of the programs that run below a terminal's program."""
    return {program(pid) for pid in descendants(child.pid)}


@pytest.mark.parametrize(("line", "status"), [("exit 7", 7), ("false; exit", 1), ("\x04", 0)])
def test_end_of_shell(terminal, make, line, status):
    """The shell's own end is the status of mount-overlay."""
    path = make()
    child = terminal("mount-overlay", "-q", "-o", "a.ext3")
    child.expect_exact("[a.ext3]")
    child.send(line) if line == "\x04" else child.sendline(line)
    assert ended(child) == status
    clean(path)


@pytest.fixture
def outer(terminal, words):
    """Return a bash with job control in a terminal."""
    child = terminal("/bin/bash", "--norc", "--noprofile", "-i")
    bin_ = os.path.dirname(words("run-overlay")[-1])
    child.sendline(f"PATH={bin_}:$PATH; PS1='out''er> '")
    child.expect_exact("outer> ")
    return child


def status_of(child):
    """Return the status of the last command of a shell."""
    child.expect_exact("outer> ")
    child.sendline("echo status=$?")
    child.expect(r"status=(\d+)")
    return int(child.match.group(1))


def test_ctrl_z(outer, make):
    """Ctrl-Z stops a session, fg goes on with it; and Ctrl-C then ends it."""
    path = make()
    line = "echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.2; done; echo end; exit 3"
    outer.sendline(f"run-overlay -o a.ext3 -- sh -c '{line}'")
    outer.expect("ready\r\n")
    outer.send("\x1a")
    outer.expect("Stopped")
    outer.expect_exact("outer> ")
    outer.sendline("fg")
    outer.expect("end\r\n")
    assert status_of(outer) == 3
    clean(path)
    outer.expect_exact("outer> ")
    outer.sendline(f"run-overlay -o a.ext3 -- sh -c '{PLAIN}'")
    outer.expect("ready\r\n")
    outer.send("\x1a")
    outer.expect("Stopped")
    outer.expect_exact("outer> ")
    outer.sendline("fg")
    outer.expect("run-overlay")
    outer.sendintr()
    assert status_of(outer) == 130
    clean(path)


def test_ctrl_z_in_the_shell(outer, make):
    """Ctrl-Z inside mount-overlay stops what runs inside; fg inside goes on with it."""
    path = make()
    outer.sendline("mount-overlay -q -o a.ext3")
    outer.expect_exact("[a.ext3]")
    outer.sendline("sh -c 'echo rea''dy; sleep 1; echo e''nd'")
    outer.expect("ready\r\n")
    outer.send("\x1a")
    outer.expect("Stopped")
    outer.expect_exact("[a.ext3]")
    outer.sendline("fg")
    outer.expect("end\r\n")
    outer.expect_exact("[a.ext3]")
    outer.sendline("exit 4")
    assert status_of(outer) == 4
    clean(path)


@pytest.mark.parametrize("name", ["mount-overlay", "run-overlay"])
def test_terminal_closed(terminal, run, make, name):
    """Closing the terminal ends the session, and what was written before is there."""
    path = make()
    if name == "mount-overlay":
        child = terminal(name, "-q", "-o", "a.ext3")
        child.expect_exact("[a.ext3]")
        child.sendline("echo content >/f; echo rea''dy; sleep 60")
    else:
        child = terminal(name, "-o", "a.ext3", "--", "sh", "-c", f"echo content >/f; {PLAIN}")
    child.expect("ready\r\n")
    # Only that: close() of pexpect would also send signals.
    child.ptyproc.fileobj.close()
    clean(path)
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/f") == (0, "content\n", "")


# ------------------------------------------------------------------- left behind --


def test_background_processes(run, make):
    """Processes that the commands left running are told, with what becomes of their data."""
    path = make()
    line = "(trap '' HUP; exec sleep 30 >/dev/null 2>&1) & echo content >/f"
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    assert result.status == 0
    said = [line for line in result.stderr.splitlines() if line.startswith("run-overlay: ")]
    assert len(said) == 1
    assert re.fullmatch(
        r"run-overlay: still running when the commands ended: 'sleep 30' \((\d+)\); what they"
        r" write to a\.ext3 is lost\. End the commands with `wait`",
        said[0],
    ), said
    pid = int(re.search(r"\((\d+)\)", said[0]).group(1))
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert file.read() == b"sleep\x0030\x00"
    os.kill(pid, signal.SIGKILL)
    clean(path)
    assert run("run-overlay", "-o", "a.ext3", "--", "cat", "/f") == (0, "content\n", "")
