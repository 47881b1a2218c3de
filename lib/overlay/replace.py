"""New files in the place of old ones, so that at every moment the old or the new is whole.

What we write is called .overlay-partial.HOST.PID beside its place, locked and for nobody
else, until it is checked; then it takes its name in one step. A killed run leaves at most that, and the next
run of a command that writes in the same directory removes it.
"""

import contextlib
import errno
import os
import stat
import time

from overlay import extfs, lock, permissions, private, process, size
from overlay.errors import CANNOT_CREATE, OverlayError, quote

_PARTIAL = ".overlay-partial."
_DAY = 86400  # seconds
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


def partial_name(path, host, pid):
    """Return the name of an unfinished file that is going to be path."""
    return os.path.join(os.path.dirname(path), f"{_PARTIAL}{host}.{pid}")


def is_partial(name):
    """Return whether a file is called as unfinished ones are."""
    return name.startswith(_PARTIAL)


def place(path):
    """Return the path, links followed, that a file gets which is written as path.

    Raises OverlayError (CANNOT_CREATE) for a link of somebody else's or that leads nowhere:
    who has made it would say where our file goes; and OSError.
    """
    directory, base = os.path.split(os.path.abspath(path))
    whole = os.path.join(os.path.realpath(directory), base)
    if not os.path.islink(whole):
        return whole
    target = os.path.realpath(whole)
    why = None
    if os.lstat(whole).st_uid not in (os.geteuid(), 0):
        why = "which somebody else has made"
    elif not os.path.exists(target):
        why = "which does not exist"
    if why:
        raise OverlayError(
            f"{quote(path)} exists already: it is a link to {quote(os.readlink(whole))}, {why}",
            status=CANNOT_CREATE,
            hint="choose another name with -o",
        )
    return target


class Unfinished:
    """A new file that has not got its name yet.

    path        the name that it is to get, absolute, its directory's links followed
    name        its name until then
    descriptor  open for reading and writing, with our lock on it
    """

    def __init__(self, path):
        self.path = path
        self.name = partial_name(path, os.uname().nodename, os.getpid())
        self.descriptor = new_file(self.name)

    def close(self):
        """Close it; it is removed unless it has got another name."""
        os.close(self.descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name)

    def mode(self):
        """Return the mode that an ordinary new file gets beside it."""
        return permissions.of_new_file(os.path.dirname(self.path))

    def into_place(self, *, mode=None, made_of=()):
        """Sync the finished file and give it its name, never that of another file.

        mode     None: as ordinary new files have
        made_of  permissions.Access of files: nobody may read it who may not read them
        Raises OverlayError (CANNOT_CREATE) when something has that name or the file is not
        what we wrote, and OSError.
        """
        if mode is None:
            mode = self.mode()
        os.fchmod(self.descriptor, mode & permissions.most(made_of, self.descriptor))
        self._settle()
        try:
            os.link(self.name, self.path)
            return
        except OSError as error:
            # Some file systems have no hard links: look, then rename.
            if error.errno not in (errno.EEXIST, *NO_LINKS):
                raise
            if os.path.lexists(self.path):
                raise OverlayError(
                    f"{quote(self.path)} exists already",
                    status=CANNOT_CREATE,
                    hint="choose another name with -o",
                ) from None
        os.rename(self.name, self.path)

    def over(self, old, *, mode=None, made_of=()):
        """Sync the finished file and put it in the place of another, with its attributes.

        old      an open descriptor of that
        mode     another mode than the old file's
        made_of  permissions.Access of other files that it was made of
        Raises OverlayError (CANNOT_CREATE) when another file is there, or the new one is not
        what we wrote; and OSError.
        """
        keep_attributes(old, self.descriptor, mode=mode, made_of=made_of)
        self._settle()
        os.replace(self.name, self.path)

    def _settle(self):
        os.fsync(self.descriptor)
        lock.release(self.descriptor)


def new_file(name, directory=None):
    """Return the descriptor of a new empty file that nobody else can open.

    directory  an open descriptor of where it is, None for the current one
    Raises OSError, FileExistsError for a link too.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=directory)


@contextlib.contextmanager
def unfinished(path, bytes_=0):
    """Give an Unfinished file of a size that is going to be path.

    At the end of the context it is closed, and removed unless it has got its name. Raises
    OverlayError (CANNOT_CREATE) for a size that the file system does not take, and OSError.
    """
    new = Unfinished(path)
    try:
        lock.take(new.descriptor, write=True)
        try:
            os.truncate(new.descriptor, bytes_)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise OverlayError(
                f"the file system here takes no file of {size.format_size(bytes_)}",
                status=CANNOT_CREATE,
                hint="choose a smaller size, or another place with -o",
            ) from None
        yield new
    finally:
        new.close()


def copy(path, source, target, environ, *, sound=False):
    """Copy an image into an empty file, holes left out.

    path            of the image, for messages
    source, target  open descriptors of the image and of the file
    sound           whether e2fsck has just found it sound: then only the blocks in use are read
    Raises OverlayError (CANNOT_CREATE), also when there is no room for it.
    """
    needed = os.fstat(source).st_blocks * 512
    if sound:
        needed = min(needed, extfs.read_superblock(source).used_bytes)
    room = os.fstatvfs(target)
    free = room.f_bavail * room.f_frsize
    if needed > free:
        raise OverlayError(
            f"a copy of {quote(path)} is needed: {size.format_size(needed)}, and"
            f" {size.format_size(free)} are free",
            status=CANNOT_CREATE,
            hint="make room there, or do it to a copy where there is room",
        )
    if sound:
        words = [process.need("e2image", "e2fsprogs", environ), "-ra", source, target]
    else:
        program = process.need("cp", "coreutils", environ)
        words = [program, "--reflink=auto", "--sparse=always", "--", source, target]
    result = process.run(words, environ)
    if result.status:
        why = result.errors.strip().rpartition(": ")[2]
        raise OverlayError(f"cannot copy {quote(path)}: {why}", status=CANNOT_CREATE)


def check_names(path, status):
    """Refuse to replace a file that has other names: they would go on with the old one.

    Raises OverlayError (CANNOT_CREATE).
    """
    if status.st_nlink > 1:
        raise OverlayError(
            f"{quote(path)} has {status.st_nlink - 1} other name"
            f"{'s' if status.st_nlink > 2 else ''} (hard links), which would keep what is in it"
            " now",
            status=CANNOT_CREATE,
            hint=f"see which: find DIRECTORY -samefile {quote(path)}; make symbolic links of them",
        )


def keep_attributes(old, new, *, mode=None, made_of=()):
    """Give a new file the owner, mode, ACL and extended attributes of the one it replaces.

    old, new  open descriptors. What the caller may not set is left as it is.
    mode      another mode than the old file's
    made_of   permissions.Access of other files that it was made of: nobody may read it who
              may not read them
    """
    status = os.fstat(old)
    for names in ((status.st_uid, status.st_gid), (-1, status.st_gid)):
        try:
            os.fchown(new, *names)
            break
        except PermissionError:
            continue
    permissions.take_list(old, new)
    if mode is None:
        mode = status.st_mode & permissions.most((permissions.Access(old), *made_of), new)
    os.fchmod(new, stat.S_IMODE(mode))
    try:
        names = os.listxattr(old)
    except OSError:
        return
    for name in names:
        if name.startswith("user.overlay.") or permissions.is_list(name):
            continue  # what we noted about the old content
        if name.startswith("system.") and made_of:
            continue  # another kind of list could give it to more
        try:
            os.setxattr(new, name, os.getxattr(old, name))
        except OSError:
            continue


def remove_stale(directory, scratch):
    """Remove what killed runs left in a directory and, unless it is None, in scratch.

    A partial image is stale when nobody holds its lock, and its process was one of this
    host or it is older than a day: locks alone may not reach from node to node.
    """
    here = os.uname().nodename
    for name in _names(directory, _PARTIAL):
        path = os.path.join(directory, name)
        host, _dot, pid = name[len(_PARTIAL) :].rpartition(".")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            age = time.time() - os.fstat(descriptor).st_mtime
            if (host == here and not _alive(pid)) or age > _DAY:
                lock.take(descriptor, write=True)
                os.unlink(path)
        except (OSError, lock.Busy):
            continue
        finally:
            os.close(descriptor)
    if scratch is not None:
        private.remove_stale(scratch, here)


def _names(directory, prefix):
    try:
        return [name for name in os.listdir(directory) if name.startswith(prefix)]
    except OSError:
        return []


def _alive(pid):
    """Return whether a process with this number, a string, exists on this host."""
    return os.path.exists(f"/proc/{pid}") if pid.isdecimal() else True
