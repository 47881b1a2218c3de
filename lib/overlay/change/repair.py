"""Repairs that need decisions: e2fsck's answer to everything is yes, on a copy.

The original stays as it is unless the copy is sound, and then goes in one step.
"""

from __future__ import annotations

import contextlib
import os

from overlay.change import steps
from overlay.errors import CANNOT_CREATE, DAMAGED, OverlayError, quote, reason
from overlay.host import private, process
from overlay.image import ext3, ext3_write
from overlay.image.ext3_read import Reader
from overlay.image.partial import partial_name
from overlay.plan import Plan, Step, ToldPlan
from overlay.safety import blocks, e2fsck, repair, replace, salvage, stripes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from overlay.image.ext3_image import Ext3Image

_TOLD = 20  # doubtful files that are named
_NO_END = "e2fsck does not come to an end"


class Repair:
    """A copy of an image, repaired with e2fsck -y, that takes the place of the original.

    The original stays as it is unless the copy is sound.
    """

    def __init__(self, whole: Ext3Image, scratch: str, environ: Mapping[str, str]) -> None:
        """Ask what can be asked before. Raises OverlayError (CANNOT_CREATE, UNAVAILABLE).

        whole    the image; before anything is done it is to be locked against everybody
        scratch  a directory on a disk of the node, in which killed runs may have left something
        """
        self._whole = whole
        self._scratch = scratch
        self._environ = environ
        self._path = os.path.realpath(whole.path)
        self._program = process.need("e2fsck", environ)
        self._files = contextlib.ExitStack()
        self._is_sound = False
        replace.check_names(self._path, os.fstat(whole.descriptor))

    def plan(self, before: Iterable[Step] = ()) -> Plan:
        """Return all that is done; its final Step returns what was done, in words.

        before  Steps that come first
        Doing it raises OverlayError (DAMAGED, CANNOT_CREATE).
        """
        path, program = self._path, self._program
        partial = partial_name(path, os.uname().nodename, private.worker())
        parts = [
            *before,
            Step(action=self._finish, why="a change that was interrupted is finished, or undone"),
            steps.tidying(path, self._scratch),
            Step(
                [program, "-fn", path],
                action=self._look,
                why="where this finds nothing wrong, the rest is left out",
            ),
            self._step(
                [process.need("cp", self._environ), *blocks.COPYING, path, partial],
                self._copy,
                "a copy, for nobody else until it is finished",
            ),
        ]
        status = self._whole.status
        if steps.is_reserved(status):
            parts.append(
                steps.reserving(
                    partial, status.st_size, self._environ, self._unless_sound(self._reserve)
                )
            )
        parts += [
            self._step([], self._spare, "of what e2fsck would clear as a whole, parts are saved"),
            self._step([program, "-fy", partial], self._repair),
            self._step(
                [program, "-fn", partial], self._verify, "it is seen that a session would take it"
            ),
            self._step(
                [], self._compare, f"if names are gone, it is kept as it was: {salvage.kept(path)}"
            ),
        ]
        return ToldPlan(
            Step(
                ["mv", "-f", "-T", partial, path],
                action=self._into_place,
                why=replace.LIKE_THE_OLD,
            ),
            self._failed,
            before=parts,
            after=[Step(["rm", "-f", partial], action=self._files.close)],
        )

    def _failed(self, error: OSError) -> OverlayError:
        return OverlayError(
            f"cannot repair {quote(self._path)}: {reason(error)}; it is left as it is",
            status=CANNOT_CREATE,
        )

    def _step(
        self, words: Sequence[str], action: Callable[[], None], why: str | None = None
    ) -> Step:
        """Return a Step that is left out where nothing is wrong."""
        return Step(words, action=self._unless_sound(action), why=why)

    def _unless_sound(self, action: Callable[[], None]) -> Callable[[], None]:
        def act() -> None:
            if not self._is_sound:
                action()

        return act

    def _finish(self) -> None:
        repair.finish_interrupted(self._path, self._whole.descriptor, self._environ)

    def _look(self) -> None:
        descriptor = self._whole.descriptor
        self._is_sound = ext3.read_superblock(descriptor).is_clean and repair.is_sound(
            self._program, descriptor, self._environ
        )
        if self._is_sound:
            repair.check_layout(self._path, descriptor)

    def _copy(self) -> None:
        original = self._whole.descriptor
        self._before = salvage.lost_and_found(original)
        self._names = salvage.names(original)
        self._new = self._files.enter_context(
            replace.unfinished(self._path, make=stripes.like(self._path, self._environ))
        )
        blocks.copy(self._path, original, self._new.descriptor, self._environ)

    def _reserve(self) -> None:
        bytes_ = os.fstat(self._whole.descriptor).st_size
        descriptor, environ = self._new.descriptor, self._environ
        blocks.reserve(self._path, descriptor, bytes_, environ, None, "repair")

    def _spare(self) -> None:
        self._doubtful = salvage.spare(self._program, self._new.descriptor, self._environ)

    def _repair(self) -> None:
        descriptor, superblock = self._new.descriptor, self._whole.superblock
        ext3_write.set_dir_nlink(descriptor, superblock, True)
        result = e2fsck.run(self._program, "-fy", descriptor, self._environ)
        self._status = result.status
        self._doubtful |= salvage.doubtful(result.output)
        ext3_write.set_dir_nlink(descriptor, superblock, False)
        salvage.save_work(descriptor, self._environ)

    def _verify(self) -> None:
        _see_that_it_is_taken(
            self._path,
            self._whole.descriptor,
            self._status,
            self._program,
            self._new.descriptor,
            self._environ,
        )

    def _compare(self) -> None:
        """See what has become of the names, and keep the original where some are gone."""
        path, descriptor = self._path, self._new.descriptor
        found = salvage.lost_and_found(descriptor) - self._before
        told = salvage.describe(descriptor, found)
        names = salvage.names(descriptor)
        gone = salvage.gone(self._names, names)
        doubtful = salvage.named(self._doubtful, names)
        lost = any(one.had_content for one in gone)
        way = salvage.way_out(descriptor, "/lost+found", ".")
        kept = salvage.keep(path, self._whole.descriptor, self._environ) if lost else None
        self._said = _repaired(path, told, way, gone, kept, doubtful)

    def _into_place(self) -> str:
        if self._is_sound:
            return "clean"
        self._new.over(self._whole.descriptor)
        return self._said


def _see_that_it_is_taken(
    path: str, original: int, status: int, program: str, descriptor: int, environ: Mapping[str, str]
) -> None:
    """Raise OverlayError (DAMAGED) unless a session would take a repaired image.

    original    descriptor of the image as it is
    status      of the repair, as e2fsck gave it
    descriptor  of the repaired copy
    """
    why = _NO_END if status == e2fsck.ENDLESS else f"e2fsck {status}"
    if repair.is_sound(program, descriptor, environ):
        repair.check_layout(path, descriptor)
        superblock = ext3.read_superblock(descriptor)
        if not superblock.is_ext3:
            why = "it would not be an ext3 image any more"
        elif Reader(descriptor, superblock).lookup(b"upper") is None:
            why = "its directory upper, which has all that is in it, would have no name any more"
        else:
            return
    raise OverlayError(
        f"{quote(path)} cannot be repaired ({why}); it is left as it is",
        status=DAMAGED,
        hint="restore it from a copy, or save what can be read:"
        f" {salvage.way_out(original, '/upper', 'DIRECTORY')} {quote(path)}",
    )


def _repaired(
    path: str,
    found: str,
    way: str,
    gone: Sequence[salvage.Gone],
    kept: str | None,
    doubtful: Sequence[str],
) -> str:
    """Return what a repair did, and all that it has lost or may have.

    found     lines that describe new files in lost+found
    way       of salvage.way_out(), to get them
    gone      of salvage.gone()
    kept      path of the image as it was; None when it is not kept
    doubtful  names of files that are not as they were
    """
    words = "repaired"
    if found:
        words += f"; these files lost their names (to get them: {way} {quote(path)}){found}"
    if gone:
        words += "\nthese names are gone" if found else "; these names are gone"
        if kept:
            words += f" (as it was, it is kept: {quote(kept)})"
        words += ":" + "".join(f"\n  {one.words}" for one in gone)
    if doubtful:
        words += "\nlook" if found or gone else "; look"
        words += " at these files, of which parts could not be read, or were those of others, too:"
        words += salvage.listed(doubtful, _TOLD)
    return words
