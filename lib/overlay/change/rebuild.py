"""Overlays for another number of files: all is written into a new image."""

from __future__ import annotations

import functools
import os

from overlay import size
from overlay.change import steps
from overlay.create import make
from overlay.create.measure import Amount
from overlay.create.request import Content, Creation
from overlay.create.workplace import Workplace
from overlay.errors import DAMAGED, USAGE, OverlayError, quote
from overlay.host import ending, namespace, private
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, ext3_size, ext3_write
from overlay.image.ext3_read import Reader
from overlay.plan import Plan, Step
from overlay.safety import replace, salvage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.image.ext3_image import Ext3Image
    from overlay.settings.config import Config


_SAVED = "lost+found"


class Rebuilding:
    """An image to be written anew. Owners, modes, times, links, attributes and holes stay."""

    def __init__(
        self,
        whole: Ext3Image,
        wanted: int,
        files: int,
        config: Config,
        notice: Callable[[str], object],
        progress: Callable[[str], object],
    ) -> None:
        """Ask what can be asked before. Raises OverlayError.

        whole   the image, locked against everybody
        wanted  bytes
        files   how many files it can hold in all
        notice, progress  as of make.run()
        """
        namespace.need(config.environ)
        replace.check_names(whole.path, whole.status)
        self._whole = whole
        self._wanted = wanted
        self._number = files
        self._config = config
        self._notice = notice
        self._progress = progress
        self._workplace = Workplace(scratch_directory(config))
        # Beside the workplace, not in it: all that is in it is written.
        self._mounted = self._workplace.path + ".old"

    def plan(self) -> Plan:
        """Return all that do() does."""
        creation, facts = self._request()
        checking = steps.checking(self._whole, self._config.environ, self._notice)
        before = [checking, *self._places()]
        made = make.plan(creation, self._config, facts, before=before)
        return Plan(made.final, before=made.before, after=[*made.after, self._removing()])

    def do(self) -> ext3.Superblock:
        """Do it, and return the new Superblock.

        Raises OverlayError: USAGE when it would be too small, CANNOT_CREATE, DAMAGED.
        """
        steps.checking(self._whole, self._config.environ, self._notice).do()
        creation, facts = self._request()
        amount = creation.content.amount if creation.content else Amount()
        self._notice(f"writing {size.format_files(amount.files)}, {size.format_size(amount.bytes)}")
        plan = Plan(before=self._places(), after=[self._workplace.removing(), self._removing()])
        with ending.cleaning_up():
            created = plan.do(
                lambda _final: make.run(creation, self._config, facts, self._notice, self._progress)
            )
        assert created.superblock  # it is not packed
        return created.superblock

    def _request(self) -> tuple[Creation, make.Facts]:
        """Return what is asked of create/make. Raises OverlayError where it does not fit."""
        whole, environ = self._whole, self._config.environ
        path = os.path.realpath(whole.path)
        held, data = used(whole.descriptor, whole.superblock)
        _check_fits(self._wanted, self._number, held, data)
        steps.check_room(path, min(self._wanted, data + (64 << 20)))
        content = Content(
            Amount(held, data),
            binds=self._saved(),
            images=[(whole.descriptor, self._mounted, self._workplace.upper)],
            in_namespace=True,
            owners=lambda descriptor, superblock: take_over(whole, descriptor, superblock),
        )
        sparse = not steps.is_reserved(whole.status)
        creation = Creation(
            self._wanted, self._number, path=path, sparse=sparse, force=True, content=content
        )
        facts = make.Facts(
            path=path,
            existing=whole,
            tools=make.find_tools(environ, sparse=sparse, filled=True),
            workplace=self._workplace,
        )
        return creation, facts

    def _saved(self) -> list[tuple[str, str]]:
        """Return what is bound where, for what repairs have saved in lost+found, if anything."""
        if not salvage.lost_and_found(self._whole.descriptor):
            return []
        place = os.path.join(self._workplace.path, _SAVED)
        return [(os.path.join(self._mounted, _SAVED), place)]

    def _places(self) -> list[Step]:
        """Return the Steps that make where it is put together, and where the old one is read."""

        def make_mounted() -> None:
            private.remove(self._mounted)  # of a killed process of our number
            os.mkdir(self._mounted)

        made = [self._workplace.making(), Step(["mkdir", self._mounted], action=make_mounted)]
        for _tree, place in self._saved():
            made.append(Step(["mkdir", place], action=functools.partial(os.mkdir, place)))
        return made

    def _removing(self) -> Step:
        def remove() -> None:
            if os.path.isdir(self._mounted):
                os.rmdir(self._mounted)

        return Step(["rmdir", self._mounted], action=remove)


def used(descriptor: int, superblock: ext3.Superblock) -> tuple[int, int]:
    """Return (files, bytes of data) that an open image holds, its own tables left out."""
    files = superblock.used_inodes_count - ext3.RESERVED_INODES
    journal = Reader(descriptor, superblock).inode(ext3.JOURNAL_INODE).room
    return files, max(superblock.used_bytes - journal, files * 64)


def _check_fits(wanted: int, files: int, held: int, data: int) -> None:
    if files < held:
        raise OverlayError(
            f"it holds {size.format_files(held)}, and is to hold no more than {files:,}",
            status=USAGE,
            hint=f"the smallest number: -n {-(-held // 1000)}",
        )
    if not ext3_size.fits(wanted, files, data):
        smallest = ext3_size.smallest_size(files, data)
        raise OverlayError(
            f"{size.format_size(data)} of data and {size.format_files(files)} do not fit into"
            f" {size.format_size(wanted)}",
            status=USAGE,
            hint=f"the smallest possible size: -s {size.mebibytes(smallest)}"
            if smallest
            else "fewer files: -n",
        )


def take_over(whole: Ext3Image, descriptor: int, superblock: ext3.Superblock) -> None:
    """Give every file of a new image owner and time of the old one, and compare them.

    whole                   the old Image
    descriptor, superblock  of the new one, which nobody uses yet
    The namespace that the new one was written in knows one user only, and files that were
    made with --fakeroot belong to others. Raises OverlayError (DAMAGED) when a file is
    missing or has another mode, size or number of links.
    """
    old = Reader(whole.descriptor, whole.superblock)
    new = Reader(descriptor, superblock)
    top = {name for name, _number, _kind in new.entries(new.inode(ext3.ROOT_INODE))}
    if top != {b".", b"..", b"lost+found", b"upper", b"work"}:
        raise _differs(whole, b"/", "is not the same")
    owners: dict[int, tuple[int, int]] = {}
    times: dict[int, tuple[int, int]] = {}
    pending = [(old.upper(), new.upper())]
    saved = [one.lookup(_SAVED.encode()) for one in (old, new)]
    if saved[0] and saved[1] and saved[0][1].is_directory:
        pending.append((saved[0], saved[1]))
    while pending:
        (_number, before), (number, after) = pending.pop()
        owners[number] = (before.owner, before.group)
        theirs = {name: other for name, other, _kind in new.entries(after)}
        for name, other, _kind in old.entries(before):
            if name in (b".", b".."):
                continue
            one = old.inode(other)
            if name not in theirs:
                raise _differs(whole, name, "is missing")
            two = new.inode(theirs[name])
            same = one.mode == two.mode and (
                one.is_directory or (one.size, one.links) == (two.size, two.links)
            )
            if not same:
                raise _differs(whole, name, "is not the same")
            owners[theirs[name]] = (one.owner, one.group)
            times[theirs[name]] = (one.modify_time, one.nanoseconds)
            if one.is_directory:
                pending.append(((other, one), (theirs[name], two)))
    ext3_write.set_owners(descriptor, superblock, owners, (os.getuid(), os.getgid()))
    ext3_write.set_times(descriptor, superblock, times)


def _differs(whole: Ext3Image, name: bytes, what: str) -> OverlayError:
    return OverlayError(
        f"{quote(os.fsdecode(name))} of {quote(whole.path)} {what} in the new image; it is as it was",
        status=DAMAGED,
    )
