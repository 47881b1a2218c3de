"""Overlays brought up to date: commands work on a copy, which takes the overlay's place when it is right.

Who reads goes on with the old one, which keeps a name: NAME.~1~, as cp --backup=numbered calls them.
The copy lies on a disk of the node, where thousands of small operations cost least; where that has
no room, beside the overlay.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shlex

from overlay import __version__, size
from overlay.change import carry
from overlay.change.naming import Naming
from overlay.change.permitted import check_own, take_update
from overlay.change.refresh import Refresh
from overlay.change.working import copying, working
from overlay.create import build
from overlay.create.policy import room_for
from overlay.environment import history
from overlay.errors import CANNOT_CREATE, DAMAGED, OverlayError, quote, reason
from overlay.host import ending, private, process
from overlay.host.room import free_bytes
from overlay.host.scratch import scratch_directory
from overlay.image import image as images
from overlay.image import lock
from overlay.image.magic import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from overlay.launch.facts import check_memory, gather
from overlay.launch.request import Overlay, Session
from overlay.launch.run import run
from overlay.safety import blocks, guard, repair, replace, stale, stripes
from overlay.safety import versions as versions_of
from overlay.safety.use import in_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, BinaryIO

    from overlay.change.working import More, Working
    from overlay.environment.base import Base
    from overlay.image.kind import Image
    from overlay.output import Output
    from overlay.safety.replace import Unfinished
    from overlay.settings.config import Config


class Outcome:
    """What came of an update.

    changed  whether anything was changed; else the overlay is what it was
    before   the name that the version before has now; None: it has none
    """

    __slots__ = ("before", "changed")

    def __init__(self, changed: bool, before: str | None = None) -> None:
        self.changed = changed
        self.before = before


class Updating:
    """One update of one overlay, which stays as it is until the copy is right."""

    def __init__(
        self,
        path: str,
        config: Config,
        output: Output,
        wait: float | None,
        more: More = (None, None),
    ) -> None:
        """Open the overlay, as one of its readers. Raises OverlayError.

        wait  seconds to wait for a session that writes it; None not at all
        more  what size and number of files are to be, from what they are; None as they are
        """
        self._config = config
        self._output = Naming(output)
        self._scratch = scratch_directory(config)
        found = [images.look(path, write=True)]
        try:
            guard.acquire(
                found,
                False,
                config=config,
                wait=wait,
                notice=output.notice,
            )
            self._old = old = found[0]
            self._path = os.path.realpath(path)
            self._output.name(f"/proc/self/fd/{old.descriptor}", path)
            self._working: Working = working(old, more, config, self._output)
            check_own(old)
            take_update(old, wait)
            if not old.is_compressed:
                # The plain engine, too, may read it now, and not write.
                try:
                    lock.take_engine(old.descriptor, write=False)
                except lock.Busy as busy:
                    raise in_use(old, busy) from None
            versions_of.tidy(self._path)
            replace.check_names(self._path, os.fstat(old.descriptor))
            self._stamp = _stamp(old)
        except BaseException:
            found[0].close()
            raise

    def close(self) -> None:
        """Let go of the overlay."""
        self._old.close()

    def do(
        self,
        session: Session,
        *,
        versions: int,
        words: Sequence[str] = (),
        activate: Sequence[str] | None = None,
    ) -> Outcome:
        """Do it, and return what came of it.

        session   what runs in the copy; its overlays are set here
        versions  how many of the versions before are kept
        words     the command line, for the history
        activate  directories inside that are ready from now on; None: what was, see Refresh
        Raises OverlayError, and what ends the commands; the overlay is as it was then.
        """
        with ending.cleaning_up(), self._told():
            stale.remove_stale(os.path.dirname(self._path), self._scratch)
            self._check(session)
            scratch = self._choose_place()
            place = private.make_work(scratch, os.uname().nodename, os.getpid(), ".copy")
            try:
                copy = os.path.join(place, _image_name(self._path))
                self._name(copy)
                self._output.notice(f"copying {quote(self._old.path)} to {quote(scratch)}")
                self._working.make(copy, scratch)
                # Open all the while: so fsync(2) tells of whatever could not be written to it.
                with open(copy, "rb+", buffering=0) as held:
                    ready = Refresh(copy, self._old.path, session, self._config, self._output)
                    with self._being_synced(held.fileno()):
                        self._run(session, copy)
                    if not os.path.exists(copy):
                        why = f"something has removed its copy in {quote(scratch)}"
                        raise self._failed(why, private.HINT)
                    ready.do(activate)
                    if self._working.is_unchanged(copy):
                        return Outcome(False)
                    entry = _entry(session, words, ready.base)
                    return Outcome(True, self._end(held.fileno(), copy, scratch, entry, versions))
            finally:
                private.leave(scratch, place)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Give a context in which errors name the overlay, and what the system refuses is one."""
        try:
            yield
        except OSError as error:
            raise self._failed(reason(error)) from None
        except OverlayError as error:
            raise self._output.told(error) from None

    def _name(self, copy: str) -> None:
        """Let what is said of the copy be said of the overlay, and what would mend it, mend that."""
        path, here, name = quote(self._old.path), quote(copy), self._output.name_words
        for words in ("is sparse", "was not closed", "could not be"):
            name(f"{here} {words}", f"the copy of {path} {words}")
        larger = private.HINT if self._old.is_compressed else f"update-overlay {path} -s +SIZE"
        name(f"resize-overlay {here} -s +SIZE", larger)
        name(f"check-overlay {here}", "the same line once more")
        self._output.name(copy, self._old.path)

    @contextlib.contextmanager
    def _being_synced(self, file: int) -> Iterator[None]:
        """Give a context in which what has been written to an open file goes to its disk."""
        program = process.which("sync", self._config.environ)
        with contextlib.ExitStack() as stack:
            if program:
                stack.enter_context(process.Beside([program, "-d", file], self._config.environ))
            yield

    def _check(self, session: Session) -> None:
        """Refuse what no session could begin with before anything is copied. Raises OverlayError."""
        check_memory()
        gather(session.over([Overlay(self._old.path, "ro")], None), self._config).close()

    def _failed(self, why: str, hint: str | None = None) -> OverlayError:
        words = f"cannot update {quote(self._old.path)}: {why}; it is as it was"
        return OverlayError(words, status=CANNOT_CREATE, hint=hint)

    def _choose_place(self) -> str:
        """Return the directory in whose own of ours the copy is to lie, where there is room.

        Raises OverlayError when there is none for it, or for the new one beside the old.
        """
        directory, needed = os.path.dirname(self._path), self._working.needed
        free = free_bytes(self._scratch)
        if needed <= free:
            self._check_room(self._working.taken)
            return self._scratch
        why = f"{size.format_size(needed)} are needed in {quote(self._scratch)}, and"
        why += f" {size.format_size(free)} are free"
        rule = private.others_rule(directory)
        if rule:
            raise self._failed(f"{why}; and not beside it: {rule}", private.HINT)
        self._check_room(max(needed, self._working.taken), why)
        self._output.notice(f"{why}: working beside it, in {quote(directory)}")
        return directory

    def _check_room(self, now: int, why: str | None = None) -> None:
        """See that so many bytes have room beside the overlay: they count as the user's.

        why  why no room elsewhere will do
        """
        path = quote(self._old.path)
        room = room_for(self._path, self._config)
        if room is None:
            return
        try:
            lines = room.check(now_bytes=now, full_bytes=max(now, self._working.full), files=1)
        except OverlayError as error:
            error.what = error.what.replace("the overlay", f"a second {path}", 1)
            if why:
                error.what = f"{why}; {error.what}"
            error.hint = self._config["quota.hint"] or (
                f"make room there; what versions before take: show-overlay {path}"
            )
            raise
        for line in lines:
            self._output.notice(line, "warning")

    def _run(self, session: Session, copy: str) -> None:
        """Run the commands in the copy. Raises OverlayError when they fail.

        What they print stays in a log then; a shell has none, its terminal is the user's.
        """
        request = session.over([Overlay(copy, "rw")], os.path.basename(self._path))
        request.unsynced = True
        config, output = self._config, self._output
        if session.command is None and session.commands is None:
            output.notice("exit keeps what you do in this shell, exit 1 throws it away")
            self._ended(run(request, config, wait=None, output=output, replace=False))
            return
        with self._log() as log:
            output.notice(f"what the commands print goes to {quote(log.name)}, too")
            try:
                status = run(request, config, wait=None, output=output, replace=False, log=log)
            except OverlayError:
                os.unlink(log.name)  # nothing was run
                raise
            self._ended(status, log.name)
        os.unlink(log.name)

    def _log(self) -> BinaryIO:
        """Open the log, in the current directory or beside the overlay. Raises OSError."""
        name = os.path.basename(self._path) + ".log"
        try:
            return build.new_log(os.path.abspath(name))
        except OSError:
            return build.new_log(self._path + ".log")

    def _ended(self, status: int, log: str | None = None) -> None:
        """Raise what the status of the commands means, when it is not 0."""
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status:
            ended = f"status {status}" if status > 0 else f"signal {-status}"
            hint = log and build.see(log)
            raise self._failed(f"the commands ended with {ended}", hint)

    def _end(
        self, held: int, copy: str, scratch: str, entry: dict[str, Any], versions: int
    ) -> str | None:
        """Let the copy take the place of the overlay; return the old one's name now, or None.

        held  the open file that it is
        What the commands have made is not thrown away when that cannot be done: see _keep().
        """
        finished = None
        try:
            with self._being_synced(held):
                self._see(copy, entry)
            os.fsync(held)
            finished = self._working.finish(copy, scratch)
            return self._into_place(finished, versions)
        except _KeptApart:
            raise
        except (OverlayError, OSError) as error:
            raise self._keep(scratch, copy, finished, error) from None

    def _keep(
        self, scratch: str, copy: str, finished: str | None, why: OverlayError | OSError
    ) -> OverlayError:
        """Keep what the commands have made; return the error that names it, and the way on.

        copy      the image that they worked in
        finished  what was to take the place of the overlay, where it was come to that
        """
        error = why if isinstance(why, OverlayError) else self._failed(reason(why))
        self._output.told(error)
        base = os.path.basename(finished or copy)
        try:
            kept = os.path.join(private.keep(scratch, os.path.dirname(finished or copy)), base)
        except OSError:
            return error
        error.what += f"; what the commands made is kept: {quote(kept)}"
        path = quote(self._old.path)
        stem, end = os.path.splitext(self._old.path)
        new = f"{stem}.updated{end}"
        if os.stat(kept).st_dev == os.stat(os.path.dirname(self._path)).st_dev and finished:
            line = f"mv --backup=numbered {quote(kept)} {path}"
        else:
            made = copying(kept, new) if finished else self._working.line(kept, new)
            line = f"{made} && mv --backup=numbered {quote(new)} {path}"
        if error.status == DAMAGED:
            line = f"check-overlay --repair {quote(kept)} && {line}"
        gone = f"rm -r {quote(os.path.dirname(kept))}"
        error.hint = f"when there is room: {line}; when it is not needed: {gone}"
        return error

    def _see(self, copy: str, entry: dict[str, Any]) -> None:
        """Note in the copy that it was updated, and see that it is sound."""
        whole = guard.open_whole(copy)
        environ = self._config.environ
        try:
            # Of a packed one it has what was added behind its end, too.
            files = carry.histories(self._old, entry)
            files = {path: data for path, data in files.items() if whole.holds(path)}
            if carry.has_room(whole, files):  # one that is full keeps the history that it has
                carry.write(whole, files, [], os.path.dirname(copy), environ)
            repair.make_sound(copy, whole.descriptor, environ, full=True)
        finally:
            whole.close()

    # -------------------------------------------------------------- into its place --

    def _into_place(self, finished: str, versions: int) -> str | None:
        """Let what was made take the place of the overlay; return the old one's name now, or None."""
        with self._beside(finished) as new:
            why = self._changed()
            if why is None:
                try:
                    kept = self._exchange(new)
                except (OverlayError, FileNotFoundError):
                    why = self._changed()
                    if why is None:
                        raise
            if why is not None:
                raise self._kept_apart(new, why)
        versions_of.prune(self._path, versions)
        return kept

    @contextlib.contextmanager
    def _beside(self, finished: str) -> Iterator[Unfinished]:
        """Give what was made as an unfinished file beside the overlay, all of it written."""
        old, status = self._old, self._old.status
        with contextlib.ExitStack() as stack:
            source = os.open(finished, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, source)
            new = stack.enter_context(self._new(source, finished))
            if not old.is_compressed and status.st_blocks * 512 >= status.st_size:
                blocks.reserve(
                    self._path,
                    new.descriptor,
                    os.fstat(source).st_size,
                    self._config.environ,
                    self._output.notice,
                    "update",
                )
            self._working.note(source, new.descriptor)
            os.fsync(new.descriptor)
            yield new

    @contextlib.contextmanager
    def _new(self, source: int, finished: str) -> Iterator[Unfinished]:
        """Give the unfinished file: what was made itself, or a copy on another file system.

        source  the open file at finished
        """
        with contextlib.ExitStack() as stack:
            try:
                new = stack.enter_context(replace.adopted(self._path, finished))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                new = None
            if new is None:
                self._output.notice(f"writing {quote(self._old.path)}")
                new = stack.enter_context(
                    replace.unfinished(
                        self._path, make=stripes.like(self._path, self._config.environ)
                    )
                )
                blocks.copy_data(source, new.descriptor)
                if not _same(source, new.descriptor):
                    raise self._failed("what was written back is not what was read")
            yield new

    def _exchange(self, new: Unfinished) -> str | None:
        """Put the new one in the place of the old one; return the name that this has now, or None."""
        kept = versions_of.keep(self._path, self._old.descriptor)
        if kept is None:  # there are no hard links
            kept = new.over(self._old.descriptor, kept=versions_of.new_names(self._path))
            if kept is not None:
                versions_of.mark(kept, self._old.descriptor)
            return kept
        try:
            new.over(self._old.descriptor)
        except BaseException:
            versions_of.let_go(kept, self._old.descriptor)
            raise
        return kept

    def _changed(self) -> str | None:
        """Return what others have done to the overlay meanwhile, in words; None when nothing."""
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return "it has been removed, or has another name, since the update began"
        if not os.path.samestat(status, os.fstat(self._old.descriptor)):
            return "another file has come into its place since the update began"
        if _stamp(self._old) != self._stamp:
            return "somebody has written to it since the update began"
        return None

    def _kept_apart(self, new: Unfinished, why: str) -> OverlayError:
        """Keep what was made under another name, and return the error that says so."""
        stem, end = os.path.splitext(self._path)
        for number in itertools.count(1):
            name = f"{stem}.updated{'' if number == 1 else number}{end}"
            if not os.path.lexists(name):
                break
        new.keep_as(os.path.basename(name))
        path, shown = quote(self._old.path), quote(os.path.relpath(name))
        return _KeptApart(
            f"{path} is not updated: {why}; the updated copy is {shown}",
            status=CANNOT_CREATE,
            hint=f"look at both; to take the copy: mv {shown} {path}",
        )


class _KeptApart(OverlayError):
    """The overlay was changed meanwhile; the new one has another name beside it."""


def _image_name(path: str) -> str:
    """Return the name of the ext3 image that is worked in."""
    return os.path.splitext(os.path.basename(path))[0] + ".ext3"


def _stamp(image: Image) -> tuple[int, int, bytes]:
    """Return what changes when anybody writes to an image."""
    superblock = os.pread(image.descriptor, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET)
    status = os.fstat(image.descriptor)
    return status.st_mtime_ns, status.st_size, superblock


def _same(one: int, other: int) -> bool:
    """Return whether two open files have the same content."""
    length = os.fstat(one).st_size
    if length != os.fstat(other).st_size:
        return False
    place, block = 0, 1 << 20
    while place < length:
        try:
            place = os.lseek(one, place, os.SEEK_DATA)
        except OSError:
            return True  # holes to its end, or a file system that knows none
        data = os.pread(one, block, place)
        if data != os.pread(other, len(data), place):
            return False
        place += len(data)
    return True


# ----------------------------------------------------------------------- history --


def _entry(session: Session, words: Sequence[str], base: Base | None) -> dict[str, Any]:
    """Return the entry of an update in the history."""
    recipe = None
    if session.commands is not None and os.path.isfile(session.commands):
        with open(session.commands, "rb") as file:
            recipe = file.read()
    elif session.command is not None:
        recipe = (shlex.join(session.command) + "\n").encode(errors="surrogateescape")
    return history.entry("update", __version__, command=words, recipe=recipe, base=base)
