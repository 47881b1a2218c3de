"""What an overlay carries of itself: lines for the engine, notes, histories."""

import subprocess

import pytest
from overlay.environment import activation, base, history, learn, note
from overlay.environment.activation import Activation
from overlay.environment.base import Base


@pytest.mark.parametrize("path", [None, "", "/usr/bin"])
def test_script(path):
    """The lines export what there is, before what is there already, in any shell."""
    made = Activation(lists={"PATH": ["/o b/bin", "/c"]}, values={"A": "it's $HOME\n"})
    environ = {} if path is None else {"PATH": path}
    line = made.script() + 'printf "%s|%s" "$PATH" "$A"'
    shown = subprocess.run(["/bin/sh", "-c", line], env=environ, capture_output=True, text=True)
    rest = path or activation._PATH
    assert shown.stdout == f"/o b/bin:/c:{rest}|it's $HOME\n"
    again = activation.parse(made.script())
    assert (again.lists, again.values) == (made.lists, made.values)


@pytest.mark.parametrize("text", ["'", "export", "x=(", "export PATH=$(touch /tmp/x):a"])
def test_script_of_somebody(text):
    """Lines of others are read, not run."""
    activation.parse(text)


def test_note():
    """A note is read as it was written, whatever is in its words."""
    place = Base("/a b/\x1b[31m%41\udcff.sif", 7, "ab", "")
    made = note.Note(
        "0123456789abcdef0123", base=place, machine="x86_64", directories=("/o\n/p", "/q")
    )
    text = made.text()
    assert text.isascii() and b"\x1b" not in text
    again = note.parse("0123456789abcdef0123", text)
    assert (again.base.path, again.base.size, again.base.mark) == (place.path, 7, "ab")
    assert (again.directories, again.machine, again.script) == (made.directories, "x86_64", "")


@pytest.mark.parametrize(
    "data",
    [b"", b"overlay", b"overlay x\n\n", b"overlay \xb2\n\n", b"overlay 12345\n", b"\xff" * 99],
)
def test_no_note(data):
    """What is not a note is none."""
    assert note.parse("0123456789abcdef0123", data) is None


def test_newer_note():
    """Of a newer format nothing is taken but the number."""
    found = note.parse("0123456789abcdef0123", b"overlay 2\nimage /a\nimage-size 1\n\nexport A=1\n")
    assert (found.format, found.base, found.script) == (2, None, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pip install -i https://me:pw@host/simple x", "pip install -i https://***@host/simple x"),
        ("export HF_TOKEN=abc; ls", "export HF_TOKEN=***; ls"),
        ("API_KEY='a b' run", "API_KEY=*** run"),
        ("curl --password hunter2 x", "curl --password *** x"),
        ("curl -H 'Authorization: Bearer abc' x", "curl -H 'Authorization: Bearer ***' x"),
        ('{"secret": "abc"}', '{"secret": ***}'),
        ("git clone git@host:a/b", "git clone git@host:a/b"),
        ("mkdir -p /opt/env", "mkdir -p /opt/env"),
    ],
)
def test_masked(text, expected):
    """What looks like a secret is not kept."""
    assert history.masked(text) == expected


def test_masked_words():
    """The value of an option that is a word of its own is not kept either."""
    made = history.entry(
        "create", "1", command=["create-overlay", "--set", "A_KEY=b", "--token", "c"]
    )
    assert made["command"] == ["create-overlay", "--set", "A_KEY=***", "--token", "***"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": "1", "entries": []}', b"[" * 100_000, b"\xff"]
)
def test_no_history(content):
    """What is not a history is none."""
    assert history.parse(content) is None


def test_learned():
    """What bash says of an environment is understood; what is not whole is not."""
    words = learn.words(["/nowhere"])
    shown = subprocess.run(words, env={"PATH": "/usr/bin:/bin"}, capture_output=True)
    found = learn.read(shown.stdout, ["/nowhere"], {"A": "1"})
    assert (found.missing, found.ended, found.lost) == (["/nowhere"], None, 0)
    assert found.activation.values == {"A": "1"}
    assert learn.read(shown.stdout[:20], ["/nowhere"], {}) is None


def test_base(tmp_path):
    """An image is known by its size and header; a directory by its name; a FIFO is not taken."""
    header = bytearray(128)
    header[32:41], header[45:47], header[48:64] = b"SIF_MAGIC", b"04", b"u" * 16
    (tmp_path / "a.sif").write_bytes(header)
    found = base.look(str(tmp_path / "a.sif"))
    assert (found.size, found.machine, found.mark[:32]) == (128, "aarch64", "75" * 16)
    assert base.look(str(tmp_path)).mark == ""
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    with pytest.raises(OSError, match="neither a file nor a directory"):
        base.look(str(tmp_path / "fifo"))
