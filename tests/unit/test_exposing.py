"""What is written for exposed programs and kernels, whatever stands inside: it may be somebody else's."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from overlay.commands.expose import _start as start
from overlay.errors import OverlayError
from overlay.expose import choose, listed, texts, write
from overlay.host.path import trusted

BIN = "/opt/env/bin"


def chosen(*names, **options):
    """Return which of some programs of an environment become commands."""
    found = {f"{BIN}/{name}": "" for name in names}
    return sorted(choose.programs(found, [BIN], hosts=[], **options))


def test_odd_names():
    """A name that would have to be quoted somewhere is left out."""
    odd = [
        "-rf",
        "a b",
        "a'b",
        'a"b',
        "$(touch x)",
        "`x`",
        "a\nb",
        ".start",
        "..",
        "a;b",
        "\x1b[31m",
        "*",
    ]
    assert chosen("python", *odd) == chosen("python", *odd, all_=True) == ["python"]
    for name in ("../x", *odd):
        with pytest.raises(OverlayError, match="there is no program"):
            chosen("python", *odd, named=[name])


def test_what_starts_sessions():
    """What a session is started with would start another one, without end."""
    names = ["apptainer", "fuse2fs", "fusermount3", "run-overlay", "list-overlays", "site-engine"]
    for options in ({}, {"all_": True}):
        assert chosen("tool", *names, engines=["/x/site-engine"], **options) == ["tool"]
    for name in names:
        with pytest.raises(OverlayError, match="cannot be exposed: sessions are started with it"):
            chosen(*names, engines=["/x/site-engine"], named=[name])


def test_exposed_programs_come_last(tmp_path):
    """Where ours and an engine look for the system's programs, exposed ones do not hide them."""
    (tmp_path / "d/bin").mkdir(parents=True)
    (tmp_path / "own/bin").mkdir(parents=True)
    (tmp_path / "d/.exposed").touch()
    path = f"{tmp_path}/d/bin:{tmp_path}/own/bin:/usr/bin:x:{tmp_path}/d/bin/"
    assert trusted({"PATH": path, "A": "1"}) == {
        "A": "1",
        "PATH": f"{tmp_path}/own/bin:/usr/bin:/usr/sbin:/sbin:/bin:{tmp_path}/d/bin:{tmp_path}/d/bin/",
    }
    assert trusted({"PATH": "/usr/bin:/x/bin"}) == {"PATH": "/usr/bin:/x/bin"}


def test_name_that_outlives_versions(tmp_path):
    """Exposed programs start the name of all versions, where it is one, and else their own version."""
    for name in ("1.0", "2.0"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / ".installed").touch()
        (tmp_path / name / "bin/run-overlay").touch(mode=0o755)
    (tmp_path / "bin").mkdir()
    stable, own = tmp_path / "bin/run-overlay", f"{tmp_path}/1.0/bin/run-overlay"
    assert start(f"{tmp_path}/1.0") == own
    stable.touch(mode=0o755)  # somebody else's program
    assert start(f"{tmp_path}/1.0") == own
    stable.unlink()
    stable.symlink_to("../2.0/bin/run-overlay")
    assert start(f"{tmp_path}/1.0") == str(stable)
    (tmp_path / "1.0/.installed").unlink()  # a clone
    assert start(f"{tmp_path}/1.0") == own


# ------------------------------------------------------------------------ kernels --

KERNELS = "/opt/env/share/jupyter/kernels"
PYTHON = {
    "argv": ["python", "-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
}


def kernel(said, *, name="python3", programs=()):
    """Return (kernel.json, the words that it starts) of what a kernel says of itself inside."""
    text = said if isinstance(said, str) else json.dumps(said)
    written, [start] = write.kernel(
        ["run-overlay", "-o", "it's.ext3:ro"],
        {f"{KERNELS}/{name}/kernel.json": text},
        programs,
        directory="/k",
        name="mine",
    )
    return json.loads(written["/k/kernel.json"]), written[start]


def words(script, tmp_path):
    """Return the words behind -- that the script of a kernel starts, for a file with a blank."""
    file = tmp_path / "a file"
    file.touch()
    shown = script.replace("exec run-overlay", "printf '%s\\0'")
    done = subprocess.run(
        ["sh", "-c", shown, "start", file], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = done.stdout.split("\0")[:-1]
    assert found[:4] == ["-o", "it's.ext3:ro", "-b", str(tmp_path)]
    assert sorted(os.listdir(tmp_path)) == ["a file"]  # nothing of it was run
    return found[found.index("--") + 1 :], str(file)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python", "-f", "{connection_file}"], [f"{BIN}/python", "-f", "FILE"]),
        (["R", "--slave", "--args", "{connection_file}"], ["R", "--slave", "--args", "FILE"]),
        (["/x/xeus", "-f={connection_file}", "-v", ""], ["/x/xeus", "-f=FILE", "-v", ""]),
        (
            ["{prefix}/bin/j", "{resource_dir}/start.js", "{connection_file}", "x"],
            ["/opt/env/bin/j", f"{KERNELS}/python3/start.js", "FILE", "x"],
        ),
        (
            ["a b", "$(touch x)", "`touch x`", "it's", '"', "\n", "-rf", "*", "{connection_file}"],
            ["a b", "$(touch x)", "`touch x`", "it's", '"', "\n", "-rf", "*", "FILE"],
        ),
    ],
)
def test_words_of_a_kernel(tmp_path, argv, expected):
    """Whatever a kernel of any language is started with, its file is where it is named."""
    _document, script = kernel({"argv": argv}, programs=[f"{BIN}/python"])
    found, file = words(script, tmp_path)
    assert found == [word.replace("FILE", file) for word in expected]


def test_language(tmp_path):
    """Name, language and how it is interrupted come from the kernel inside."""
    said = {
        "argv": ["R", "{connection_file}"],
        "display_name": "R",
        "language": "R",
        "interrupt_mode": "message",
        "env": {"A": "it's", "-i": "x", "B": 1, "C": "\0"},
        "metadata": {"debugger": True},
    }
    document, script = kernel(said, name="ir")
    assert document["display_name"] == "R (mine)" and document["language"] == "R"
    assert document["interrupt_mode"] == "message" and document["metadata"]["debugger"] is True
    assert document["argv"] == ["/k/start", "{connection_file}"]
    found, file = words(script, tmp_path)
    assert found == ["/usr/bin/env", "A=it's", "R", file]


def test_kernel_of_somebody():
    """What a kernel says does not rule a terminal, or how Jupyter starts it."""
    said = {
        **PYTHON,
        "display_name": "\x1b[31mred\n" + "x" * 1000,
        "language": ["x"],
        "interrupt_mode": {"a": 1},
        "metadata": {"about": "mine", "kernel_provisioner": {"provisioner_name": "x"}},
        "env": ["x"],
    }
    document, _script = kernel(said)
    assert (
        document["display_name"].startswith("\\x1b[31mred\\x0a")
        and len(document["display_name"]) < 250
    )
    assert document["language"] == "python" and document["interrupt_mode"] == "signal"
    assert document["metadata"] == {"about": texts.MARK, "debugger": False}


@pytest.mark.parametrize(
    "said",
    [
        "[" * 60000,
        "{",
        "[1]",
        {"argv": []},
        {"argv": "python"},
        {"argv": [1]},
        {"argv": ["a\0b", "{connection_file}"]},
        '{"argv": ["\\ud800", "{connection_file}"]}',
    ],
    ids=range(8),
)
def test_no_kernel(said):
    """What is not a kernel is none."""
    with pytest.raises(OverlayError, match="there is no kernel of Jupyter"):
        kernel(said)


def test_no_connection_file():
    """A kernel that cannot be told where to listen is told."""
    with pytest.raises(OverlayError, match="takes no connection file"):
        kernel({"argv": ["python"]})


# ------------------------------------------------------------------------ removal --


def exposed(directory, *names):
    """Write files as expose-overlay does."""
    write.put({str(directory / name): f"# {texts.MARK}\n" for name in names}, [], str(directory))


def files(top):
    """Return the names of all that is below a directory."""
    return sorted(str(path.relative_to(top)) for path in Path(top).rglob("*"))


def test_removed(tmp_path):
    """What was written is removed, with directories that are empty then; anything else stays."""
    exposed(tmp_path / "d", "bin/a", "bin/b", "modulefiles/x/1.0")
    (tmp_path / "d/bin/mine").write_text("mine")
    (tmp_path / "d/bin/b").write_text("mine, too")
    assert listed.remove(str(tmp_path / "d")) == 2
    assert files(tmp_path / "d") == ["bin", "bin/b", "bin/mine"]
    exposed(tmp_path / "e", "bin/a")
    assert listed.remove(str(tmp_path / "e")) == 1
    assert not (tmp_path / "e").exists()
    with pytest.raises(OverlayError, match="nothing was exposed"):
        listed.remove(str(tmp_path / "e"))


def test_removed_through_no_link(tmp_path):
    """A link that has come to lie below the directory leads to nothing that is removed."""
    exposed(tmp_path / "other", "bin/a", "bin/b", "x")
    exposed(tmp_path / "d", "bin/a", "c", "f")
    (tmp_path / "d/bin/a").unlink()
    (tmp_path / "d/bin").rmdir()
    (tmp_path / "d/bin").symlink_to(tmp_path / "other/bin")
    (tmp_path / "d/c").unlink()
    (tmp_path / "d/c").symlink_to(tmp_path / "other/x")
    (tmp_path / "d/f").unlink()
    os.mkfifo(tmp_path / "d/f")
    before = files(tmp_path / "other")
    assert listed.remove(str(tmp_path / "d")) == 0
    assert files(tmp_path / "other") == before and files(tmp_path / "d") == ["bin", "c", "f"]


@pytest.mark.parametrize(
    "text",
    [b"bin/a\n", b"# written by expose-overlay\n../other\n./x\n//x\n\n", b"\xff\n", b""],
    ids=range(4),
)
def test_lists_that_are_not_ours(tmp_path, text):
    """What a list names outside of the directory, or without the mark, is left alone."""
    (tmp_path / "d").mkdir()
    (tmp_path / "other").write_text(texts.MARK)
    (tmp_path / "d/.exposed").write_bytes(text)
    assert listed.read(str(tmp_path / "d")) == []
    (tmp_path / "d/.exposed").unlink()
    os.mkfifo(tmp_path / "d/.exposed")
    assert listed.read(str(tmp_path / "d")) == []
