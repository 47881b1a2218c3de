"""What a path is: an overlay of some kind, or none at all. Here alone that is decided."""

from __future__ import annotations

import errno
import os
import stat

from overlay.errors import DAMAGED, MISSING, OverlayError, quote, reason
from overlay.image import ext3, magic
from overlay.image.ext3_image import Ext3Image, second_superblock
from overlay.image.kind import MAKE_ONE, as_base_image
from overlay.image.layout import check_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image


_LIST = "list the overlays here: list-overlays ."
_ENDINGS = (".ext3", ".img", ".sqsh", ".squashfs", ".sqfs")  # of the names of overlays
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def look(path: str, *, write: bool = False) -> Image:
    """Return the Image at a path.

    write  open an ext3 image or directory for writing where the caller may
    Raises OverlayError: MISSING when it is not there or cannot be read, DAMAGED when it is
    not an overlay; the words say what it is instead.
    """
    descriptor, writable = _open(path, write)
    try:
        return _identify(path, descriptor, writable)
    except BaseException:
        os.close(descriptor)
        raise


def open_unfollowed(path: str, parent: str | None = None) -> int:
    """Return a descriptor, to be read, of what is at a path: a file or a directory.

    parent  the directory in which it must turn out to be, absolute and without links; None:
            the way to it may lead through links
    For searches in places where others could exchange what was just looked at: neither a link
    is followed, nor a device or a pipe opened, which alone may have effects. That it is read is
    not noted where the caller may ask for that (open(2), O_NOATIME): else a site's purge, which
    goes by that time, would spare whatever is listed. Raises OSError.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # opens nothing yet
    try:
        mode = os.fstat(place).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileNotFoundError(errno.ENOENT, "it is no longer a file")
        if parent is not None and os.path.dirname(os.readlink(f"/proc/self/fd/{place}")) != parent:
            raise FileNotFoundError(errno.ENOENT, "a link has come to lie on the way to it")
        again, flags = f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(again, flags | os.O_NOATIME)
        except PermissionError:  # it is somebody else's
            return os.open(again, flags)
    finally:
        os.close(place)


def opened(path: str, descriptor: int) -> Image:
    """Return the Image behind a descriptor, which it keeps; its path is for the words only.

    Raises OverlayError as look() does; the descriptor is closed then.
    """
    try:
        return _identify(path, descriptor, False)
    except BaseException:
        os.close(descriptor)
        raise


def _open(path: str, write: bool) -> tuple[int, bool]:
    """Return (descriptor, writable) of a path."""
    # Not blocking: a FIFO in the place of an overlay would wait for a writer for ever.
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    if write:
        try:
            return os.open(path, os.O_RDWR | flags), True
        except ValueError as error:
            raise _unreadable(path, error) from None
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
                raise _unreadable(path, error) from None
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return descriptor, write and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _may_be(path: str) -> bool:
    """Return whether a name is that of an overlay by its ending."""
    return path.endswith(_ENDINGS)


def _unreadable(path: str, error: OSError | ValueError) -> OverlayError:
    if isinstance(error, ValueError):  # a NUL byte in the name
        return OverlayError(f"{quote(path)} is not a file name", status=MISSING)
    if error.errno == errno.ENOTDIR and os.path.isfile(path.rstrip("/")):
        return OverlayError(
            f"{quote(path)} ends with a slash, and is a file",
            status=MISSING,
            hint=f"did you mean {quote(path.rstrip('/'))}?",
        )
    if error.errno == errno.ENOENT:
        hint = _LIST
        name, _colon, mode = path.rpartition(":")
        if os.path.islink(path):
            return OverlayError(
                f"{quote(path)} is a link to {quote(os.readlink(path))}, which does not exist",
                status=MISSING,
            )
        if os.path.exists(path + ".ext3"):
            hint = f"did you mean {quote(path + '.ext3')}?"
        elif mode in ("ro", "rw") and os.path.exists(name):
            hint = f"here it is named without :{mode}: {quote(name)}"
        elif mode.startswith("/") and os.path.exists(name):
            hint = f"what is inside: show-overlay {quote(name)} --files {quote(mode)}"
        else:
            from overlay.host.near import meant, parted

            near = meant(path, _may_be) or meant(path + ".ext3", _may_be)
            several = " ".join(map(quote, parted(path)))
            hint = f"name each apart: {several}" if several else near or _LIST
        return OverlayError(f"there is no overlay {quote(path)}", status=MISSING, hint=hint)
    why = f"cannot open {quote(path)}: {reason(error)}"
    if error.errno == errno.EACCES:
        hint = f"ask its owner for read permission; see: ls -l {quote(path)}"
        return OverlayError(why, status=MISSING, hint=hint)
    return OverlayError(why, status=MISSING)


def kind_of(head: bytes) -> type[Image] | None:
    """Return the kind of overlay of a file by what it begins with, HEAD bytes; None for others."""
    if magic.is_superblock(head[magic.SUPERBLOCK_OFFSET :]):
        return Ext3Image
    if magic.is_squashfs(head):
        from overlay.image.squashfs_image import SquashfsImage  # most overlays are ext3

        return SquashfsImage
    return None


def read_head(descriptor: int) -> bytes:
    """Return what a file begins with, for kind_of(). Raises OSError."""
    return os.pread(descriptor, magic.HEAD, 0)


def _identify(path: str, descriptor: int, writable: bool) -> Image:
    """Return the Image behind an open descriptor."""
    status = os.fstat(descriptor)
    kind: type[Image] | None
    try:
        if stat.S_ISDIR(status.st_mode):
            from overlay.image.directory_image import DirectoryImage

            kind, head = DirectoryImage, b""
        elif stat.S_ISREG(status.st_mode):
            head = read_head(descriptor)
            kind = kind_of(head)
        else:
            raise _not_an_overlay(path, "is neither a file nor a directory")
        if kind is not None:
            return _laid_out(kind.found(path, status, descriptor, writable, head))
    except OSError as error:
        raise _unreadable(path, error) from None
    second = second_superblock(descriptor)
    if second:
        raise OverlayError(
            f"{quote(path)} is damaged: its first superblock is lost",
            status=DAMAGED,
            hint=f"it has another; after a copy is put away: /sbin/e2fsck {second} {quote(path)}",
        )
    raise _not_an_overlay(path, *_describe(path, head, status.st_size))


def _laid_out(image: Image) -> Image:
    """Return an Image whose layout is not a danger; whether it is sound, guard.acquire() asks."""
    try:
        check_layout(image)
    except (ext3.FormatError, OSError):
        pass  # a damaged one has to be opened for its repair
    return image


def _not_an_overlay(path: str, what: str, hint: str | None = None) -> OverlayError:
    return OverlayError(f"{quote(path)} {what}", status=DAMAGED, hint=hint)


def _describe(path: str, head: bytes, size: int) -> tuple[str, str]:
    """Return what a file that is not an overlay is, and a hint."""
    if size == 0:
        return "is empty, not an overlay", MAKE_ONE
    if magic.is_sif(head):
        return "is a container image (SIF), not an overlay", as_base_image(path)
    if path.endswith(_ARCHIVES) or head[257:262] == b"ustar":  # tar(5)
        return (
            "is an archive, not an overlay",
            f"make an overlay of it: create-overlay --from {quote(path)} -o NAME",
        )
    if head[:2] == b"\x1f\x8b":
        return "is compressed with gzip", f"unpack it first: gunzip {quote(path)}"
    if head.strip(b"\0") == b"":
        return "holds no file system", MAKE_ONE
    return (
        "is not an overlay",
        "overlays are ext3 images, squashfs files and directories; those here: list-overlays .",
    )
