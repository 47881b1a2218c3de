"""run-overlay: layers, names, statuses, command files, what comes in from the host."""

import os
import shutil
import signal
import subprocess

import pytest
from support import BASE, ROOT, shell


def write(ok, name, line):
    """Run a line of sh in one overlay."""
    ok("run-overlay", "-o", name, "--", "sh", "-c", line)


# ------------------------------------------------------------------- layers --


@pytest.fixture
def stack(overlay, ok):
    """Make three overlays with the same file in each, and one of its own."""
    for name in "abc":
        overlay(f"{name}.ext3")
        write(
            ok,
            f"{name}.ext3",
            f"mkdir /data; echo {name} | tee /data/same > /data/{name}",
        )


@pytest.mark.parametrize(
    ("layers", "top", "names"),
    [
        (["a.ext3", "b.ext3"], "a", "a b"),
        (["b.ext3", "a.ext3"], "b", "a b"),
        (["a.ext3", "b.ext3", "c.ext3"], "a", "a b c"),
        (["a.ext3:ro", "b.ext3", "c.ext3"], "a", "a b c"),
        (["c.ext3:ro", "b.ext3:ro", "a.ext3:ro"], "c", "a b c"),
        (["b.ext3:ro", "c.ext3"], "b", "b c"),
        (["b.ext3:ro"], "b", "b"),
    ],
)
def test_order(ok, stack, layers, top, names):
    """The order named is the order of the layers, top first; all of them are seen."""
    words = [word for layer in layers for word in ("-o", layer)]
    found = ok("run-overlay", *words, "--", "sh", "-c", "cat /data/same; cd /data; echo ?")
    assert found == f"{top}\n{names}\n"


def test_order_below_a_writable_one(ok, run, stack, overlay):
    """Below an empty writable overlay the first read-only one wins."""
    overlay("w.ext3")
    words = ["-o", "w.ext3", "-o", "c.ext3", "-o", "a.ext3", "-o", "b.ext3"]
    assert ok("run-overlay", *words, "--", "cat", "/data/same") == "c\n"
    words = ["-o", "w.ext3", "-o", "b.ext3", "-o", "a.ext3", "-o", "c.ext3"]
    assert ok("run-overlay", *words, "--", "cat", "/data/same") == "b\n"


def test_read_only_stack_cannot_be_written(run, stack):
    """With :ro nothing can be written, and nothing is."""
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", "echo x > /data/x")
    assert result.status != 0
    assert "Read-only file system" in result.stderr
    assert run("run-overlay", "-o", "a.ext3", "--", "ls", "/data").stdout == "a\nsame\n"


def test_lower_layers_do_not_change(ok, scratch, stack):
    """What is changed or deleted over a lower overlay is in the first one only."""
    before = (scratch / "b.ext3").read_bytes()
    write_line = "rm /data/b; echo new > /data/same; touch /data/n"
    ok("run-overlay", "-o", "a.ext3", "-o", "b.ext3", "--", "sh", "-c", write_line)
    assert (scratch / "b.ext3").read_bytes() == before
    assert ok("run-overlay", "-o", "a.ext3", "-o", "b.ext3", "--", "ls", "/data") == "a\nn\nsame\n"
    assert ok("run-overlay", "-o", "a.ext3:ro", "-o", "b.ext3:ro", "--", "ls", "-A", "/data") == (
        "a\nn\nsame\n"
    )


def test_directory_overlay(ok, scratch, overlay):
    """A directory is an overlay too, writable or below one."""
    (scratch / "d").mkdir()
    write(ok, "d", "mkdir /data; echo d > /data/f")
    assert ok("run-overlay", "-o", "d", "--", "cat", "/data/f") == "d\n"
    overlay()
    assert ok("run-overlay", "-o", "a.ext3", "-o", "d", "--", "cat", "/data/f") == "d\n"
    assert ok("run-overlay", "-o", "d:ro", "--", "cat", "/data/f") == "d\n"


def test_squashfs_overlay(run, scratch, overlay):
    """A squashfs overlay is read-only, and said to be so when it stands first."""
    (scratch / "content/data").mkdir(parents=True)
    (scratch / "content/data/f").write_text("squashed\n")
    subprocess.run(
        ["mksquashfs", "content", "s.sqsh", "-quiet", "-no-progress"],
        cwd=scratch,
        check=True,
        capture_output=True,
    )
    overlay()
    assert run("run-overlay", "-o", "a.ext3", "-o", "s.sqsh", "--", "cat", "/data/f") == (
        0,
        "squashed\n",
        "",
    )
    assert run("run-overlay", "-o", "s.sqsh:ro", "--", "cat", "/data/f") == (
        0,
        "squashed\n",
        "",
    )
    assert run("run-overlay", "-o", "s.sqsh", "--", "cat", "/data/f") == (0, "squashed\n", "")
    assert run("run-overlay", "-q", "-o", "s.sqsh", "--", "true") == (0, "", "")
    message = "s.sqsh cannot be mounted writable: a squashfs file cannot be written"
    assert run("run-overlay", "-o", "s.sqsh:rw", "--", "true") == (
        77,
        "",
        f"run-overlay: error: {message}\nrun-overlay: hint: to write above it: -o NEW -o s.sqsh;"
        " to change what is in it: update-overlay s.sqsh\n",
    )


# -------------------------------------------------------------------- names --

NAMES = [
    "my env.ext3",
    "a,b.ext3",
    'say "x".ext3',
    "it's.ext3",
    "-dash.ext3",
    "größe.ext3",
    "$HOME.ext3",
    "a\\b.ext3",
    "a;b&c|d.ext3",
    "*.ext3",
    "x=y.ext3",
    "#.ext3",
    'a",b".ext3',
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_overlays(ok, scratch, overlay, name):
    """An overlay of any name is written, and read below another."""
    overlay(name)
    ok("run-overlay", f"-o{name}", "--", "sh", "-c", "mkdir /data; echo x > /data/f")
    overlay("top.ext3")
    assert ok("run-overlay", "-o", "top.ext3", f"-o{name}", "--", "cat", "/data/f") == "x\n"
    assert sorted(os.listdir(scratch)) == sorted([name, "top.ext3"])


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("a:b.ext3", "a:b.ext3"), ("a\nb.ext3", "$'a\\x0ab.ext3'")],
)
def test_names_refused(run, scratch, overlay, name, quoted):
    """A colon or a newline in a name is refused in a sentence, and a link gets around it."""
    before = overlay(name).read_bytes()
    result = run("run-overlay", "-o", name, "--", "true")
    assert result.status == 2
    sentence, hint = result.stderr.splitlines()
    assert sentence.startswith(f"run-overlay: error: {quoted}: ")
    assert sentence.endswith(" in the name of an overlay would be misread by the engine")
    assert hint.endswith(f"make a link to it: ln -s {quoted} NAME")
    assert (scratch / name).read_bytes() == before
    (scratch / "link.ext3").symlink_to(name)
    assert run("run-overlay", "-o", "link.ext3", "--", "true") == (0, "", "")


@pytest.mark.parametrize(
    "name",
    [
        "commands",
        "my file",
        "a,b",
        "a:b",
        'say "x"',
        "it's",
        "-dash",
        "größe",
        "a\nb",
        "$HOME",
        "a\\b",
        "x.txt\r",
        "*",
    ],
)
def test_names_of_command_files(run, scratch, overlay, name):
    """A command file may have any name, and $0 is that name."""
    overlay()
    (scratch / name).write_text('echo "$0"\n')
    assert run("run-overlay", "-o", "a.ext3", f"-f{name}") == (0, f"{name}\n", "")


@pytest.mark.parametrize("place", ["/var/tmp", "~", "."])
def test_places_of_command_files(run, environ, scratch, overlay, place):
    """A command file may lie anywhere, also where the container does not look."""
    import tempfile

    overlay()
    with tempfile.NamedTemporaryFile(
        "w",
        dir=os.path.expanduser(place) if place != "." else scratch,
        prefix="overlay test ",
    ) as file:
        file.write('echo "$0"; id -un\n')
        file.flush()
        result = run("run-overlay", "-o", "a.ext3", "-f", file.name)
    assert result == (0, f"{file.name}\noverlay-tester\n", "")


def test_command_file_leaves_nothing(ok, scratch, overlay):
    """Binding the command file leaves nothing in the overlay, nor beside it."""
    overlay()
    (scratch / "f").write_text("true\n")
    ok("run-overlay", "-o", "a.ext3", "-f", scratch / "f")
    found = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "ls -p /upper", scratch / "a.ext3"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.split("/")[5] for line in found.splitlines() if line.count("/") > 5}
    assert names == {".", "..", "opt"}
    assert sorted(os.listdir(scratch)) == ["a.ext3", "f"]


# ----------------------------------------------------------------- statuses --


@pytest.mark.parametrize(
    ("mode", "how", "statuses"),
    [
        # Each status once, and in each of the four ways one that is ours and one that is not.
        ("", ["-f", "f"], [0, 66, 127, 255]),
        ("", ["--", "sh", "f"], [1, 75, 126, 137]),
        (":ro", ["-f", "f"], [2, 75, 128]),
        (":ro", ["--", "sh", "f"], [3, 66, 125]),
    ],
)
def test_statuses(run, scratch, overlay, mode, how, statuses):
    """The exit status of the commands is ours, of a file and of a single command."""
    overlay()
    for status in statuses:
        (scratch / "f").write_text(f"exit {status}\n")
        assert run("run-overlay", "-o", f"a.ext3{mode}", *how) == (status, "", "")


@pytest.mark.parametrize(
    ("command", "status", "error", "hint"),
    [
        (
            "no-such-command",
            127,
            "error: no-such-command: command not found",
            "programs of this machine are not seen inside, only the base image's and the overlays'",
        ),
        ("/no/such", 127, "error: there is no /no/such inside", "see what there is: -- ls /"),
        (
            "/usr/bin/apptainer",
            127,
            "error: there is no /usr/bin/apptainer inside",
            "this machine has it; inside, the directories of the system are the base image's",
        ),
        (
            "/etc/passwd",
            126,
            "error: /etc/passwd may not be executed",
            "chmod +x /etc/passwd; a file of bash commands stands behind -f: -f /etc/passwd",
        ),
        ("/etc", 126, "error: /etc is a directory, not a command", None),
        ("ls /opt", 127, "error: there is no ls /opt inside", "each word apart: -- ls /opt"),
        ("A=1", 127, "error: A=1: command not found", "variables are set by env: -- env A=1"),
        (
            "cd",
            127,
            "error: cd belongs to a shell, and ends with it",
            "with other commands in a file: -f FILE; or: -- bash -c 'cd && COMMAND'",
        ),
    ],
)
def test_missing_command(run, overlay, command, status, error, hint):
    """A missing command is 127, one that cannot be executed 126, as in a shell; it says why."""
    overlay()
    said = f"run-overlay: {error}\n" + (f"run-overlay: hint: {hint}\n" if hint else "")
    assert run("run-overlay", "-o", "a.ext3", "--", command) == (status, "", said)


@pytest.mark.parametrize(
    ("name", "mode", "hint"),
    [
        ("job.sh", 0o644, "a file of bash commands stands behind -f: -f job.sh"),
        ("job.sh", 0o755, "what lies here is named by its path: -- ./job.sh"),
        ("script.py", 0o644, "what runs it stands before it: -- python3 script.py"),
    ],
)
def test_file_as_command(run, scratch, overlay, name, mode, hint):
    """A file that lies here is not found along PATH; how it is run is said."""
    overlay()
    (scratch / name).write_text("echo hello\n")
    (scratch / name).chmod(mode)
    said = f"run-overlay: error: {name}: command not found\nrun-overlay: hint: {hint}\n"
    assert run("run-overlay", "-o", "a.ext3:ro", "--", name) == (127, "", said)


def test_missing_interpreter(run, scratch, overlay):
    """A script whose interpreter is missing inside is told from one that is missing itself."""
    overlay()
    (scratch / "script").write_text("#!/no/such/python\n")
    (scratch / "script").chmod(0o755)
    result = run("run-overlay", "-o", "a.ext3", "--", "./script")
    assert result.status == 127
    assert result.stderr.endswith(
        "\nrun-overlay: hint: there is no /no/such/python inside, with which ./script begins\n"
    )


def test_command_of_the_host(run, scratch, overlay):
    """A command that lies where only the host sees it is told so, with what makes it seen."""
    overlay()
    (scratch / "bin").mkdir()
    tool = scratch / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho run\n")
    tool.chmod(0o755)
    words = ["run-overlay", "--engine-option=--contain", "-o", "a.ext3"]
    assert run(*words, "--", tool) == (
        127,
        "",
        f"run-overlay: error: there is no {tool} inside\n"
        f"run-overlay: hint: this machine has it, but it is not seen inside: -b '{tool.parent}'\n",
    )
    assert run(*words, "-b", tool.parent, "--", tool) == (0, "run\n", "")


def test_command_of_an_environment(ok, run, overlay):
    """A command that is not on PATH is looked for in the environments of the overlay."""
    overlay()
    ok(
        "run-overlay",
        "-o",
        "a.ext3",
        "--",
        "sh",
        "-c",
        "for d in /opt/env /opt/conda/envs/one; do mkdir -p $d/bin; ln -s /bin/true $d/bin/snake; done",
    )
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "snake")
    assert result == (
        127,
        "",
        "run-overlay: error: snake: command not found\n"
        "run-overlay: hint: it is not on PATH; type the whole path: /opt/env/bin/snake"
        " /opt/conda/envs/one/bin/snake\n",
    )
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "conda", "activate", "one")
    assert result.stderr == (
        "run-overlay: error: conda activate one belongs to a shell, and ends with it\n"
        "run-overlay: hint: one command in it: -- conda run -n one COMMAND\n"
    )


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1"])
def test_death_by_signal(environ, scratch, overlay, name, mode):
    """Death by a signal shows as a shell shows it."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    line = f"run-overlay -o a.ext3{mode} -- sh -c 'kill -{name} $$'; echo $?"
    result = shell(line, environ, scratch)
    assert result.stdout == f"{128 + getattr(signal, 'SIG' + name)}\n"
    line = f"run-overlay -o a.ext3{mode} -f f; echo $?"
    (scratch / "f").write_text(f"kill -{name} $$\n")
    assert shell(line, environ, scratch).stdout == f"{128 + getattr(signal, 'SIG' + name)}\n"


def test_arguments_pass(ok, overlay):
    """The words of a command come through as they are."""
    overlay()
    words = [
        "",
        "a b",
        "it's",
        '"',
        "$HOME",
        "*",
        "a\nb",
        "--",
        "-o",
        "b.ext3",
        "é",
        "\\",
    ]
    found = ok("run-overlay", "-o", "a.ext3", "--", "printf", "%s|", *words)
    assert found == "".join(f"{word}|" for word in words)


def test_large_output(ok, overlay):
    """Megabytes pass through unharmed."""
    overlay()
    line = "head -c 5000000 /dev/zero | tr '\\0' x"
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line) == "x" * 5000000


def test_closed_reader(environ, scratch, overlay):
    """`run-overlay … | head -1` ends quietly; inside SIGPIPE has its effect."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    line = "run-overlay -o a.ext3 -- yes | head -1; echo ${PIPESTATUS[0]}"
    assert shell(line, environ, scratch) == (0, "y\n141\n", "")


# ------------------------------------------------------------ command files --


def test_stdin(run, scratch, overlay):
    """With -f FILE standard input is the caller's."""
    overlay()
    (scratch / "f").write_text("read word; echo got $word; cat\n")
    result = run("run-overlay", "-o", "a.ext3", "-f", "f", stdin="x\nrest\n")
    assert result == (0, "got x\nrest\n", "")
    assert run("run-overlay", "-o", "a.ext3", "--", "cat", stdin="hello") == (
        0,
        "hello",
        "",
    )


def test_commands_from_stdin(run, overlay):
    """-f - reads the commands from standard input."""
    overlay()
    result = run("run-overlay", "-o", "a.ext3", "-f", "-", stdin="echo one\necho two\nexit 4\n")
    assert result == (4, "one\ntwo\n", "")
    assert run("run-overlay", "-o", "a.ext3", "-f", "/dev/stdin", stdin="echo x\n") == (
        0,
        "x\n",
        "",
    )


def test_commands_from_a_pipe(environ, scratch, overlay):
    """-f <(…) of bash works, and standard input stays the caller's."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    line = "run-overlay -o a.ext3 -f <(echo 'read x; echo got $x; exit 5')"
    assert shell(line, environ, scratch, stdin="word\n") == (5, "got word\n", "")


def test_commands_from_a_named_pipe(environ, scratch, overlay):
    """A pipe with a name is read once, by the shell inside."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    line = "mkfifo p; echo 'echo from a pipe' >p & timeout 30 run-overlay -o a.ext3 -f p; rm p"
    assert shell(line, environ, scratch).stdout == "from a pipe\n"


def test_commands_without_a_name(environ, scratch, overlay):
    """A file that has lost its name, as one in memory, is read through its descriptor."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    for directory in ("/dev/fd", "/proc/self/fd"):
        (scratch / "j").write_text("read x; echo got $x; exit 5\n")
        line = f"exec 3<j; rm j; run-overlay -o a.ext3 -f {directory}/3"
        assert shell(line, environ, scratch, stdin="word\n") == (5, "got word\n", "")


def test_line_numbers(run, scratch, overlay):
    """Messages of bash name the file as the user did, and its own lines."""
    overlay()
    (scratch / "my file").write_text("\n\nno-such-command\necho $LINENO ${BASH_SOURCE[0]}\n")
    assert run("run-overlay", "-o", "a.ext3", "-f", "my file") == (
        0,
        "4 my file\n",
        "my file: line 3: no-such-command: command not found\n",
    )
    result = run("run-overlay", "-o", "a.ext3", "-f", scratch / "my file")
    assert result.stderr == f"{scratch}/my file: line 3: no-such-command: command not found\n"


def test_syntax_error(run, scratch, overlay):
    """A syntax error is bash's own, with its status."""
    overlay()
    (scratch / "f").write_text("echo a\nif\n")
    result = run("run-overlay", "-o", "a.ext3", "-f", "f")
    assert (result.status, result.stdout) == (2, "a\n")
    assert result.stderr.startswith("f: line ")


def test_large_file(run, scratch, overlay):
    """A command file of 1 MB runs to its end."""
    overlay()
    text = "x=1\n" * 262144 + "echo end $LINENO\n"
    (scratch / "f").write_text(text)
    assert run("run-overlay", "-o", "a.ext3", "-f", "f") == (0, "end 262145\n", "")


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_windows_line_ends(run, environ, scratch, overlay, home, mode, start):
    """A file with Windows line ends runs, with a notice; nothing is left of the copy."""
    overlay()
    text = start + b'echo one\r\nif true; then\r\n  no-such-command\r\nfi\r\nread x; echo "$x"\r\n'
    (scratch / "f").write_bytes(text)
    temporary = scratch.parent / "temporary"
    temporary.mkdir()
    environ["OVERLAY_SCRATCH_LOCAL"] = str(temporary)
    result = run("run-overlay", "-o", f"a.ext3{mode}", "-f", "f", stdin="word\n")
    assert result == (
        0,
        "one\nword\n",
        "run-overlay: f has Windows line ends or a byte order mark; they are left out\n"
        + "f: line 3: no-such-command: command not found\n",
    )
    assert os.listdir(temporary) == []
    assert (scratch / "f").read_bytes() == text


def test_empty_file(run, scratch, overlay):
    """An empty command file does nothing, well."""
    overlay()
    (scratch / "f").touch()
    assert run("run-overlay", "-o", "a.ext3", "-f", "f") == (0, "", "")


def test_exec_bit_and_interpreter_do_not_matter(run, scratch, overlay):
    """FILE is run with bash, whatever shell its first line names, and its permissions."""
    overlay()
    (scratch / "f").write_text("#!/usr/bin/zsh -f\necho $BASH_VERSION | cut -c1\n")
    os.chmod(scratch / "f", 0o400)
    assert run("run-overlay", "-o", "a.ext3", "-f", "f") == (0, "5\n", "")


# ---------------------------------------------------------------- the host --


def test_working_directory(ok, scratch, overlay):
    """The current directory is the same inside, and writable."""
    overlay()
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "pwd; echo x > out") == (
        f"{scratch}\n"
    )
    assert (scratch / "out").read_text() == "x\n"


def test_working_directory_of_the_container(run, scratch, overlay):
    """In /usr/lib the container's own is seen, with a notice."""
    path = overlay()
    result = run("run-overlay", "-o", path, "--", "ls", "/usr/lib", cwd="/usr/lib")
    assert result.status == 0
    assert result.stderr == (
        "run-overlay: the host's /usr/lib is not seen inside: it is a directory of the container\n"
    )
    assert result.stdout == run("run-overlay", "-o", path, "--", "ls", "/usr/lib").stdout


def test_variables(ok, environ, overlay):
    """Variables that would mislead are cleared; others and those of the engine pass."""
    overlay()
    environ.update(
        PYTHONPATH="/x",
        PYTHONHOME="/y",
        CONDA_PREFIX="/c",
        CONDA_SHLVL="1",
        R_LIBS_USER="/r",
        PERL5LIB="/p",
        BASH_ENV="/no/such",
        LD_PRELOAD="",
        MY_OWN="kept",
        SLURM_JOB_ID="7",
        APPTAINERENV_ASKED="for",
    )
    found = dict(
        line.partition("=")[::2]
        for line in ok("run-overlay", "-o", "a.ext3", "--", "env").split("\n")
    )
    cleared = {
        "PYTHONPATH",
        "PYTHONHOME",
        "CONDA_PREFIX",
        "CONDA_SHLVL",
        "R_LIBS_USER",
        "PERL5LIB",
        "BASH_ENV",
    }
    assert found.keys() & cleared == set()
    assert (found["MY_OWN"], found["SLURM_JOB_ID"], found["ASKED"]) == (
        "kept",
        "7",
        "for",
    )


@pytest.mark.parametrize(
    "name",
    [
        "APPTAINER_OVERLAY",
        "SINGULARITY_OVERLAY",
        "APPTAINER_OVERLAYIMAGE",
        "SINGULARITY_OVERLAYIMAGE",
    ],
)
def test_leaked_overlay(run, environ, scratch, overlay, ok, name):
    """An overlay left in the environment changes nothing, and is not changed."""
    overlay("a.ext3")
    leaked = overlay("leaked.ext3")
    write(ok, "leaked.ext3", "mkdir /data; touch /data/leaked")
    before = leaked.read_bytes()
    environ[name] = "leaked.ext3"
    result = run("run-overlay", "-o", "a.ext3", "--", "ls", "/data")
    assert result.status == 2 and "/data" in result.stderr
    write(ok, "a.ext3", "touch /new")
    assert leaked.read_bytes() == before


@pytest.mark.parametrize("name", ["TMPDIR", "SLURM_TMPDIR"])
def test_temporary_directory(ok, environ, scratch, overlay, name):
    """The host's temporary directory is seen inside, wherever it lies."""
    import tempfile

    path = overlay()
    # Not below /tmp, which is seen anyway.
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="overlay test ") as shm,
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="overlay test ") as var,
    ):
        for directory in (shm, var):
            environ[name] = directory
            line = f'echo x > "${name}/file"'
            ok("run-overlay", "-o", path, "--", "sh", "-c", line)
            with open(os.path.join(directory, "file"), encoding="utf-8") as file:
                assert file.read() == "x\n"


def test_bind(ok, scratch, overlay):
    """-b binds a path of the host, under its own name or another."""
    overlay()
    (scratch / "data").mkdir()
    (scratch / "data" / "f").write_text("x\n")
    assert ok("run-overlay", "-o", "a.ext3", "-b", "data:/inside:ro", "--", "cat", "/inside/f") == (
        "x\n"
    )


@pytest.mark.parametrize("option", ["--nv", "--rocm"])
def test_gpu_options(run, overlay, option):
    """Without such a GPU the options do no harm."""
    overlay()
    assert run("run-overlay", option, "-o", "a.ext3", "--", "echo", "x").status == 0


def test_container_by_path_and_name(ok, run, overlay, environ):
    """-c takes a name of the site's list or a path; an unknown one is refused."""
    overlay()
    for spec in ("base", BASE):
        assert ok("run-overlay", "-o", "a.ext3", "-c", spec, "--", "echo", "x") == "x\n"
    assert run("run-overlay", "-o", "a.ext3", "-c", "nope", "--", "true") == (
        66,
        "",
        "run-overlay: error: there is no base image named nope\n"
        + "run-overlay: hint: known names: base\n",
    )


@pytest.mark.parametrize("program", ["create-overlay", "mount-overlay", "run-overlay"])
def test_broken_python(run, environ, scratch, overlay, program):
    """A broken python3 first on PATH and misleading variables change nothing."""
    overlay()
    broken = scratch.parent / "broken"
    broken.mkdir()
    for name in ("python3", "python"):
        (broken / name).write_text("#!/bin/sh\necho broken >&2\nexit 99\n")
        (broken / name).chmod(0o755)
    for name in ("argparse", "os", "configparser", "site", "overlay"):
        (broken / f"{name}.py").write_text("raise SystemExit('misled')\n")
    environ.update(
        PATH=f"{broken}:{environ['PATH']}",
        PYTHONPATH=str(broken),
        PYTHONHOME=str(broken),
        PYTHONSTARTUP=str(broken / "os.py"),
        PYTHONSAFEPATH="",
        PYTHONINSPECT="1",
    )
    words = {
        "create-overlay": ["-q", "-s", "16", "-n", "1"],
        "mount-overlay": ["-q", "-o", "a.ext3"],
        "run-overlay": ["-o", "a.ext3", "--", "python3", "-c", "pass"],
    }[program]
    result = run(program, *words, cwd=scratch)
    assert (result.status, result.stderr) == (0, "")
    result = run(program, *words, cwd=broken) if program == "create-overlay" else result
    assert (result.status, result.stderr) == (0, "")


# ------------------------------------------------------------------ dry run --


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "-o",
            "my a.ext3",
            "--",
            "sh",
            "-c",
            'echo "$1"; pwd; exit 3',
            "sh",
            "it's\na",
        ],
        ["-o", "my a.ext3:ro", "-o", "b.ext3", "-f", "my commands"],
        ["-o", "b.ext3", "-f", "windows"],
        [
            "-o",
            "b.ext3",
            "-b",
            "/usr/share:/in,/etc:/etc2",
            "--",
            "ls",
            "-d",
            "/in",
            "/etc2",
        ],
    ],
)
def test_dry_run_does_the_same(run, environ, scratch, overlay, arguments):
    """What --dry-run prints, pasted into bash, does the same, and by itself does nothing."""
    overlay("my a.ext3")
    overlay("b.ext3")
    environ.update(PYTHONPATH="/x", APPTAINER_OVERLAY="b.ext3", KEPT="1")
    environ["OVERLAY_SCRATCH_LOCAL"] = str(scratch.parent)
    text = 'echo "$0" "$KEPT" "${PYTHONPATH-cleared}"; read x; echo "$x"; exit 4\n'
    (scratch / "my commands").write_text(text)
    (scratch / "windows").write_text(text.replace("\n", "\r\n"))
    before = (scratch / "b.ext3").read_bytes(), (scratch / "my a.ext3").read_bytes()
    printed = run("run-overlay", "--dry-run", *arguments)
    assert printed.status == 0
    assert (
        (scratch / "b.ext3").read_bytes(),
        (scratch / "my a.ext3").read_bytes(),
    ) == before
    (scratch / "pasted").write_text(printed.stdout)
    pasted = shell(". ./pasted", environ, scratch, stdin="word\n")
    direct = run("run-overlay", *arguments, stdin="word\n")
    assert pasted.stdout == direct.stdout != ""
    if "windows" not in arguments:  # the line that removes the copy comes last
        assert pasted.status == direct.status
    own = scratch.parent / f"overlay-{os.getuid()}"
    assert (f"{own}/commands." in printed.stdout) == ("windows" in arguments)
    assert not list(own.glob("commands.*"))


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "a.ext3:ro", "--stage"],
        ["-o", "a.ext3", "--discard-writes", "-s", "16", "-n", "1"],
        ["-o", "a.ext3", "--per-task", "--keep", "kept", "-s", "16", "-n", "1"],
        ["-o", "a.ext3", "-o", "b.ext3", "--per-task", "--stage", "-s", "16", "-n", "1"],
    ],
)
def test_dry_run_of_a_job(run, environ, scratch, overlay, options):
    """What --dry-run prints of copies and layers, pasted, does the same as the session."""
    overlay("a.ext3")
    overlay("b.ext3")
    kept, own = scratch / "kept", scratch.parent / "local" / f"overlay-{os.getuid()}"
    kept.mkdir()
    own.parent.mkdir()
    environ |= {"OVERLAY_SCRATCH_LOCAL": str(own.parent), "SLURM_JOB_ID": "7"}
    line = ["--", "sh", "-c", "ls /new; touch /new && echo written; cat /etc/issue"]

    def touched():
        return [os.stat(scratch / name).st_ctime_ns for name in ("a.ext3", "b.ext3")]

    before = touched()
    printed = run("run-overlay", "--dry-run", *options, *line)
    assert printed.status == 0 and not own.exists() and touched() == before
    assert ("\ncp " in printed.stdout) == ("--stage" in options)
    assert ("/mke2fs " in printed.stdout) == ("-s" in options)
    (scratch / "pasted").write_text(printed.stdout)
    pasted = shell("set -e; . ./pasted", environ, scratch)
    assert pasted.status == 0, pasted
    assert ("written\n" in pasted.stdout) == ("-s" in options)
    copies = sorted(own.glob("[!.]*"))
    assert len(copies) == options.count("--stage") * options.count("-o")
    assert os.listdir(kept) == ["job7.ext3"] * options.count("--keep")

    direct = run("run-overlay", *options, *line)
    assert (direct.stdout, direct.status) == (pasted.stdout, 0)
    assert sorted(own.glob("[!.]*")) == copies
    assert len(os.listdir(kept)) == 2 * options.count("--keep")


# --------------------------------------------------------------- colleagues --


_LOOK = "to look into it: -o {path}:ro; to change it, work on a copy of your own"


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("0644", "it is not yours"),
        ("0666", "what is inside belongs to another user (overlay-colleague)"),
    ],
)
def test_overlay_of_a_colleague(run, colleague, mode, why):
    """What may only be read is mounted read-only, with a notice; :rw is an error."""
    path = colleague / f"{mode}.ext3"
    before = path.read_bytes()
    command = ["--", "cat", "/data/hello"]
    hello = "hello from a colleague\n"
    notice = f"run-overlay: {path} is mounted read-only: {why}\n"
    assert run("run-overlay", "-o", path, *command) == (0, hello, notice)
    assert run("run-overlay", "-o", f"{path}:ro", *command) == (0, hello, "")
    assert run("run-overlay", "-o", f"{path}:rw", *command) == (
        77,
        "",
        f"run-overlay: error: {path} cannot be mounted writable: {why}\n"
        f"run-overlay: hint: {_LOOK.format(path=path)}\n",
    )
    assert path.read_bytes() == before


def test_copy_of_a_colleagues_overlay(run, colleague, scratch):
    """A copy is read-only until all inside is one's own, and the line for that is told."""
    shutil.copyfile(colleague / "0644.ext3", scratch / "mine.ext3")
    words = ["run-overlay", "-o", "mine.ext3", "--", "true"]
    assert run(*words) == (
        0,
        "",
        "run-overlay: mine.ext3 is mounted read-only: what is inside belongs to another user"
        " (overlay-colleague); to make all inside yours: check-overlay --own mine.ext3\n",
    )
    assert run("check-overlay", "-q", "--own", "mine.ext3").status == 0
    assert run(*words) == (0, "", "")


def test_overlay_of_a_colleague_below(ok, colleague, overlay):
    """Below an own overlay a colleague's needs no notice."""
    overlay()
    path = colleague / "0644.ext3"
    words = [
        "-o",
        "a.ext3",
        "-o",
        path,
        "--",
        "sh",
        "-c",
        "cat /data/hello; echo x > /mine",
    ]
    assert ok("run-overlay", *words) == "hello from a colleague\n"


def test_private_file_of_a_colleague(run, colleague):
    """What a colleague has made private inside stays so."""
    result = run("run-overlay", "-o", f"{colleague}/0644.ext3:ro", "--", "cat", "/data/secret")
    assert (result.status, result.stdout) == (1, "")
    assert "Permission denied" in result.stderr


def test_unreadable_overlay_of_a_colleague(run, colleague):
    """What may not be read is said so, with whom to ask."""
    path = colleague / "0600.ext3"
    for spec in (path, f"{path}:ro", f"{path}:rw"):
        assert run("run-overlay", "-o", spec, "--", "true") == (
            66,
            "",
            f"run-overlay: error: cannot open {path}: Permission denied\n"
            + f"run-overlay: hint: ask its owner for read permission; see: ls -l {path}\n",
        )


@pytest.mark.parametrize("name", ["APPTAINER_BIND", "APPTAINER_BINDPATH", "SINGULARITY_BIND"])
def test_locked_binds_and_the_engines_variables(run, overlay, scratch, site, site_text, name):
    """Where the site has locked the binds, the engine's variables add none; else they do."""
    overlay()
    variables = {name: f"{scratch}:/bound"}
    words = ["run-overlay", "-o", "a.ext3:ro", "--", "ls", "-d", "/bound"]
    if name.startswith("APPTAINER"):
        assert run(*words, variables=variables).stdout == "/bound\n"
    site.write_text(f"{site_text}[site]\nlock = binds.paths\n[binds]\npaths = /home\n")
    result = run(*words, variables=variables)
    assert result.stdout == "" and "No such file" in result.stderr
