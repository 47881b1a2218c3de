"""New files in the place of old ones, so that at every moment the old or the new is whole.

What we write is called .overlay-partial.HOST.PID-RANDOM beside its place, locked and for
nobody else, until it is checked; then it takes its name in one step. A killed run leaves at
most that, and the next run of a command that writes in the same directory removes it: see stale.

Others may be allowed to write in that directory, and so to exchange names under our feet.
So the directory is opened once, the file is known by its descriptor, and nothing counts as
done before its new name is seen to lead to that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from overlay import size
from overlay.errors import CANNOT_CREATE, OverlayError, quote
from overlay.host import limits, permissions
from overlay.image import lock
from overlay.image.partial import partial_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overlay.host.permissions import Access

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_RENAME_EXCHANGE = 2  # of renameat2(2)
OTHER_NAME = "choose another name with -o"


def place(path: str) -> str:
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
            hint=OTHER_NAME,
        )
    return target


# What becomes of a new file that is put in the place of another, for the reader of a plan.
LIKE_THE_OLD = "it gets the owner, the mode and the attributes of what it replaces"


class Unfinished:
    """A new file that has not got its name yet.

    path        the name that it is to get, absolute, its directory's links followed
    name        its name until then
    descriptor  open for reading and writing, with our lock on it
    """

    def __init__(
        self,
        path: str,
        made: str | None = None,
        make: Callable[[str, int], int] | None = None,
    ) -> None:
        """Begin it.

        made  the path of a file of ours that it is to be, where nobody else may change names;
              None: it is empty
        make  what makes it then: see stripes.like(); None: new_file()
        Raises OSError: EXDEV for one on another file system.
        """
        parent, self._base = os.path.split(path)
        self.path = path
        self._made = made
        self._name = f"{partial_name('', os.uname().nodename, os.getpid())}-{os.urandom(8).hex()}"
        self.name = os.path.join(parent, self._name)
        self._directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if made is None:
                self.descriptor = (make or new_file)(self._name, self._directory)
            else:
                self.descriptor = self._adopt(made)
        except BaseException:
            os.close(self._directory)
            raise

    def _adopt(self, made: str) -> int:
        """Take a file that is there, and return a descriptor of it. Raises OSError."""
        descriptor = os.open(made, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.rename(made, self._name, dst_dir_fd=self._directory)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Close it; unless it has got another name it is removed, or goes back to where it was."""
        if self._is_at(self._name):
            with contextlib.suppress(FileNotFoundError):
                if self._made is None:
                    os.unlink(self._name, dir_fd=self._directory)
                else:
                    os.rename(self._name, self._made, src_dir_fd=self._directory)
        os.close(self.descriptor)
        os.close(self._directory)

    def mode(self) -> int:
        """Return the mode that an ordinary new file gets beside it."""
        return permissions.of_new_file(f"/proc/self/fd/{self._directory}")

    def keep_as(self, base: str) -> None:
        """Give it another name beside the one that it was made for, for its owner alone.

        Raises as into_place() does.
        """
        self._base = base
        self.path = os.path.join(os.path.dirname(self.path), base)
        self.into_place(mode=0o600)

    def into_place(self, *, mode: int | None = None, made_of: Iterable[Access] = ()) -> None:
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
            link(self.descriptor, self._base, self._directory)
            return
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise self._exchanged() from None
            if error.errno not in (errno.EEXIST, *NO_LINKS):
                raise
        # Some file systems have no hard links: look, then rename.
        if _exists(self._base, self._directory):
            raise OverlayError(
                f"{quote(self.path)} exists already",
                status=CANNOT_CREATE,
                hint=OTHER_NAME,
            )
        self._rename()

    def over(
        self,
        old: int,
        *,
        mode: int | None = None,
        made_of: Iterable[Access] = (),
        kept: Iterable[str] = (),
    ) -> str | None:
        """Sync the finished file and put it in the place of another, with its attributes.

        old      an open descriptor of that
        mode     another mode than the old file's
        made_of  permissions.Access of other files that it was made of
        kept     paths beside it, one of which the old file gets where names can be exchanged
        Return which one; None: the old file has no name any more.
        Raises OverlayError (CANNOT_CREATE) when another file is there, or the new one is not
        what we wrote; and OSError.
        """
        keep_attributes(old, self.descriptor, mode=mode, made_of=made_of)
        self._settle()
        if not (self._is_at(self._name) and self._is_at(self._base, old)):
            raise self._exchanged()
        try:
            self._exchange()
        except (ImportError, AttributeError):  # no ctypes, or an old libc
            self._rename()
            return None
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise self._exchanged() from None
            if error.errno not in NO_EXCHANGE:
                raise
            self._rename()
            return None
        if not (self._is_at(self._base) and self._is_at(self._name, old)):
            with contextlib.suppress(FileNotFoundError):  # one of them is gone
                self._exchange()
            raise self._exchanged()
        for name in kept:
            directory = self._directory
            os.rename(
                self._name, os.path.basename(name), src_dir_fd=directory, dst_dir_fd=directory
            )
            return name
        os.unlink(self._name, dir_fd=self._directory)
        return None

    def _is_at(self, name: str, descriptor: int | None = None) -> bool:
        """Return whether a name beside it is its own, or that of another open file."""
        return leads_to(name, self._directory, descriptor or self.descriptor)

    def _settle(self) -> None:
        os.fsync(self.descriptor)
        lock.release(self.descriptor)

    def _rename(self) -> None:
        """Give it its name where the file system knows no better way.

        What is left: a name that is exchanged between the look and the call. It is said, but
        what had that name before is gone.
        """
        if not self._is_at(self._name):
            raise self._exchanged()
        os.rename(self._name, self._base, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        if not self._is_at(self._base):
            raise self._exchanged()

    def _exchange(self) -> None:
        """Exchange its name and the one that it is to get: nothing is lost, and it can be undone.

        Raises OSError; ImportError or AttributeError where the call cannot be made.
        """
        exchange(self._name, self._base, self._directory)

    def _exchanged(self) -> OverlayError:
        return names_changed(self.path)


def names_changed(path: str) -> OverlayError:
    """Return the error for a file that could not get a name, because others have a say in names."""
    directory = quote(os.path.dirname(path))
    return OverlayError(
        f"cannot write {quote(path)}: somebody has changed names in {directory} meanwhile",
        status=CANNOT_CREATE,
        hint=f"see who may write there: ls -ld {directory}; do it in a directory of your own",
    )


def exchange_known(path: str, file: int, other: str, other_file: int) -> None:
    """Exchange the names of two open files in one directory.

    path, other       their names, absolute, the links of the directory followed
    file, other_file  descriptors
    Raises OverlayError (CANNOT_CREATE) when others have changed one of the names: both are left
    as they are; and what exchange() raises.
    """
    parent, one = os.path.split(path)
    two = os.path.basename(other)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not (leads_to(one, directory, file) and leads_to(two, directory, other_file)):
            raise names_changed(path)
        exchange(one, two, directory)
        if not (leads_to(one, directory, other_file) and leads_to(two, directory, file)):
            with contextlib.suppress(FileNotFoundError):  # one of them is gone
                exchange(one, two, directory)
            raise names_changed(path)
    finally:
        os.close(directory)


def rename_known(path: str, file: int, new: str) -> None:
    """Give an open file another name in its directory, whatever had that.

    path, new  absolute, the links of the directory followed
    Raises OverlayError (CANNOT_CREATE) when others have changed the names, and OSError.
    """
    parent, one = os.path.split(path)
    other = os.path.basename(new)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not leads_to(one, directory, file):
            raise names_changed(new)
        os.rename(one, other, src_dir_fd=directory, dst_dir_fd=directory)
        if not leads_to(other, directory, file):
            raise names_changed(new)
    finally:
        os.close(directory)


def exchange(one: str, other: str, directory: int) -> None:
    """Exchange two names in an open directory, in one step.

    Raises OSError; ImportError or AttributeError where the call cannot be made.
    """
    import ctypes  # for this alone

    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    names = [os.fsencode(name) for name in (one, other)]
    if renameat2(directory, names[0], directory, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def new_file(name: str, directory: int | None = None) -> int:
    """Return the descriptor of a new empty file that nobody else can open.

    directory  an open descriptor of where it is, None for the current one
    Raises OSError, FileExistsError for a link too.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=directory)


def link(descriptor: int, name: str, directory: int) -> None:
    """Give an open file another name in an open directory, whatever its first one leads to now.

    Raises OSError: FileExistsError for a link too, one of NO_LINKS where there are no hard
    links, FileNotFoundError when it has no name any more.
    """
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory)


def remove(path: str, descriptor: int) -> None:
    """Remove the name of an open file, unless it is another file's by now. Raises OSError.

    path  absolute, without links: what somebody makes a link meanwhile is not followed
    """
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not leads_to(name, directory, descriptor):
            raise FileNotFoundError(errno.ENOENT, "it is another file by now")
        os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    except FileNotFoundError:
        return False


def leads_to(name: str, directory: int, descriptor: int) -> bool:
    """Return whether a name in an open directory is that of an open file."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


@contextlib.contextmanager
def adopted(path: str, made: str) -> Iterator[Unfinished]:
    """Give the Unfinished file that is going to be path; a file of ours becomes it.

    At the end of the context that is where it was, unless it has got its name.
    made  its path, where nobody else may change names
    Raises OSError: EXDEV for one on another file system.
    """
    new = Unfinished(path, made)
    try:
        lock.take(new.descriptor, write=True)
        yield new
    finally:
        new.close()


@contextlib.contextmanager
def unfinished(
    path: str, bytes_: int = 0, make: Callable[[str, int], int] | None = None
) -> Iterator[Unfinished]:
    """Give an Unfinished file of a size that is going to be path.

    make  as an Unfinished takes it
    At the end of the context it is closed, and removed unless it has got its name. Raises
    OverlayError (CANNOT_CREATE) for a size that the file system does not take, and OSError.
    """
    new = Unfinished(path, make=make)
    try:
        lock.take(new.descriptor, write=True)
        try:
            os.truncate(new.descriptor, bytes_)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            limit = limits.of_files()
            if limit is not None:
                raise OverlayError(
                    f"{limit}, and {quote(path)} is to have {size.format_size(bytes_)}",
                    status=CANNOT_CREATE,
                    hint=limits.HINT,
                ) from None
            raise OverlayError(
                f"the file system here takes no file of {size.format_size(bytes_)}",
                status=CANNOT_CREATE,
                hint="choose a smaller size, or another place with -o",
            ) from None
        yield new
    finally:
        new.close()


def check_names(path: str, status: os.stat_result) -> None:
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


def keep_attributes(
    old: int, new: int, *, mode: int | None = None, made_of: Iterable[Access] = ()
) -> None:
    """Give a new file the owner, mode, ACL and extended attributes of the one it replaces.

    old, new  open descriptors. What the caller may not set is left as it is.
    mode      another mode than the old file's
    made_of   permissions.Access of other files that it was made of: nobody may read it who
              may not read them
    """
    status = os.fstat(old)
    for owner in (status.st_uid, -1):
        try:
            os.fchown(new, owner, status.st_gid)
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
