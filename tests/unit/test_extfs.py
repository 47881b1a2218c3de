"""The format: what an image says of itself, and a plan that keeps its promise."""

import os
import random
import re

import pytest
from overlay.create.make import gather
from overlay.create.request import Creation
from overlay.image import ext3, ext3_size, ext3_write
from overlay.image import image as images
from overlay.image.ext3_read import Reader
from support import create, is_clean, tool

MIB = 1 << 20


@pytest.fixture
def opened():
    """Return a function from a path to an open Reader."""
    descriptors = []

    def opened(path):
        descriptors.append(os.open(path, os.O_RDONLY))
        return Reader(descriptors[-1], ext3.read_superblock(descriptors[-1]))

    yield opened
    for descriptor in descriptors:
        os.close(descriptor)


def dumpe2fs(path):
    """Return the superblock as the real tool shows it."""
    done = tool("dumpe2fs", "-h", path)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([^:\n]+):\s+(.*)$", done.stdout, re.MULTILINE))


@pytest.mark.parametrize(
    "options",
    [
        ["-t", "ext3"],
        ["-t", "ext3", "-b", "1024"],
        ["-t", "ext3", "-b", "2048", "-m", "0"],
        ["-t", "ext3", "-b", "4096", "-m", "7", "-I", "128"],
        ["-t", "ext3", "-N", "333", "-I", "512"],
        ["-t", "ext4"],
        ["-t", "ext2"],
        None,
    ],
)
def test_superblock(make_image, opened, options):
    """Every field is what dumpe2fs shows."""
    path = make_image(options=options)
    found = opened(path).superblock
    told = dumpe2fs(path)
    numbers = {
        "Inode count": found.inodes_count,
        "Block count": found.blocks_count,
        "Reserved block count": found.reserved_blocks_count,
        "Free blocks": found.free_blocks_count,
        "Free inodes": found.free_inodes_count,
        "First block": found.first_data_block,
        "Block size": found.block_size,
        "Blocks per group": found.blocks_per_group,
        "Inodes per group": found.inodes_per_group,
        "Inode size": found.inode_size,
    }
    assert {name: int(told[name]) for name in numbers} == numbers
    assert told["Filesystem UUID"].replace("-", "") == found.uuid.hex()
    assert found.size == 16 * MIB
    assert found.is_clean


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        (["-t", "ext3"], True),
        (["-t", "ext3", "-O", "^dir_index,^resize_inode,^sparse_super"], True),
        (["-t", "ext3", "-O", "^filetype"], True),
        (["-t", "ext3", "-O", "meta_bg,^resize_inode"], True),
        (["-t", "ext3", "-O", "^has_journal"], False),
        (["-t", "ext2"], False),
        (["-t", "ext4"], False),
        (["-t", "ext3", "-O", "extents"], False),
        (["-t", "ext3", "-O", "metadata_csum"], False),
        (["-t", "ext3", "-O", "uninit_bg"], False),
        (["-t", "ext3", "-O", "huge_file"], False),
        (["-t", "ext3", "-O", "flex_bg"], False),
        (["-t", "ext3", "-O", "64bit,extents"], False),
        (None, True),
    ],
)
def test_is_ext3(make_image, options, accepted):
    """The rule of the engines: a journal, and no feature that ext3 had not."""
    with open(make_image(options=options), "rb") as file:
        assert bool(ext3.read_superblock(file.fileno()).is_ext3) == accepted


@pytest.mark.parametrize(
    ("commands", "clean"),
    [
        ([], True),
        (["ssv state 0"], False),
        (["ssv state 2"], False),
        (["ssv state 3"], False),
        (["feature needs_recovery"], False),
    ],
)
def test_is_clean(make_image, opened, commands, clean):
    """Not unmounted, an error found, or a journal to replay: not clean."""
    path = make_image()
    for command in commands:
        assert tool("debugfs", "-w", "-R", command, path).returncode == 0
    assert bool(opened(path).superblock.is_clean) == clean


@pytest.mark.parametrize(
    ("reserved", "available"), [("0", 0.1), ("1", 0.01), ("5", 0.05), ("50", 0.5)]
)
def test_available(make_image, opened, reserved, available):
    """Reserved blocks are no room; none reserved counts as a tenth, as fuse2fs has it."""
    path = make_image(options=["-t", "ext3", "-b", "4096", "-m", reserved])
    found = opened(path).superblock
    held = found.free_blocks_count - found.available_bytes // 4096
    assert held == int(found.blocks_count * available)


def filled(make_image, directories, files, options=None):
    """Return the path of an image with directories, and files of these names and sizes."""
    content = os.path.join(
        os.path.dirname(make_image(directories=directories)), "image.ext3.content"
    )
    for name, length in files.items():
        with open(os.path.join(content, name), "wb") as file:
            file.truncate(length)
    return make_image(directories=directories, options=options)


@pytest.mark.parametrize("block", ["1024", "2048", "4096"])
def test_lookup(make_image, opened, block):
    """Names are found in large directories, through indirect blocks, and not where none is."""
    names = {f"upper/deep/file with a long name {number:06d}": 0 for number in range(1500)}
    options = ["-t", "ext3", "-b", block, "-N", "4000"]
    path = filled(make_image, ["upper/deep/er", "work", "upper/größe"], names, options)
    reader = opened(path)
    assert reader.inode(ext3.ROOT_INODE).is_directory
    assert reader.lookup(b"upper")[1].is_directory
    assert reader.lookup(b"upper/deep/er")[1].is_directory
    assert reader.lookup("upper/größe".encode())[1].is_directory
    for name in random.Random(3).sample(sorted(names), 20):
        number, inode = reader.lookup(name.encode())
        assert not inode.is_directory
        assert number == int(tool("debugfs", "-R", f'stat "{name}"', path).stdout.split()[1])
    for name in (
        b"nothing",
        b"upper/nothing",
        b"work/deep",
        b"upper/deep/er/x",
        b"",
        b"upper/deep/file with a long name 000000/x",
    ):
        assert reader.lookup(name) is None
    deep = reader.lookup(b"upper/deep")[1]
    found = {name.decode() for name, number, kind in reader.entries(deep)}
    assert found == {".", "..", "er"} | {os.path.basename(name) for name in names}


def test_entries_types(make_image, opened):
    """An entry tells its kind, and an inode its owner, mode and size."""
    path = filled(make_image, ["upper"], {"f": 12345})
    for command in (
        "mknod c c 1 3",
        "sif f uid 70",
        "sif f gid 80",
        "sif f mode 0100640",
    ):
        assert tool("debugfs", "-w", "-R", command, path).stderr.count("\n") == 1
    reader = opened(path)
    kinds = {name: kind for name, _number, kind in reader.entries(reader.inode(2))}
    assert (kinds[b"upper"], kinds[b"c"], kinds[b"f"]) == (2, 3, 1)
    found = reader.lookup(b"f")[1]
    assert (found.owner, found.group, found.mode, found.size) == (
        70,
        80,
        0o100640,
        12345,
    )
    assert not found.is_directory


def test_owner_beyond_16_bits(make_image, opened):
    """User and group numbers above 65535 are read whole."""
    path = make_image()
    for command in ("sif upper uid 70000", "sif upper gid 80000"):
        tool("debugfs", "-w", "-R", command, path)
    found = opened(path).lookup(b"upper")[1]
    assert (found.owner, found.group) == (70000, 80000)


# ------------------------------------------------------------------ the plan --


def make(path, size, files, settings):
    """Make an overlay as the command does, sparse, and return what was Created."""
    request = Creation(size, files, path=str(path), sparse=True)
    config = settings()
    facts = gather(request, config)
    return create(request, config, facts, print)


def check_promise(path, size, files, settings):
    """Make an overlay and compare all that was promised with the real file system."""
    created = make(path, size, files, settings)
    assert os.stat(path).st_size == size
    found = created.superblock
    assert found.free_inodes_count >= files
    assert found.is_ext3 and found.is_clean
    # mke2fs leaves out a last group that has hardly room for its own tables.
    assert size - 12 * MIB < found.size <= size
    # Room for the names: every directory takes entries of 32 bytes, files of no bytes none.
    assert found.available_bytes >= files * 32
    done = tool("e2fsck", "-fn", path)
    assert done.returncode == 0, done.stdout
    looked = images.look(str(path), write=True)
    assert (looked.kind, looked.upper, looked.writable) == ("ext3", os.getuid(), True)
    looked.close()
    os.unlink(path)


def walk(number):
    """Return the (size, files) of one step of a random walk from 14 MiB to 1.4 GiB."""
    chance = random.Random(number)
    size = int(2 ** chance.uniform(3.9, 10.5)) * MIB
    most = ext3_size.most_files(size)
    return size, chance.choice([1, 2, most, chance.randint(1, most), int(most * 0.99) or 1])


@pytest.mark.parametrize("number", range(32))
def test_promise(scratch, settings, number):
    """Whatever fits(): exact size, at least the files, clean, and taken by the engine."""
    size, files = walk(number)
    assert ext3_size.fits(size, files)
    check_promise(scratch / "x.ext3", size, files, settings)


@pytest.mark.parametrize(
    ("size", "files"),
    [
        (500 * MIB, 700000),
        (7000 * MIB, 700000),
        (20480 * MIB, 2000000),
        (100 * 1024 * MIB, 1),
    ],
)
def test_promise_known(scratch, settings, size, files):
    """The sizes of the documentation, and a large one with hardly any file."""
    if not ext3_size.fits(size, files):
        pytest.fail("a documented size is refused")
    check_promise(scratch / "x.ext3", size, files, settings)


@pytest.mark.parametrize("files", [1, 999, 1000, 65536, 700000, 3000001])
def test_smallest(scratch, settings, files):
    """The smallest size that a refusal names is accepted, and one MiB less is not."""
    smallest = ext3_size.smallest_size(files)
    assert smallest % MIB == 0
    assert ext3_size.fits(smallest, files) and not ext3_size.fits(smallest - MIB, files)
    check_promise(scratch / "x.ext3", smallest, files, settings)


@pytest.mark.parametrize("mib", [14, 15, 20, 64, 255, 256, 257, 1000])
def test_most(scratch, settings, mib):
    """The most files that a refusal names are accepted, and one more is not."""
    most = ext3_size.most_files(mib * MIB)
    assert ext3_size.fits(mib * MIB, most) and not ext3_size.fits(mib * MIB, most + 1)
    check_promise(scratch / "x.ext3", mib * MIB, most, settings)


def test_smallest_is_not_wasteful():
    """The tables and the rest take no absurd share: a file costs less than 400 bytes."""
    for files in (100000, 700000, 2000000, 50000000):
        assert ext3_size.smallest_size(files) < files * 400 + 64 * MIB


def test_fits_is_monotonous():
    """More room never holds fewer files, and fewer files never need more room."""
    chance = random.Random(4)
    for _round in range(300):
        size = int(2 ** chance.uniform(3, 24)) * MIB
        most = ext3_size.most_files(size)
        larger = size + chance.randint(1, 1000) * MIB
        if larger <= ext3_size.LARGEST:
            assert ext3_size.most_files(larger) >= most, size


def test_limits():
    """Nothing fits beyond what 32 bits of block and inode numbers can say."""
    assert ext3_size.fits(ext3_size.LARGEST, 1000000)
    assert not ext3_size.fits(ext3_size.LARGEST + MIB, 1)
    assert not ext3_size.fits(ext3_size.LARGEST, 1 << 31)
    assert ext3_size.smallest_size(1 << 31) is None
    assert ext3_size.smallest_size((1 << 31) - 1) is not None
    assert ext3_size.most_files(MIB) == 0


def test_options_leave_nothing_to_mke2fs_conf(make_image, tmp_path):
    """Features, block, inode and journal sizes are ours, and the result can grow."""
    told = dumpe2fs(make_image(mib=500, options=ext3_size.mke2fs_options(500 * MIB, 700000)))
    assert set(told["Filesystem features"].split()) == {
        "has_journal",
        "ext_attr",
        "resize_inode",
        "dir_index",
        "filetype",
        "sparse_super",
        "large_file",
    }
    assert (told["Block size"], told["Inode size"]) == ("4096", "256")
    assert 0.98 < int(told["Reserved block count"]) * 100 / int(told["Block count"]) <= 1
    assert int(told["Reserved GDT blocks"]) > 0


@pytest.mark.parametrize(
    "seconds", [0, -1, 1 << 31, (1 << 31) - 1, -(1 << 31), 4_000_000_000, (3 << 32) + 5]
)
def test_set_times(make_image, seconds):
    """Times before 1901 and after 2446 are none; all others are written and read back."""
    path = make_image(directories=("upper", "work", "upper/d"))
    with open(path, "r+b") as file:
        superblock = ext3.read_superblock(file.fileno())
        reader = Reader(file.fileno(), superblock)
        number, before = reader.lookup(b"upper/d")
        ext3_write.set_times(file.fileno(), superblock, {number: (seconds, 123456789)})
        after = reader.inode(number)
        assert (after.modify_time, after.nanoseconds) == (seconds, 123456789)
        assert (after.mode, after.owner, after.blocks) == (before.mode, before.owner, before.blocks)
    assert is_clean(path)


@pytest.mark.parametrize("room", [256, 128])
def test_attributes(make_image, opened, room):
    """Extended attributes are read where they stand: in the inode, and in a block of their own."""
    path = make_image(options=["-t", "ext3", "-I", str(room)])
    wanted = {b"user.short": b"x", b"user.a.longer.name": b"y" * 300, b"trusted.z": b""}
    lines = ["mkdir d", "mkdir plain"]
    lines += [f'ea_set d {name.decode()} "{value.decode()}"' for name, value in wanted.items()]
    for line in lines:
        tool("debugfs", "-w", "-R", line, path)
    reader = opened(path)
    number, _inode = reader.lookup(b"d")
    found = dict(reader.attributes(number))
    assert {name: value.rstrip(b"\0") for name, value in found.items()} == wanted
    number, _inode = reader.lookup(b"plain")
    assert dict(reader.attributes(number)) == {}
