"""How large an ext3 image must be for so many files and so much data, and how it is made so."""

from __future__ import annotations

from overlay.image import ext3

LARGEST = ((1 << 32) - 1) * ext3.BLOCK_SIZE // (1 << 20) * (1 << 20)  # 32-bit block numbers
INODE_SIZE = 256

# Bytes: an overlay of this size is slow to write, because each new file or directory has fuse2fs
# write two blocks of every 128 MiB of it.
SLOW = 200 << 30

# An inode that an empty file system, upper/, work/ and the engine's work/work take, and
# the markers of the first directories: what is asked of mke2fs beyond the user's files.
SPARE_INODES = 16


def largest_growth(size: int) -> int:
    """Return the blocks up to which group descriptors are reserved, so that growing is quick."""
    return max(1 << 40, 16 * size) // ext3.BLOCK_SIZE


def _tables(size: int, files: int) -> int:
    """Return the blocks that tables, journal, reserve and directories take at most.

    An upper bound of what mke2fs(8) lays out: every group has two bitmaps and loses less
    than one block to rounding, copies of the superblock and of the (reserved) group
    descriptors stand in group 0, 1 and the powers of 3, 5 and 7.
    """
    blocks = size // ext3.BLOCK_SIZE
    inodes = files + SPARE_INODES + 16
    groups = max(-(-blocks // (8 * ext3.BLOCK_SIZE)), -(-inodes // 30000)) + 1
    copies = 2 + sum(1 for base in (3, 5, 7) for power in range(1, 32) if base**power < groups)
    per_group = max(blocks // groups, 256)
    descriptors = min(1024, largest_growth(size) // per_group * 32 // ext3.BLOCK_SIZE + 2)
    descriptors += groups * 32 // ext3.BLOCK_SIZE + 1
    names = files * 32 // ext3.BLOCK_SIZE  # of empty files with names of 20 letters
    return (
        -(-inodes * INODE_SIZE // ext3.BLOCK_SIZE)
        + 3 * groups
        + copies * (1 + descriptors)
        + ext3.JOURNAL // ext3.BLOCK_SIZE
        + blocks // 100
        + names
        + 256  # lost+found, the first directories, and a megabyte to start with
    )


def fits(size: int, files: int, data: int = 0) -> bool:
    """Return whether an overlay of size bytes can promise that many files and bytes of data."""
    blocks = size // ext3.BLOCK_SIZE
    return (
        files < 1 << 31 and _tables(size, files) + -(-data // ext3.BLOCK_SIZE) <= blocks < 1 << 32
    )


def smallest_size(files: int, data: int = 0) -> int | None:
    """Return the smallest size in bytes, a whole number of MiB, that fits() this.

    Returns None when no size does.
    """
    low, high = 0, 1 << 24  # MiB: ext3 ends at 16 TiB
    if not fits((high - 1) << 20, files, data):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle << 20, files, data):
            high = middle
        else:
            low = middle
    return high << 20


def most_files(size: int) -> int:
    """Return the largest number of files that an overlay of size bytes can promise."""
    low, high = 0, 1 << 31
    while high - low > 1:
        middle = (low + high) // 2
        if fits(size, middle):
            low = middle
        else:
            high = middle
    return low


def mke2fs_options(size: int, inodes: int) -> list[str]:
    """Return the arguments of mke2fs(8) that fix all it would take from mke2fs.conf.

    size    bytes of the image
    inodes  what to ask for with -N; mke2fs rounds, so read back what came of it
    """
    features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
    return [
        "-q",
        "-F",
        *("-O", features),
        *("-b", str(ext3.BLOCK_SIZE)),
        *("-I", str(INODE_SIZE)),
        *("-m", "1"),  # fuse2fs takes 0 for a tenth
        *("-J", f"size={ext3.JOURNAL >> 20}"),
        *("-N", str(inodes)),
        *("-E", f"resize={largest_growth(size)}"),
    ]
