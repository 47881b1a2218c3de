"""Overlays made larger in their place, with a way back."""

from __future__ import annotations

import os

from overlay.change import steps
from overlay.errors import OverlayError
from overlay.host import ending, process
from overlay.image import ext3, ext3_write
from overlay.plan import Plan, Step
from overlay.safety import blocks, repair, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlay.image.ext3_image import Ext3Image


class Growth:
    """An image to be made larger; its number of files grows in proportion.

    Whatever interrupts it, the image is the old or the new one after the next look at it.
    """

    def __init__(
        self,
        whole: Ext3Image,
        wanted: int,
        environ: Mapping[str, str],
        notice: Callable[[str], object],
    ) -> None:
        """Ask what can be asked before.

        whole   the image, locked against everybody
        wanted  bytes, more than it has
        """
        self._whole = whole
        self._wanted = wanted
        self._environ = environ
        self._notice = notice
        self._path = os.path.realpath(whole.path)
        self._resize2fs = process.need("resize2fs", environ)
        self._e2fsck = process.need("e2fsck", environ)
        self._reserved = steps.is_reserved(whole.status)

    def plan(self) -> Plan:
        """Return all that do() does."""
        return Plan(self._closing(), before=[*self._first(), *self._growing()])

    def do(self) -> ext3.Superblock:
        """Do it, and return the new Superblock. Raises OverlayError (CANNOT_CREATE, DAMAGED)."""
        Plan(before=self._first()).do()
        status = os.fstat(self._whole.descriptor)
        self._back = undo.name(self._path, status, self._whole.superblock)
        self._reserved = steps.is_reserved(status)
        if self._reserved:
            steps.check_room(self._path, self._wanted - status.st_size)
        with ending.cleaning_up():
            try:
                Plan(before=self._growing()).do()
            except BaseException as error:
                self._go_back(status.st_size)
                if isinstance(error, OSError):
                    raise steps.failed(self._path, error) from None
                raise
            # It is grown, and whatever happens from here it stays so.
            self._closing().do()
        self._whole.superblock = ext3.read_superblock(self._whole.descriptor)
        return self._whole.superblock

    def _first(self) -> list[Step]:
        """Return the Steps before anything is begun."""
        return [
            steps.checking(self._whole, self._environ, self._notice),
            steps.tidying(self._path, None),
        ]

    def _growing(self) -> list[Step]:
        """Return the Steps that _go_back() takes back."""
        path, descriptor, wanted = self._path, self._whole.descriptor, self._wanted
        made = [
            Step(
                action=lambda: ext3_write.write_state(descriptor, 0),
                why="it is marked as not clean, so that nobody uses it half grown",
            ),
            Step(
                ["truncate", "-s", str(wanted), path],
                action=lambda: os.truncate(descriptor, wanted),
            ),
            *self._reserving(self._notice),
            Step(
                action=self._note,
                why="what resize2fs is going to overwrite is written to a file beside it first",
            ),
            Step([self._resize2fs, "-f", path], action=self._resize),
            Step([self._e2fsck, "-fn", path], action=self._verify),
            *self._reserving(None),  # resize2fs makes holes of tables that hold nothing yet
        ]
        return made

    def _reserving(self, notice: Callable[[str], object] | None) -> list[Step]:
        if not self._reserved:
            return []
        path, wanted = self._path, self._wanted

        def reserve() -> None:
            descriptor = self._whole.descriptor
            blocks.reserve(path, descriptor, wanted, self._environ, notice, "resize")

        return [steps.reserving(path, wanted, self._environ, reserve)]

    def _note(self) -> None:
        whole = self._whole
        try:
            undo.note(self._back, whole.descriptor, whole.superblock, self._wanted)
        except ext3.FormatError as error:  # a repair just before has made it another one
            raise self._failed(str(error)) from None

    def _resize(self) -> None:
        """Let resize2fs make the image as large as its file."""
        result = process.run([self._resize2fs, "-f", self._whole.descriptor], self._environ)
        if result.status:
            raise self._failed(process.last_line(result.errors, otherwise="resize2fs fails"))

    def _verify(self) -> None:
        if not repair.is_sound(self._e2fsck, self._whole.descriptor, self._environ):
            raise self._failed("e2fsck finds the result unsound")

    def _failed(self, why: str) -> OverlayError:
        return steps.failed(self._path, why)

    def _closing(self) -> Step:
        def close() -> None:
            _forget(self._back)
            ext3_write.write_state(self._whole.descriptor, ext3.STATE_CLEAN)

        return Step(action=close, why="that file is removed, and the overlay marked as clean")

    def _go_back(self, length: int) -> None:
        """Undo what has been begun.

        length  bytes that the file had
        """
        path, descriptor, environ = self._path, self._whole.descriptor, self._environ
        if not undo.take_back(path, descriptor, environ):
            # Never shorter than what the file system says that it spans.
            os.truncate(descriptor, max(length, ext3.read_superblock(descriptor).size))
        if repair.is_sound(self._e2fsck, descriptor, environ):
            ext3_write.write_state(descriptor, ext3.STATE_CLEAN)  # a repair needs room for its note
        else:
            repair.make_sound(path, descriptor, environ, full=True)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
