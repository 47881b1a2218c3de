"""What a path is: overlays of every kind, and what is taken for one."""

import gzip
import os
import socket
import struct
import tarfile

import pytest
from overlay.errors import DAMAGED, MISSING, OverlayError
from overlay.image import image as images
from overlay.image import sif, squashfs
from support import tool

MAKE = "make one: create-overlay -s SIZE -n FILES"
KINDS = "overlays are ext3 images, squashfs files and directories; those here: list-overlays ."


@pytest.fixture(autouse=True)
def here(scratch, monkeypatch):
    """Work in the scratch directory, so that the messages name bare files."""
    monkeypatch.chdir(scratch)


@pytest.fixture
def make(make_image, scratch):
    """Return a function that makes the named kind of file as x and returns nothing."""

    def ext(*options, name="x"):
        os.rename(make_image(options=options), name)

    def cut(length):
        ext("-t", "ext3")
        os.truncate("x", length)

    def write(data, name="x"):
        with open(name, "wb") as file:
            file.write(data)

    def compressed():
        ext("-t", "ext3", name="plain")
        with open("plain", "rb") as file:
            write(gzip.compress(file.read(), 1))

    def damaged():
        ext("-t", "ext3")
        with open("x", "r+b") as file:
            file.seek(1024 + 32)  # blocks in a group
            file.write(b"\0\0\0\0")

    def squashfs():
        os.mkdir("content")
        assert tool("mksquashfs", "content", "x", "-quiet").returncode == 0

    def device():
        os.symlink("/dev/null", "x")

    def bound():
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")

    def sandbox():
        os.makedirs("x/.singularity.d")

    makers = {
        "nothing": lambda: None,
        "with suffix": lambda: write(b"", "x.ext3"),
        "broken link": lambda: os.symlink("gone", "x"),
        "link to itself": lambda: os.symlink("x", "x"),
        "empty": lambda: write(b""),
        "zeros": lambda: write(bytes(1 << 16)),
        "one byte": lambda: write(b"x"),
        "text": lambda: write(b"hello\n" * 1000),
        "sif": lambda: write(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(4096)),
        "short sif": lambda: write(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0"),
        "gzip": compressed,
        "tar": lambda: tarfile.open("x", "w").close() or write(tarfile.TarInfo("y").tobuf()),
        "ext2": lambda: ext("-t", "ext2"),
        "ext4": lambda: ext("-t", "ext4"),
        "ext3 with metadata_csum": lambda: ext("-t", "ext3", "-O", "metadata_csum"),
        "ext3 with 64bit": lambda: ext("-t", "ext3", "-O", "64bit,extents"),
        "cut off": lambda: cut(8 << 20),
        "cut in the superblock": lambda: cut(1500),
        "cut after the superblock": lambda: cut(2048),
        "damaged": damaged,
        "fifo": lambda: os.mkfifo("x"),
        "socket": bound,
        "device": device,
        "sandbox": sandbox,
        "squashfs": squashfs,
        "directory": lambda: os.mkdir("x"),
        "ext3": lambda: ext("-t", "ext3"),
        "ext3, 1K blocks": lambda: ext("-t", "ext3", "-b", "1024"),
        "ext3 with meta_bg": lambda: ext("-t", "ext3", "-O", "meta_bg,^resize_inode"),
    }
    return lambda kind: makers[kind]()


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    ("kind", "status", "sentence", "hint"),
    [
        (
            "nothing",
            MISSING,
            "there is no overlay x",
            "list the overlays here: list-overlays .",
        ),
        ("with suffix", MISSING, "there is no overlay x", "did you mean x.ext3?"),
        ("broken link", MISSING, "x is a link to gone, which does not exist", None),
        (
            "link to itself",
            MISSING,
            "cannot open x: Too many levels of symbolic links",
            None,
        ),
        ("empty", DAMAGED, "x is empty, not an overlay", MAKE),
        (
            "zeros",
            DAMAGED,
            "x holds no file system",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        ("one byte", DAMAGED, "x is not an overlay", KINDS),
        ("text", DAMAGED, "x is not an overlay", KINDS),
        (
            "sif",
            DAMAGED,
            "x is a container image (SIF), not an overlay",
            "to use it as the base image: -c x",
        ),
        (
            "short sif",
            DAMAGED,
            "x is a container image (SIF), not an overlay",
            "to use it as the base image: -c x",
        ),
        (
            "tar",
            DAMAGED,
            "x is an archive, not an overlay",
            "make an overlay of it: create-overlay --from x -o NAME",
        ),
        ("gzip", DAMAGED, "x is compressed with gzip", "unpack it first: gunzip x"),
        (
            "ext2",
            DAMAGED,
            "x is an ext2 image, and the engines take ext3 only",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            "ext4",
            DAMAGED,
            "x is an ext4 image, and the engines take ext3 only",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            "ext3 with metadata_csum",
            DAMAGED,
            "x is an ext4 image, and the engines take ext3 only",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            "ext3 with 64bit",
            DAMAGED,
            "x is an ext4 image, and the engines take ext3 only",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            "cut off",
            DAMAGED,
            "x is damaged: it is cut off: 8388608 bytes of 16777216 are there",
            "look at it without changing it: /sbin/e2fsck -fn x",
        ),
        (
            "cut in the superblock",
            DAMAGED,
            "x is damaged: it has no ext3 superblock",
            "look at it without changing it: /sbin/e2fsck -fn x",
        ),
        (
            "cut after the superblock",
            DAMAGED,
            "x is damaged: it is cut off: 2048 bytes of 16777216 are there",
            "look at it without changing it: /sbin/e2fsck -fn x",
        ),
        (
            "damaged",
            DAMAGED,
            "x is damaged: its superblock contradicts itself",
            "look at it without changing it: /sbin/e2fsck -fn x",
        ),
        ("fifo", DAMAGED, "x is neither a file nor a directory", None),
        ("device", DAMAGED, "x is neither a file nor a directory", None),
        ("socket", MISSING, "cannot open x: No such device or address", None),
        (
            "sandbox",
            DAMAGED,
            "x is an unpacked container image, not an overlay",
            "to use it as the base image: -c x",
        ),
    ],
)
def test_no_overlay(make, limit, kind, status, sentence, hint, write):
    """What is no overlay is told by what it is, and nothing waits or leaks."""
    make(kind)
    open_before = len(os.listdir("/proc/self/fd"))
    limit(5)
    with pytest.raises(OverlayError) as error:
        images.look("x", write=write)
    assert (error.value.what, error.value.hint) == (sentence, hint)
    assert error.value.status == status
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    ("kind", "found_kind", "writable", "upper"),
    [
        ("squashfs", "squashfs", False, False),
        ("directory", "directory", True, False),
        ("ext3", "ext3", True, True),
        ("ext3, 1K blocks", "ext3", True, True),
        ("ext3 with meta_bg", "ext3", True, True),
    ],
)
def test_overlay(make, kind, found_kind, writable, upper, write):
    """An overlay is opened, for writing where that was asked and is possible."""
    make(kind)
    found = images.look("x", write=write)
    assert (found.kind, found.writable) == (found_kind, writable and write)
    assert found.upper == (os.getuid() if upper else None)
    assert found.identity == (os.stat("x").st_dev, os.stat("x").st_ino)
    assert not os.get_inheritable(found.descriptor)
    found.close()


def test_without_upper(make_image):
    """An image that holds other files has no upper."""
    found = images.look(str(make_image(directories=("data",))), write=True)
    assert (found.kind, found.upper) == ("ext3", None)
    found.close()


def test_upper_is_a_file(make_image, tmp_path):
    """An upper that is no directory is refused."""
    (tmp_path / "image.ext3.content").mkdir()
    (tmp_path / "image.ext3.content" / "upper").write_text("x")
    with pytest.raises(OverlayError) as error:
        images.look(str(make_image(directories=())))
    assert error.value.status == DAMAGED
    assert "upper in " in error.value.what


def test_no_file_name():
    """A name with a NUL byte is refused in words."""
    for write in (False, True):
        with pytest.raises(OverlayError) as error:
            images.look("a\0b", write=write)
        assert error.value.what == "$'a\\x00b' is not a file name"
        assert error.value.status == MISSING


def as_ordinary(function):
    """Run a function in a child process that is no root; return the text that it returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            text = function()
        except Exception as error:  # noqa: BLE001 - the parent compares whatever comes
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as file:
        return file.read()


def told(path, write):
    """Return what look() says or finds, as text."""
    try:
        found = images.look(path, write=write)
    except OverlayError as error:
        return f"{error.status} {error.what} | {error.hint}"
    return f"{found.kind} {found.writable}"


@pytest.mark.parametrize(
    ("mode", "write", "expected"),
    [
        (
            0,
            False,
            "66 cannot open x: Permission denied | ask its owner for read permission; see: ls -l x",
        ),
        (
            0,
            True,
            "66 cannot open x: Permission denied | ask its owner for read permission; see: ls -l x",
        ),
        (0o444, True, "ext3 False"),
        (0o444, False, "ext3 False"),
        (0o666, True, "ext3 True"),
    ],
)
def test_permissions(make, scratch, mode, write, expected):
    """What may be read only is not writable; what may not be read is said so."""
    make("ext3")
    os.chmod(scratch, 0o755)
    os.chmod("x", mode)
    assert as_ordinary(lambda: told("x", write)) == expected


def test_directory_permissions(scratch):
    """A directory in which the caller may not write is not writable."""
    os.chmod(scratch, 0o755)
    os.mkdir("x", 0o755)
    os.chmod("x", 0o555)
    assert as_ordinary(lambda: told("x", True)) == "directory False"


@pytest.mark.parametrize("count", [1, 1 << 40, -1])
@pytest.mark.parametrize("place", [(1 << 63) - 1, (1 << 63) - 600, -1, 0, 10**6])
@pytest.mark.parametrize("offset", [-1, (1 << 63) - 1])
def test_misleading_sif(tmp_path, count, place, offset):
    """A base image whose header leads nowhere has no squashfs, and breaks nothing."""
    partition = struct.pack("<iB12xq", 0x4004, 1, offset).ljust(201, b"\0")
    data = bytearray(partition + struct.pack("<ii", 1, 2)).ljust(4000, b"\0")
    data[32:42] = b"SIF_MAGIC\0"
    data[88:104] = struct.pack("<qq", count, place)
    path = tmp_path / "base.sif"
    path.write_bytes(data)
    with open(path, "rb") as file:
        assert sif.squashfs_offset(file.fileno()) is None
        assert squashfs.those_inside(file.fileno(), [b"opt"], {"PATH": "/usr/bin"}) == {b"opt"}
