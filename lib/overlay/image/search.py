"""Find the overlays under directories, by what they are rather than by their names."""

from __future__ import annotations

import os
import stat

from overlay.errors import MISSING, OverlayError, quote
from overlay.host import mounts
from overlay.image import image as images
from overlay.image.ext3_image import Ext3Image
from overlay.image.partial import is_partial
from overlay.image.squashfs_image import HEADER, SquashfsImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overlay.image.kind import Image

NAMES = (*Ext3Image.suffixes, *SquashfsImage.suffixes)
_SMALLEST = 1 << 20  # bytes of an ext3 file system with a journal, and less than it can be
_UNIT = 1024  # bytes of its smallest block: its size is a multiple
_PSEUDO = ("/proc", "/sys", "/dev")  # the kernel's own trees hold nobody's files


def no_directory(top: str) -> OverlayError:
    """Return the error for a directory that is not there."""
    from overlay.host.near import meant

    hint = meant(top, os.path.isdir)
    if hint is None:
        parent = os.path.dirname(top.rstrip("/"))
        hint = f"see which there are: ls -d {quote(parent + '/') if parent else ''}*/"
    if os.path.exists(top + ".ext3"):
        hint = f"one overlay: show-overlay {quote(top + '.ext3')}"
    return OverlayError(f"there is no directory {quote(top)}", status=MISSING, hint=hint)


class Search:
    """A search under one directory after another, each file once whatever its names.

    looked      files and directories that were seen so far
    found       overlays among them
    unreadable  paths that could not be read
    served      directories that were not looked into, because a program of another user shows them
    tick        called with the search now and then while it goes on
    """

    def __init__(self, tick: Callable[[Search], None] = lambda search: None) -> None:
        self.looked = 0
        self.found = 0
        self.unreadable: list[str] = []
        self.served: list[str] = []
        self._tick = tick
        self._seen: set[tuple[int, int]] = set()
        self._top = self._real = ""  # of the directory that is searched, as named and without links

    def under(self, top: str) -> Iterator[tuple[str, Image | OverlayError]]:
        """Yield the overlays under a directory, or at a path, as (path, Image or OverlayError).

        An OverlayError stands for one that is damaged. Links are not followed, and a
        directory that is an overlay itself is not looked into.
        Raises OverlayError when there is nothing at the path, or it is not an overlay.
        """
        self._mounts = mounts.Served()
        try:
            yield from self._under(top)
        finally:
            self._mounts.close()

    def _under(self, top: str) -> Iterator[tuple[str, Image | OverlayError]]:
        try:
            if self._mounts.shows(top):
                words = "a program of another user shows it, and need not answer"
                raise OverlayError(f"cannot read {quote(top)}: {words}", status=MISSING)
        except OSError:
            pass  # told below
        if not os.path.lexists(top):
            raise no_directory(top)
        if not os.path.isdir(top):
            yield top, images.look(top)
            self.found += 1
            return
        if not os.access(top, os.R_OK | os.X_OK):
            raise OverlayError(f"cannot read {quote(top)}: Permission denied", status=MISSING)
        if not self._is_new(os.stat(top)):
            return
        self._top, self._real = top, os.path.realpath(top)
        stack = [top]
        while stack:
            directory = stack.pop()
            try:
                descriptor, below, files = self._scan(directory)
            except OSError:
                self.unreadable.append(directory)
                continue
            for path, status in files:
                found = self._file(path) if self._is_new(status) else None
                if found:
                    self.found += 1
                    yield path, found
            names = {os.path.basename(path) for path in below}
            if "upper" in names and "work" in names:
                try:
                    found = images.opened(directory, descriptor)
                except OverlayError:
                    continue  # an unpacked container image
                self.found += 1
                yield directory, found
            else:
                os.close(descriptor)
                stack += reversed(below)

    def _scan(self, directory: str) -> tuple[int, list[str], list[tuple[str, os.stat_result]]]:
        """Return a descriptor of a directory, the directories in it, and (path, status) of files.

        Of files, those that may be overlays.
        """
        descriptor = self._open(directory)
        try:
            return descriptor, *self._look_through(directory, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _open(self, path: str) -> int:
        """Return a descriptor of what is at a path, with no link between it and the top."""
        below = path[len(self._top) :].strip("/")
        if not below:
            return images.open_unfollowed(self._real)
        return images.open_unfollowed(path, os.path.dirname(os.path.join(self._real, below)))

    def _look_through(
        self, directory: str, descriptor: int
    ) -> tuple[list[str], list[tuple[str, os.stat_result]]]:
        below, files = [], []
        served = self._mounts.names_in(descriptor)
        self.served += [os.path.join(directory, name) for name in sorted(served)]
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if entry.name in served:
                    continue
                self.looked += 1
                if not self.looked % 1000:
                    self._tick(self)
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # it went while we looked
                path = os.path.join(directory, entry.name)
                if stat.S_ISDIR(status.st_mode):
                    if self._is_new(status):
                        below.append(path)
                elif stat.S_ISREG(status.st_mode) and _may_be(entry.name, status.st_size):
                    files.append((path, status))
        if os.path.abspath(directory) == "/":
            below = [path for path in below if os.path.abspath(path) not in _PSEUDO]
        return sorted(below), sorted(files)

    def _is_new(self, status: os.stat_result) -> bool:
        """Return whether a file or directory was not met before."""
        identity = status.st_dev, status.st_ino
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _file(self, path: str) -> Image | OverlayError | None:
        """Return the Image at a path, the OverlayError when it is damaged, None when it is none."""
        try:
            descriptor = self._open(path)
            try:
                head = images.read_head(descriptor)
                kind = images.kind_of(head)
                likely = kind is not None and kind.may_be(path, descriptor, head)
            except OSError:
                os.close(descriptor)
                raise
        except OSError:
            if path.endswith(NAMES):
                self.unreadable.append(path)
            return None
        if not likely:
            os.close(descriptor)
            return None
        try:
            found = images.opened(path, descriptor)
        except OverlayError as error:
            return error
        if found.lacks_upper:
            found.close()
            return None
        return found


def _may_be(name: str, size: int) -> bool:
    """Return whether a file of this name and size can be an overlay."""
    if size >= _SMALLEST and not size % _UNIT:
        return not is_partial(name)
    if name.endswith("~"):
        name = name.rpartition(".~")[0]  # a version before an update
    return size > HEADER and name.endswith(SquashfsImage.suffixes)


def reachable(tops: Iterable[str]) -> list[str]:
    """Return those of some directories that are there, each once."""
    found: dict[str, str] = {}
    for top in tops:
        try:
            if os.path.isdir(top):
                found.setdefault(os.path.realpath(top), top)
        except FileNotFoundError:
            continue  # the current directory has been removed
    return list(found.values())
