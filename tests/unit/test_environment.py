"""What an overlay carries of itself: lines for the engine, notes, histories."""

import os
import subprocess
import time

import pytest
from overlay.environment import activation, base, history, learn, note, secrets
from overlay.environment.activation import Activation
from overlay.environment.base import Base
from overlay.image import carried
from overlay.image import image as images


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


def test_script_of_a_login_shell():
    """What the engine's lines have set already is not set twice; what /etc/profile took away is."""
    made = Activation(lists={"PATH": ["/o b/bin"], "R_LIBS": ["/r"]}, values={"A": "1"})
    line = f'{made.script()}PATH=/usr/bin\n{made.script(login=True)}printf "%s|%s|%s" "$PATH" "$R_LIBS" $A'
    shown = subprocess.run(["/bin/sh", "-uc", line], env={}, capture_output=True, text=True)
    assert shown.stdout == "/o b/bin:/usr/bin|/r|1", shown


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


@pytest.mark.parametrize("line", ["image /a%00b", "directory /%00", "machine %00"])
def test_note_with_a_nul(line):
    """What no path and no variable can have ends no session: it is no note."""
    head = f"overlay 1\nimage-size 1\n{line}\n\n".encode()
    assert note.parse("0123456789abcdef0123", head) is None
    assert note.parse("0123456789abcdef0123", b"overlay 1\n\nexport A\0B=1\n") is None


def test_names_that_are_none():
    """Of the lines of somebody else variables are taken that there can be."""
    found = activation.parse("export 'X Y'=1 =z 'N\nL'=q A=1 1B=2 'P A'PATH=/a 'f()'=x")
    assert (found.values, found.lists) == ({"A": "1"}, {})


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
        ('curl -d "{\\"token\\": \\"abc\\"}" x', 'curl -d "{\\"token\\": ***}" x'),
        ("curl -u me:pw https://h", "curl -u *** https://h"),
        ("curl -sSLume:pw https://h", "curl -sSLu*** https://h"),
        ("/usr/bin/curl -x p \\\n  --user 'me:p w' x", "/usr/bin/curl -x p \\\n  --user *** x"),
        ("curl -u a:b -U c:d h | sort -u", "curl -u *** -U *** h | sort -u"),
        (
            "curl -H 'X-Api-Key: abc' -H \"PRIVATE-TOKEN:abc\" h",
            "curl -H 'X-Api-Key: ***' -H \"PRIVATE-TOKEN:***\" h",
        ),
        ("curl -b 'Cookie: a=b; c=d' h", "curl -b 'Cookie: ***' h"),
        ("curl 'https://h/?api_key=abc&x=1'", "curl 'https://h/?api_key=***&x=1'"),
        (
            "pip install --index-url https://u:p@s@h/s x",
            "pip install --index-url https://***@h/s x",
        ),
        ("git clone git+https://abc@h/x", "git clone git+https://***@h/x"),
        ("wget --user=me --password=pw h", "wget --user=*** --password=*** h"),
        ("sshpass -p pw ssh h", "sshpass -p *** ssh h"),
        ("mysql -u me -ppw db", "mysql -u me -p*** db"),
        ("docker login -u me -p pw host", "docker login -u me -p *** host"),
        (
            "apptainer registry login -u me -p pw oras://h",
            "apptainer registry login -u me -p *** oras://h",
        ),
        ("unzip -P pw a.zip -d /opt", "unzip -P *** a.zip -d /opt"),
        ("export MY_SECRET='a b' B=1", "export MY_SECRET=*** B=1"),
        ('A_TOKEN="a \\"b\\" c"\nls', "A_TOKEN=***\nls"),
        ('KEY="-----BEGIN\nabc\n-----END"\nls', "KEY=***\nls"),
        ("X_TOKEN=$'a b' run", "X_TOKEN=*** run"),
        ("DB_PASS=abc run", "DB_PASS=*** run"),
        ("password = abc", "password = ***"),
        ("token: abc", "token: ***"),
        ("--token=abc --key abc", "--token=*** --key ***"),
        (
            "aws configure set aws_secret_access_key abc",
            "aws configure set aws_secret_access_key ***",
        ),
        ("setenv API_TOKEN abc", "setenv API_TOKEN ***"),
        ("machine h login me password abc", "machine h login me password ***"),
        ("huggingface-cli login hf_abcdefghijklmnopq", "huggingface-cli login ***"),
        # What is no secret stays, or the commands would not run again.
        *[
            (text, text)
            for text in (
                "TOKEN=$(cat ~/.token) run",
                'curl -H "Authorization: Bearer $TOKEN" h',
                'export A_KEY="$(cat /x/y)" B_KEY="$B_KEY" C_KEY=${C_KEY:?is not set} D_KEY=',
                "pip install tokenizers==0.13 keyring>=24 secretstorage",
                "conda install keyutils=1.6",
                "TOKEN= run",
                "gpg --keyserver hkp://h --recv-keys ABCD",
                "apt-key add x",
                "echo x | docker login --password-stdin h",
                "--password-file /x/y z",
                "/data/keys:/opt/keys",
                "x.sort(key=lambda y: y)",
                "monkey patch; sort -u x; sudo -u me x; mkdir -p /opt/env; cp -p a b",
                "pip install --user numpy",
                "docker run -u 1000:1000 -p 80:80 x",
                'for key in a b; do echo "$key"; done',
            )
        ],
        ("git clone git@host:a/b", "git clone git@host:a/b"),
        ("mkdir -p /opt/env", "mkdir -p /opt/env"),
    ],
)
def test_masked(text, expected):
    """What looks like a secret is not kept."""
    assert secrets.masked(text) == expected
    assert secrets.masked(expected) == expected


def test_masked_words():
    """The value of an option that is a word of its own is not kept either."""
    words = ["update-overlay", "--set", "A_KEY=it's b", "--token", "c d", "a.ext3", "--", "curl"]
    words += ["-u", "me:it's a", "-H", "Authorization: Bearer abc", "https://me:pw@h", "a b's"]
    made = history.entry("update", "1", command=words)["command"]
    assert made[:5] == ["update-overlay", "--set", "A_KEY=***", "--token", "***"]
    assert made[8:] == ["-u", "***", "-H", "Authorization: Bearer ***", "https://***@h", "a b's"]


def test_masked_in_time():
    """Whatever the text is: it takes no longer than it has bytes."""
    for text in (
        "curl ",
        "KEY",
        "a",
        "'",
        '"',
        "\\",
        "-",
        'key="',
        "://",
        'TOKEN=\\"',
        "A" * 1000 + " ",
    ):
        start = time.process_time()
        secrets.masked(text * (200_000 // len(text)))
        assert time.process_time() - start < 60, text[:20]


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


@pytest.fixture
def of_many(tmp_path):
    """Return a function that makes an overlay in which many ids lead to one large history."""

    def make(number, content):
        place = tmp_path / "d" / "upper" / note.DIRECTORY.lstrip("/")
        place.mkdir(parents=True)
        (tmp_path / "history").write_bytes(content)
        for one in range(number):
            (place / f"{one:020x}").mkdir()
            os.link(tmp_path / "history", place / f"{one:020x}" / history.NAME)
        return images.look(str(tmp_path / "d"))

    return make


def test_histories_of_many_names(of_many):
    """All that is read of histories has a limit, and not each by itself; the newest come first."""
    found = of_many(100, history.data([{"recipe": "x" * (1 << 20)}]))
    assert list(history.read(found)) == [f"{one:020x}" for one in (99, 98, 97)]
    found.close()


def test_more_names_than_there_can_be(of_many):
    """A session does not read on in a directory that was made to cost time."""
    found = of_many(2000, history.data([]))
    assert len(found.names_in(note.DIRECTORY)) == 1024
    assert len(note.ids(found)) == len(history.read(found)) == 64
    found.close()


def test_copies_of_many_names(tmp_path, monkeypatch):
    """What stands behind a squashfs file is read once, and not without end."""
    path = tmp_path / "a.sqsh"
    path.write_bytes((b"hsqs" + bytes(24) + b"\4" + bytes(11) + b"\x60").ljust(4096, b"\0"))
    with path.open("r+b") as file:
        made = {note.path(f"{one:020x}"): b"overlay 1\n\n" for one in range(5000)}
        carried.write(file.fileno(), made)
    asked, real = [], carried.read
    monkeypatch.setattr(carried, "read", lambda *words: asked.append(words) or real(*words))
    found = images.look(str(path))
    assert len(found.names_in(note.DIRECTORY)) == 4096
    assert len(note.read(found)) == 64
    assert len(asked) == 1
    found.close()


def test_numbers_that_cannot_be_told():
    """What JSON of others cannot read again is told as words."""
    content = b'{"format": 1, "entries": [{"a": 1e999, "b": NaN, "c": 7}]}'
    assert history.parse(content) == (1, [{"a": "1e999", "b": "NaN", "c": 7}])
