"""Whether a session has changed an image: what each writes does not count, all else does."""

import os
import shutil

import pytest
from overlay.change.unchanged import is_unchanged
from support import tool

OPTIONS = [["-b", "4096"], ["-b", "1024"], ["-b", "4096", "-I", "128"]]


@pytest.fixture(params=OPTIONS, ids=" ".join)
def image(request, tmp_path):
    """Return the path of an image with some files, the last inode of which stands in a later block."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"f{number}").write_bytes(os.urandom(5000))
    os.setxattr(tree / "f0", "user.x", b"y" * 500)
    path = tmp_path / "image"
    done = tool("mke2fs", "-q", "-t", "ext3", *request.param, "-d", tree, path, "16M")
    assert done.returncode == 0, done
    return path


def compare(before, after):
    """Return what is said of two images at paths."""
    with open(before, "rb") as one, open(after, "rb") as other:
        return is_unchanged(one.fileno(), other.fileno())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sif f39 atime 20300101120000", True),
        ("ssv mtime 20300101120000\nssv mnt_count 7\nssv wtime 20300101120000", True),
        ("sif f39 mtime 20300101120000", False),
        ("sif f39 ctime 20300101120000", False),
        ("sif f39 mode 0100600", False),
        ("rm f39", False),
        ("ln f39 f40", False),
        ("ea_set f0 user.x z", False),
        ("ea_set f1 user.new z", False),
        ("mkdir d", False),
    ],
)
def test_written(image, line, expected):
    """Times of a mount or of reading are no change; one of anything else is."""
    copy = image.with_name("copy")
    shutil.copy(image, copy)
    (image.parent / "lines").write_text(line + "\n")
    tool("debugfs", "-w", "-f", image.parent / "lines", copy)
    assert copy.read_bytes() != image.read_bytes()
    assert compare(image, copy) == expected


def test_content(image):
    """A byte of a file, of the same length and with the same times, is a change."""
    copy = image.with_name("copy")
    shutil.copy(image, copy)
    assert compare(image, copy)
    data = (image.parent / "tree" / "f39").read_bytes()
    place = copy.read_bytes().index(data[:1024])
    with open(copy, "r+b") as file:
        file.seek(place)
        file.write(bytes([data[0] ^ 1]))
    assert not compare(image, copy)


def test_length(image):
    """Another size is a change, though nothing in it is."""
    copy = image.with_name("copy")
    shutil.copy(image, copy)
    os.truncate(copy, os.stat(copy).st_size + 4096)
    assert not compare(image, copy)
