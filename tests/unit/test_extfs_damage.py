"""Images that lie: only FormatError, in bounded time and memory, never a crash."""

import os
import random
import struct
import subprocess
import sys

import pytest
from overlay.errors import DAMAGED, OverlayError
from overlay.image import ext3
from overlay.image import image as images
from overlay.image.ext3_read import Reader, parse_entries

SECONDS = 20  # for some thousand looks; each takes well below a millisecond


@pytest.fixture(params=["1024", "4096"])
def small(request, make_image):
    """Return the path of a small sound image, in 1K and in 4K blocks."""
    options = ["-t", "ext3", "-b", request.param, "-N", "64", "-J", "size=4"]
    return make_image(mib=20, options=options)


def spots(path):
    """Return the byte ranges of a sound image that decide what a reader finds."""
    descriptor = os.open(path, os.O_RDONLY)
    reader = Reader(descriptor, ext3.read_superblock(descriptor))
    block, first = reader.superblock.block_size, reader.superblock.first_data_block
    (table,) = struct.unpack("<I", os.pread(descriptor, 4, (first + 1) * block + 8))
    root = reader.inode(ext3.ROOT_INODE).blocks[0]
    os.close(descriptor)
    return {
        "superblock": (1024, 1024 + 352),
        "descriptors": ((first + 1) * block, (first + 1) * block + 96),
        "root inode": (table * block + 256, table * block + 256 + 128),
        "inodes": (table * block, table * block + 16 * 256),
        "root directory": (root * block, root * block + 80),
    }


def mutate(chance, data):
    """Return bytes with one to four changes of the nasty kinds."""
    data = bytearray(data)
    for _change in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place & ~3 : (place & ~3) + 4] = struct.pack(
                "<I",
                chance.choice(
                    [
                        0,
                        1,
                        7,
                        0x7FFFFFFF,
                        0x80000000,
                        0xFFFFFFFF,
                        chance.getrandbits(32),
                    ]
                ),
            )
        else:
            data[place & ~1 : (place & ~1) + 2] = chance.choice([b"\0\0", b"\xff\xff", b"\x01\0"])
    return bytes(data)


@pytest.mark.parametrize(
    "spot", ["superblock", "descriptors", "root inode", "inodes", "root directory"]
)
def test_mutations(small, limit, spot):
    """A thousand damaged images: each is an overlay, is none, or is damaged, and said so."""
    start, end = spots(small)[spot]
    chance = random.Random(spot)
    found = {"overlay": 0, "refused": 0}
    descriptor = os.open(small, os.O_RDWR)
    sound = os.pread(descriptor, end - start, start)
    limit(SECONDS)
    for number in range(1000):
        os.pwrite(descriptor, mutate(chance, sound), start)
        try:
            images.look(str(small), write=True).close()
            found["overlay"] += 1
        except OverlayError as error:
            assert error.status == DAMAGED, (number, error.what)
            assert len(error.what.splitlines()) == 1
            found["refused"] += 1
    os.close(descriptor)
    assert found["overlay"] and found["refused"], found


def test_random_superblocks(limit):
    """Random fields behind the magic number: a Superblock with sane numbers, or FormatError."""
    chance = random.Random(5)
    limit(SECONDS)
    for _round in range(5000):
        data = bytearray(chance.randbytes(1024))
        data[56:58] = b"\x53\xef"
        if chance.random() < 0.9:
            data[24:28] = struct.pack("<I", chance.randrange(3))
            data[88:90] = struct.pack("<H", 256)
            data[20:24] = struct.pack("<I", chance.randrange(2))
            data[32:36] = struct.pack("<I", chance.choice([8, 8192, 32768]))
            data[40:44] = struct.pack("<I", chance.choice([8, 1024, 8192]))
        try:
            found = ext3.Superblock(bytes(data))
        except ext3.FormatError:
            continue
        assert found.size > 0 and found.groups_count > 0 and found.available_bytes >= 0


@pytest.mark.parametrize("length", [0, 57, 58, 1023])
def test_short_superblock(length):
    """A superblock that is cut is none."""
    data = (bytes(56) + b"\x53\xef" + bytes(1024))[:length]
    with pytest.raises(ext3.FormatError, match="^it has no ext3 superblock$"):
        ext3.Superblock(data)


def test_random_directories(limit):
    """Random blocks of a directory end, or are damaged."""
    chance = random.Random(6)
    limit(SECONDS)
    for _round in range(3000):
        data = bytearray(chance.randbytes(1024))
        offset = 0
        while offset < 1000 and chance.random() < 0.9:
            step = chance.choice([8, 12, 16, 64])
            data[offset + 4 : offset + 8] = struct.pack("<HBB", step, chance.randrange(9), 1)
            offset += step
        try:
            assert len(list(parse_entries(bytes(data)))) <= 128
        except ext3.FormatError as error:
            assert str(error) == "a directory in it is damaged"


def root_inode(path):
    """Return the offset of the root directory's inode."""
    return spots(path)["root inode"][0]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_endless_directory(small, limit, depth):
    """A directory of 4 GiB whose blocks are all the same one is read in bounded time."""
    descriptor = os.open(small, os.O_RDWR)
    superblock = ext3.read_superblock(descriptor)
    block = superblock.block_size
    last = superblock.blocks_count - 1
    # One block full of entries, one full of pointers to it, one full of pointers to that.
    entry = struct.pack("<IHBB", 11, 12, 4, 1) + b"none"
    os.pwrite(
        descriptor,
        entry * (block // 12 - 1)
        + struct.pack("<IHBB", 11, 12 + block % 12, 4, 1)
        + b"none"
        + bytes(block % 12),
        last * block,
    )
    os.pwrite(descriptor, struct.pack("<I", last) * (block // 4), (last - 1) * block)
    os.pwrite(descriptor, struct.pack("<I", last - 1) * (block // 4), (last - 2) * block)
    os.pwrite(descriptor, struct.pack("<I", last - 2) * (block // 4), (last - 3) * block)
    pointers = [last] * 12 + [last - 1, 0, 0]
    pointers[13] = last - 2 if depth else 0
    pointers[14] = last - 3 if depth == 2 else 0
    inode = root_inode(small)
    os.pwrite(descriptor, struct.pack("<I", 0xFFFFFFFF), inode + 4)
    os.pwrite(descriptor, struct.pack("<15I", *pointers), inode + 40)
    os.close(descriptor)
    limit(5)
    try:
        images.look(str(small)).close()
    except OverlayError as error:
        assert error.status == DAMAGED


def test_pointers_in_a_circle(small, limit):
    """An indirect block that points to itself ends."""
    descriptor = os.open(small, os.O_RDWR)
    superblock = ext3.read_superblock(descriptor)
    block, last = superblock.block_size, superblock.blocks_count - 1
    os.pwrite(descriptor, struct.pack("<I", last) * (block // 4), last * block)
    inode = root_inode(small)
    os.pwrite(descriptor, struct.pack("<I", 0xFFFFFFFF), inode + 4)
    os.pwrite(descriptor, struct.pack("<15I", *[0] * 12, last, last, last), inode + 40)
    os.close(descriptor)
    limit(5)
    with pytest.raises(OverlayError) as error:
        images.look(str(small))
    assert error.value.what.startswith(f"{small} is damaged: ")
    assert error.value.status == DAMAGED


HUGE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from overlay import errors
from overlay.image import image
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    print(image.look(sys.argv[2]).kind)
except errors.OverlayError as error:
    print(error.status)
"""


def test_huge_tables(small):
    """A superblock that claims billions of groups in a file of holes takes no memory."""
    blocks = (1 << 32) - 1
    if ext3.read_superblock(os.open(small, os.O_RDONLY)).block_size == 4096:
        blocks = 1 << 30  # a file of 4 TiB, which every file system takes
    with open(small, "r+b") as file:
        file.seek(1024)
        data = bytearray(file.read(1024))
        struct.pack_into("<I", data, 4, blocks)
        struct.pack_into("<I", data, 32, 8)
        struct.pack_into("<I", data, 40, 8)
        file.seek(1024)
        file.write(data)
        file.truncate(blocks * (1024 << data[24]))
    lib = os.path.dirname(os.path.dirname(os.path.dirname(ext3.__file__)))
    done = subprocess.run(
        [sys.executable, "-IS", "-c", HUGE, lib, str(small)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("ext3\n", f"{DAMAGED}\n")
