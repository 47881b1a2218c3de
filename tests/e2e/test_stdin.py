"""Commands from standard input: all of them are run, whatever the programs among them read."""

import os
import subprocess

import pexpect
import pytest
from support import ROOT, shell

# Programs that read their standard input, as ssh, ffmpeg, mpirun and many others do.
GREEDY = "cat; wc -c; read word; echo got ${word:-nothing}\n"
SAID = "0\ngot nothing\n"


@pytest.fixture
def typed(environ, scratch):
    """Return a function that runs a line as a user types it into bash, and returns its Result."""
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    return lambda line, stdin=None: shell(line, environ, scratch, stdin=stdin)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_all_are_run(run, overlay, name, mode):
    """A program that reads standard input finds it empty, and the next command is run."""
    overlay()
    text = f"{GREEDY}echo last; exit 7\n"
    result = run("run-overlay", "-o", f"a.ext3{mode}", "-f", name, stdin=text)
    assert result == (7, f"{SAID}last\n", "")


@pytest.mark.parametrize("options", ["--per-task -s 16 -n 1", "--discard-writes"])
def test_in_jobs(typed, overlay, options):
    """So it is for a task with a layer of its own."""
    overlay()
    assert typed(f"run-overlay -o a.ext3 {options} -f - <<'END'\n{GREEDY}echo last\nEND") == (
        0,
        f"{SAID}last\n",
        "",
    )


@pytest.mark.parametrize("source", ["< j", '<<< "$(cat j)"', "< <(cat j)", "< p"])
def test_where_it_comes_from(typed, scratch, overlay, source):
    """A file, a text of the shell's, a pipe, and a pipe with a name are all read to their end."""
    overlay()
    (scratch / "j").write_text(f"{GREEDY}echo last\n")
    line = "mkfifo p; cat j > p & " if source == "< p" else ""
    assert typed(f"{line}run-overlay -o a.ext3 -f - {source}") == (0, f"{SAID}last\n", "")


def test_creation(run, scratch, ok):
    """create-overlay runs them all before it says that the overlay was made."""
    words = ["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "made", "-f", "-"]
    assert run(*words, stdin=f"set -e\n{GREEDY}echo word > /opt/last\n").status != 0
    assert not (scratch / "made.ext3").exists()  # `read` fails at the end of what there is
    assert run(*words, stdin="set -e\ncat\necho word > /opt/last\n").status == 0
    assert ok("run-overlay", "-o", "made.ext3:ro", "--", "cat", "/opt/last") == "word\n"


def test_large_input(ok, overlay):
    """Megabytes of commands are no matter."""
    overlay()
    text = "cat\n" + "x=1\n" * (1 << 20) + "echo end $LINENO\n"
    assert ok("run-overlay", "-o", "a.ext3:ro", "-f", "-", stdin=text) == f"end {(1 << 20) + 2}\n"


def test_nothing(run, typed, overlay):
    """No commands are no mistake, nor is a standard input that is closed."""
    overlay()
    assert run("run-overlay", "-o", "a.ext3", "-f", "-", stdin="") == (0, "", "")
    assert typed("run-overlay -o a.ext3 -f - <&-") == (0, "", "")


def test_no_text(run, overlay):
    """A program in the place of commands is refused by bash, as it is in a file."""
    overlay()
    result = run("run-overlay", "-o", "a.ext3", "-f", "-", stdin="\x7fELF\0\0\0echo x\n")
    assert (result.status, result.stdout) == (126, "")
    assert "cannot execute binary file" in result.stderr


def test_cannot_be_read(typed, overlay):
    """What cannot be read is said."""
    overlay()
    assert typed("run-overlay -o a.ext3 -f - 0> j") == (
        66,
        "",
        "run-overlay: error: cannot read the commands from standard input: Bad file descriptor\n"
        "run-overlay: hint: run-overlay -o a.ext3 -f FILE\n",
    )


def test_windows_line_ends(run, overlay):
    """Windows line ends and a byte order mark are left out here, too."""
    overlay()
    text = "\ufeffcat\r\necho last\r\n"
    assert run("run-overlay", "-o", "a.ext3", "-f", "-", stdin=text) == (
        0,
        "last\n",
        "run-overlay: the commands have Windows line ends or a byte order mark; they are left out\n",
    )


def test_line_numbers(run, overlay):
    """Messages name the line."""
    overlay()
    text = "cat\n\nno-such-command\n"
    assert run("run-overlay", "-o", "a.ext3:ro", "-f", "-", stdin=text) == (
        127,
        "",
        "/dev/fd/9: line 3: no-such-command: command not found\n",
    )


def test_input_is_read_before_the_overlay_is_taken(typed, overlay):
    """What writes the commands may use the same overlay meanwhile."""
    overlay()
    line = "run-overlay -o a.ext3 -- echo echo word | run-overlay -o a.ext3 -f -"
    assert typed(line) == (0, "word\n", "")


def test_nobody_can_change_them(run, overlay):
    """The commands cannot be changed by what they run."""
    overlay()
    text = "echo false > /dev/fd/9 || echo refused\necho last\n"
    result = run("run-overlay", "-o", "a.ext3:ro", "-f", "-", stdin=text)
    assert (result.status, result.stdout) == (0, "refused\nlast\n")


def test_terminal(environ, scratch, overlay):
    """On a terminal a line says how the commands end."""
    overlay()
    words = [str(ROOT / "bin" / "run-overlay"), "-o", "a.ext3", "-f", "-"]
    child = pexpect.spawn(words[0], words[1:], env=environ, cwd=scratch, timeout=60, echo=False)
    child.expect_exact("reading commands from the terminal; Ctrl-D ends them")
    child.sendline("cat; echo la''st")
    child.sendeof()
    child.expect_exact("last")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_interrupted_at_the_terminal(environ, scratch, overlay):
    """Ctrl-C while they are typed ends it, and nothing is run."""
    path = overlay()
    words = [str(ROOT / "bin" / "run-overlay"), "-o", str(path), "-f", "-"]
    child = pexpect.spawn(words[0], words[1:], env=environ, cwd=scratch, timeout=60, echo=False)
    child.expect_exact("Ctrl-D ends them")
    child.sendline("echo la''st")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and b"last" not in (child.before or b"")


@pytest.mark.parametrize("sh", ["bash", "dash"])
def test_dry_run(typed, overlay, sh):
    """What --dry-run prints does the same, and by itself it reads nothing."""
    overlay()
    text = f"{GREEDY}echo last; exit 7\n"
    line = f"run-overlay --dry-run -o a.ext3 -f - > pasted && {sh} ./pasted"
    assert typed(line, text) == (7, f"{SAID}last\n", "")


def test_process_substitution(typed, overlay):
    """-f <(…) leaves the standard input to the commands."""
    overlay()
    line = "run-overlay -o a.ext3 -f <(echo 'read word; echo got $word; cat; echo last')"
    assert typed(line, "one\ntwo\n") == (0, "got one\ntwo\nlast\n", "")


def test_background(environ, scratch, overlay):
    """Nothing of standard input is left to a caller that shares it."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    reading, writing = os.pipe()
    os.write(writing, b"cat\necho last\n")
    os.close(writing)
    done = subprocess.run(
        ["run-overlay", "-o", "a.ext3:ro", "-f", "-"],
        stdin=reading,
        env=environ,
        cwd=scratch,
        capture_output=True,
        check=True,
    )
    assert (done.stdout, os.read(reading, 10)) == (b"last\n", b"")
    os.close(reading)
