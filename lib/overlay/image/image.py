"""What a path is: an ext3 image, a squashfs file, a directory, or no overlay at all."""

import errno
import os
import stat

from overlay.errors import DAMAGED, MISSING, OverlayError, quote, reason
from overlay.image import ext3
from overlay.image.layout import check_layout

_HEAD = ext3.SUPERBLOCK_OFFSET + ext3.SUPERBLOCK_SIZE


class Image:
    """An overlay as it was found, kept open.

    path        as the user named it
    kind        "ext3", "squashfs" or "directory"
    status      its os.stat_result
    descriptor  an open file descriptor, closed on exec; read-write where that was allowed
    writable    whether the caller may write the file, or into the directory
    superblock  the Superblock of an ext3 image, else None
    upper       the owner's uid of upper/ in an ext3 image; None when there is no upper/
    group       the gid of upper/ in an ext3 image or a directory; None when there is no upper/
    """

    __slots__ = (
        "descriptor",
        "group",
        "kind",
        "path",
        "status",
        "superblock",
        "upper",
        "writable",
    )

    def __init__(self, path, kind, status, descriptor, writable, superblock=None):
        self.path = path
        self.kind = kind
        self.status = status
        self.descriptor = descriptor
        self.writable = writable
        self.superblock = superblock
        self.upper = None
        self.group = None

    @property
    def identity(self):
        """What tells it from every other file on this host, whatever its name."""
        return self.status.st_dev, self.status.st_ino

    def holds(self, path):
        """Return whether an ext3 image or a directory has something at an absolute path inside."""
        if self.kind == "directory":
            return os.path.lexists(f"{self.path}/upper/{path}")
        if self.superblock is None:
            return False
        try:
            reader = ext3.Reader(self.descriptor, self.superblock)
            return reader.lookup(b"upper" + os.fsencode(path.rstrip("/"))) is not None
        except (ext3.FormatError, OSError):
            return False  # said where it matters

    @property
    def is_plain_directory(self):
        """Whether it is a directory that no session has made an overlay of: without upper/."""
        return self.kind == "directory" and self.group is None

    @property
    def is_data(self):
        """Whether it is a plain directory with something in it."""
        if not self.is_plain_directory:
            return False
        with os.scandir(self.descriptor) as entries:
            return any(entry.name != "lost+found" for entry in entries)

    @property
    def upper_is_mine(self):
        """Whether what is inside belongs to the caller, who could then write it."""
        return self.upper in (None, os.getuid()) or os.getuid() == 0

    def reopen(self, write):
        """Look at the path again, because another file has taken its place.

        Raises OverlayError as look() does.
        """
        self.close()
        self.descriptor = -1
        new = look(self.path, write=write)
        for name in self.__slots__:
            setattr(self, name, getattr(new, name))

    def close(self):
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def look(path, *, write=False):
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


def open_unfollowed(path):
    """Return a descriptor, to be read, of what is at a path: a file or a directory.

    For searches in places where others could exchange what was just looked at: neither a link
    is followed, nor a device or a pipe opened, which alone may have effects. Raises OSError.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # opens nothing yet
    try:
        mode = os.fstat(place).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileNotFoundError(errno.ENOENT, "it is no longer a file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(place)


def opened(path, descriptor):
    """Return the Image behind a descriptor, which it keeps; its path is for the words only.

    Raises OverlayError as look() does; the descriptor is closed then.
    """
    try:
        return _identify(path, descriptor, False)
    except BaseException:
        os.close(descriptor)
        raise


def _open(path, write):
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


def _unreadable(path, error):
    if isinstance(error, ValueError):  # a NUL byte in the name
        return OverlayError(f"{quote(path)} is no file name", status=MISSING)
    if error.errno == errno.ENOENT:
        hint = "list the overlays here: list-overlays ."
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
        elif "," in path and all(map(os.path.exists, path.split(","))):
            hint = "name each apart: " + " ".join(f"-o {quote(name)}" for name in path.split(","))
        return OverlayError(f"there is no overlay {quote(path)}", status=MISSING, hint=hint)
    hint = None
    if error.errno == errno.EACCES:
        hint = f"ask its owner for read permission; see: ls -l {quote(path)}"
    return OverlayError(f"cannot open {quote(path)}: {reason(error)}", status=MISSING, hint=hint)


def _identify(path, descriptor, writable):
    """Return the Image behind an open descriptor."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        if os.path.exists(os.path.join(path, ".singularity.d")):
            raise _not_an_overlay(
                path,
                "is an unpacked container image, not an overlay",
                f"to use it as the base image: -c {quote(path)}",
            )
        image = Image(path, "directory", status, descriptor, writable)
        try:
            image.group = os.stat("upper", dir_fd=descriptor, follow_symlinks=False).st_gid
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unreadable(path, error) from None
        return _laid_out(image)
    if not stat.S_ISREG(status.st_mode):
        raise _not_an_overlay(path, "is neither a file nor a directory")
    try:
        head = os.pread(descriptor, _HEAD, 0)
    except OSError as error:
        raise _unreadable(path, error) from None
    if head[:4] == b"hsqs":
        # bytes_used of the "Squashfs binary format" 4.0, at byte 40
        used = int.from_bytes(head[40:48], "little")
        if used > status.st_size:
            raise OverlayError(
                f"{quote(path)} is damaged: it is cut off: {status.st_size} bytes of {used} are"
                " there",
                status=DAMAGED,
                hint="fetch it again: a copy of it was not finished",
            )
        return _laid_out(Image(path, "squashfs", status, descriptor, False))
    if head[ext3.SUPERBLOCK_OFFSET + 56 :][:2] == b"\x53\xef":
        return _ext3(path, status, descriptor, writable, head)
    backup = _backup(descriptor)
    if backup:
        raise OverlayError(
            f"{quote(path)} is damaged: its first superblock is lost",
            status=DAMAGED,
            hint=f"it has another; after a copy is put away: /sbin/e2fsck {backup} {quote(path)}",
        )
    raise _not_an_overlay(path, *_describe(path, head, status.st_size))


def _backup(descriptor):
    """Return the options of e2fsck(8) for a second superblock of an ext3 image, or None.

    It begins the second group, of as many blocks as a block has bits: see -b there.
    """
    for size, block in ((4096, 32768), (2048, 16384), (1024, 8193)):
        try:
            superblock = ext3.Superblock(os.pread(descriptor, 1024, size * block))
        except (ext3.FormatError, OSError):
            continue
        if superblock.is_ext3 and superblock.block_size == size:
            return f"-b {block} -B {size}"
    return None


def read_superblock(path, descriptor, head=None):
    """Return the Superblock of an image, also in the midst of a change that can be undone.

    path  of the image, to find what lies beside it
    head  the first bytes of the file, where they have been read already
    Raises ext3.FormatError, OSError.
    """
    try:
        if head is None:
            head = os.pread(descriptor, _HEAD, 0)
        superblock = ext3.Superblock(head[ext3.SUPERBLOCK_OFFSET :])
        if superblock.size <= os.fstat(descriptor).st_size:
            return superblock
    except ext3.FormatError:
        pass
    from overlay.image import pending  # not needed where all is well

    return pending.read_superblock(path, descriptor)


def _ext3(path, status, descriptor, writable, head):
    """Return the Image of a file with an ext2-family superblock."""
    try:
        superblock = read_superblock(path, descriptor, head)
        if not superblock.is_ext3:
            kind = "ext2" if not superblock.compatible & ext3.HAS_JOURNAL else "ext4"
            raise _not_an_overlay(
                path,
                f"is an {kind} image, and the engines take ext3 only",
                "make an ext3 one: create-overlay -s SIZE -n FILES",
            )
        if superblock.size > status.st_size and not superblock.in_change:
            raise ext3.FormatError(
                f"it is cut off: {status.st_size} bytes of {superblock.size} are there"
            )
        image = Image(path, "ext3", status, descriptor, writable, superblock)
        reader = ext3.Reader(descriptor, superblock)
        found = reader.lookup(b"upper")
    except (ext3.FormatError, OSError) as error:
        raise OverlayError(
            f"{quote(path)} is damaged: {error}",
            status=DAMAGED,
            hint=f"look at it without changing it: /sbin/e2fsck -fn {quote(path)}",
        ) from None
    if found and found[1].is_directory:
        image.upper, image.group = found[1].owner, found[1].group
    return _laid_out(image)


def _laid_out(image):
    """Return an Image whose layout is no danger; whether it is sound, guard.acquire() asks."""
    try:
        check_layout(image)
    except (ext3.FormatError, OSError):
        pass  # a damaged one has to be opened for its repair
    return image


def _not_an_overlay(path, what, hint=None):
    return OverlayError(f"{quote(path)} {what}", status=DAMAGED, hint=hint)


def _describe(path, head, size):
    """Return what a file that is no overlay is, and a hint."""
    if size == 0:
        return "is empty, not an overlay", "make one: create-overlay -s SIZE -n FILES"
    if head[32:41] == b"SIF_MAGIC":
        return (
            "is a container image (SIF), not an overlay",
            f"to use it as the base image: -c {quote(path)}",
        )
    if head[:2] == b"\x1f\x8b":
        return "is compressed with gzip", f"unpack it first: gunzip {quote(path)}"
    if head.strip(b"\0") == b"":
        return "holds no file system", "make an overlay: create-overlay -s SIZE -n FILES"
    return "is not an overlay", "overlays are ext3 images, squashfs files and directories"
