"""Overlays brought up to date: commands work on a copy, which takes the overlay's place when it is right.

Who reads goes on with the old one, which keeps a name: NAME.~1~, as cp --backup=numbered calls them.
The copy lies on a disk of the node, where thousands of small operations cost least.
"""

from __future__ import annotations

import os
import shlex
import time

from overlay import __version__, size
from overlay.change import resize
from overlay.create import build
from overlay.environment import history, note
from overlay.errors import CANNOT_CREATE, IN_USE, NOT_ALLOWED, OverlayError, quote, reason
from overlay.host import ending, permissions, private, process
from overlay.host.room import free_bytes
from overlay.host.scratch import scratch_directory
from overlay.image import image as images
from overlay.image import lock
from overlay.image.magic import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from overlay.launch.request import Overlay, Session
from overlay.launch.run import run
from overlay.safety import blocks, guard, repair, replace, stale
from overlay.safety import versions as versions_of
from overlay.safety.use import in_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.output import Output
    from overlay.settings.config import Config

    Amount = Callable[[int], int]  # from what there is to what there is to be

# Bytes that a copy may grow by while the commands work, beside what is in it.
_GROWTH = 1 << 28

_MARGIN = 1 << 16  # bytes that are left free beside a history that is written anew


class Updating:
    """One update of one overlay, which stays as it is until the copy is right."""

    def __init__(self, path: str, config: Config, output: Output, wait: float | None) -> None:
        """Open the overlay, as one of its readers. Raises OverlayError.

        wait  seconds to wait for a session that writes it; None not at all
        """
        self._config = config
        self._output = output
        self._scratch = scratch_directory(config)
        found = [images.look(path, write=True)]
        try:
            guard.acquire(
                found,
                False,
                config=config,
                environ=config.environ,
                wait=wait,
                notice=output.notice,
            )
            self._old = found[0].as_ext3(
                "only ext3 images are updated",
                f"make an ext3 one of it: create-overlay --from {quote(path)} -o NAME",
            )
            _check_own(self._old)
            _take_update(self._old, wait)
            # The plain engine, too, may read it now, and not write.
            try:
                lock.take_engine(self._old.descriptor, write=False)
            except lock.Busy as busy:
                raise in_use(self._old, busy) from None
            self._path = os.path.realpath(path)
            replace.check_names(self._path, self._old.status)
            self._stamp = _stamp(self._old)
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
        more: tuple[Amount | None, Amount | None] = (None, None),
        versions: int,
        words: Sequence[str] = (),
    ) -> str:
        """Do it, and return the name that the version before has now.

        session   what runs in the copy; its overlays are set here
        more      what size and number of files are to be, from what they are; None as they are
        versions  how many of the versions before are kept
        words     the command line, for the history
        Raises OverlayError, and what ends the commands; the overlay is as it was then.
        """
        with ending.cleaning_up():
            stale.remove_stale(os.path.dirname(self._path), self._scratch)
            place = private.make_work(self._scratch, os.uname().nodename, os.getpid(), ".copy")
            try:
                copy = os.path.join(place, os.path.basename(self._path))
                self._copy(copy)
                self._resize(copy, more)
                self._run(session, copy)
                self._see(copy, session, words)
                return self._into_place(copy, versions)
            except OSError as error:
                raise self._failed(reason(error)) from None
            finally:
                private.leave(self._scratch, place)

    def _failed(self, why: str, hint: str | None = None) -> OverlayError:
        words = f"cannot update {quote(self._path)}: {why}; it is as it was"
        return OverlayError(words, status=CANNOT_CREATE, hint=hint)

    def _copy(self, copy: str) -> None:
        """Copy the blocks in use to the disk of the node."""
        needed = self._old.superblock.used_bytes + _GROWTH
        free = free_bytes(self._scratch)
        if needed > free:
            raise self._failed(
                f"{size.format_size(needed)} are needed in {quote(self._scratch)}, and"
                f" {size.format_size(free)} are free",
                "make room there, or set TMPDIR to a local directory with more",
            )
        self._output.notice(f"copying {quote(self._old.path)} to {quote(self._scratch)}")
        descriptor = replace.new_file(copy)
        try:
            blocks.copy(
                self._path, self._old.descriptor, descriptor, self._config.environ, sound=True
            )
            os.truncate(descriptor, self._old.status.st_size)
        finally:
            os.close(descriptor)

    def _resize(self, copy: str, more: tuple[Amount | None, Amount | None]) -> None:
        """Give the copy another size, and another number of files."""
        if more == (None, None):
            return
        whole = guard.open_whole(copy)
        try:
            size_now, files_now = resize.now(whole)
            wanted = more[0](size_now) if more[0] else size_now
            files = more[1](files_now) if more[1] else files_now
            work = resize.resizing(whole, wanted, files, self._config, self._output.notice)
            if work:
                work.do()
        finally:
            whole.close()

    def _run(self, session: Session, copy: str) -> None:
        """Run the commands in the copy. Raises OverlayError when they fail.

        What they print stays in a log then; a shell has none, its terminal is the user's.
        """
        request = session.over([Overlay(copy, "rw")], os.path.basename(self._path))
        if session.command is None and session.commands is None:
            self._output.notice("exit keeps what you do in this shell, exit 1 throws it away")
            self._ended(run(request, self._config, wait=None, output=self._output, replace=False))
            return
        name = os.path.basename(self._path) + ".log"
        with build.new_log(os.path.abspath(name)) as log:
            self._output.notice(f"what the commands print goes to {quote(log.name)}, too")
            status = run(
                request, self._config, wait=None, output=self._output, replace=False, log=log
            )
            self._ended(status, log.name)
        os.unlink(log.name)

    def _ended(self, status: int, log: str | None = None) -> None:
        """Raise what the status of the commands means, when it is not 0."""
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status:
            ended = f"status {status}" if status > 0 else f"signal {-status}"
            hint = log and build.see(log)
            raise self._failed(f"the commands ended with {ended}", hint)

    def _see(self, copy: str, session: Session, words: Sequence[str]) -> None:
        """Note in the copy that it was updated, and see that it is sound."""
        whole = guard.open_whole(copy)
        environ = self._config.environ
        try:
            _add_to_history(whole, session, words, os.path.dirname(copy), self._config)
            repair.make_sound(copy, whole.descriptor, environ, full=True)
        finally:
            whole.close()

    def _into_place(self, copy: str, versions: int) -> str:
        """Write the copy back beside the overlay, and let it take the place."""
        old = self._old
        self._output.notice(f"writing {quote(old.path)}")
        source = os.open(copy, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            with replace.unfinished(self._path) as new:
                blocks.copy_sparse(source, new.descriptor)
                if old.status.st_blocks * 512 >= old.status.st_size:
                    length = os.fstat(source).st_size
                    blocks.reserve(
                        self._path,
                        new.descriptor,
                        length,
                        self._config.environ,
                        self._output.notice,
                        "update",
                    )
                if not _same(source, new.descriptor):
                    raise self._failed("what was written back is not what was read")
                if _stamp(old) != self._stamp:
                    raise self._failed("somebody has written to it meanwhile")
                kept = versions_of.keep(self._path, old.descriptor)
                try:
                    new.over(old.descriptor)
                except BaseException:
                    versions_of.let_go(kept, old.descriptor)
                    raise
        finally:
            os.close(source)
        versions_of.prune(self._path, versions)
        return kept


def _take_update(image: Ext3Image, wait: float | None) -> None:
    """Announce an update. Raises OverlayError (IN_USE) while there is another.

    wait  seconds to wait for its end; None not at all
    """
    start = time.monotonic()
    while not lock.take_update(image.descriptor):
        if wait is None or time.monotonic() - start >= wait:
            raise OverlayError(
                f"{quote(image.path)} is in use: an update of it is running",
                status=IN_USE,
                hint="wait for its end: --wait",
            )
        time.sleep(lock.POLL)


def _check_own(old: Ext3Image) -> None:
    """Refuse what could not keep its owner, or be written, before anything is done."""
    if not old.writable:
        raise guard.may_not_write(old.path)
    directory = os.path.dirname(os.path.realpath(old.path))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OverlayError(
            f"{quote(old.path)} cannot be updated: you may not create files in {quote(directory)}",
            status=NOT_ALLOWED,
            hint=f"see who may: ls -ld {quote(directory)}",
        )
    if old.status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise OverlayError(
            f"{quote(old.path)} cannot be updated: it is not yours, and the new one would be",
            status=NOT_ALLOWED,
            hint=f"ask its owner; or update a copy: cp --sparse=always {quote(old.path)} NAME",
        )
    if not old.upper_is_mine:
        why, hint = old.whose_inside()
        words = f"{quote(old.path)} cannot be updated: {why}"
        raise OverlayError(words, status=NOT_ALLOWED, hint=hint)


def _stamp(image: Ext3Image) -> tuple[int, bytes]:
    """Return what changes when anybody writes to an image."""
    superblock = os.pread(image.descriptor, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET)
    return os.fstat(image.descriptor).st_mtime_ns, superblock


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


def undo(path: str, output: Output) -> str:
    """Put the last version that was kept in the place of an overlay, which takes its name.

    Return that name. Raises OverlayError: CANNOT_CREATE when there is none.
    """
    whole = os.path.realpath(path)
    images.look(path).close()
    found = versions_of.kept(whole) or versions_of.named(whole)
    if not found:
        raise _no_version(path)
    version = images.look(found[-1])  # what is not an overlay does not take the place of one
    try:
        image = images.look(path, write=True)
        try:
            _put_back(image, version, whole)
        finally:
            image.close()
    finally:
        version.close()
    output.notice(f"what it was until now is {quote(found[-1])}")
    return found[-1]


def _put_back(image: Image, version: Image, whole: str) -> None:
    """Put a version in the place of an overlay. Raises OverlayError.

    image    the overlay
    version  what takes its place; nobody gets to read it by that who could not before
    whole    the path of the overlay, absolute, without links
    """
    _check_own(image.as_ext3())
    try:
        image.lock(False)
    except lock.Busy as busy:
        raise in_use(image, busy) from None
    _take_update(image.as_ext3(), None)
    try:
        # Who else may read it is what it is by now.
        access = permissions.Access(version.descriptor)
        os.fchmod(version.descriptor, version.status.st_mode & 0o700)
        replace.keep_attributes(image.descriptor, version.descriptor, made_of=[access])
        replace.exchange_known(whole, image.descriptor, version.path, version.descriptor)
    except (ImportError, AttributeError, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else "this system cannot do it"
        raise OverlayError(
            f"cannot exchange {quote(image.path)} and {quote(version.path)}: {why}",
            status=CANNOT_CREATE,
            hint=f"mv {quote(whole)} NAME; mv {quote(version.path)} {quote(whole)}",
        ) from None
    versions_of.mark(image.descriptor, True)
    versions_of.mark(version.descriptor, False)


def forget(path: str) -> list[str]:
    """Remove all versions that were kept of an overlay, and return their names.

    Raises OverlayError: CANNOT_CREATE when there are none.
    """
    whole = os.path.realpath(path)
    image = images.look(path, write=True)
    try:
        _check_own(image.as_ext3())
    finally:
        image.close()
    found = versions_of.kept(whole)
    if not found:
        raise _no_version(path)
    versions_of.prune(whole, 0)
    return found


def _no_version(path: str) -> OverlayError:
    return OverlayError(
        f"no version before is kept of {quote(path)}",
        status=CANNOT_CREATE,
        hint="update-overlay keeps one at each update",
    )


# ----------------------------------------------------------------------- history --


def _add_to_history(
    whole: Ext3Image, session: Session, words: Sequence[str], place: str, config: Config
) -> None:
    """Add an entry to the history of an image that carries one.

    place  a private directory for what debugfs(8) writes into the image
    """
    recipe = None
    if session.commands is not None and os.path.isfile(session.commands):
        with open(session.commands, "rb") as file:
            recipe = file.read()
    elif session.command is not None:
        recipe = (shlex.join(session.command) + "\n").encode(errors="surrogateescape")
    entry = history.entry("update", __version__, command=words, recipe=recipe)
    lines = []
    room = whole.superblock.available_bytes
    for name, (number, entries) in history.read(whole).items():
        # An overlay that is full keeps the history that it has.
        if number <= history.FORMAT and room > len(history.data([*entries, entry])) + _MARGIN:
            lines += _rewritten(name, [*entries, entry], place)
    if lines:
        program = process.need("debugfs", config.environ)
        words_: list[str | int] = [program, "-w", "-f", "-", whole.descriptor]
        process.run(words_, config.environ, text="".join(lines))


def _rewritten(id_: str, entries: list[dict[str, Any]], place: str) -> list[str]:
    """Return the lines for debugfs that write a history anew."""
    file = os.path.join(place, id_)
    with open(file, "xb") as new:
        new.write(history.data(entries))
    inside = f"upper{note.path(id_, history.NAME)}"
    return [
        f"rm {inside}\n",
        f'write "{file}" {inside}\n',
        f"sif {inside} uid {os.getuid()}\n",
        f"sif {inside} gid {os.getgid()}\n",
        f"sif {inside} mode 0100644\n",
    ]
