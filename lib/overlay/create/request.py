"""What create-overlay asks for, what can be asked of an image at all, and what came of it."""

import os

from overlay.errors import USAGE, OverlayError, quote
from overlay.image import ext3_size
from overlay.size import format_files, format_size, mebibytes, thousands

SUFFIXES = (".ext3", ".img")


class Creation:
    """What the user asked for.

    size    bytes, a multiple of the block size
    files   how many files it can hold in all, those that it is filled with included
    path    where; None for overlay-<size>M-<files>K.ext3 in the current directory
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay that is there
    content what it is filled with, a Content; None for nothing
    """

    def __init__(self, size, files, *, path=None, sparse=False, force=False, content=None):
        self.size = size
        self.files = files
        self.path = path
        self.sparse = sparse
        self.force = force
        self.content = content


class Content:
    """What a new overlay is filled with.

    amount  the Amount of all of it
    binds   (directory, place below upper/): trees that are read where they are
    steps   Steps that have put, or would put, the rest below upper/ in the staging directory
    images  (descriptor, directory, place): open ext3 images, where they are mounted, and where
            their upper/ is shown
    in_namespace  whether mke2fs runs in a namespace, where it reads all that is the user's
    owners  called with the new image's descriptor and Superblock to set the owners of what is
            inside; None: all becomes the caller's
    made_of  permissions.Access of the overlays that it comes from
    """

    def __init__(self, amount, binds=(), steps=(), images=(), in_namespace=False, owners=None):
        self.made_of = []
        self.amount = amount
        self.binds = list(binds)
        self.steps = list(steps)
        self.images = list(images)
        self.in_namespace = in_namespace
        self.owners = owners


class Created:
    """What came of it: path, size in bytes, superblock, whether the blocks are reserved."""

    def __init__(self, path, size, superblock, allocated):
        self.limits = ()  # Limits of its place, where somebody wants to know
        self.path = path
        self.size = size
        self.superblock = superblock
        self.allocated = allocated  # bytes of the file system that it takes now

    def as_dictionary(self):
        """Return it for --json."""
        return {
            "path": self.path,
            "size": self.size,
            "data_available": self.superblock.available_bytes,
            "files_available": self.superblock.free_inodes_count,
            "allocated": self.allocated,
            "limits": [
                {
                    "kind": limits.kind,
                    "name": limits.name,
                    "bytes_left": limits.left_bytes,
                    "files_left": limits.left_files,
                }
                for limits in self.limits
            ],
        }


def file_name(creation):
    """Return the name of a new overlay as it was given or follows from size and files."""
    if creation.path is None:
        return f"overlay-{mebibytes(creation.size)}M-{thousands(creation.files)}K.ext3"
    if creation.path.endswith("/") or os.path.basename(creation.path) in ("", ".", ".."):
        raise OverlayError(
            f"{quote(creation.path)} names a directory, not a file",
            status=USAGE,
            hint=f"-o {quote(os.path.join(creation.path, 'NAME'))}",
        )
    path = creation.path if creation.path.endswith(SUFFIXES) else creation.path + ".ext3"
    if ":" in path or not path.isprintable():
        raise OverlayError(
            f"{quote(path)}: colons, control characters and bytes that are no UTF-8 in the name of"
            " an overlay would be misread by the engine",
            status=USAGE,
            hint="choose another name",
        )
    return path


def check_request(creation, plain_count=False):
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
    if creation.size > ext3_size.LARGEST:
        raise OverlayError(
            f"{format_size(creation.size)} is more than an ext3 image can be"
            f" ({format_size(ext3_size.LARGEST)})",
            status=USAGE,
            hint="make several overlays, each for a part of the data",
        )
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
