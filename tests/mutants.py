"""Damaged images, thousands of them, before the commands that look without mounting."""

import os
import random
import resource
import signal
import stat
import struct
import time

from overlay import cli
from overlay.commands import show
from overlay.commands.list import main
from overlay.errors import DAMAGED, MISSING, OverlayError
from overlay.image import ext3
from overlay.image.ext3_read import Reader

SECONDS = 5  # for all looks at one image; each takes some milliseconds
MEMORY = 64 << 10  # KiB that thousands of looks may add
NASTY = (0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Listener:
    """An output that keeps what it is told."""

    def __init__(self):
        self.lines = []
        self.errors = []

    def result(self, text):
        """Take a result."""
        self.lines.append(text)

    def notice(self, text, level="notice"):
        """Take a line for the user."""

    def progress(self, text):
        """Take how far it is."""

    def error(self, error):
        """Take an OverlayError."""
        self.errors.append(error)


def fill(upper):
    """Make files that need every kind of block: directories large and deep, links, devices."""
    (upper / "opt" / "env" / "lib").mkdir(parents=True)
    for number in range(150):
        (upper / "opt" / "env" / f"a-name-of-middling-length-{number}").write_bytes(b"")
    (upper / "opt" / "big").write_bytes(b"x" * 300_000)
    os.link(upper / "opt" / "big", upper / "opt" / "same")
    (upper / "opt" / "short").symlink_to("big")
    (upper / "opt" / "long").symlink_to("x" * 200)
    (upper / "opt" / ".wh.gone").write_bytes(b"")


def places(path):
    """Return (start, end) of the bytes of a sound image that decide what a reader finds."""
    descriptor = os.open(path, os.O_RDONLY)
    reader = Reader(descriptor, ext3.read_superblock(descriptor))
    size, first = reader.superblock.block_size, reader.superblock.first_data_block
    (table,) = struct.unpack("<I", os.pread(descriptor, 4, (first + 1) * size + 8))
    inode_size = reader.superblock.inode_size
    found = [(1024, 1024 + 352), ((first + 1) * size, (first + 1) * size + 64)]
    found += [(table * size + inode_size, table * size + 2 * inode_size)] * 2
    for number, inode in reader.inodes(4, 8, 10):
        start = table * size + (number - 1) * inode_size
        if number < 40:
            found.append((start, start + inode_size))
        if inode.is_directory:
            found += [(block * size, block * size + 200) for block in inode.blocks[:12] if block]
        if inode.blocks[12] and not stat.S_ISLNK(inode.mode):
            found.append((inode.blocks[12] * size, inode.blocks[12] * size + 200))
    os.close(descriptor)
    return found


def mutate(chance, data, blocks):
    """Return bytes with one to four changes of the nasty kinds."""
    data = bytearray(data)
    for _change in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        kind = chance.randrange(5)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place & ~1 : (place & ~1) + 2] = chance.choice([b"\0\0", b"\xff\xff", b"\x01\0"])
        else:
            value = chance.choice([*NASTY, chance.getrandbits(32), chance.randrange(blocks)])
            data[place & ~3 : (place & ~3) + 4] = struct.pack("<I", value)
    return bytes(data)


def look(path, environ, root):
    """Look at an image in every way; return the statuses and all that was said."""
    statuses, said = [], []
    for words in (["--json"], ["--files"], ["--du", "/opt"], ["--json", "--files", "/opt/env"]):
        output = Listener()
        chosen = cli.parse("show-overlay", [str(path), *words])
        statuses.append(show.main(chosen, environ, root, output))
        said += output.errors
    output = Listener()
    chosen = cli.parse("list-overlays", [os.path.dirname(path)])
    statuses.append(main(chosen, environ, root, output))
    return statuses, said


def damaged(path):
    """Return a function that makes up one damage: chance -> [(offset, bytes)]."""
    spots, blocks = places(path), os.path.getsize(path) // 1024
    descriptor = os.open(path, os.O_RDONLY)
    sound = {(start, end): os.pread(descriptor, end - start, start) for start, end in spots}
    os.close(descriptor)

    def change(chance):
        start, end = chance.choice(spots)
        return [(start, mutate(chance, sound[start, end], blocks))]

    return change


def told(damage):
    """Return what was written into an image, as words that tell it to the next person."""
    return " ".join(f"{start}:{data.hex()}" for start, data in damage)


def rounds(path, count, seed, environ, root, change=None, look=look, seconds=float("inf")):
    """Look at count damaged forms of a sound image; return how many were refused, and how many met.

    change   makes up what is written into one, see damaged()
    look     looks at one, see look()
    seconds  after which no further one is met
    Fails when one is met with anything but an answer or an OverlayError, takes long, or
    when memory grows.
    """
    chance = random.Random(seed)
    change = change or damaged(path)
    descriptor = os.open(path, os.O_RDWR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, number, damage, end = 0, 0, [], time.monotonic() + seconds

    def late(_number, _frame):
        raise AssertionError(f"image {number}: it takes too long: {told(damage)}")

    old = signal.signal(signal.SIGALRM, late)
    try:
        for number in range(count):
            if time.monotonic() > end:
                count = number
                break
            damage = change(chance)
            sound = [(start, os.pread(descriptor, len(data), start)) for start, data in damage]
            for start, data in damage:
                os.pwrite(descriptor, data, start)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                statuses, said = look(path, environ, root)
            except (Exception, OverlayError) as error:
                raise AssertionError(f"image {number}: {told(damage)}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert set(statuses) <= {0, DAMAGED, MISSING}, (number, statuses)
            assert all(len(error.what.splitlines()) == 1 for error in said), (number, said)
            refused += any(statuses)
            for start, data in sound:
                os.pwrite(descriptor, data, start)
    finally:
        signal.signal(signal.SIGALRM, old)
        os.close(descriptor)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEMORY, f"memory grew by {grown} KiB"
    return refused, count
