"""How much an image holds, what it can become, and that every file keeps its owner."""

import os
import subprocess

import pytest
from overlay import cli
from overlay.change import rebuild, shrink
from overlay.change.grow import Growth
from overlay.errors import CANNOT_CREATE, DAMAGED, USAGE, OverlayError
from overlay.host import process
from overlay.image import ext3, ext3_size, ext3_write
from overlay.image import image as images
from support import tool

MIB = 1 << 20
GIB = 1 << 30


def refused(function, *arguments, **options):
    """Return the OverlayError that a call raises."""
    with pytest.raises(OverlayError) as error:
        function(*arguments, **options)
    return error.value


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("200", 200 * MIB),
        ("+1", 101 * MIB),
        ("+1G", GIB + 100 * MIB),
        ("50", 50 * MIB),
    ],
)
def test_amount(text, amount):
    """An amount, or with a + so much more than now."""
    options = cli.parse("resize-overlay", ["a.ext3", "-s", text])
    assert options.size.from_now(100 * MIB) == amount


@pytest.mark.parametrize("text", ["", "+", "++1", "x", "1X", "+x", "- 1"])
def test_amount_refused(text):
    """What is no amount is refused with the option's name."""
    for program, words in (("resize-overlay", ["a.ext3"]), ("create-overlay", [])):
        for option, name in (("--size", "-s"), ("--files", "-n")):
            error = refused(cli.parse, program, [*words, f"{option}={text}"])
            assert (error.status, error.what.startswith(f"{name}: ")) == (USAGE, True)
            assert error.hint is None
            error = refused(cli.parse, program, [*words, f"{option}=-1"])
            assert (error.status, error.what.startswith(f"{name} -1: ")) == (USAGE, True)


@pytest.fixture
def filled(tmp_path):
    """Return a function that makes an image of a size with files of 8 KiB; returns its path."""

    def filled(name, mib=64, files=0, inodes=2000):
        content = tmp_path / f"{name}.content"
        for directory in ("upper/d", "work"):
            (content / directory).mkdir(parents=True)
        for number in range(files):
            (content / "upper" / "d" / str(number)).write_bytes(b"x" * 8192)
        path = tmp_path / name
        with open(path, "wb") as file:
            file.truncate(mib * MIB)
        words = ext3_size.mke2fs_options(mib * MIB, inodes)
        done = tool("mke2fs", "-q", "-F", *words, "-d", content, path)
        assert done.returncode == 0, done.stderr
        return path

    return filled


@pytest.mark.parametrize("mib", [16, 64, 300, 5000])
@pytest.mark.parametrize("files", [0, 10, 800])
def test_used(filled, mib, files):
    """What an image holds fits into the smallest that is made for it, and is no guess."""
    path = filled("a.ext3", mib, files)
    with open(path, "rb") as file:
        descriptor = file.fileno()
        held, data = rebuild.used(descriptor, ext3.read_superblock(descriptor))
    assert held == 3 + files
    assert files * 8192 <= data <= files * 8192 + 3 * MIB


def test_check_fits():
    """Too small is refused with the smallest; that one is accepted."""
    error = refused(rebuild._check_fits, 10 * MIB, 5000, 4000, 50 * MIB)
    assert error.status == USAGE
    smallest = int(error.hint.rpartition(" ")[2])
    rebuild._check_fits(smallest * MIB, 5000, 4000, 50 * MIB)
    error = refused(rebuild._check_fits, 100 * MIB, 3000, 4001, MIB)
    assert (error.status, error.hint) == (USAGE, "the smallest number: -n 5")
    rebuild._check_fits(100 * MIB, 5000, 4001, MIB)


def set_owner(path, *owners):
    """Set owners inside an image: (name, uid)."""
    lines = [f"sif {name} {field} {uid}" for name, uid in owners for field in ("uid", "gid")]
    words = ["/usr/sbin/debugfs", "-w", "-f", "-", path]
    subprocess.run(words, input="\n".join(lines), text=True, check=True, capture_output=True)


def owners(path, directory="/upper/d"):
    """Return the owners in a directory of an image."""
    lines = tool("debugfs", "-R", f"ls -p {directory}", path).stdout.splitlines()
    fields = [line.split("/") for line in lines if line.startswith("/")]
    return {name: (int(uid), int(gid)) for _, _, _, uid, gid, name, *_ in fields}


@pytest.fixture
def pair(filled):
    """Return an Image and a second path with the same content in another order of inodes."""
    one, two = filled("a.ext3", files=20), filled("b.ext3", 100, 20, inodes=9000)
    set_owner(one, ("/upper/d", 7), ("/upper/d/3", 70000), ("/upper/d/5", 0), ("/upper/d/7", 65534))
    found = images.look(str(one))
    yield found, two
    found.close()


def take_over(found, path):
    """Call take_over() for a new image."""
    with open(path, "r+b") as file:
        rebuild.take_over(found, file.fileno(), ext3.read_superblock(file.fileno()))


def test_take_over(pair):
    """Every file of the new image gets its old owner; upper and work are the caller's."""
    found, new = pair
    expected = owners(found.path)
    take_over(found, new)
    assert owners(new) == expected
    assert expected["3"] == (70000, 70000)
    assert tool("e2fsck", "-fn", new).returncode == 0
    assert owners(new, "/")["work"] == (os.getuid(), os.getgid())


@pytest.mark.parametrize(
    "line", ["rm /upper/d/3", "sif /upper/d/3 size 100", "sif /upper/d/3 mode 0100600"]
)
def test_take_over_compares(pair, line):
    """A file that is missing or not the same in the new image is found."""
    found, new = pair
    subprocess.run(["/usr/sbin/debugfs", "-w", "-R", line, new], check=True, capture_output=True)
    error = refused(take_over, found, new)
    assert (error.status, error.what.startswith("3 of ")) == (DAMAGED, True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_interrupted_at_its_very_end(filled, monkeypatch, error):
    """What comes when an image has grown leaves it grown: it is never cut off."""
    path = filled("a.ext3", files=100)
    environ = {"PATH": "/usr/bin:/bin"}
    write_state = ext3_write.write_state

    def fail(descriptor, state):
        if state == ext3.STATE_CLEAN:
            raise error
        write_state(descriptor, state)

    monkeypatch.setattr(ext3_write, "write_state", fail)
    whole = images.look(str(path), write=True)
    with pytest.raises((KeyboardInterrupt, OSError)):
        Growth(whole, 300 * MIB, environ, lambda text: None).do()
    whole.close()
    with open(path, "rb") as file:
        superblock = ext3.read_superblock(file.fileno())
    assert superblock.size == os.stat(path).st_size == 300 * MIB
    assert tool("e2fsck", "-fp", path).returncode in (0, 1)
    assert [name for name in os.listdir(path.parent) if name.startswith(".overlay")] == []


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("resize2fs: New size smaller than minimum (5000)", USAGE),
        ("resize2fs: No space left on device while trying to resize x", USAGE),
        ("resize2fs: Input/output error while trying to resize x", CANNOT_CREATE),
    ],
)
def test_why_not_smaller(filled, words, status):
    """Only what resize2fs says of the size is a wrong size."""
    with open(filled("a.ext3"), "rb") as file:
        found = process.Result(1, "", f"resize2fs 1.47.0 (5-Feb-2023)\n{words}\n")
        error = shrink._too_small("a.ext3", file.fileno(), MIB, found, "/sbin/resize2fs", {})
    assert error.status == status
    assert ("Input/output" in error.what) == (status == CANNOT_CREATE)


def test_used_of_others(tmp_path):
    """The journal that an image really has is no data."""
    path = tmp_path / "a.img"
    words = ("-q", "-F", "-t", "ext3", "-J", "size=64", path, "500M")
    assert tool("mke2fs", *words).returncode == 0
    with open(path, "rb") as file:
        descriptor = file.fileno()
        _files, data = rebuild.used(descriptor, ext3.read_superblock(descriptor))
    assert data < 3 * MIB
