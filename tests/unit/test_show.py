"""show-overlay: figures, what is inside, what is no overlay."""

import collections
import json
import os
import re
import struct
import time

import entangled
import mutants
import pytest
from overlay.commands import show
from overlay.errors import DAMAGED, MISSING, OverlayError
from overlay.host.names import user_name
from overlay.image import contents, ext3, survey
from overlay.image import image as images
from overlay.image.entry import Entry
from overlay.image.ext3_read import Inode, Reader
from overlay.safety.tidy import _existing
from support import ROOT, tool

USER = user_name(os.getuid())


@pytest.fixture(autouse=True)
def here(scratch, monkeypatch):
    """Work in the scratch directory, so that the messages name bare files."""
    monkeypatch.chdir(scratch)


@pytest.fixture
def make(make_image, tmp_path):
    """Return a function that makes an ext3 overlay x from a function that fills its upper/."""

    def make(fill=lambda upper: None, options=None, mib=16):
        upper = tmp_path / "image.ext3.content" / "upper"
        upper.mkdir(parents=True)
        fill(upper)
        os.rename(make_image(options=options, mib=mib), "x")

    return make


def populate(upper):
    """Make files of every kind that a listing has to tell apart."""
    (upper / "data").mkdir()
    (upper / "data" / "big").write_bytes(b"x" * 100_000)
    os.link(upper / "data" / "big", upper / "data" / "same")
    (upper / "data" / "short").symlink_to("big")
    (upper / "data" / "long").symlink_to("x" * 200)
    (upper / "data" / "59").symlink_to("y" * 59)
    (upper / "data" / "60").symlink_to("z" * 60)
    (upper / "data" / ".wh.gone").write_bytes(b"")
    (upper / "data" / ".wh..wh..opq").write_bytes(b"")
    (upper / "a b\n").write_bytes(b"12345")
    os.mkfifo(upper / "pipe")
    os.utime(upper / "a b\n", (1, 86_400))
    os.chmod(upper / "a b\n", 0o4711)


def walked(path, top="/", environ=None):
    """Return the Entries of an overlay by path."""
    found = images.look(path)
    try:
        return {entry.path: entry for entry in contents.walk(found, top, environ or {})}
    finally:
        found.close()


def looked(path):
    """Return the Survey of an overlay."""
    found = images.look(path)
    try:
        return survey.Survey(found, low=5)
    finally:
        found.close()


# ------------------------------------------------------------------ figures --


@pytest.mark.parametrize(
    "options",
    [
        None,
        ["-t", "ext3", "-b", "1024"],
        ["-t", "ext3", "-b", "4096", "-m", "0"],
        ["-t", "ext3", "-b", "1024", "-I", "128", "-N", "5000"],
    ],
)
def test_figures(make, options):
    """The figures are those of dumpe2fs -h."""
    make(populate, options, mib=40)
    told = dict(re.findall(r"^([^:\n]+): +(.*)$", tool("dumpe2fs", "-h", "x").stdout, re.M))
    found = looked("x")
    block = int(told["Block size"])
    assert (found.room - found.used) == int(told["Free blocks"]) * block
    held = int(told["Reserved block count"]) or int(told["Block count"]) // 10
    assert found.available == (int(told["Free blocks"]) - held) * block
    assert found.files == int(told["Inode count"])
    assert found.files_free == int(told["Free inodes"])
    assert time.strptime(told["Last write time"]) == time.strptime(time.ctime(found.written))
    assert found.clean and not found.use and found.owner_inside == os.getuid()


def test_summary(make):
    """The summary of a fresh overlay, whole."""
    make()
    lines = show.summary(looked("x")).splitlines()
    assert lines[0].startswith("  kind     ext3, 16 MiB")
    assert re.fullmatch(r"  room     \d+% full: \S+ [KM]iB used, \S+ MiB free", lines[1])
    assert re.fullmatch(r"  files    \d% full: 13 used, \S+ free", lines[2])
    assert lines[3:5] == [f"  owner    {USER}", "  state    clean"]
    assert re.fullmatch(r"  written  today \d\d:\d\d", lines[5])
    assert lines[6:] == ["  in use   no"]
    assert re.search(r"\[[#.]{20}\] +\d+% full", show.summary(looked("x"), bars=True))


def test_unclean(make):
    """An image that was not unmounted says so, with what to do."""
    make()
    tool("debugfs", "-w", "-R", "ssv state 0", "x")
    assert "not closed properly; the next session checks it, or: check-overlay x" in show.summary(
        looked("x")
    )


def test_owner(make):
    """What belongs to somebody else inside is said."""
    make()
    tool("debugfs", "-w", "-R", "sif upper uid 54321", "x")
    assert f"{USER}, but 54321 inside: only they can write in it" in show.summary(looked("x"))


def test_lock(make):
    """Looking takes no lock, and sees the locks of others."""
    import fcntl

    make()
    assert looked("x").use is None
    with open("x", "r+b") as file:
        for kind, use in ((fcntl.F_RDLCK, "reader"), (fcntl.F_WRLCK, "writer")):
            words = struct.pack("hhqqi4x", kind, 0, 0, 0, 0)
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, words)
            assert looked("x").use == use
    assert looked("x").use is None


def test_directory(scratch):
    """A directory has the room of its file system; its lock is seen without being taken."""
    import fcntl

    os.makedirs("x/upper")
    found = looked("x")
    assert (found.kind, found.size, found.files, found.clean) == ("directory", None, None, None)
    assert 0 < found.available and found.owner_inside == os.getuid() and found.use is None
    descriptor = os.open("x", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert looked("x").use in ("writer", None)  # not every file system tells its device
    os.close(descriptor)


def test_squashfs(tmp_path):
    """A squashfs file tells its compression and number of files; one that is cut is damaged."""
    (tmp_path / "content" / "opt").mkdir(parents=True)
    assert tool("mksquashfs", tmp_path / "content", "x", "-quiet", "-comp", "zstd").returncode == 0
    found = looked("x")
    assert (found.kind, found.compression, found.files_used) == ("squashfs", "zstd", 2)
    for length in (4, 95, 100):
        os.truncate("x", length)
        with pytest.raises(OverlayError, match="x is damaged: ") as error:
            looked("x")
        assert error.value.status == DAMAGED


# -------------------------------------------------------------- what is inside --


@pytest.mark.parametrize("options", [None, ["-t", "ext3", "-b", "1024", "-I", "128"]])
def test_walk(make, options):
    """Names, sizes, modes, links, times and targets are those of the files."""
    make(populate, options)
    found = walked("x")
    assert list(found) == [
        "/a b\n",
        "/data",
        "/data/",
        "/data/gone",
        "/data/59",
        "/data/60",
        "/data/big",
        "/data/long",
        "/data/same",
        "/data/short",
        "/pipe",
    ]
    entry = found["/a b\n"]
    assert (entry.size, entry.mode, entry.modified) == (5, 0o104711, 86_400)
    assert (entry.owner, entry.links) == (USER, 1)
    assert found["/data/big"].number == found["/data/same"].number
    assert (found["/data/same"].links, found["/data/same"].size) == (2, 100_000)
    targets = {path: entry.target for path, entry in found.items() if entry.target}
    assert targets == {
        "/data/59": "y" * 59,
        "/data/60": "z" * 60,
        "/data/long": "x" * 200,
        "/data/short": "big",
    }
    assert found["/data/gone"].note == "deleted"
    assert found["/data/"].note == "what lower layers have in it is hidden"


def test_same_in_every_kind(make, tmp_path, environ):
    """The three kinds of overlay list the same."""
    make(populate)
    upper = tmp_path / "image.ext3.content" / "upper"
    os.makedirs("d")
    os.rename(upper, "d/upper")
    assert tool("mksquashfs", "d/upper", "s", "-quiet").returncode == 0

    def plain(found):
        return {
            path: (entry.mode, entry.owner, entry.modified // 60, entry.target, entry.note)
            for path, entry in found.items()
        }

    assert plain(walked("x")) == plain(walked("d"))
    assert plain(walked("x")) == plain(walked("s", environ=environ))


@pytest.mark.parametrize("kind", ["x", "d"])
def test_path(make, tmp_path, kind):
    """A path narrows the listing; a file is itself; what is not there is said, links too."""
    make(populate)
    os.makedirs("d")
    os.rename(tmp_path / "image.ext3.content" / "upper", "d/upper")
    assert "/data/big" in walked(kind, "/data") and "/pipe" not in walked(kind, "/data")
    assert list(walked(kind, "/data/../data//big/")) == ["/data/big"]
    assert list(walked(kind, "/../pipe")) == ["/pipe"]
    for wrong in ("/no", "/data/short/x", "/pipe/x", "/dat"):
        with pytest.raises(OverlayError, match=f"^there is no {wrong} in {kind}$") as error:
            walked(kind, wrong)
        assert error.value.status == MISSING


def test_directory_does_not_leave(scratch):
    """A link in a directory overlay leads nowhere."""
    os.makedirs("x/upper")
    os.symlink("/etc", "x/upper/out")
    assert list(walked("x")) == ["/out"]
    with pytest.raises(OverlayError, match="there is no /out/passwd in x"):
        walked("x", "/out/passwd")


def test_large_file(make):
    """A sparse file of 5 GB has that size, and takes what its blocks take."""

    def fill(upper):
        with open(upper / "sparse", "wb") as file:
            file.seek(5 << 30)
            file.write(b"x")

    make(fill, mib=32)
    entry = walked("x")["/sparse"]
    assert entry.size == (5 << 30) + 1 and entry.room < 1 << 20


def test_times(make):
    """Times before 1970 and after 2038 are told."""

    def fill(upper):
        for name, seconds in (("old", -86_400), ("new", 3_000_000_000)):
            (upper / name).write_text("")
            os.utime(upper / name, (0, seconds))

    make(fill)
    for name, seconds in (("old", -86_400), ("new", 3_000_000_000)):
        command = f"set_inode_field upper/{name} mtime @{seconds}"
        tool("debugfs", "-w", "-R", command, "x")
    assert walked("x")["/new"].modified % (1 << 32) == 3_000_000_000
    assert show.line(walked("x")["/old"])


def test_many_names(make):
    """A directory of thousands of names, deep ones, and 60,000 owners' numbers."""

    def fill(upper):
        for number in range(3000):
            (upper / f"a-rather-long-name-of-a-file-{number:05d}").write_bytes(b"")
        deep = upper
        for _level in range(60):
            deep = deep / "d"
        deep.mkdir(parents=True)

    make(fill, ["-t", "ext3", "-b", "1024", "-N", "4000"], mib=32)
    found = walked("x")
    assert len(found) == 3060 and "/d" * 60 in found


def test_usage(make):
    """--du adds up what is below, and counts a file with two names once."""

    def fill(upper):
        (upper / "a" / "b").mkdir(parents=True)
        (upper / "a" / "b" / "one").write_bytes(b"x" * 40_960)
        os.link(upper / "a" / "b" / "one", upper / "a" / "two")
        (upper / "c").write_bytes(b"x" * 8192)

    make(fill)
    found = images.look("x")
    told = {use.path: (use.room, use.files) for use in contents.directories(found, "/", {})}
    assert told["/a/b"] == (40_960, 1)
    assert told["/a"] == (40_960 + 4096, 2)
    assert told["/"] == (40_960 + 8192 + 2 * 4096, 4)
    assert list(told) == ["/", "/a", "/a/b"]
    assert [use.room for use in contents.directories(found, "/c", {})] == [8192]
    found.close()


def test_without_upper(make_image):
    """An image that is no overlay has nothing to list."""
    os.rename(make_image(directories=("data",)), "x")
    assert "it has no directory upper" in show.summary(looked("x"))
    with pytest.raises(OverlayError, match="^x has no directory upper") as error:
        walked("x")
    assert error.value.status == DAMAGED


def test_whiteout_device():
    """A character device 0/0 is a deletion."""
    entry = Entry("/x", 0o020000, "root", "root", 0, 0)
    entry.device = (0, 0)
    assert show.line(entry.interpret()).endswith("/x (deleted)")


# ------------------------------------------------------------------ the program --


def test_program(make, run):
    """Overlays that can be shown are, the status is that of the first that cannot."""
    make(populate)
    result = run("show-overlay", "gone", "x", "/etc/passwd")
    assert result.status == 66
    assert result.stdout.splitlines()[1] == "x"
    assert result.stderr.splitlines()[0] == "show-overlay: error: there is no overlay gone"
    assert "show-overlay: error: /etc/passwd is not an overlay" in result.stderr
    result = run("show-overlay", "--json", "x", "gone")
    document = json.loads(result.stdout)
    assert [one["path"] for one in document] == ["x", "gone"]
    assert document[0]["kind"] == "ext3" and document[0]["files_used"] == 23
    assert document[1]["error"] == "there is no overlay gone"


def test_program_files(make, run, ok):
    """--files lists as ls -l does; the name behind it may be that of the overlay."""
    make(populate)
    text = ok("show-overlay", "x", "--files")
    assert ok("show-overlay", "--files", "x") == text
    assert ok("show-overlay", "x", "--files", "x") == f"x:\n{text}\nx:\n{text}"
    assert ok("show-overlay", "x", "--files", "data") == ok("show-overlay", "x", "--files", "/data")
    assert len(text.splitlines()) == 11
    line = rf"^-rws--x--x +1 {USER} +\S+ +5 1970-01-0\d \d\d:\d\d \$'/a b\\x0a'$"
    assert re.search(line, text, re.M)
    assert re.search(r"^lrwxrwxrwx .* /data/short -> big$", text, re.M)
    assert re.search(r"^ +/data/gone \(deleted\)$", text, re.M)
    found = json.loads(ok("show-overlay", "x", "--json", "--files", "/data"))
    assert len(found[0]["entries"]) == 8
    assert ok("show-overlay", "x", "--du").splitlines()[0].endswith("  10 files  /")
    assert run("show-overlay", "x", "--files", "/no") == (
        66,
        "",
        "show-overlay: error: there is no /no in x\n"
        "show-overlay: hint: see what there is: show-overlay x --files /\n",
    )


def test_program_nothing(run):
    """Without an overlay it is said how to call it."""
    assert run("show-overlay") == (
        2,
        "",
        "show-overlay: error: no overlay is named\nshow-overlay: hint: show-overlay OVERLAY\n",
    )


def test_read_only_file(make, scratch):
    """Who may only read it may look at it."""
    make(populate)
    os.chmod("x", 0o444)
    found = images.look("x")
    assert not found.writable and len(list(contents.walk(found, "/", {}))) == 11
    assert survey.Survey(found, low=5).use is None
    found.close()


# ---------------------------------------------------------------- damaged images --


def test_two_names_for_a_directory(make, limit):
    """Directories that contain themselves come to an end."""
    make(lambda upper: (upper / "a" / "b").mkdir(parents=True))
    tool("debugfs", "-w", "-R", "ln upper/a upper/a/b/again", "x")
    limit(5)
    with pytest.raises(OverlayError, match="a directory in it has two names") as error:
        walked("x")
    assert error.value.status == DAMAGED


def test_long_link(make):
    """A link longer than a block is damage."""
    make(lambda upper: (upper / "link").symlink_to("x" * 100))
    tool("debugfs", "-w", "-R", "sif upper/link size 100000", "x")
    with pytest.raises(OverlayError, match="a link in it is too long"):
        walked("x")


def test_holes(make, limit):
    """A directory that claims to be huge and has only holes takes no time."""
    make(lambda upper: (upper / "d").mkdir())
    tool("debugfs", "-w", "-R", f"sif upper/d size {15 << 20}", "x")
    limit(2)
    assert list(walked("x")) == ["/d"]


def test_inode_times():
    """The seconds of an inode have 34 bits where there is room for them."""
    data = bytearray(160)
    struct.pack_into("<i", data, 16, -1)
    assert Inode(bytes(data[:128])).modify_time == -1
    struct.pack_into("<HHIII", data, 128, 32, 0, 0, 1, 0)
    assert Inode(bytes(data)).modify_time == (1 << 32) - 1


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_mutants(make, environ, block):
    """Some hundred damaged images get an answer or a refusal; the long form is in tests/soak."""
    make(mutants.fill, ["-t", "ext3", "-b", block, "-N", "256", "-J", "size=4"], mib=20)
    os.mkdir("place")
    os.rename("x", "place/a.ext3")
    met = mutants.rounds(os.path.abspath("place/a.ext3"), 300, block, environ, str(ROOT))
    assert met[0] > 10 and met[1] == 300


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_entangled(make, environ, block):
    """The same for contents that mislead."""
    make(entangled.fill, ["-t", "ext3", "-b", block, "-N", "2000", "-J", "size=4"], mib=20)
    os.mkdir("place")
    os.rename("x", "place/a.ext3")
    path = os.path.abspath("place/a.ext3")
    answered = collections.Counter()
    change, look = entangled.Image(path).entangle, entangled.looks(answered)
    met = mutants.rounds(path, 80, block, environ, str(ROOT), change, look)
    assert 10 < met[0] < met[1] == 80
    assert len(answered) == len(entangled.READERS)


def test_directory_named_as_a_marker(make):
    """Only files mark deletions; what is in a directory of such a name is counted there."""

    def fill(upper):
        (upper / ".wh.d" / "e").mkdir(parents=True)
        (upper / ".wh.d" / "e" / "f").write_text("x")

    make(fill)
    found = images.look("x")
    told = {use.path: use.files for use in contents.directories(found, "/", {})}
    found.close()
    assert told == {"/": 3, "/.wh.d": 2, "/.wh.d/e": 1}


def test_paths_of_all_directories(make, monkeypatch):
    """Directories of which the names would fill the memory are not all kept."""
    make(lambda upper: (upper / "d" / ("e" * 100) / ("f" * 100)).mkdir(parents=True))
    found = images.look("x")
    assert len(contents.directories(found, "/", {})) == 4
    monkeypatch.setattr(contents, "_LONGEST", 300)
    with pytest.raises(OverlayError, match="paths that are too long"):
        contents.directories(found, "/", {})
    found.close()


def test_layer_below_is_read_once(make, monkeypatch):
    """A large directory of a layer below is read once, however many paths are asked for."""

    def fill(upper):
        for number in range(300):
            (upper / "d" / f"{number:0200}").mkdir(parents=True)
        (upper / "f").write_text("x")

    make(fill)
    found, read = images.look("x"), []
    real = Reader.block
    monkeypatch.setattr(Reader, "block", lambda *words: read.append(words[1]) or real(*words))
    names = [f"d/{number:0200}{end}".encode() for number in range(600) for end in ("", "/x")]
    there = {f"d/{number:0200}".encode() for number in range(300)} | {b"f"}
    assert found.those_inside([*names, b"f", b"f/x", b"none/x"], {}) == there
    found.close()
    # What leads to upper is read before, its top and what is below once each.
    assert len(read) < 350 and len(read) - len(set(read)) < 3


def test_superblock_of_many_groups(make_image):
    """Groups that are smaller than any tool makes them would be too many to look at."""
    with open(make_image(), "rb") as file:
        data = bytearray(file.read(2048)[1024:])
    struct.pack_into("<II", data, 4, 1 << 31, 0)
    for size, fits in ((32768, True), (2048, True), (1024, False), (8, False)):
        struct.pack_into("<I", data, 32, size)
        if fits:
            assert ext3.Superblock(data).groups_count == (1 << 31) // size
        else:
            with pytest.raises(ext3.FormatError):
                ext3.Superblock(data)


def test_layer_below_is_gone():
    """A base image that cannot be read any more speaks for keeping every marker."""
    assert _existing([b"a", b"b"], "/none.sif", [], {}) == {b"a", b"b"}
