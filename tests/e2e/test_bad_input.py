"""Bad input: one sentence, a hint, a status of its own, and nothing changed."""

import gzip
import os
import shlex
import shutil
import subprocess

import pytest
from support import BASE, digests

LIST = "list the overlays here: list-overlays ."
KINDS = "overlays are ext3 images, squashfs files and directories; those here: list-overlays ."


@pytest.fixture(autouse=True)
def files(scratch, overlay):
    """Put an overlay and all kinds of wrong files where the commands run."""
    overlay()
    (scratch / "f").write_text("echo x\n")
    (scratch / "text.ext3").write_text("hello\n" * 500)
    (scratch / "empty.ext3").touch()
    (scratch / "zeros.ext3").write_bytes(bytes(1 << 20))
    (scratch / "packed.ext3").write_bytes(gzip.compress(bytes(9999)))
    (scratch / "secret.ext3").write_bytes(b"x" * 5000)
    (scratch / "secret.ext3").chmod(0)
    os.symlink("gone.ext3", scratch / "link.ext3")
    os.mkfifo(scratch / "fifo.ext3")
    with open(BASE, "rb") as sif, open(scratch / "sif.ext3", "wb") as copy:
        copy.write(sif.read(100000))
    shutil.copy(scratch / "a.ext3", scratch / "cut.ext3")
    os.truncate(scratch / "cut.ext3", 8 << 20)
    for kind in ("ext2", "ext4"):
        words = ["/usr/sbin/mke2fs", "-q", "-t", kind, f"{kind}.ext3", "16M"]
        subprocess.run(words, cwd=scratch, check=True)
    (scratch / "sandbox" / ".singularity.d").mkdir(parents=True)
    yield
    (scratch / "secret.ext3").chmod(0o600)


MAKE = "make one: create-overlay -s SIZE -n FILES"

TABLE = [
    ("none.ext3", 66, "there is no overlay none.ext3", LIST),
    ("a", 66, "there is no overlay a", "did you mean a.ext3?"),
    (
        "a.ext3,cut.ext3",
        66,
        "there is no overlay a.ext3,cut.ext3",
        "name each apart: -o a.ext3 -o cut.ext3",
    ),
    ("link.ext3", 66, "link.ext3 is a link to gone.ext3, which does not exist", None),
    (
        "secret.ext3",
        66,
        "cannot open secret.ext3: Permission denied",
        "ask its owner for read permission; see: ls -l secret.ext3",
    ),
    ("text.ext3", 65, "text.ext3 is not an overlay", KINDS),
    (
        "empty.ext3",
        65,
        "empty.ext3 is empty, not an overlay",
        "make one: create-overlay -s SIZE -n FILES",
    ),
    (
        "zeros.ext3",
        65,
        "zeros.ext3 holds no file system",
        "make one: create-overlay -s SIZE -n FILES",
    ),
    (
        "packed.ext3",
        65,
        "packed.ext3 is compressed with gzip",
        "unpack it first: gunzip packed.ext3",
    ),
    (
        "sif.ext3",
        65,
        "sif.ext3 is a container image (SIF), not an overlay",
        "to use it as the base image: -c sif.ext3",
    ),
    (
        "ext4.ext3",
        65,
        "ext4.ext3 is an ext4 image, and the engines take ext3 only",
        MAKE,
    ),
    (
        "ext2.ext3",
        65,
        "ext2.ext3 is an ext2 image, and the engines take ext3 only",
        MAKE,
    ),
    (
        "cut.ext3",
        65,
        "cut.ext3 is damaged: it is cut off: 8388608 bytes of 16777216 are there",
        "look at it without changing it: /sbin/e2fsck -fn cut.ext3",
    ),
    ("fifo.ext3", 65, "fifo.ext3 is neither a file nor a directory", None),
    (
        "sandbox",
        65,
        "sandbox is an unpacked container image, not an overlay",
        "to use it as the base image: -c sandbox",
    ),
]


def told(program, sentence, hint):
    """Return what a program prints for an error."""
    line = f"{program}: hint: {hint}\n" if hint else ""
    return f"{program}: error: {sentence}\n{line}"


@pytest.mark.parametrize(("name", "status", "sentence", "hint"), TABLE)
def test_overlays(run, scratch, name, status, sentence, hint):
    """What is no overlay is told by what it is, wherever it stands, by both commands."""
    before = digests_of_readable(scratch)
    words = ["-o", name, "-f", "f"]
    assert run("run-overlay", *words) == (
        status,
        "",
        told("run-overlay", sentence, hint),
    )
    words = ["-o", "a.ext3", "-o", name, "-f", "f"]
    assert run("run-overlay", *words) == (
        status,
        "",
        told("run-overlay", sentence, hint),
    )
    result = run("mount-overlay", "-o", f"{name}:ro", stdin="echo in\n")
    assert result == (status, "", told("mount-overlay", sentence, hint))
    assert digests_of_readable(scratch) == before


def digests_of_readable(directory):
    """Return what digests() gives, the file that may not be read left out."""
    os.chmod(directory / "secret.ext3", 0o600)
    found = digests(directory)
    os.chmod(directory / "secret.ext3", 0)
    return found


@pytest.mark.parametrize(
    ("line", "status", "sentence", "hint"),
    [
        (
            "run-overlay -o a.ext3 -o b.ext3:rw -f f",
            2,
            "only the first overlay can be writable",
            "name the one to write in first, and the others without :rw",
        ),
        (
            "run-overlay -o a.ext3 -o ./a.ext3 -f f",
            2,
            "./a.ext3 is named twice, as a.ext3 too",
            "name every overlay once",
        ),
        (
            "run-overlay -o a.ext3 -f none",
            66,
            "cannot read the command file none: No such file or directory",
            "make it first: a text file of bash commands, one a line",
        ),
        (
            "run-overlay -o a.ext3 -f a.ext3",
            2,
            "a.ext3 is an overlay, not a file of commands",
            "run-overlay -o a.ext3 -f FILE",
        ),
        (
            "run-overlay -o a.ext3 -f sandbox",
            66,
            "the command file sandbox is a directory",
            "name a file in it: -f sandbox/FILE",
        ),
        (
            "run-overlay -o a.ext3 -c none.sif -f f",
            66,
            "there is no base image named none.sif",
            "known names: base",
        ),
        (
            "run-overlay -o a.ext3 -c ./none.sif -f f",
            66,
            "the base image ./none.sif cannot be used: No such file or directory",
            "choose another with -c NAME-or-PATH; known names: base",
        ),
        (
            "run-overlay -o a.ext3 -c ./empty.ext3 -f f",
            65,
            "the base image ./empty.ext3 is empty",
            None,
        ),
        (
            "create-overlay -s 0 -n 1",
            2,
            "-s: '0' is zero; a size looks like 500, 500M, 20G or 1.5T",
            None,
        ),
        (
            "create-overlay -f x -s 64 -n 5",
            66,
            "cannot read the command file x: No such file or directory",
            "make it first: a text file of bash commands, one a line",
        ),
        (
            "create-overlay -f . -s 64 -n 5",
            66,
            "the command file . is a directory",
            "to fill the overlay with what is in it: --from .",
        ),
        (
            "create-overlay -s 16 -n many",
            2,
            "-n: 'many' is not a number of files; it looks like 700, 700K or 2M",
            None,
        ),
        (
            "create-overlay -s 500 -n 700000",
            2,
            "700,000,000 files do not fit into 500 MiB",
            "-n counts thousands of files; for 700,000 files: -n 700",
        ),
        (
            "create-overlay -s 17T -n 1",
            2,
            "17 TiB is more than an ext3 image can be (15.9 TiB)",
            "make several overlays, each for a part of the data",
        ),
    ],
)
def test_command_lines(run, scratch, line, status, sentence, hint):
    """A command line that cannot work is refused before anything is touched."""
    before = digests_of_readable(scratch)
    program, *words = line.split()
    assert run(program, *words) == (status, "", told(program, sentence, hint))
    assert digests_of_readable(scratch) == before


def test_smallest_size_of_a_refusal(run, ok):
    """The size that a refusal names is accepted."""
    result = run("create-overlay", "-s", "20", "-n", "60")
    assert result.status == 2
    size = result.stderr.rpartition("-s ")[2].strip()
    ok("create-overlay", "-s", size, "-n", "60", "--sparse")


NO_BASE = "name the file of a container image, or leave -c out for the site's own"


@pytest.mark.parametrize(
    ("name", "why", "hint"),
    [
        ("text.ext3", ": it is in none of the formats SIF, squashfs and ext3", NO_BASE),
        ("zeros.ext3", ": it is in none of the formats SIF, squashfs and ext3", NO_BASE),
        ("void", ": there is no system in that directory", NO_BASE),
        ("a.ext3", None, "to lay it over the base image: -o ./a.ext3"),
    ],
)
def test_base_image_that_is_none(run, scratch, name, why, hint):
    """What cannot be a base image is told by name, before the engine is started."""
    (scratch / "void").mkdir()
    what = (
        f"./{name} is not a base image{why}" if why else f"./{name} is an overlay, not a base image"
    )
    for program, *words in (
        ("run-overlay", "-o", "a.ext3", "--", "true"),
        ("mount-overlay", "-o", "a.ext3"),
        ("create-overlay", "-f", "f", "-o", "new"),
    ):
        result = run(program, "-c", f"./{name}", *words)
        assert result == (65, "", told(program, what, hint))
    assert not list(scratch.glob("new*"))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "environment.yml"])
def test_list_of_packages(run, scratch, name):
    """What pip or conda reads is not given to bash, which would write to a file named =2."""
    (scratch / name).write_text("pandas>=2\n")
    line = f"pip install -r {name}" if name.endswith("txt") else f"conda env create -f {name}"
    what = f"{name} is a list of packages, and -f runs bash commands"
    whole = f"run-overlay -o a.ext3 -- {line}"
    hint = f"one command stands behind --: {whole}"
    assert run("run-overlay", "-o", "a.ext3", "-f", name) == (
        2,
        "",
        told("run-overlay", what, hint),
    )
    hint = f"one command stands behind --: update-overlay a.ext3 -- {line}"
    result = run("update-overlay", "a.ext3", "-f", name)
    assert result == (2, "", told("update-overlay", what, hint))
    result = run("create-overlay", "-f", name, "-o", "new")
    assert result.status == 2 and line in result.stderr
    assert not (scratch / "=2").exists() and not list(scratch.glob("new*"))


def test_default_image_of_the_current_directory(run, site, overlay, scratch):
    """A default that names no image does not take the file of that name that lies here."""
    overlay()
    site.write_text("[images]\ndefault = rocky\nrocky-9 = /rocky.sif\n")
    (scratch / "rocky").symlink_to(BASE)
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert result == (
        66,
        "",
        f"run-overlay: error: there is no base image named rocky ({site}, line 2: [images] default)\n"
        "run-overlay: hint: known names: rocky-9\n",
    )
    for spec in ("rocky", "./rocky"):  # what the user types is what lies here
        assert run("run-overlay", "-o", "a.ext3", "-c", spec, "--", "true").status == 0


@pytest.mark.parametrize(
    "command",
    [
        ["run-overlay", "-o", "{}", "--", "true"],
        ["create-overlay", "-s", "16", "-n", "1", "-o", "{}"],
        ["check-overlay", "{}"],
    ],
    ids=lambda command: command[0],
)
def test_current_directory_is_gone(run, scratch, command):
    """From a directory that was removed it is said so, before anything is made."""
    gone = scratch / "gone"
    gone.mkdir()
    line = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    path = scratch / "new.ext3"
    from support import ROOT, execute

    environ = {
        "PATH": "/usr/bin:/bin",
        "OVERLAY_CONFIG": str(scratch.parent / "site/overlay.ini"),
    }
    program, *words = command
    words = [ROOT / "bin" / program, *(word.format(path) for word in words)]
    result = execute(["sh", "-c", line, "sh", gone, *words], environ=environ, cwd=scratch)
    assert result == (
        66,
        "",
        f"{program}: error: the current directory is gone: No such file or directory\n"
        + f"{program}: hint: cd\n",
    )
    assert not path.exists()


def test_bind_that_is_not_there(run, overlay):
    """What is to be bound and is not there is named."""
    overlay()
    result = run("run-overlay", "-o", "a.ext3", "-b", "/none/such:/x", "--", "true")
    assert result.status == 66
    assert result.stderr == (
        "run-overlay: error: there is no /none/such to bind\n"
        "run-overlay: hint: -b SOURCE[:DESTINATION[:ro]]; SOURCE is what is on this machine\n"
    )


@pytest.mark.parametrize("name", ["data", ".", "./data"])
def test_bind_without_a_place_inside(run, overlay, scratch, name):
    """A name inside begins with /: for one that does not the whole is told."""
    overlay()
    (scratch / "data").mkdir()
    what = f"-b {name}: without a colon it has the same name inside, and names inside begin with /"
    hint = f"-b '{os.path.normpath(scratch / name)}'"
    result = run("run-overlay", "-o", "a.ext3", "-b", name, "--", "true")
    assert result == (2, "", told("run-overlay", what, hint))


def test_directory_by_mistake(run, scratch):
    """A directory is taken, and said to be one when it was no overlay before."""
    (scratch / "results").mkdir()
    words = ["run-overlay", "-o", "results", "--", "true"]
    first, second = run(*words), run(*words)
    said = "run-overlay: results is a directory; what is written goes to results/upper\n"
    assert (first.status, first.stderr) == (0, said)
    assert (second.status, second.stderr) == (0, "")


@pytest.mark.parametrize("form", ["data", "data:rw", "./data/"])
def test_directory_with_data(run, scratch, form):
    """A directory with data in it is not taken for an overlay, and nothing is made among the data."""
    data = scratch / "data"
    data.mkdir()
    (data / "table").write_text("1\n")
    (data / "work").mkdir()
    before = digests(data)
    path = form.partition(":")[0]
    result = run("run-overlay", "-o", form, "--", "cat", "/table")
    assert result == (
        65,
        "",
        f"run-overlay: error: {path} is a directory with data in it, not an overlay; only an empty"
        " directory can become one\n"
        f"run-overlay: hint: to see the data inside: -b '{scratch}/data:/data'; to make an overlay of"
        f" them: create-overlay --from {path}:/data\n",
    )
    assert run("run-overlay", "--dry-run", "-o", form, "--", "true").status == 65
    assert "not an overlay" in run("show-overlay", path).stdout
    assert digests(data) == before


def test_directory_with_data_as_a_layer(run, ok, overlay, scratch):
    """Read-only, alone or below another, it is a layer as with the plain engine."""
    overlay()
    data = scratch / "data"
    data.mkdir()
    (data / "table").write_text("1\n")
    before = digests(data)
    assert ok("run-overlay", "-o", "data:ro", "--", "cat", "/table") == "1\n"
    words = ["run-overlay", "-o", "a.ext3", "-o", "data", "--"]
    assert ok(*words, "sh", "-c", "cat /table; echo 2 >/table; cat /table") == "1\n2\n"
    data.chmod(0o555)
    try:
        result = run("run-overlay", "-o", "data", "--", "cat", "/table")
    finally:
        data.chmod(0o755)
    said = "run-overlay: data is mounted read-only: you may not write it\n"
    assert result == (0, "1\n", said)
    assert digests(data) == before
    for line in ("-b '{0}/data:/data'", "-o b.ext3"):  # what the hint says
        words = shlex.split(line.format(scratch))
        if "-b" not in words:
            ok("create-overlay", "-q", "--from", "data:/data", "-o", "b")
        else:
            words += ["-o", "a.ext3:ro"]
        assert ok("run-overlay", *words, "--", "cat", "/data/table") == "1\n"


def test_directory_that_is_an_overlay(ok, engine, scratch):
    """One that a session or the plain engine has made, whatever lies beside upper, is written."""
    (scratch / "a").mkdir()
    (scratch / "b").mkdir()
    assert engine("exec", "--overlay", "a", BASE, "touch", "/made").status == 0
    ok("run-overlay", "-q", "-o", "b", "--", "touch", "/made")
    for name in "ab":
        (scratch / name / "README").write_text("mine\n")
        assert ok("run-overlay", "-o", name, "--", "ls", "/made") == "/made\n"


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (
            ["create-overlay", "-s", "16", "-n", "1", "-o", "b", "--from", "fifo"],
            66,
            "cannot read fifo: it is neither a directory nor a regular file",
        ),
        (
            ["run-overlay", "-o", "a.ext3", "-c", "./fifo", "--", "true"],
            65,
            "the base image ./fifo is neither a file nor a directory",
        ),
        (
            ["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "b", "-c", "./fifo", "-f", "f"],
            65,
            "the base image ./fifo is neither a file nor a directory",
        ),
        (["overlay-admin", "config", "--check", "fifo"], 78, "it is not a regular file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_fifo(run, overlay, scratch, line, status, message):
    """What would wait for a writer for ever is said to be no file."""
    overlay()
    os.mkfifo(scratch / "fifo")
    (scratch / "f").write_text("true\n")
    result = run(*line)
    assert message in result.stderr
    assert (result.status, result.stdout) == (status, "")
