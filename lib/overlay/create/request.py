"""What create-overlay asks for, what can be asked of an image at all, and what came of it."""

from __future__ import annotations

import os

from overlay.errors import USAGE, OverlayError, quote
from overlay.image import ext3_size
from overlay.image.kind import check_name
from overlay.size import format_files, format_size, mebibytes, thousands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from overlay.create.measure import Amount
    from overlay.host.permissions import Access
    from overlay.image.ext3 import Superblock
    from overlay.quota.limits import Limits
    from overlay.settings.config import Config

SUFFIXES = (".ext3", ".img")
PACKED = (".sqsh", ".squashfs", ".sqfs", ".sfs")  # of overlays that are packed from the start

LARGER = "choose a larger size with -s"


class Order:
    """What the user asks for; what is left open follows from the content, or from the site.

    size        bytes, None to leave it open
    files       how many files it can hold in all, None to leave it open
    path        where; None for a name of size and files in the current directory
    sparse      whether its blocks are taken only as they are written
    force       whether it may take the place of an overlay that is there
    usable      whether size is the room for data, without the tables of the file system
    plain_count whether files was given without a unit
    wait        seconds to wait for who writes the overlay that is there; None not at all
    """

    __slots__ = ("files", "force", "path", "plain_count", "size", "sparse", "usable", "wait")

    def __init__(
        self,
        size: int | None = None,
        files: int | None = None,
        *,
        path: str | None = None,
        sparse: bool = False,
        force: bool = False,
        usable: bool = False,
        plain_count: bool = False,
        wait: float | None = None,
    ) -> None:
        self.size = size
        self.files = files
        self.path = path
        self.sparse = sparse
        self.force = force
        self.usable = usable
        self.plain_count = plain_count
        self.wait = wait

    @property
    def is_packed(self) -> bool:
        """Whether a squashfs file is asked for, which is as large as what is in it."""
        return self.path is not None and self.path.endswith(PACKED)


class Creation:
    """What is to be made.

    size    bytes, a multiple of the block size
    files   how many files it can hold in all, those that it is filled with included
    path    where; None for overlay-<size>M-<files>K.ext3 in the current directory
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay that is there
    content what it is filled with, a Content; None for nothing
    """

    __slots__ = ("content", "files", "force", "path", "size", "sparse")

    def __init__(
        self,
        size: int,
        files: int,
        *,
        path: str | None = None,
        sparse: bool = False,
        force: bool = False,
        content: Content | None = None,
    ) -> None:
        self.size = size
        self.files = files
        self.path = path
        self.sparse = sparse
        self.force = force
        self.content = content


class Content:
    """What a new overlay is filled with, beside what lies in the Workplace.

    amount  the Amount of all of it
    binds   (directory, place below upper/, or a whole path): trees that are read where they are
    images  (descriptor, directory, place): open ext3 images, where they are mounted, and where
            their upper/ is shown
    in_namespace  whether mke2fs runs in a namespace, where it reads all that is the user's
    owners  called with the new image's descriptor and Superblock to set the owners of what is
            inside; None: all becomes the caller's
    made_of  permissions.Access of the overlays that it comes from
    """

    __slots__ = ("amount", "binds", "images", "in_namespace", "made_of", "owners")

    def __init__(
        self,
        amount: Amount,
        *,
        binds: Iterable[tuple[str, str]] = (),
        images: Iterable[tuple[int, str, str]] = (),
        in_namespace: bool = False,
        owners: Callable[[int, Superblock], None] | None = None,
        made_of: Iterable[Access] = (),
    ) -> None:
        self.amount = amount
        self.binds = list(binds)
        self.images = list(images)
        self.in_namespace = in_namespace
        self.owners = owners
        self.made_of = list(made_of)


class Created:
    """What came of it.

    path        of the overlay, absolute
    size        bytes
    superblock  what the file system says of itself; None of one that is packed
    allocated   bytes of the disk that it takes now
    """

    __slots__ = ("allocated", "path", "size", "superblock")

    def __init__(self, path: str, size: int, superblock: Superblock | None, allocated: int) -> None:
        self.path = path
        self.size = size
        self.superblock = superblock
        self.allocated = allocated

    def as_dictionary(self, limits: Iterable[Limits] = ()) -> dict[str, Any]:
        """Return it for --json, with the Limits of its place where they are known."""
        return {
            "path": self.path,
            "size": self.size,
            "data_available": self.superblock.available_bytes if self.superblock else 0,
            "files_available": self.superblock.free_inodes_count if self.superblock else 0,
            "allocated": self.allocated,
            "limits": [
                {
                    "kind": one.kind,
                    "name": one.name,
                    "bytes_left": one.left_bytes,
                    "files_left": one.left_files,
                }
                for one in limits
            ],
        }


def settle(order: Order, config: Config, content: Content | None = None, more: int = 0) -> Creation:
    """Return the Creation that an Order, the site and the content make.

    more  bytes that the content was seen to need beyond what was reckoned
    Raises OverlayError (USAGE) when something is missing, and for what no image can be.
    """
    default_size, default_files = config["create.size"], config["create.files"]
    if content and order.files is None:
        default_files = content.amount.files + _margin(content.amount.files, config) + 1000
        default_files = max(default_files, config["create.min_files"] or 0)
    if {order.size, order.files, content, default_size, default_files} == {None}:
        raise OverlayError(
            "the size (-s) and the number of files (-n) are missing",
            status=USAGE,
            hint="for 500 MB and 700 thousand files: create-overlay -s 500 -n 700"
            + (f" -o {quote(order.path)}" if order.path else ""),
        )
    files = _given("-n", "number of files", order.files, default_files)
    if content and order.size is None:
        data = content.amount.bytes + _margin(content.amount.bytes, config) + (8 << 20) + more
        default_size = ext3_size.smallest_size(files, data)
        default_size = default_size and max(default_size, config["create.min_size"] or 0)
    size = _given("-s", "size", order.size, default_size)
    if order.usable and order.size is not None:
        size = ext3_size.smallest_size(files, size) or size
    creation = Creation(
        size, files, path=order.path, sparse=order.sparse, force=order.force, content=content
    )
    check_request(creation, plain_count=order.plain_count)
    return creation


def _margin(amount: int, config: Config) -> int:
    percent: int = config["create.margin"]
    return amount * percent // 100


def _given(option: str, what: str, amount: int | None, default: int | None) -> int:
    """Return the amount that was asked for, or what it is without."""
    chosen = default if amount is None else amount
    if chosen is None:
        usual = "10 GB: -s 10G" if option == "-s" else "200 thousand files: -n 200"
        raise OverlayError(
            f"the {what} is missing ({option})", status=USAGE, hint=f"add it, for {usual}"
        )
    return chosen


def file_name(creation: Creation) -> str:
    """Return the name of a new overlay as it was given or follows from size and files."""
    if creation.path is None:
        return f"overlay-{mebibytes(creation.size)}M-{thousands(creation.files)}K.ext3"
    return full_name(creation.path)


def full_name(path: str) -> str:
    """Return the name that was given for a new overlay with its ending.

    Raises OverlayError (USAGE) for what cannot be one.
    """
    check_names_file(path)
    endings = (*SUFFIXES, *PACKED)
    check_ending(path, endings, "an overlay is an ext3 image")
    path = path if path.endswith(endings) else path + ".ext3"
    plain = "".join(char if char.isprintable() and char != ":" else "_" for char in path)
    check_name(path, f"choose another name: -o {quote(plain)}")
    return path


# How the names of images and archives end that are something else than what is made.
_OTHERS = (".ext2", ".ext3", ".ext4", ".img", ".iso", ".qcow2", ".sif", ".sqfs", ".sqsh", ".squashfs",
           ".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tgz", ".zip")  # fmt: skip


def check_ending(path: str, endings: Sequence[str], what: str) -> None:
    """Refuse the name of a new file that would say it is something else.

    endings  those that it may have, the usual one first
    what     what it is
    Raises OverlayError (USAGE).
    """
    other = next((one for one in reversed(_OTHERS) if path.endswith(one)), None)
    if other is None or path.endswith(tuple(endings)):
        return
    raise OverlayError(
        f"{quote(path)}: {what}, and its name ends with {endings[0]}",
        status=USAGE,
        hint=f"-o {quote(path.removesuffix(other) + endings[0])}",
    )


def check_names_file(path: str) -> None:
    """Refuse what can only be the name of a directory. Raises OverlayError (USAGE)."""
    if path.endswith("/") or os.path.basename(path) in ("", ".", ".."):
        raise OverlayError(
            f"{quote(path)} names a directory, not a file",
            status=USAGE,
            hint=f"-o {quote(os.path.join(path, 'NAME'))}",
        )


def check_largest(size: int) -> None:
    """Refuse a size, in bytes, that no image can have. Raises OverlayError (USAGE)."""
    if size > ext3_size.LARGEST:
        raise OverlayError(
            f"{format_size(size)} is more than an ext3 image can be"
            f" ({format_size(ext3_size.LARGEST)})",
            status=USAGE,
            hint="make several overlays, each for a part of the data",
        )


def check_request(creation: Creation, plain_count: bool = False) -> None:
    """Refuse what no image can be. Raises OverlayError (USAGE) naming the smallest size.

    plain_count  whether the number of files was given without a unit
    """
    data = creation.content.amount.bytes if creation.content else 0
    count = format_files(creation.files)
    if creation.content and creation.content.amount.files > creation.files:
        needed = -(-creation.content.amount.files // 1000)
        raise OverlayError(
            f"the sources have {format_files(creation.content.amount.files)}, and the overlay"
            f" is to hold {count}",
            status=USAGE,
            hint=f"the smallest number: -n {needed}",
        )
    if ext3_size.fits(creation.size, creation.files, data):
        return
    smallest = ext3_size.smallest_size(creation.files, data)
    if data:
        count += f" and {format_size(data)} of data"
    check_largest(creation.size)
    if smallest is None:
        what = f"{count} are more than an ext3 image can hold"
        most = ext3_size.most_files(creation.size) // 1000
        hint = f"the most for {format_size(creation.size)}: -n {most}K"
    else:
        what = f"{count} do not fit into {format_size(creation.size)}"
        hint = f"the smallest size for so many files: -s {mebibytes(smallest)}"
    if plain_count and creation.files >= 100_000_000:
        hint = (
            "-n counts thousands of files; for"
            f" {format_files(creation.files // 1000)}: -n {thousands(creation.files // 1000)}"
        )
    raise OverlayError(what, status=USAGE, hint=hint)
