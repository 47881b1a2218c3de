"""What the commands of an update work in: an image made of an overlay, and into its kind again."""

from __future__ import annotations

import os

from overlay.change import pack, resize, steps, unchanged
from overlay.create import fill, make, ready
from overlay.create.request import Creation, Order
from overlay.create.squashfs import Squashfs
from overlay.create.workplace import Workplace
from overlay.errors import NOT_ALLOWED, USAGE, OverlayError, quote
from overlay.host import private, process
from overlay.host.room import free_bytes
from overlay.image import ext3, record
from overlay.plan import Plan
from overlay.safety import blocks, e2fsck, guard, repair, replace, stripes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Optional

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.image.squashfs_image import SquashfsImage
    from overlay.output import Output
    from overlay.settings.config import Config

    Amount = Callable[[int], int]  # from what there is to what there is to be
    More = tuple[Optional[Amount], Optional[Amount]]  # of size and number of files

GROWTH = 1 << 28  # bytes that commands may write, beside what is there, wherever they work
_MOST_GROWTH = 1 << 36  # bytes of room that a packed overlay is unpacked with at most
_MORE_FILES = 500_000


class Working:
    """An overlay that is worked on. A kind of overlays is a class.

    needed  bytes that are needed where it is worked on
    taken   bytes that the new one takes beside the old one at once
    full    bytes that it takes when it is full
    """

    __slots__ = ("_config", "_output", "full", "needed", "taken")

    def __init__(self, config: Config, output: Output) -> None:
        self._config = config
        self._output = output
        self.needed = self.taken = self.full = 0

    def make(self, copy: str, scratch: str) -> None:
        """Make the ext3 image, a file of ours that is not there yet, that sessions write.

        scratch  in whose directory of ours it lies. Raises OverlayError, OSError.
        """
        raise NotImplementedError

    def is_unchanged(self, copy: str) -> bool:
        """Return whether the image holds what the overlay does, after all that was to change it."""
        raise NotImplementedError

    def finish(self, copy: str, scratch: str) -> str:
        """Return the path of what takes the place of the overlay, when the image is sound."""
        raise NotImplementedError

    def line(self, image: str, new: str) -> str:
        """Return the line for a shell that makes a new overlay of the image, when that is kept."""
        return copying(image, new)

    def note(self, finished: int, new: int) -> None:
        """Take what is noted of a finished file over to the open file with the same content."""
        raise NotImplementedError


class Ext3Working(Working):
    """An ext3 image: a copy of the blocks in use, given another size where that is asked for."""

    __slots__ = ("_more", "_old")

    def __init__(self, old: Ext3Image, more: More, config: Config, output: Output) -> None:
        super().__init__(config, output)
        self._old = old
        self._more = more
        used = old.superblock.used_bytes
        length = more[0](resize.now(old)[0]) if more[0] else old.status.st_size
        self.needed = used + GROWTH
        self.full = length
        self.taken = length if steps.is_reserved(old.status) else used

    def make(self, copy: str, scratch: str) -> None:
        descriptor = stripes.like(self._old.path, self._config.environ)(copy, None)
        try:
            self._copy(descriptor)
        finally:
            os.close(descriptor)
        if self._more != (None, None):
            self._resize(copy)

    def _copy(self, descriptor: int) -> None:
        """Copy the blocks in use into an empty file.

        Whether the bitmaps say which these are is seen in the old one meanwhile: nobody writes it.
        """
        old, environ = self._old, self._config.environ
        shared = not steps.is_reserved(old.status)
        program = process.need("e2fsck", environ)
        try:
            with e2fsck.beside(program, old.descriptor, environ) as check:
                blocks.copy_used(old.descriptor, descriptor, shared=shared)
                if repair.finds_nothing(check.result()):
                    return
        except ext3.FormatError:
            pass
        # Its bitmaps are not right: what is in use is found by its files, and repaired later.
        os.truncate(descriptor, 0)
        blocks.copy(old.path, old.descriptor, descriptor, environ, sound=True)
        os.truncate(descriptor, old.status.st_size)

    def _resize(self, copy: str) -> None:
        """Give the copy another size, and another number of files."""
        whole = guard.open_whole(copy)
        try:
            size_now, files_now = resize.now(whole)
            wanted = self._more[0](size_now) if self._more[0] else size_now
            files = self._more[1](files_now) if self._more[1] else files_now
            work = resize.resizing(
                whole, wanted, files, self._config, self._output.notice, self._output.progress
            )
            if work:
                work.do()
        finally:
            whole.close()

    def is_unchanged(self, copy: str) -> bool:
        return _hold_the_same(self._old.descriptor, copy)

    def finish(self, copy: str, scratch: str) -> str:
        return copy

    def note(self, finished: int, new: int) -> None:
        record.write(new, record.read(finished))


class PackedWorking(Working):
    """A packed overlay: unpacked into an image with room, and packed again as it was."""

    __slots__ = ("_everybody", "_old", "_was_open")

    def __init__(self, old: SquashfsImage, more: More, config: Config, output: Output) -> None:
        super().__init__(config, output)
        if more != (None, None):
            raise OverlayError(
                f"{quote(old.path)} is packed, and becomes as large as what is in it: -s and -n are"
                " not for it",
                status=USAGE,
                hint="leave them out",
            )
        self._old = old
        self._was_open = False
        self._everybody = record.read(old.descriptor).get("open") == "yes"
        try:
            found = list(old.walk("/", config.environ))
        except ext3.FormatError as error:
            raise OverlayError(
                f"{quote(old.path)} is damaged: {error}",
                status=NOT_ALLOWED,
                hint=f"see what is wrong: check-overlay {quote(old.path)}",
            ) from None
        data = sum(one.size for one in found) + len(found) * 4096
        self.taken = self.full = old.status.st_size
        # As files, as an image, and packed.
        self.needed = 2 * data + old.status.st_size + GROWTH

    def make(self, copy: str, scratch: str) -> None:
        config, output = self._config, self._output
        workplace = Workplace(scratch)
        # What is locked, whatever its name leads to by now.
        source = Squashfs(f"/proc/self/fd/{self._old.descriptor}", "/")
        wish = ready.Wish(activate=[], history=False)  # it has its own
        filling = fill.Filling([source], wish=wish)
        gathered = fill.Collection(filling, Order(), workplace, config, output)

        def write() -> None:
            content = gathered.content()
            content.made_of = []  # it stays with us
            data = content.amount.bytes
            room = data + data // 5 + min(free_bytes(scratch) // 2, _MOST_GROWTH)
            files = content.amount.files + content.amount.files // 5 + _MORE_FILES
            creation = Creation(
                room // (1 << 20) << 20, files, path=copy, sparse=True, content=content
            )
            facts = make.look(
                copy, config, sparse=True, force=False, filled=True, workplace=workplace
            )
            make.run(creation, config, facts, output.notice)

        before = [workplace.making(), *gathered.steps]
        Plan(before=before, after=[workplace.removing()]).do(lambda _final: write())
        whole = guard.open_whole(copy)
        try:
            self._was_open = bool(self._old.status.st_mode & 0o044) and not pack.closed(whole)
            kept = replace.new_file(_before(copy))
            try:
                blocks.copy_used(whole.descriptor, kept, shared=True)
            finally:
                os.close(kept)
        finally:
            whole.close()

    def is_unchanged(self, copy: str) -> bool:
        with open(_before(copy), "rb") as before:
            os.unlink(before.name)
            return _hold_the_same(before.fileno(), copy)

    def finish(self, copy: str, scratch: str) -> str:
        whole = guard.open_whole(copy)
        path = os.path.join(os.path.dirname(copy), "packed", os.path.basename(self._old.path))
        os.mkdir(os.path.dirname(path), 0o700)
        try:
            if self._was_open and not self._everybody:
                self._tell_of_closed(pack.closed(whole))
            settings = self._old.settings()
            pack.Packing(
                [whole],
                path,
                compression=settings.compression,
                block=settings.block,
                level=settings.level,
                everybody=self._everybody,
                progress=False,
                scratch=scratch,
                environ=self._config.environ,
                notice=self._output.notice,
            ).do()
        finally:
            whole.close()
        private.remove(copy)
        return path

    def line(self, image: str, new: str) -> str:
        words = ["--open"] if self._everybody else []
        words += ["--compression", self._old.settings().compression, image, "-o", new]
        return " ".join(map(quote, ["pack-overlay", *words]))

    def _tell_of_closed(self, closed: Sequence[bytes]) -> None:
        """Say that what was readable for all has files now that are not."""
        if closed:
            self._output.notice(
                f"{len(closed):,} files in it are new that others cannot read, such as"
                f" {quote(os.fsdecode(closed[0]))}; to open all: pack-overlay --open",
                "warning",
            )

    def note(self, finished: int, new: int) -> None:
        fields = record.read(finished)
        status = os.fstat(new)
        record.write(new, {**fields, "stamp": f"{status.st_mtime_ns}.{status.st_size}"})


def copying(file: str, new: str) -> str:
    """Return the line for a shell that copies a finished overlay."""
    return f"cp -p --sparse=always {quote(file)} {quote(new)}"


def _before(copy: str) -> str:
    """Return the path of a copy of an image as it was before the commands."""
    return f"{copy}.before"


def _hold_the_same(before: int, copy: str) -> bool:
    """Return whether an open image and the one at a path hold the same."""
    with open(copy, "rb") as after:
        try:
            return unchanged.is_unchanged(before, after.fileno())
        except ext3.FormatError:
            return False  # it will be told when that is looked at


def working(old: Image, more: More, config: Config, output: Output) -> Working:
    """Return the Working for an overlay. Raises OverlayError for one that cannot be updated."""
    if old.is_compressed:
        from overlay.image.squashfs_image import SquashfsImage

        assert isinstance(old, SquashfsImage)
        old.check_mountable()
        return PackedWorking(old, more, config, output)
    ext3_image = old.as_ext3(
        "only ext3 images and packed files are updated",
        f"make an ext3 one of it: create-overlay --from {quote(old.path)} -o NAME",
    )
    return Ext3Working(ext3_image, more, config, output)
