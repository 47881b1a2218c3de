"""list-overlays: what is found below directories, in what order, at what cost."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time

import pytest
from overlay.commands import list as listing
from overlay.errors import OverlayError
from overlay.image import image as images
from overlay.image import search
from overlay.image.expiry import Expiry
from overlay.image.survey import Survey
from support import ROOT, tool


@pytest.fixture(autouse=True)
def here(scratch, monkeypatch):
    """Work in the scratch directory, so that the messages name bare files."""
    monkeypatch.chdir(scratch)


@pytest.fixture
def copy(make_image):
    """Return a function that puts a copy of an ext3 overlay at a path."""
    template = make_image()

    def copy(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        subprocess.run(["cp", "--sparse=always", "--", template, path], check=True)
        return path

    return copy


def squash(path, tmp_path):
    """Put a small squashfs file at a path."""
    content = tmp_path / "content of a squashfs"
    (content / "opt").mkdir(parents=True, exist_ok=True)
    assert tool("mksquashfs", content, path, "-quiet").returncode == 0


def found(*tops):
    """Return what a search finds below directories, as a dictionary from path to kind."""
    one, told = search.Search(), {}
    for top in tops or (".",):
        for path, overlay in one.under(top):
            told[path] = overlay.status if isinstance(overlay, OverlayError) else overlay.kind
            if not isinstance(overlay, OverlayError):
                overlay.close()
    assert one.found == len(told)
    return told


# -------------------------------------------------------------- what is found --


def test_by_content(copy, make_image, tmp_path):
    """Overlays are found whatever their names, and what only looks like one is not."""
    for path in ("a.ext3", "deep/er/b", "c.txt"):
        copy(path)
    squash("s.sqsh", tmp_path)
    squash("t.img", tmp_path)
    squash("snap", tmp_path)  # a package of something else
    os.makedirs("d/upper/x")
    os.makedirs("d/work")
    copy("d/upper/inside.ext3")
    with open("zeros.ext3", "wb") as file:
        file.truncate(1 << 20)
    with open("text.ext3", "wb") as file:
        file.write(b"hello\n")
    os.rename(make_image("other", directories=("data",)), "other.ext3")
    os.rename(make_image("four", options=["-t", "ext4"]), "four.ext3")
    os.mkfifo("fifo.ext3")
    copy(".overlay-partial.host.1")
    assert found() == {
        "./a.ext3": "ext3",
        "./c.txt": "ext3",
        "./deep/er/b": "ext3",
        "./s.sqsh": "squashfs",
        "./t.img": "squashfs",
        "./d": "directory",
    }


def test_once(copy):
    """Hard links, links, and a directory that is named twice or twice reached count once."""
    copy("in/a.ext3")
    os.link("in/a.ext3", "in/b.ext3")
    os.symlink("a.ext3", "in/c.ext3")
    os.symlink("/", "in/out")
    os.symlink(".", "in/loop")
    assert list(found("in", ".", "in/../in", os.getcwd())) == ["in/a.ext3"]


def test_named(copy):
    """A file may be named, a link to one too; what is not there or no overlay is an error."""
    copy("a.ext3")
    os.symlink("a.ext3", "link")
    assert found("link") == {"link": "ext3"}
    for path, status in (("gone", 66), ("/etc/passwd", 65)):
        with pytest.raises(OverlayError) as error:
            found(path)
        assert error.value.status == status


def test_damaged(copy):
    """A damaged overlay is listed as that."""
    os.truncate(copy("short.ext3"), 8 << 20)
    with open(copy("bad.ext3"), "r+b") as file:
        file.seek(1024 + 32)
        file.write(b"\0\0\0\0")
    assert found() == {"./short.ext3": 65, "./bad.ext3": 65}


def test_container(copy):
    """An unpacked container image is no overlay, whatever it holds."""
    for name in ("upper", "work", ".singularity.d"):
        os.makedirs(f"box/{name}")
    assert found() == {}


def test_descriptors(copy):
    """The search leaves no file open."""
    for number in range(5):
        copy(f"{number}.ext3")
    before = len(os.listdir("/proc/self/fd"))
    assert len(found()) == 5
    assert len(os.listdir("/proc/self/fd")) == before


def test_unreadable(copy, run):
    """What cannot be read is counted in one line, and is no failure."""
    copy("a.ext3")
    for name in ("b", "c"):
        os.mkdir(name)
    one = search.Search()
    scan = one._scan

    def refuse(directory):
        if directory != ".":
            raise PermissionError(13, "Permission denied")
        return scan(directory)

    one._scan = refuse
    for _path, overlay in one.under("."):
        overlay.close()
    assert sorted(one.unreadable) == ["./b", "./c"]
    words = listing._unreadable(one.unreadable)
    assert words == "2 files or directories could not be read, such as ./b"
    assert listing._unreadable(["./b"]) == "./b could not be read"


# ------------------------------------------------------------------ the program --


def listed(text):
    """Return the names in a table."""
    return [line.split()[-1] for line in text.splitlines()[1:] if " inside" not in line]


def test_table(copy, run):
    """A heading, a line for each, totals."""
    copy("a.ext3")
    copy("sub/b c.ext3")
    tool("debugfs", "-w", "-R", "ssv state 0", "a.ext3")
    result = run("list-overlays")
    assert (result.status, result.stderr) == (0, "")
    heading, first, second, totals = result.stdout.splitlines()
    assert heading.split() == "KIND SIZE USED FREE FILES LEFT WRITTEN STATE OVERLAY".split()
    assert first.startswith("ext3  16 MiB  ") and first.endswith("  now  unclean  a.ext3")
    assert second.endswith("'sub/b c.ext3'") and "unclean" not in second
    assert totals.startswith("2 overlays: 32 MiB, of them ") and totals.endswith(" 26 files inside")
    assert len(run("list-overlays", "-q").stdout.splitlines()) == 3


def test_purge(copy, run, scratch):
    """Where the site purges, each line says in how many days, unless the overlay is used."""
    for name, days in (("a.ext3", 80), ("b.ext3", 89), ("c.ext3", 300), ("d.ext3", 0)):
        copy(name)
        when = time.time() - days * 86400 - 60
        os.utime(name, (when, when))
    variables = {"OVERLAY_SCRATCH_PURGE": "90d", "OVERLAY_SCRATCH_LOCATIONS": f"'{scratch}'"}
    heading, *lines = run("list-overlays", "-q", variables=variables).stdout.splitlines()
    place = heading.index("PURGE") - 4
    said = [line[place : place + 9].strip() for line in lines]
    assert said == ["10 days", "1 day", "any time", "90 days"]
    found = json.loads(run("list-overlays", "--json", variables=variables).stdout)
    assert [one["purge_days"] for one in found] == [10, 1, 0, 90]
    assert "PURGE" not in run("list-overlays").stdout


def test_nothing(run, scratch):
    """Nothing found is no error; a directory that is not there is one, the others are listed."""
    words = "list-overlays: there is no overlay below this directory\n"
    assert run("list-overlays") == (0, "", words)
    assert run("list-overlays", "--json") == (0, "[]\n", "")
    os.makedirs("d/upper")
    os.makedirs("d/work")
    result = run("list-overlays", "gone", "d")
    assert result.status == 66
    assert result.stderr.startswith("list-overlays: error: there is no directory gone\n")
    assert listed(result.stdout) == ["d"]


def test_locations(copy, run, tmp_path):
    """Without a directory the site's scratch locations are searched as well."""
    copy("a.ext3")
    copy(str(tmp_path / "scratch of" / "me" / "b.ext3"))
    places = f"'{tmp_path}/scratch of/{{user}}' /not/there"
    variables = {"OVERLAY_SCRATCH_LOCATIONS": places, "USER": "me"}
    result = run("list-overlays", "--json", variables=variables)
    paths = [one["path"] for one in json.loads(result.stdout)]
    assert paths == [f"{tmp_path}/scratch of/me/b.ext3", "a.ext3"]
    assert "scratch of" not in run("list-overlays", ".", variables=variables).stdout


def test_json(copy, run):
    """One document, with figures as show-overlay has them; damaged ones with the reason."""
    copy("a.ext3")
    os.truncate(copy("b.ext3"), 8 << 20)
    result = run("list-overlays", "--json")
    assert result.status == 0
    one, two = json.loads(result.stdout)
    shown = json.loads(run("show-overlay", "--json", "a.ext3").stdout)[0]
    carried = {name: shown.pop(name) for name in ("history", "base", "activated")}
    assert (one.pop("purge_days"), one.pop("version_of")) == (None, None)
    assert (one, carried) == (shown, {"history": [], "base": [], "activated": []})
    assert two["state"] == "damaged" and "b.ext3 is damaged: it is cut off" in two["error"]
    assert "damaged  b.ext3" in run("list-overlays").stdout


def test_sort():
    """Largest, fullest, oldest first; what has no such figure comes last."""
    rows = [
        {"path": "a", "size": 1, "data_used": 9, "files_used": 5, "written": 30},
        {"path": "b", "size": 3, "data_used": 7, "files_used": 5, "written": 10},
        {"path": "c", "size": None, "data_used": None, "files_used": None, "written": None},
        {"path": "d", "error": "x is damaged", "state": "damaged"},
        {"path": "e", "size": 2, "data_used": 8, "files_used": 6, "written": 20},
    ]
    orders = {"size": "beacd", "used": "aebcd", "files": "eabcd", "age": "beacd", "name": "abcde"}
    for key, order in orders.items():
        ordered = sorted(rows, key=lambda row: (listing._ORDERS[key](row), row["path"]))
        assert "".join(row["path"] for row in ordered) == order


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "now"),
        (59, "now"),
        (60, "1 min"),
        (7200, "2 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (86_400 * 90, "3 months"),
        (86_400 * 800, "2 years"),
    ],
)
def test_age(seconds, words):
    """Ages in the unit that fits."""
    assert listing.age(seconds) == words


def test_states(copy, settings):
    """In use and nearly full show."""
    import fcntl
    import struct

    copy("a.ext3")
    with open("a.ext3", "r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
        row = listing._row("./a.ext3", images.look("a.ext3"), 100, Expiry(settings()), 0)
    assert row["path"] == "a.ext3"
    assert listing._flags(row) == ["in use", "nearly full"]


# ------------------------------------------------------------------------- cost --


def test_thousand(copy, run, scratch):
    """A thousand overlays are listed in a moment."""
    copy("0.ext3")
    # Beginning and tables of the image, the rest a hole: enough to be one.
    with open("0.ext3", "rb") as source:
        blocks = [source.read(4096) for _number in range(512)]
    blocks = [(number, block) for number, block in enumerate(blocks) if any(block)]
    for number in range(1, 1000):
        path = f"{number % 20}/{number}.ext3"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as target:
            target.truncate(16 << 20)
            for place, block in blocks:
                os.pwrite(target.fileno(), block, 4096 * place)
    run("list-overlays")
    start = time.monotonic()
    result = run("list-overlays")
    assert time.monotonic() - start < 60  # tools/benchmark has the figure
    assert "\n1,000 overlays: " in result.stdout and "damaged" not in result.stdout
    shutil.rmtree(scratch)


def test_opens_little(copy, monkeypatch):
    """Of other files none is opened, unless it has the size of an overlay."""
    for number in range(200):
        with open(f"f{number}.ext3", "wb") as file:
            file.write(b"x" * number)
    with open("odd", "wb") as file:
        file.truncate((1 << 20) + 1)
    opened, real = [], search.images.open_unfollowed
    monkeypatch.setattr(
        search.images, "open_unfollowed", lambda path, *more: opened.append(path) or real(path)
    )
    found()
    assert opened == [os.getcwd()]


def test_progress(monkeypatch):
    """A slow search says how far it is, at most five times a second."""
    said, now = [], [0.0]

    class Output:
        progress = said.append

    monkeypatch.setattr(listing.time, "monotonic", lambda: now[0])
    tell = listing._progress(Output)
    one = search.Search()
    one.looked, one.found = 12_000, 3
    for _call in range(100):
        now[0] += 0.05
        tell(one)
    assert said[0] == "12,000 files seen, 3 of them overlays"
    assert 15 <= len(said) <= 25


# A server that never answers: it lives for as long as this process does, which holds its end.
HANGING = """
import ctypes, os, subprocess, sys
lib, place, top = sys.argv[1:]
end = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
words = f"fd={end},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"x", os.fsencode(place), b"fuse", 6, words):
    sys.exit(os.strerror(ctypes.get_errno()))
look = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); os.getuid = lambda: 1 << 30;"
    "from overlay.image.search import Search; one = Search();"
    "print([path for path, _found in one.under(sys.argv[2])], one.served, one.unreadable)"
)
child = subprocess.Popen([sys.executable, "-IS", "-c", look, lib, top])
try:
    sys.exit(child.wait(60))
except subprocess.TimeoutExpired:
    sys.exit("it waits for a server of others")
"""


@pytest.mark.parametrize("named", [False, True])
def test_server_that_never_answers(make_image, tmp_path, named):
    """Nothing is asked of what a program of another user shows: it could hold us for ever."""
    top = tmp_path / "top"
    (top / "d" / "hanging").mkdir(parents=True)
    os.rename(make_image("a.ext3"), top / "d" / "a.ext3")
    place = top / "d" / "hanging"
    words = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps", sys.executable]
    words += ["-c", HANGING, ROOT / "lib", place, place if named else top]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if named:
        assert "cannot read" in done.stderr and "need not answer" in done.stderr, done
    else:
        assert (done.returncode, done.stderr) == (0, ""), done
        assert done.stdout == f"['{top}/d/a.ext3'] ['{place}'] []\n"


# ------------------------------------------------- what others exchange meanwhile --


@pytest.fixture
def exchange(monkeypatch):
    """Return a function that has a path exchanged before, or after, it is opened for the first time."""
    opened, plans = [], {}
    original = os.open

    def open_(path, flags, *arguments, **options):
        at = plans.pop(path, None)
        if at and at[0] == "before":
            at[1]()
        descriptor = original(path, flags, *arguments, **options)
        if at and at[0] == "after":
            at[1]()
        opened.append((path, flags, os.fstat(descriptor)))
        return descriptor

    monkeypatch.setattr(os, "open", open_)

    def exchange(path, when, action):
        plans[path] = when, action
        return opened

    return exchange


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["a.ext3", "a.sqsh", "d"])
def test_exchanged_for_a_link(copy, tmp_path, exchange, name, when):
    """A link that takes the place of an overlay leads nowhere: what was seen is what is told."""
    copy("elsewhere/a.ext3")
    os.makedirs("elsewhere/d/upper")
    if name == "d":
        os.makedirs("here/d/upper")
        os.makedirs("here/d/work")
    elif name == "a.sqsh":
        os.mkdir("here")
        squash("here/a.sqsh", tmp_path)
    else:
        copy("here/a.ext3")
    path = f"here/{name}"
    before = os.stat(path)

    def act():
        os.rename(path, "here/away")
        os.symlink(os.path.abspath(f"elsewhere/{'d' if name == 'd' else 'a.ext3'}"), path)

    exchange(path, when, act)
    overlays = [overlay for _path, overlay in search.Search().under("here")]
    assert os.path.islink(path)  # else nothing was tried
    if when == "before":
        assert overlays == []
    else:
        assert [overlay.identity for overlay in overlays] == [(before.st_dev, before.st_ino)]
        overlays[0].close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ["here", "here/d", "here/d/e"])
def test_way_exchanged_for_a_link(copy, exchange, at, when):
    """A link that comes to lie on the way leads to nothing that is looked at."""
    copy("elsewhere/d/e/b.ext3")
    copy("here/d/e/a.ext3")
    one = os.stat("here/d/e/a.ext3").st_ino

    def act():
        os.rename(at, "away")
        os.symlink(os.path.abspath(at.replace("here", "elsewhere")), at)

    opened = exchange(os.path.abspath(at) if at == "here" else at, when, act)
    search_ = search.Search()
    overlays = [overlay for _path, overlay in search_.under("here")]
    for overlay in overlays:
        overlay.close()
    assert os.path.islink(at) and opened
    assert {overlay.identity[1] for overlay in overlays} <= {one}
    assert overlays or search_.unreadable


def test_exchanged_for_a_pipe(copy, exchange):
    """A pipe, or a device, in the place of an overlay is not opened."""
    copy("here/a.ext3")

    def act():
        os.unlink("here/a.ext3")
        os.mkfifo("here/a.ext3")

    opened = exchange("here/a.ext3", "before", act)
    one = search.Search()
    assert list(one.under("here")) == [] and one.unreadable == ["here/a.ext3"]
    pipes = [flags for _path, flags, status in opened if stat.S_ISFIFO(status.st_mode)]
    assert pipes and all(flags & os.O_PATH for flags in pipes)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "allocated", "used", "files", "enough"),
    [
        (200 * GIB, 1 * GIB, 1 * GIB, 100, (10, 163840)),  # slow, and most of it holes
        (199 * GIB, 1 * GIB, 1 * GIB, 100, None),
        (199 * GIB, 199 * GIB, 1 * GIB, 100, (10, 163840)),  # takes the disk
        (39 * GIB, 39 * GIB, 0, 0, None),
        (40 * GIB, 40 * GIB, 0, 0, (10, 163840)),
        (1000 * GIB, 1 * GIB, 125 * GIB, 0, (250, 1000000)),
        (1000 * GIB, 1 * GIB, 126 * GIB, 0, None),  # not that much too large
        (1000 * GIB, 1 * GIB, 1 * GIB, 900000, (10, 1800000)),
        (1000 * GIB, 1 * GIB, 124 * GIB, 10_000_000, None),  # files take room as well
    ],
)
def test_too_large(size, allocated, used, files, enough):
    """What would do leaves twice of what is inside, and is proposed only where that is far less."""
    found = Survey.__new__(Survey)
    found.size, found.allocated, found.used, found.own_files = size, allocated, used, 0
    found.files, found.files_used = max(1000000, 2 * files), files
    assert found.enough == (enough and enough[0] * GIB)
    assert found.files_enough == (enough and enough[1])


def test_too_large_told():
    """One line for all, with the line for the one that takes most of the disk; no kept versions."""
    row = {"size": 40 * GIB, "data_used": 0, "allocated": 40 * GIB, "size_enough": 10 * GIB}
    row |= {"files_enough": 1500, "version_of": None, "path": "a"}
    assert listing.too_large([{**row, "size_enough": None}, {"error": "it is damaged"}]) == ""
    assert listing.too_large([{**row, "version_of": "b"}]) == ""
    assert listing.too_large([row]) == (
        "\n1 of them is far larger than what is inside: 40 GiB for 0 bytes of data, 40 GiB on disk;"
        " to make smaller: resize-overlay a -s 10G -n 2"
    )
    other = {**row, "size": 1000 * GIB, "allocated": GIB, "path": "b"}
    assert listing.too_large([other, row]) == (
        "\n2 of them are far larger than what is inside: 1 TiB for 0 bytes of data, 41 GiB on disk,"
        " and new files take longer; to make smaller: resize-overlay a -s 10G -n 2"
    )
