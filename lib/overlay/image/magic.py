"""What the files that we know begin with."""

from __future__ import annotations

SUPERBLOCK_OFFSET = 1024  # bytes before the superblock of a file system of the ext2 family
SUPERBLOCK_SIZE = 1024
HEAD = SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE  # bytes by which every kind of overlay is known


def is_squashfs(head: bytes) -> bool:
    """Return whether a file that begins so is a squashfs file."""
    return head.startswith(b"hsqs")


def is_sif(head: bytes) -> bool:
    """Return whether a file that begins so is a container image in the SIF."""
    return head[32:41] == b"SIF_MAGIC"


def is_superblock(data: bytes) -> bool:
    """Return whether some bytes are the superblock of a file system of the ext2 family."""
    return data[56:58] == b"\x53\xef"
