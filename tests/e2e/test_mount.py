"""mount-overlay in a real terminal: prompt, keys, window, end."""

import os
import re
import signal
from pathlib import Path

import pexpect
import pytest
from support import ROOT, wait_until

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07")


@pytest.fixture
def mount(environ, scratch):
    """Return a function that starts mount-overlay in a terminal of its own."""
    started = []
    environ.update(TERM="dumb", HISTFILE="/dev/null", INPUTRC="/dev/null")

    def mount(*arguments, prompt=None):
        child = pexpect.spawn(
            str(ROOT / "bin" / "mount-overlay"),
            list(arguments),
            env=environ,
            cwd=str(scratch),
            dimensions=(30, 150),
            encoding="utf-8",
            timeout=60,
            echo=False,
        )
        started.append(child)
        if prompt:
            child.expect(prompted(prompt))
        return child

    yield mount
    for child in started:
        child.close(force=True)


def prompted(prompt):
    """Return the pattern of a prompt with a directory behind it."""
    return re.escape(prompt) + r"[^\r\n]*> "


def say(child, line, prompt):
    """Type a line and return what comes before the next prompt."""
    child.sendline(line)
    child.expect(prompted(prompt))
    return ESCAPES.sub("", child.before).replace("\r", "").removeprefix(line).strip()


def ended(child):
    """Wait for the end and return the exit status as a shell has it."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus if child.signalstatus is None else 128 + child.signalstatus


def test_session(mount, ok, scratch, overlay):
    """The prompt names the overlay; what is written stays; exit gives the status."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    assert say(child, "mkdir /data; echo hello > /data/f; pwd", "[env.ext3] ") == str(scratch)
    assert say(child, "cat /data/f", "[env.ext3] ") == "hello"
    assert say(child, "echo $-", "[env.ext3] ").count("i") == 1
    child.sendline("exit 5")
    assert ended(child) == 5
    assert ok("run-overlay", "-o", "env.ext3", "--", "cat", "/data/f") == "hello\n"


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_users_bashrc(mount, overlay, bashrc, environ, mode):
    """A setting lets the shell read the user's ~/.bashrc: aliases, functions; the prompt says both."""
    overlay("env.ext3")
    bashrc("alias greet='echo hello you'\ntwice() { echo $1 $1; }\nPS1='mine \\w> '\n")
    child = mount("-o", f"env.ext3{mode}", prompt="[env.ext3] /")
    assert "not found" in say(child, "greet", "[env.ext3] /")
    child.sendline("exit 0")
    assert ended(child) == 0
    environ["OVERLAY_LAUNCH_BASHRC"] = "yes"
    child = mount("-o", f"env.ext3{mode}", prompt="[env.ext3] mine ")
    assert say(child, "greet; twice x", "[env.ext3] mine ") == "hello you\nx x"
    assert say(child, "echo $-", "[env.ext3] mine ").count("i") == 1
    child.sendline("exit 5")
    assert ended(child) == 5


def test_users_bashrc_without_terminal(run, overlay, bashrc):
    """Where there is no terminal the shell reads its commands, as without the setting."""
    overlay("env.ext3")
    bashrc("echo read\n")
    for setting in ("no", "yes"):
        variables = {"OVERLAY_LAUNCH_BASHRC": setting}
        words = ["mount-overlay", "-q", "-o", "env.ext3"]
        assert run(*words, stdin="echo $((6 * 7)); exit 3\n", variables=variables) == (
            3,
            "42\n",
            "",
        )


def test_prompt_shows_the_directory(mount, overlay):
    """The prompt follows the current directory."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    child.sendline("cd /usr/share")
    child.expect_exact("[env.ext3] /usr/share> ")


def test_start_line(mount, overlay, site, site_text):
    """A line says what is mounted how, with the room left; then the site's own."""
    site.write_text(site_text + "[site]\nmessage = Maintenance on Monday\n")
    overlay("one.ext3")
    overlay("my two.ext3")
    child = mount("-o", "one.ext3", "-o", "my two.ext3")
    child.expect(prompted("[one.ext3] "))
    lines = ESCAPES.sub("", child.before).replace("\r", "").split("\n")
    assert re.fullmatch(
        r"mount-overlay: one\.ext3 \(writable, [\d.]+ MiB and [\d,]+ files free\)"
        r" over 'my two\.ext3' \(read-only\) over base\.sif",
        lines[0],
    )
    assert lines[1] == "mount-overlay: Maintenance on Monday"


def test_names_in_the_prompt(mount, overlay):
    """No name of an overlay is a command for the prompt."""
    overlay("$(touch hit) `id`.ext3")
    child = mount("-q", "-o", "$(touch hit) `id`.ext3", prompt="[??touch?hit???id?.ext3] ")
    assert say(child, "ls hit 2>/dev/null; echo no", "[??touch?hit???id?.ext3] ") == "no"


def test_interrupt(mount, overlay):
    """Ctrl-C ends what runs, not the session; the shell knows the status."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    nap = f"1000.{os.getpid()}"  # as no other process sleeps
    child.sendline(f"sleep {nap}")
    wait_until(lambda: ["sleep", nap] in command_lines())
    child.sendintr()
    child.expect(prompted("[env.ext3] "))
    assert say(child, "echo status $?", "[env.ext3] ") == "status 130"
    child.sendintr()
    child.expect(prompted("[env.ext3] "))
    assert say(child, "echo alive", "[env.ext3] ") == "alive"


def test_stop_and_continue(mount, overlay):
    """Ctrl-Z and fg work inside."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    child.sendline("sh -c 'echo st\"\"arted; read x; echo got $x'")
    child.expect_exact("started")
    child.sendcontrol("z")
    child.expect_exact("Stopped")
    child.expect(prompted("[env.ext3] "))
    child.sendline("fg")
    child.expect_exact("sh -c")
    child.sendline("word")
    child.expect_exact("got word")
    child.expect(prompted("[env.ext3] "))


def test_window_size(mount, overlay):
    """The size of the window is the terminal's, and follows it."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    assert say(child, "stty size", "[env.ext3] ") == "30 150"
    child.setwinsize(40, 101)
    wait_until(lambda: say(child, "stty size", "[env.ext3] ") == "40 101")


def test_end_of_input(mount, overlay):
    """Ctrl-D ends the session with the status of the last command."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    say(child, "false", "[env.ext3] ")
    child.sendeof()
    assert ended(child) == 1


def test_hangup(mount, run, overlay):
    """A terminal that goes away ends the session, and leaves the overlay free and whole."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3", prompt="[env.ext3] ")
    say(child, "echo kept > /kept", "[env.ext3] ")
    os.kill(child.pid, signal.SIGHUP)
    child.expect(pexpect.EOF)
    child.wait()
    result = wait_until(
        lambda: (
            (found := run("run-overlay", "-o", "env.ext3", "--", "cat", "/kept")).status == 0
            and found
        )
    )
    assert result.stdout == "kept\n"


def test_read_only(mount, overlay):
    """With :ro the start line says so, and nothing can be written."""
    overlay("env.ext3")
    child = mount("-o", "env.ext3:ro")
    child.expect_exact("env.ext3 (read-only) over base.sif")
    child.expect(prompted("[env.ext3] "))
    assert "Read-only file system" in say(child, "touch /x", "[env.ext3] ")


def test_own_bashrc_does_not_hide_the_prompt(mount, overlay, bashrc):
    """A prompt that ~/.bashrc sets outside does not hide the overlay's."""
    bashrc("PS1='mine> '\n")
    overlay("env.ext3")
    mount("-o", "env.ext3", prompt="[env.ext3] ")


def test_without_a_terminal(run, overlay):
    """From a pipe the shell reads its commands, as every shell does."""
    overlay("env.ext3")
    result = run("mount-overlay", "-q", "-o", "env.ext3", stdin="echo one\nexit 3\n")
    assert result == (3, "one\n", "")


def command_lines():
    """Return the words of all processes of this user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(os.fsdecode(path.read_bytes()).split("\0")[:-1])
        except OSError:
            continue  # it has just ended
    return found


def test_run_overlay_in_a_terminal(environ, scratch, overlay):
    """Ctrl-C ends a job of run-overlay, with the status of a shell."""
    overlay()
    nap = f"1000.{os.getpid()}"  # as no other process sleeps
    child = pexpect.spawn(
        str(ROOT / "bin" / "run-overlay"),
        ["-o", "a.ext3", "--", "sleep", nap],
        env=environ,
        cwd=str(scratch),
        encoding="utf-8",
        timeout=60,
    )
    wait_until(lambda: ["sleep", nap] in command_lines())
    child.sendintr()
    assert ended(child) == 130
