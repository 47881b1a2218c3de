"""What a new overlay is filled with: what is taken, how much it is, and hostile archives."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import types

import pytest
from overlay.create import source as sources
from overlay.create import squashfs as create_squashfs
from overlay.create.allowance import Allowance
from overlay.create.attributes import LeftOut
from overlay.create.kind import Means
from overlay.create.measure import measure
from overlay.create.squashfs import Squashfs
from overlay.create.tar import Tar
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, DAMAGED, MISSING, USAGE, OverlayError
from overlay.host import private
from overlay.image import ext3, ext3_size
from support import NAMES, tool

MIB = 1 << 20
ENVIRON = {"PATH": "/usr/bin:/bin"}
TIME = 1_000_000_000


def allowance(size=64 * MIB, files=None):
    """Return the Allowance of an overlay, with all the room of scratch."""
    return Allowance("/tmp", size=size, files=files)


def bring(source, target, *, allowance, environ):
    """Bring a source into a directory."""
    config = types.SimpleNamespace(environ=environ)
    more = {"config": config, "left_out": LeftOut(), "notice": print}
    source.bring(target, Means(allowance, scratch="/tmp", through=f"{target}.through", **more))


def refused(function, *arguments, **options):
    """Return the OverlayError that a call raises."""
    with pytest.raises(OverlayError) as error:
        function(*arguments, **options)
    return error.value


# ---------------------------------------------------------------------- parse --


@pytest.fixture
def place(scratch):
    """Return a directory with one source of every kind."""
    (scratch / "tree").mkdir()
    (scratch / "tree" / "file").write_text("text")
    (scratch / "a:b").mkdir()
    (scratch / "link").symlink_to("tree")
    with tarfile.open(scratch / "t.tar", "w") as archive:
        archive.add(scratch / "tree", ".")
    (scratch / "s.sqsh").write_bytes(b"hsqs" + bytes(600))
    (scratch / "text").write_text("neither of them")
    (scratch / "empty").write_text("")
    return scratch


@pytest.mark.parametrize(
    ("text", "kind", "path", "dest"),
    [
        ("tree", "directory", "tree", "/tree"),
        ("tree/", "directory", "tree/", "/tree"),
        ("./tree/.", "directory", "./tree/.", "/tree"),
        ("link", "directory", "link", "/tree"),
        ("tree:/", "directory", "tree", "/"),
        ("tree:/opt/x/", "directory", "tree", "/opt/x"),
        ("tree://opt//x", "directory", "tree", "/opt/x"),
        ("a:b", "directory", "a:b", "/a:b"),
        ("a:b:/c", "directory", "a:b", "/c"),
        ("t.tar", "tar", "t.tar", "/"),
        ("t.tar:/ext3", "tar", "t.tar", "/ext3"),
        ("s.sqsh", "squashfs", "s.sqsh", "/"),
    ],
)
def test_parse(place, monkeypatch, text, kind, path, dest):
    """SOURCE[:DEST]: a directory goes to its own name, an archive to the top."""
    monkeypatch.chdir(place)
    found = sources.parse_source(text, [])
    assert (type(found).__name__.lower(), found.path, found.dest) == (kind, path, dest)


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        ("no", MISSING, "cannot read no: No such file or directory"),
        ("", MISSING, "cannot read '': No such file or directory"),
        ("a\0b", MISSING, "it is not a file name"),
        (
            "text",
            DAMAGED,
            "text is neither a directory, a tar archive, a squashfs file nor an overlay",
        ),
        ("empty", DAMAGED, "empty is neither"),
        ("tree:/opt/../etc", USAGE, "must not hold .."),
        ("tree:/scratch", USAGE, "/scratch would not be seen inside"),
        ("tree:/scratch/x", USAGE, "the host's /scratch covers it"),
        ("tree:/a/../scratch/x", USAGE, "must not hold .."),
        ("tree:/./scratch/x", USAGE, "the host's /scratch covers it"),
        ("tree:/home/me", USAGE, "the host's /home/me/ covers it"),
    ],
)
def test_parse_refuses(place, monkeypatch, text, status, sentence):
    """A source that is not there or no source, and a place that the host covers."""
    monkeypatch.chdir(place)
    error = refused(sources.parse_source, text, ["/scratch", "/home/me/"])
    assert (error.status, sentence in error.what) == (status, True), error.what


def test_parse_beside_hidden(place, monkeypatch):
    """A place that only begins with the same letters is not covered."""
    monkeypatch.chdir(place)
    assert sources.parse_source("tree:/scratch2", ["/scratch"]).dest == "/scratch2"


# -------------------------------------------------------------------- measure --


def many_small(tree):
    """Make 1000 files of 100 bytes."""
    for number in range(1000):
        (tree / str(number)).write_bytes(b"x" * 100)


def large(tree):
    """Make a file that needs indirect blocks."""
    (tree / "large").write_bytes(b"x" * (30 * MIB))


def linked(tree):
    """Make one file of a MiB with 50 names."""
    (tree / "0").write_bytes(b"x" * MIB)
    for number in range(1, 50):
        os.link(tree / "0", tree / str(number))


def holes(tree):
    """Make files that are nearly all hole."""
    for number in range(20):
        with open(tree / str(number), "wb") as file:
            file.truncate(100 * MIB)
            file.seek(50 * MIB)
            file.write(b"x")


def long_names(tree):
    """Make directories that need many blocks for names."""
    for number in range(1000):
        (tree / f"{number:0250}").touch()


def attributes(tree):
    """Make files whose attributes need a block each."""
    for number in range(3000):
        path = tree / str(number)
        path.touch()
        os.setxattr(path, "user.note", b"%05d" % number + b"x" * 2000)


def long_links(tree):
    """Make symbolic links whose targets need a block each."""
    for number in range(500):
        (tree / str(number)).symlink_to("x" * 200)


@pytest.mark.parametrize(
    "fill", [many_small, large, linked, holes, long_names, attributes, long_links]
)
def test_measure(tmp_path, fill):
    """The smallest image for what was measured holds it, and is not much larger."""
    tree = tmp_path / "content" / "upper" / "tree"
    tree.mkdir(parents=True)
    (tmp_path / "content" / "work").mkdir()
    fill(tree)
    amount = measure(tree, ENVIRON)
    entries = sum(len(names) + len(files) for _path, names, files in os.walk(tree))
    assert amount.files == 1 + (1 if fill is linked else entries)
    size = ext3_size.smallest_size(amount.files, amount.bytes)
    image = tmp_path / "a.ext3"
    with open(image, "wb") as file:
        file.truncate(size)
    options = ext3_size.mke2fs_options(size, amount.files + ext3_size.SPARE_INODES)
    done = tool("mke2fs", "-q", "-F", *options, "-d", tmp_path / "content", image)
    assert done.returncode == 0, done.stderr
    with open(image, "rb") as file:
        superblock = ext3.read_superblock(file.fileno())
    assert superblock.available_bytes < 10 * MIB + size // 8


def test_measure_unreadable(tmp_path):
    """A directory that is not there is named; one that its owner has closed is measured."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "file").write_bytes(b"x" * 5000)
    (tmp_path / "closed").chmod(0)
    error = refused(measure, tmp_path / "no", ENVIRON)
    assert (error.status, "No such file" in error.what) == (MISSING, True)
    amount = measure(tmp_path, ENVIRON)
    (tmp_path / "closed").chmod(0o700)
    assert amount.files == 3
    assert amount.bytes >= 4 * 4096


# ------------------------------------------------------------------- archives --


def member(archive, name, content=b"", **fields):
    """Add a member with some fields of its header to a tar archive."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.size, info.mtime, info.mode = len(content), TIME, 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def build(*members, **options):
    """Return a tar archive of members, each (name, content, fields)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, **options) as archive:
        for name, content, fields in members:
            member(archive, name, content, **fields)
    return file.getvalue()


def zstd(data):
    """Compress with zstd(1)."""
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=-1, check=True).stdout


COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


@pytest.fixture
def unpack(tmp_path):
    """Return a function that unpacks the bytes of an archive and returns the directory."""
    target = tmp_path / "staging" / "upper"
    target.mkdir(parents=True)

    def unpack(data, limit=64 * MIB):
        path = tmp_path / "a.tar"
        path.write_bytes(data)
        source = Tar(str(path), "/")
        bring(source, str(target), allowance=allowance(limit), environ=ENVIRON)
        return target

    unpack.target = target
    return unpack


def described(path):
    """Return (mode, time, size) of a file itself."""
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), int(status.st_mtime), status.st_size


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_unpack(unpack, compress):
    """Files, modes, times, links of both kinds, attributes, closed directories."""
    target = unpack(
        compress(
            build(
                ("closed", b"", {"type": tarfile.DIRTYPE, "mode": 0}),
                ("closed/inner", b"inner", {"mode": 0}),
                ("implied/file", b"file", {"mode": 0o4751}),
                ("implied/same", b"", {"type": tarfile.LNKTYPE, "linkname": "./implied/file"}),
                ("link", b"", {"type": tarfile.SYMTYPE, "linkname": "implied/file"}),
                ("absolute", b"", {"type": tarfile.SYMTYPE, "linkname": "/usr/bin/x"}),
                ("implied/up", b"", {"type": tarfile.SYMTYPE, "linkname": "../link"}),
                ("fifo", b"", {"type": tarfile.FIFOTYPE, "mode": 0o600}),
                ("twice", b"old", {}),
                ("twice", b"new", {}),
                ("./dot", b"dot", {"pax_headers": {"SCHILY.xattr.user.note": "größe"}}),
            )
        )
    )
    assert described(target / "closed")[:2] == (0, TIME)
    (target / "closed").chmod(0o700)
    assert described(target / "closed" / "inner") == (0, TIME, 5)
    assert described(target / "implied" / "file") == (0o4751, TIME, 4)
    assert os.path.samefile(target / "implied" / "file", target / "implied" / "same")
    for name, link in (
        ("link", "implied/file"),
        ("absolute", "/usr/bin/x"),
        ("implied/up", "../link"),
    ):
        assert (os.readlink(target / name), described(target / name)[1]) == (link, TIME)
    assert stat.S_ISFIFO((target / "fifo").lstat().st_mode)
    assert (target / "twice").read_text() == "new"
    assert os.getxattr(target / "dot", "user.note") == "größe".encode()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_unpack_names(unpack, name):
    """Whatever bytes a name has, the file has that name."""
    target = unpack(build((name, b"content", {}), (b"d/" + name, b"", {})))
    assert os.listdir(os.fsencode(target / "d")) == [name]
    assert sorted(os.listdir(os.fsencode(target))) == sorted([name, b"d"])


def test_unpack_binary_attribute(unpack, tmp_path):
    """Attributes whose value is no text arrive byte for byte, as tar(1) writes them."""
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.binary", bytes(range(256)))
    words = ["tar", "--xattrs", "-C", tmp_path, "-cf", "-", "file"]
    target = unpack(subprocess.run(words, stdout=-1, check=True).stdout)
    assert os.getxattr(target / "file", "user.binary") == bytes(range(256))


def test_unpack_sparse(unpack, tmp_path):
    """Holes stay holes, as tar(1) writes them."""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(40 * MIB)
        file.seek(20 * MIB)
        file.write(b"middle")
    for form in ("gnu", "pax"):
        words = ["tar", f"--format={form}", "-S", "-C", tmp_path, "-cf", "-", "file"]
        target = unpack(subprocess.run(words, stdout=-1, check=True).stdout)
        status = (target / "file").stat()
        assert (status.st_size, status.st_blocks * 512 < MIB) == (40 * MIB, True)
        with open(target / "file", "rb") as file:
            file.seek(20 * MIB)
            assert file.read(8) == b"middle\0\0"


def test_unpack_link_with_two_names(unpack, tmp_path):
    """A symbolic link with two names, as tar(1) writes it, is unpacked."""
    (tmp_path / "one").symlink_to("target")
    os.link(tmp_path / "one", tmp_path / "two", follow_symlinks=False)
    words = ["tar", "-C", tmp_path, "-cf", "-", "one", "two"]
    target = unpack(subprocess.run(words, stdout=-1, check=True).stdout)
    assert os.readlink(target / "one") == os.readlink(target / "two") == "target"


def test_unpack_early_times(unpack):
    """Times before 1970, and parts of seconds."""
    target = unpack(build(("old", b"", {"mtime": -86400.5}), ("new", b"", {"mtime": 1.25})))
    assert (target / "old").stat().st_mtime == -86400.5
    assert (target / "new").stat().st_mtime == 1.25


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}


@pytest.mark.parametrize("link", ["../../outside", "c/../../../outside", "/usr/bin/x"])
def test_link_out(unpack, link):
    """A link that leads out of the archive is what it was: it leads somewhere inside a container."""
    target = unpack(build(("a/b", b"", {**LINK, "linkname": link}), ("c", b"x", {})))
    assert os.readlink(target / "a" / "b") == link


def test_fifo_of_two_names(unpack):
    """A FIFO may have two names."""
    fifo = ("one", b"", {"type": tarfile.FIFOTYPE})
    target = unpack(build(fifo, ("two", b"", {**HARD, "linkname": "one"})))
    assert os.path.samefile(target / "one", target / "two")


OUTSIDE = "{outside}"  # in a member of the table: a directory that must not change
HOSTILE = {
    "parent": [("../evil", b"x", {})],
    "deep parent": [("a/b/../../../evil", b"x", {})],
    "parent directory": [("../evil", b"", {"type": tarfile.DIRTYPE, "mode": 0o777})],
    "through a link": [("l", b"", {**LINK, "linkname": OUTSIDE}), ("l/evil", b"x", {})],
    "through two links": [
        ("l", b"", {**LINK, "linkname": OUTSIDE}),
        ("m", b"", {**LINK, "linkname": "l"}),
        ("m/evil", b"x", {}),
    ],
    "through a disguised link": [
        ("a/l", b"", {**LINK, "linkname": OUTSIDE}),
        ("./a/.//l/evil", b"x", {}),
    ],
    "directory through a link": [
        ("l", b"", {**LINK, "linkname": OUTSIDE}),
        ("l/evil", b"", {"type": tarfile.DIRTYPE}),
    ],
    "hard link up": [("a", b"", {**HARD, "linkname": "../../outside/secret"})],
    "hard link to itself": [("a", b"", {**HARD, "linkname": "a"})],
    "hard link absolute": [("a", b"", {**HARD, "linkname": OUTSIDE + "/secret"})],
    "hard link through a link": [
        ("l", b"", {**LINK, "linkname": OUTSIDE}),
        ("a", b"", {**HARD, "linkname": "l/secret"}),
    ],
    "hard link to what is not there": [("a", b"", {**HARD, "linkname": "b"})],
    "character device": [("a", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "block device": [("a", b"", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0})],
    "unknown type": [("a", b"", {"type": b"Z"})],
    "file over a directory": [("d", b"", {"type": tarfile.DIRTYPE}), ("d", b"x", {})],
    "link over a directory": [("d/f", b"x", {}), ("d", b"", {**LINK, "linkname": OUTSIDE})],
    "file as directory": [("f", b"x", {}), ("f/x", b"x", {})],
    "long name": [("x" * 300, b"x", {})],
    "very deep": [("a/" * 1500 + "b", b"x", {})],
    "name with a zero": [("a", b"x", {"pax_headers": {"path": "a\0b"}})],
    "endless time": [("a", b"x", {"pax_headers": {"mtime": "inf"}})],
    "no time": [("a", b"x", {"pax_headers": {"mtime": "nan"}})],
    "late time": [("a", b"x", {"pax_headers": {"mtime": "1e30"}})],
    "late time of a link": [("a", b"", {**LINK, "linkname": "b", "mtime": 2**65})],
    "late time of a directory": [("a", b"", {"type": tarfile.DIRTYPE, "mtime": 2**65})],
    "no size": [("a", b"x", {"pax_headers": {"size": "-5"}})],
    "too large": [("a", b"x", {"pax_headers": {"size": str(1 << 50)}})],
    "huge sparse": [
        ("a", b"x", {"pax_headers": {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1"}})
    ],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile(unpack, tmp_path, members):
    """What reaches outside, or makes no sense, is refused; nothing outside changes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = sorted(tmp_path.iterdir()) + [tmp_path / "a.tar"], described(outside)
    filled = [
        (
            name.replace(OUTSIDE, str(outside)),
            content,
            {
                key: value.replace(OUTSIDE, str(outside)) if key == "linkname" else value
                for key, value in fields.items()
            },
        )
        for name, content, fields in members
    ]
    error = refused(unpack, build(*filled))
    assert error.status in (DAMAGED, CANNOT_CREATE)
    assert "\n" not in error.what
    assert (sorted(tmp_path.iterdir()), described(outside)) == (sorted(before[0]), before[1])
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1


def bomb(*members):
    """Return gzip data of members of zero bytes: (type, MiB that it claims, MiB that it has)."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb") as packed:
        for number, (kind, claimed, held) in enumerate(members):
            info = tarfile.TarInfo(str(number))
            info.size, info.type = claimed * MIB, kind
            packed.write(info.tobuf(tarfile.GNU_FORMAT))
            for _mebibyte in range(held):
                packed.write(bytes(MIB))
    return file.getvalue()


FILE = tarfile.REGTYPE
BOMBS = {
    "one file": (bomb((FILE, 20, 20)), CANNOT_CREATE),
    "many files": (bomb(*[(FILE, 6, 6)] * 4), CANNOT_CREATE),
    "less than it claims": (bomb((FILE, 8, 2)), DAMAGED),
    "an end in its midst": (bomb((FILE, 8, 8))[:-2000], DAMAGED),
    "garbage": (gzip.compress(b"x" * 10240), DAMAGED),
    "no gzip": (b"\x1f\x8b" + b"x" * 600, DAMAGED),
    "no xz": (b"\xfd7zXZ\0" + b"x" * 600, DAMAGED),
    "no bzip2": (b"BZh9" + b"x" * 600, DAMAGED),
    "no zstd": (b"\x28\xb5\x2f\xfd" + b"x" * 600, DAMAGED),
}


@pytest.mark.parametrize(("data", "status"), BOMBS.values(), ids=BOMBS)
def test_bombs(unpack, data, status):
    """More than the limit, or less than is promised, is refused."""
    error = refused(unpack, data, limit=16 * MIB)
    assert (error.status, "\n" in error.what) == (status, False), error.what


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_bomb(unpack, kind):
    """A header that claims to be huge is refused before it is read into memory."""
    import resource

    data = bomb((kind, 120, 120))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(unpack, data).status == DAMAGED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


SMALL_FILES = build(*((f"d/{number}", b"content of %d" % number, {}) for number in range(60)))


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_cut_short(unpack, compress):
    """An archive whose end is missing is refused, wherever it was cut."""
    data = compress(SMALL_FILES)
    for part in range(1, 20):
        cut = len(data) * part // 20
        error = refused(unpack, data[: cut - cut % 512 + 100 if compress is bytes else cut])
        assert (error.status, "\n" in error.what) == (DAMAGED, False), part


@pytest.mark.parametrize("compress", list(COMPRESSIONS.values())[1:], ids=list(COMPRESSIONS)[1:])
def test_compressed_in_pieces(unpack, compress):
    """What parallel compressors write, several compressed parts in a row, is read to its end."""
    half = len(SMALL_FILES) // 2 // 512 * 512
    target = unpack(compress(SMALL_FILES[:half]) + compress(SMALL_FILES[half:]))
    assert len(os.listdir(target / "d")) == 60


@pytest.mark.parametrize("zeros", [4, 512, 100_000])
@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_padding(unpack, name, zeros):
    """Zeros between and behind the parts of a compressed archive, as tapes have them, are nothing."""
    half = len(SMALL_FILES) // 2 // 512 * 512
    parts = [COMPRESSIONS[name](part) for part in (SMALL_FILES[:half], SMALL_FILES[half:])]
    target = unpack(b"".join(part + bytes(zeros) for part in parts))
    assert len(os.listdir(target / "d")) == 60


@pytest.mark.parametrize("name", ["xz", "bzip2"])
def test_more_behind(unpack, name):
    """What is no part of a compressed archive is not passed over."""
    assert refused(unpack, COMPRESSIONS[name](SMALL_FILES) + b"more" * 100).status == DAMAGED


def test_wrong_checksum(unpack):
    """Compressed data that is not what was compressed is refused."""
    data = bytearray(gzip.compress(SMALL_FILES))
    data[-6] ^= 1
    assert refused(unpack, bytes(data)).status == DAMAGED


def test_through_a_link_of_another_source(unpack, tmp_path):
    """A member that goes through a link which another source has brought is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    unpack(build(("l", b"", {**LINK, "linkname": str(outside)})))
    assert refused(unpack, build(("l/evil", b"x", {}))).status == DAMAGED
    assert os.listdir(outside) == []


def test_two_sources(unpack):
    """Of two sources with one name the later counts; directories are merged."""
    unpack(build(("d/one", b"1", {}), ("same", b"old", {})))
    target = unpack(build(("d/two", b"2", {}), ("same", b"new", {})))
    assert sorted(os.listdir(target / "d")) == ["one", "two"]
    assert (target / "same").read_text() == "new"


# ------------------------------------------------------------------- squashfs --


@pytest.fixture
def squash(tmp_path):
    """Return a function that makes a squashfs file of a directory."""

    def squash(tree, *options):
        path = tmp_path / "s.sqsh"
        words = ["mksquashfs", tree, path, "-quiet", "-no-progress", "-noappend", *options]
        subprocess.run(words, check=True, capture_output=True)
        return path

    return squash


def unpack_squashfs(path, target, limit=64 * MIB):
    """Unpack a squashfs file."""
    source = Squashfs(str(path), "/")
    bring(source, str(target), allowance=allowance(limit), environ=ENVIRON)


def test_squashfs(tmp_path, squash):
    """Content, whiteouts included, comes out; what it has of attributes too."""
    tree, target = tmp_path / "tree", tmp_path / "target"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f").write_text("text")
    os.setxattr(tree / "d" / "f", "user.note", b"note")
    os.link(tree / "d" / "f", tree / "same")
    for name in ("gone", "d/gone too", "d/a\\b", "d/größe"):
        os.mknod(tree / name, stat.S_IFCHR | 0o600, 0)
    unpack_squashfs(squash(tree, "-p", f"closed d 0 {os.getuid()} {os.getgid()}"), target)
    assert (target / "d" / "f").read_text() == "text"
    assert os.getxattr(target / "same", "user.note") == b"note"
    assert os.path.samefile(target / "same", target / "d" / "f")
    assert described(target / "closed")[0] == 0
    (target / "closed").chmod(0o700)  # so that pytest can remove it
    for name in ("gone", "d/gone too", "d/a\\b", "d/größe"):
        status = (target / name).lstat()
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)


def test_squashfs_refused(tmp_path, squash):
    """A device, a bomb, and what is no squashfs are refused."""
    tree = tmp_path / "tree"
    tree.mkdir()
    path = squash(tree, "-p", "null c 666 0 0 1 3")
    assert refused(unpack_squashfs, path, tmp_path / "one").status == DAMAGED
    assert not os.path.lexists(tmp_path / "one" / "null")
    path.write_bytes(b"hsqs" + bytes(5000))
    assert refused(unpack_squashfs, path, tmp_path / "two").status == DAMAGED
    (tree / "large").write_bytes(bytes(80 * MIB))
    path.unlink()
    error = refused(unpack_squashfs, squash(tree), tmp_path / "three")
    assert error.status == CANNOT_CREATE


def test_squashfs_not_whole(tmp_path, squash):
    """What cannot be unpacked is told, beside deletions too, which unsquashfs cannot make."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    (tmp_path / "target" / "file").mkdir(parents=True)
    path = squash(tmp_path / "tree", "-p", "gone c 644 0 0 0 0")
    error = refused(unpack_squashfs, path, tmp_path / "target")
    assert (error.status, "failed to create file" in error.what) == (DAMAGED, True)


def test_squashfs_of_many(tmp_path, squash):
    """Its files count, and how long their names are, before anything is unpacked."""
    tree = tmp_path / "tree"
    for number in range(50):
        (tree / str(number) / ("n" * 200)).mkdir(parents=True)
    path, target = squash(tree), tmp_path / "target"
    source = Squashfs(str(path), "/")
    options = {"allowance": allowance(files=99), "environ": ENVIRON}
    error = refused(bring, source, str(target), **options)
    assert (error.status, "more than 99 files" in error.what) == (CANNOT_CREATE, True)
    assert os.listdir(target) == []
    bring(source, str(target), allowance=allowance(files=100), environ=ENVIRON)
    assert len(os.listdir(target)) == 50


def test_squashfs_of_long_names(tmp_path, squash, monkeypatch):
    """A list of names that is longer than memory is not read to its end."""
    tree = tmp_path / "tree"
    for number in range(50):
        (tree / str(number) / ("n" * 200)).mkdir(parents=True)
    monkeypatch.setattr("overlay.create.squashfs.LONGEST_LISTING", 10000)
    error = refused(unpack_squashfs, squash(tree), tmp_path / "target")
    assert (error.status, "the names in it are too long" in error.what) == (DAMAGED, True)
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("how", ["exchanged", "written"])
def test_squashfs_exchanged(tmp_path, squash, how, monkeypatch):
    """What is unpacked is what was listed: not another file of its name, nor another content."""
    tree, target = tmp_path / "tree", tmp_path / "target"
    for directory in (tree, tmp_path / "small", tmp_path / "large"):
        directory.mkdir()
    path, large = tmp_path / "small" / "s.sqsh", tmp_path / "large" / "s.sqsh"
    (tree / "file").write_bytes(bytes(80 * MIB))
    squash(tree).rename(large)
    (tree / "file").write_bytes(b"small")
    squash(tree).rename(path)
    real = create_squashfs._run_unsquashfs

    def exchanged(*arguments):
        if how == "exchanged":
            path.parent.rename(tmp_path / "moved")
            large.parent.rename(path.parent)
        else:
            path.write_bytes(large.read_bytes())
        real(*arguments)

    monkeypatch.setattr(create_squashfs, "_run_unsquashfs", exchanged)
    if how == "exchanged":
        unpack_squashfs(path, target)
        assert (target / "file").read_bytes() == b"small"
    else:
        assert "was changed while" in refused(unpack_squashfs, path, target).what


def test_through_links_to_squashfs(tmp_path, squash):
    """A squashfs file is not unpacked through a link that another source has brought."""
    tree, target, outside = tmp_path / "tree", tmp_path / "target", tmp_path / "outside"
    (tree / "l").mkdir(parents=True)
    (tree / "l" / "evil").write_text("x")
    target.mkdir()
    outside.mkdir()
    (target / "l").symlink_to(outside)
    assert refused(unpack_squashfs, squash(tree), target).status == DAMAGED
    assert os.listdir(outside) == []


def test_removed_whatever_its_modes(tmp_path):
    """What an archive has brought can be removed again: directories without permissions."""
    staging = tmp_path / f"overlay-{os.getuid()}" / "work.h.1"
    (staging / "a" / "b" / "c").mkdir(parents=True)
    (staging / "a" / "b" / "c" / "f").touch()
    for name in ("a/b/c", "a/b", "a"):
        (staging / name).chmod(0)
    workplace = Workplace(str(tmp_path))
    workplace.host, workplace.pid = "h", 1
    workplace.remove()
    assert list(tmp_path.glob("*/*")) == []


def test_nothing_is_removed_through_a_link(tmp_path):
    """A link in the place of what is to be removed leads nowhere."""
    (tmp_path / "home" / "thesis").mkdir(parents=True)
    (tmp_path / "link").symlink_to("home")
    private.remove(str(tmp_path / "link"))
    assert os.listdir(tmp_path / "home") == ["thesis"]


def test_too_many_members(tmp_path):
    """An archive of more files than the overlay is for is not unpacked to its end."""
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(50):
            archive.addfile(tarfile.TarInfo(f"f{number}"))
    source = Tar(str(path), "/")
    options = {"allowance": allowance(files=20), "environ": ENVIRON}
    error = refused(bring, source, str(tmp_path / "target"), **options)
    assert (error.status, "more than 20 files" in error.what) == (CANNOT_CREATE, True)
    assert len(os.listdir(tmp_path / "target")) == 20


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_too_many_directories(tmp_path, kind):
    """The directories on the way to a member count, before they are made; none counts twice."""
    path = tmp_path / "deep.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            info = tarfile.TarInfo("/".join([str(number), *"abcdefgh", "x"]))
            info.type, info.mode = kind, 0o755
            archive.addfile(info)
        info = tarfile.TarInfo("0")  # after what is in it
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    source = Tar(str(path), "/")
    place = str(tmp_path / "target")
    error = refused(bring, source, place, allowance=allowance(files=19), environ=ENVIRON)
    assert (error.status, "more than 19 files" in error.what) == (CANNOT_CREATE, True)
    assert len(list((tmp_path / "target").rglob("*"))) in (18, 19)
    place = str(tmp_path / "exact")
    bring(source, place, allowance=allowance(files=30), environ=ENVIRON)
    assert len(list((tmp_path / "exact").rglob("*"))) == 30
