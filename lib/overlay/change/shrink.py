"""Overlays of another size, most of them smaller, made on a copy that takes their place."""

from __future__ import annotations

import contextlib
import os

from overlay import size
from overlay.change import steps
from overlay.errors import USAGE, OverlayError, quote
from overlay.host import ending, private, process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3
from overlay.image.partial import partial_name
from overlay.plan import Plan, Step
from overlay.safety import blocks, repair, replace, stripes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlay.image.ext3_image import Ext3Image
    from overlay.settings.config import Config

# What resize2fs says of a size that is too small, forced as it is.
_TOO_SMALL = ("smaller than minimum", "No space left", "Not enough space")


class Shrinking:
    """An image to be made smaller, or larger. It stays as it is until the copy is sound."""

    def __init__(
        self, whole: Ext3Image, wanted: int, config: Config, notice: Callable[[str], object]
    ) -> None:
        """Ask what can be asked before. Raises OverlayError.

        whole   the image, locked against everybody
        wanted  bytes, others than it has
        """
        self._whole = whole
        self._wanted = wanted
        self._environ = config.environ
        self._notice = notice
        self._scratch = scratch_directory(config)
        self._path = os.path.realpath(whole.path)
        self._resize2fs = process.need("resize2fs", self._environ)
        self._files = contextlib.ExitStack()
        replace.check_names(self._path, whole.status)

    def plan(self) -> Plan:
        """Return all that do() does."""
        path, wanted, environ = self._path, self._wanted, self._environ
        partial = partial_name(path, os.uname().nodename, private.worker())
        before = [
            steps.checking(self._whole, environ, self._notice),
            steps.tidying(path, self._scratch),
            Step(
                [process.need("e2image", environ), "-ra", path, partial],
                action=self._copy,
                why="a copy of the blocks in use, for nobody else until it is finished",
            ),
            Step([self._resize2fs, "-f", partial, f"{wanted >> 10}K"], action=self._resize),
            Step(
                ["truncate", "-s", str(wanted), partial],
                action=lambda: os.truncate(self._new.descriptor, wanted),
            ),
            Step([process.need("e2fsck", environ), "-fn", partial], action=self._verify),
        ]
        if steps.is_reserved(self._whole.status):
            before.append(steps.reserving(partial, wanted, environ, self._reserve))
        return Plan(
            Step(
                ["mv", "-f", "-T", partial, path],
                action=self._into_place,
                why=replace.LIKE_THE_OLD,
            ),
            before=before,
            after=[Step(["rm", "-f", partial], action=self._files.close)],
        )

    def do(self) -> ext3.Superblock:
        """Do it, and return the new Superblock.

        Raises OverlayError: USAGE below what is used, CANNOT_CREATE, DAMAGED.
        """
        with ending.cleaning_up():
            try:
                return self.plan().do(lambda _final: self._into_place())
            except OSError as error:
                raise steps.failed(self._path, error) from None

    def _copy(self) -> None:
        path, descriptor = self._path, self._whole.descriptor
        self._notice(f"copying {quote(path)}")
        self._new = self._files.enter_context(
            replace.unfinished(path, make=stripes.like(path, self._environ))
        )
        blocks.copy(path, descriptor, self._new.descriptor, self._environ, sound=True)

    def _resize(self) -> None:
        copy, wanted, environ = self._new.descriptor, self._wanted, self._environ
        result = process.run([self._resize2fs, "-f", copy, f"{wanted >> 10}K"], environ)
        if result.status:
            raise _too_small(self._path, copy, wanted, result, self._resize2fs, environ)

    def _verify(self) -> None:
        repair.make_sound(self._new.name, self._new.descriptor, self._environ, full=True)

    def _reserve(self) -> None:
        copy, wanted, environ = self._new.descriptor, self._wanted, self._environ
        blocks.reserve(self._path, copy, wanted, environ, self._notice, "resize")

    def _into_place(self) -> ext3.Superblock:
        self._new.over(self._whole.descriptor)
        return ext3.read_superblock(self._new.descriptor)


def _too_small(
    path: str,
    copy: int,
    wanted: int,
    result: process.Result,
    resize2fs: str,
    environ: Mapping[str, str],
) -> OverlayError:
    """Return the error for a size that resize2fs refuses, with the smallest that it takes."""
    asked = process.run([resize2fs, "-f", "-P", copy], environ)
    words = asked.output.strip().rpartition(" ")[2]
    hint = None
    if words.isdecimal():
        block_size = ext3.read_superblock(copy).block_size
        # resize2fs's own estimate can be a little too small for itself.
        smallest = int(words) * block_size * 102 // 100
        hint = f"this size will do: -s {size.mebibytes(smallest)}"
    if any(one in result.errors for one in _TOO_SMALL):
        what = f"{quote(path)} holds too much for {size.format_size(wanted)}"
        return OverlayError(what, status=USAGE, hint=hint)
    why = process.last_line(result.errors, otherwise="resize2fs fails")
    return steps.failed(path, why)
