"""The bitmaps of a large image, read ahead: which they are, how many, and what cannot stop a session."""

import os
import re
import signal
import struct
import threading
import time

import pytest
from overlay.image import ext3
from overlay.image import image as images
from overlay.image.ext3_read import Reader
from overlay.safety import ahead
from support import tool, wait_until

MOST = 1 << 30


def told(path):
    """Return the blocks of bitmaps, and of inode tables, that dumpe2fs tells of."""
    lines = tool("dumpe2fs", path).stdout
    bitmaps = re.findall(r"(?:Block|Inode) bitmap at (\d+)", lines)
    tables = re.findall(r"Inode table at (\d+)-(\d+)", lines)
    assert bitmaps
    assert tables
    found = {block for first, last in tables for block in range(int(first), int(last) + 1)}
    return set(map(int, bitmaps)), found


@pytest.mark.parametrize(
    "options",
    [
        ["-t", "ext3", "-b", "1024"],
        ["-t", "ext3", "-b", "1024", "-g", "256"],
        ["-t", "ext3", "-b", "4096", "-g", "512"],
        ["-t", "ext3", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode"],
        ["-t", "ext3", "-b", "1024", "-g", "256", "-O", "^sparse_super,^resize_inode"],
        # Bitmaps of several groups side by side, in no order of ours.
        ["-t", "ext4", "-b", "1024", "-g", "256", "-O", "^64bit"],
    ],
)
@pytest.mark.parametrize("tables", [False, True])
def test_where_they_are(make_image, options, tables):
    """They are where dumpe2fs finds them, each is read once, and what lies together at once."""
    path = make_image(mib=32, options=options)
    descriptor = os.open(path, os.O_RDONLY)
    superblock = ext3.read_superblock(descriptor)
    extents = Reader(descriptor, superblock).bitmaps(MOST, tables=tables)
    os.close(descriptor)
    size = superblock.block_size
    found = [
        block
        for offset, length in extents
        for block in range(offset // size, (offset + length) // size)
    ]
    bitmaps, inodes = told(path)
    assert found == sorted(bitmaps | inodes if tables else bitmaps)
    ends = {offset + length for offset, length in extents if length < 1 << 17}
    assert not ends.intersection(offset for offset, _length in extents)


def lying(path, per_group=8192):
    """Let an image of blocks of 1024 bytes say that it has as many groups as that can be.

    Their descriptors then are what happens to lie behind the true ones; the file has holes.
    """
    with open(path, "r+b") as file:
        blocks = (1 << 32) - 1
        file.truncate(blocks * 1024)
        file.seek(1024 + 4)
        file.write(struct.pack("<I", blocks))
        file.seek(1024 + 32)
        file.write(struct.pack("<I", per_group))
        file.seek(2048)
        words = [number for group in range(1 << 16) for number in (group * 7 + 3, group * 5 + 9)]
        for first in range(0, len(words), 2):
            file.write(struct.pack("<III20x", *words[first : first + 2], first))


def test_a_superblock_that_lies(make_image, limit):
    """However many groups there are said to be, what is read is bounded."""
    path = make_image(options=["-t", "ext3", "-b", "1024"])
    lying(path)
    descriptor = os.open(path, os.O_RDONLY)
    superblock = ext3.read_superblock(descriptor)
    assert superblock.groups_count == 1 << 19
    reader = Reader(descriptor, superblock)
    limit(60)
    for most in (1 << 20, 1 << 24):
        for tables in (False, True):
            extents = reader.bitmaps(most, tables=tables)
            assert 0 < sum(length for _offset, length in extents) <= most
            assert all(offset + length <= superblock.size for offset, length in extents)
    assert len(reader.bitmaps(1 << 40, tables=True)) <= 3 << 17  # and so is the memory for the list
    os.close(descriptor)


# ---------------------------------------------------------------- reading --


class Far:
    """Stands in for os, of an image that is far away: the first read of each place takes long.

    answer  what a thread that reads ahead does first
    """

    def __init__(self, answer=lambda: None, *, kept=True):
        self.answer = answer
        self.kept = kept
        self.known = set()
        self.ahead = []  # offsets of what threads have asked for

    def __getattr__(self, name):
        return getattr(os, name)

    def pread(self, descriptor, length, offset):
        """Read, as os.pread() does."""
        if threading.current_thread() is not threading.main_thread():
            self.ahead.append(offset)
            self.answer()
        elif offset not in self.known:
            time.sleep(0.05)
            if self.kept:
                self.known.add(offset)
        return os.pread(descriptor, length, offset)


@pytest.fixture
def large(make_image):
    """Return an Image of 128 groups, open."""
    path = make_image(mib=32, options=["-t", "ext3", "-b", "1024", "-g", "256"])
    image = images.look(str(path), write=True)
    yield image
    image.close()


@pytest.fixture
def read(monkeypatch, large):
    """Return a function that reads an image ahead which is far away, and returns what was said."""

    def read(far):
        said = []
        monkeypatch.setattr(ahead, "os", far)
        ahead.read_ahead(large, lambda *words: said.append(words))
        return said

    return read


def test_all_is_read(read, large):
    """Each extent is read by one thread, and -v tells of it."""
    far = Far()
    ((text, level),) = read(far)
    extents = Reader(large.descriptor, large.superblock).bitmaps(MOST, tables=False)
    assert sorted(far.ahead) == [offset for offset, _length in extents]
    assert re.fullmatch(
        rf"{large.path}, 32 MiB: its bitmaps were read ahead in \d+\.\d s; one after the other"
        r" that takes some \d+\.\d s",
        text,
    )
    assert level == "detail"


def test_it_is_in_memory(read, monkeypatch):
    """Then nothing is read, and nothing said."""
    monkeypatch.setattr(ahead, "_WORTH", 60)  # on a busy machine a look can take long
    far = Far()
    far.known = range(1 << 40)
    assert read(far) == []
    assert far.ahead == []


@pytest.mark.parametrize(("processors", "level"), [(1, "detail"), (0.01, "notice")])
def test_nothing_is_kept(read, processors, level):
    """Then nothing is read ahead; who may have to do without a session is told of it."""
    far = Far(kept=False)
    far.cpu_count = lambda: processors
    ((text, said),) = read(far)
    assert far.ahead == []
    assert "its bitmaps cannot be read ahead, because the file system keeps nothing" in text
    assert said == level


def test_an_error(read):
    """A disk that fails is what the session will tell."""

    def fail():
        raise OSError(5, "")

    far = Far(fail)
    ((text, _level),) = read(far)
    assert ": 0% of its bitmaps were read ahead" in text


def test_no_threads(read, monkeypatch):
    """Who may start no more processes does without."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ((text, _level),) = read(Far())
    assert ": 0% of its bitmaps were read ahead" in text


def test_time_is_bounded(read, monkeypatch):
    """A disk that does not answer is waited for as long as that is worth it, and it is said."""
    monkeypatch.setattr(ahead, "_TOLD_AFTER", 0.1)
    monkeypatch.setattr(ahead, "_LONGEST", 0.3)
    go = threading.Event()
    far = Far(lambda: go.wait(60))
    first, second = read(far)
    go.set()
    assert first[0].startswith("reading the bitmaps of ")
    assert len(first) == 1  # said without -v
    assert ": 0% of its bitmaps were read ahead in " in second[0]
    wait_until(lambda: threading.active_count() == 1)
    assert len(far.ahead) < 64  # no thread has gone on


def test_ctrl_c(read):
    """It is heard at once, and the threads end."""
    go = threading.Event()

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    def answer():
        if len(far.ahead) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        go.wait(60)

    far = Far(answer)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            read(far)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not go.is_set()
    go.set()
    wait_until(lambda: threading.active_count() == 1)
    assert len(far.ahead) < 64
