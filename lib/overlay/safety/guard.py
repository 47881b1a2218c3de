"""What stands between a session and somebody else's data: locks, and a look at the state.

acquire() is called between asking and launching. When all is well it costs a few system
calls; a second process is started only to repair an image that a killed session left.
"""

from __future__ import annotations

import os
import time

from overlay.errors import DAMAGED, IN_USE, NOT_ALLOWED, OverlayError, quote
from overlay.host import process
from overlay.image import ext3, lock, record
from overlay.image import image as images
from overlay.image.ext3_image import read_superblock
from overlay.image.kind import damaged
from overlay.image.layout import check_locked_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.settings.config import Config

_MANY_GROUPS = 64  # of an image whose bitmaps may take long: 8 GiB of blocks of 4096 bytes
_REPAIR_WAIT = 600  # seconds that others wait for a repair that is going on
_TOLD_AFTER = 2  # seconds of such a wait after which a line says so
_ENDING_WAIT = 120  # seconds that others wait for the end of what a killed session has left
_DRAIN_WAIT = 10  # seconds that a repair waits for those who wait for it to let go


class _Replaced(Exception):
    """The path leads to another file than before."""


def acquire(
    found: list[Image],
    writable: bool,
    *,
    config: Config,
    wait: float | None = None,
    notice: Callable[..., object] | None = None,
    session: bool = True,
) -> None:
    """Lock the overlays of a session and see that they are whole.

    found     list of Images in the order of the layers; one whose file was replaced is
              exchanged for a new Image
    writable  whether the first is to be written
    wait      seconds to wait for overlays in use; None not at all, infinity for ever
    notice    called with a line for the user, or that and its level
    session   whether it is for a session, which could wait for others
    The locks hold until the descriptors are closed, by exec's inheritance beyond this
    program. Raises OverlayError: IN_USE, DAMAGED, NOT_ALLOWED.
    """
    start = time.monotonic()
    deadline = None if wait is None else start + wait
    said = False
    while True:
        try:
            for number in range(len(found)):
                _acquire_one(found, number, writable and number == 0, config, notice)
            if said:
                for image in found:
                    lock.want_no_more(image.descriptor)
            if session and writable:
                read_ahead(found[0], notice)
            return
        except lock.Busy as busy:
            # Rarely needed.
            from overlay.safety.use import ask_to_let_go, in_use, is_freed, waiting_for

            held = busy.image
            assert held is not None  # _acquire_one() has set it
            # All are let go while we wait: two sessions that hold what the other wants
            # would wait for ever.
            for image in found:
                _release(image)
            if deadline is None or time.monotonic() >= deadline:
                # What is left of a killed session is soon ended, and no reason to fail.
                if time.monotonic() >= start + _ENDING_WAIT or not is_freed(held, busy):
                    raise in_use(held, busy, config.environ if session else None) from None
            else:
                if not said and notice:
                    notice(waiting_for(held.path))
                lock.want(held.descriptor)
                if not said:
                    ask_to_let_go(held)
                said = True
            time.sleep(lock.POLL)


def _acquire_one(
    found: list[Image],
    number: int,
    write: bool,
    config: Config,
    notice: Callable[[str], object] | None,
) -> None:
    """Lock one of some images and look at its state. Raises lock.Busy with .image set."""
    start, asked_again, said = time.monotonic(), False, False
    while True:
        image = found[number]
        try:
            _lock(image, write)
            if not image.is_clean:
                _release(image)
                if _repair(image.as_ext3(), config, notice):
                    continue
                # not clean, but seen to be safe to read; locked again
            check_locked_layout(image)
            return
        except _Replaced:
            image.close()
            found[number] = images.look(image.path, write=write)
        except lock.Busy as busy:
            # Somebody repairs it: that is soon over, and no reason to fail. That may have ended
            # between the two questions, so the first is asked once more.
            repairing = lock.repairing(image.descriptor)
            waited = time.monotonic() - start
            if (repairing or not asked_again) and waited < _REPAIR_WAIT:
                asked_again = not repairing
                if repairing and notice and not said and waited >= _TOLD_AFTER:
                    notice(f"waiting for {quote(image.path)}: somebody repairs it")
                    said = True
                time.sleep(lock.POLL if repairing else 0)
                continue
            busy.image, busy.writes = image, write
            raise


def read_ahead(image: Image, notice: Callable[..., object] | None, *, tables: bool = False) -> None:
    """Have the bitmaps of a large image in memory before a server or tool reads them one by one.

    tables  whether it will read the inode tables, too
    See safety.ahead.
    """
    if image.can_be_unclean and image.as_ext3().superblock.groups_count >= _MANY_GROUPS:
        from overlay.safety import ahead  # not needed for small ones

        ahead.read_ahead(image.as_ext3(), notice, tables=tables)


def _lock(image: Image, write: bool) -> None:
    """Take our lock, see that the engine's is free and the path still leads here."""
    image.lock(write)
    _check_replaced(image)
    try:
        image.read_again()
    except (ext3.FormatError, OSError) as error:
        raise damaged(image.path, error, None) from None


def _check_replaced(image: Image) -> None:
    try:
        status = os.stat(image.path)
    except OSError:
        raise _Replaced from None
    if (status.st_dev, status.st_ino) != image.identity:
        raise _Replaced


def _release(image: Image) -> None:
    """Let go of an image."""
    try:
        image.unlock()
    except OSError:
        pass  # there was no lock


def wait_for_end(image: Image) -> None:
    """Wait while what is left of a killed session is ended, or an engine or shared session ends."""
    from overlay.host import holders
    from overlay.safety.use import END_WAIT, ask_to_let_go

    ask_to_let_go(image)
    deadline = time.monotonic() + END_WAIT
    while time.monotonic() < deadline:
        if not holders.being_ended(image.identity):
            processes, left_behind = holders.users(image.identity)
            if left_behind or not processes:
                return
            if not all(one.is_server or one.is_shared for one in processes):
                return
        time.sleep(0.02)


def _repair(
    image: Ext3Image,
    config: Config,
    notice: Callable[[str], object] | None,
) -> bool:
    """Repair an image that is not clean. Returns False when it may be read as it is.

    One of many sessions that start at once repairs, the others see Busy and wait.
    """
    from overlay.safety import repair  # not needed where all is clean

    path = quote(image.path)
    try:
        # What was looked at, whatever its name leads to by now.
        descriptor = os.open(f"/proc/self/fd/{image.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _read_as_it_is(image, config.environ, notice)
    try:
        if not lock.take_repair(descriptor):
            raise lock.Busy(True)
        check_may_repair(image, config)
        _take_all_of_it(descriptor)
        superblock = read_superblock(image.path, descriptor)
        if superblock.is_clean:
            return True  # repaired by another session just before
        if notice:
            notice(f"{path} was left unclean by the session before: checking it")
        read_ahead(image, notice, tables=True)
        summary = repair.make_sound(image.path, descriptor, config.environ)
        if notice:
            for line in summary.split("\n"):
                notice(f"{path}: {line.strip()}")
    except ext3.FormatError as error:
        raise OverlayError(f"{path} is damaged: {error}", status=DAMAGED) from None
    finally:
        os.close(descriptor)
    return True


def _take_all_of_it(descriptor: int) -> None:
    """Lock an image whole, against sessions of ours and of the plain engine."""
    deadline = time.monotonic() + _DRAIN_WAIT
    while True:
        try:
            lock.take(descriptor, write=True)
            lock.take_engine(descriptor)
            return
        except lock.Busy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(lock.POLL / 4)


def check_may_repair(image: Image, config: Config) -> None:
    """Refuse a repair while a session on another host could be at work unseen.

    Raises OverlayError (IN_USE).
    """
    here = os.uname().nodename
    last = record.read(image.descriptor)
    if config["safety.trust_locks"] or last.get("host") == here:
        return
    from overlay.host import mounts  # not needed where all is clean

    mount = mounts.find(image.descriptor)
    if mount and mount.is_local:
        return
    who = record.describe(last)
    raise OverlayError(
        f"{quote(image.path)} was left unclean by the session before"
        + (f" ({who})" if who else "")
        + ", and whether one on another host still uses it cannot be seen from here",
        status=IN_USE,
        hint="when you are sure that no session uses it anywhere:"
        f" check-overlay --repair {quote(image.path)}",
    )


def _read_as_it_is(
    image: Ext3Image, environ: Mapping[str, str], notice: Callable[[str], object] | None
) -> bool:
    """Return False when an unclean image that we cannot repair may be read all the same.

    That is so when only its flag is wrong: e2fsck finds nothing, and no journal waits.
    """
    path = quote(image.path)
    superblock = image.superblock
    needs_more = superblock.incompatible & ext3.RECOVER
    if not needs_more and not superblock.read_only_compatible & ext3.DIR_NLINK:
        from overlay.safety import repair  # not needed where all is clean

        program = process.which("e2fsck", environ)
        if program and repair.is_sound(program, image.descriptor, environ, sums=False):
            lock.take(image.descriptor, write=False)
            if notice:
                notice(f"{path} was left unclean by its last session, but no damage was found")
            return False
    raise OverlayError(
        f"{path} was left unclean by its last session, and it is not yours to repair",
        status=NOT_ALLOWED,
        hint=ask_owner(image.path),
    )


def ask_owner(path: str) -> str:
    """Return the hint for an overlay that only its owner may repair."""
    return f"ask its owner to type: check-overlay {quote(path)}"


def repaired_first(path: str) -> str:
    """Return the line of a dry run for an overlay that would be repaired."""
    return f"{quote(path)} is not clean, and is repaired first"


def may_not_write(path: str) -> OverlayError:
    """Return the error for an overlay that the caller may only read."""
    return OverlayError(f"you may not write {quote(path)}", status=NOT_ALLOWED)


def open_whole(path: str) -> Ext3Image:
    """Return an Image that the caller may write, locked against every session.

    For commands that change an image itself. Raises OverlayError: IN_USE, NOT_ALLOWED, and
    what images.look() raises.
    """
    looked = images.look(path, write=True)
    try:
        image = looked.as_ext3()
        if not image.writable:
            raise may_not_write(path)
        try:
            image.lock_whole()
        except lock.Busy as busy:
            from overlay.safety.use import in_use, is_freed

            if is_freed(image, busy):
                wait_for_end(image)
                raise _Replaced from None
            raise in_use(image, busy) from None
        _check_replaced(image)
        image.read_again()
        return image
    except _Replaced:
        looked.close()
        return open_whole(path)
    except (ext3.FormatError, OSError) as error:
        looked.close()
        raise damaged(path, error, None) from None
    except BaseException:
        looked.close()
        raise
