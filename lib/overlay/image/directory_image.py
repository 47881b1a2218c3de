"""A directory with upper/ and work/ in it: an overlay of files on the file system itself."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host.room import free_bytes
from overlay.image import lock
from overlay.image.kind import MOST_NAMES, Image, as_base_image, may_be_written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.image.entry import Entry
    from overlay.image.survey import Survey


_NAMES = (".ext3", ".img", ".sqsh")  # of overlays, as far as users see them


class DirectoryImage(Image):
    """A directory."""

    __slots__ = ()

    kind = "directory"
    is_file = False

    @classmethod
    def found(
        cls, path: str, status: os.stat_result, descriptor: int, writable: bool, head: bytes
    ) -> DirectoryImage:
        if os.path.exists(os.path.join(path, ".singularity.d")):
            raise OverlayError(
                f"{quote(path)} is an unpacked container image, not an overlay",
                status=DAMAGED,
                hint=as_base_image(path),
            )
        image = cls(path, status, descriptor, writable)
        try:
            image.group = os.stat("upper", dir_fd=descriptor, follow_symlinks=False).st_gid
        except FileNotFoundError:
            pass
        return image

    @property
    def is_plain_directory(self) -> bool:
        return self.group is None

    @property
    def others_may_write(self) -> bool:
        if super().others_may_write:
            return True
        try:
            return any(
                may_be_written(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False))
                for name in ("upper", "work")
            )
        except OSError:
            return False  # they are made by us

    @property
    def is_data(self) -> bool:
        if not self.is_plain_directory:
            return False
        with os.scandir(self.descriptor) as entries:
            names = {entry.name for entry in entries} - {"lost+found"}
        # Another command may be making an overlay of it: work/ comes first, then upper/.
        if "upper" in names or not names:
            return False
        return names != {"work"} or not self._work_is_empty()

    def _work_is_empty(self) -> bool:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            work = os.open("work", flags, dir_fd=self.descriptor)
        except OSError:
            return False
        try:
            return not os.listdir(work)
        except OSError:
            return False
        finally:
            os.close(work)

    def overlays_in_it(self) -> list[str]:
        return sorted(name for name in os.listdir(self.descriptor) if name.endswith(_NAMES))

    def why_not_replaced(self) -> str | None:
        return "it is a directory"

    def holds(self, path: str) -> bool:
        return os.path.lexists(f"{self.path}/upper/{path}")

    def names_in(self, path: str) -> list[str]:
        directory = self._open(path, os.O_DIRECTORY)
        if directory is None:
            return []
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in itertools.islice(entries, MOST_NAMES)]
            return sorted(names, reverse=True)
        except OSError:
            return []
        finally:
            os.close(directory)

    def content_of(self, path: str, most: int) -> bytes | None:
        file = self._open(path)
        if file is None:
            return None
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                return None
            return os.pread(file, most, 0)
        except OSError:
            return None
        finally:
            os.close(file)

    def _open(self, path: str, flags: int = 0) -> int | None:
        """Return a descriptor of what is inside, no link on the way followed; None without it."""
        flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        above = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        *directories, name = ["upper", *path.strip("/").split("/")]
        place = os.dup(self.descriptor)
        try:
            for directory in directories:
                below = os.open(directory, above, dir_fd=place)
                os.close(place)
                place = below
            return os.open(name, flags, dir_fd=place)
        except OSError:
            return None
        finally:
            os.close(place)

    def those_inside(self, paths: Iterable[bytes], environ: Mapping[str, str]) -> set[bytes]:
        root = os.path.join(os.fsencode(self.path), b"upper")
        return {path for path in paths if os.path.lexists(os.path.join(root, path))}

    def has_markers(self, environ: Mapping[str, str]) -> bool:
        return True  # to look would take a walk through all of it

    def layout(self) -> Iterator[tuple[str, int, object]]:
        # None of its links is followed, nor any that is made behind our back.
        if self.is_plain_directory:
            return  # it is taken from its top, to be read
        yield from _status_of("upper", "upper", self.descriptor)
        yield from _status_of("work", "work", self.descriptor)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            work = os.open("work", flags, dir_fd=self.descriptor)
        except (FileNotFoundError, PermissionError):
            return
        try:
            yield from _status_of("work/work", "work", work)
        finally:
            os.close(work)

    def walk(self, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
        from overlay.image import directory_contents

        return directory_contents.walk(self, top)

    def fill(self, survey: Survey) -> None:
        survey.use = _holder(self.identity)
        survey.written = int(self.status.st_mtime)
        if self.is_plain_directory:
            survey.plain = "data" if self.is_data else "empty"
        try:
            upper = os.stat("upper", dir_fd=self.descriptor, follow_symlinks=False)
            survey.owner_inside = upper.st_uid
            survey.written = int(upper.st_mtime)
        except OSError:
            pass
        survey.available = free_bytes(self.descriptor)

    def lock(self, write: bool) -> None:
        # Only flock(2) can lock a directory, and not on every shared file system.
        try:
            fcntl.flock(
                self.descriptor, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB
            )
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise lock.Busy(True) from None

    def unlock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def lock_whole(self) -> None:
        self.lock(True)


def _status_of(name: str, last: str, directory: int) -> Iterator[tuple[str, int, object]]:
    try:
        status = os.stat(last, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, PermissionError):
        return  # the engine, which is the caller, cannot reach it either
    yield name, status.st_mode, (status.st_dev, status.st_ino)


def _holder(identity: tuple[int, int]) -> str | None:
    """Return how a directory is in use on this host, from the flock(2) lines of /proc/locks."""
    device, inode = identity
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted:
                    return "writer" if words[3] == "WRITE" else "reader"
    except OSError:
        pass
    return None
