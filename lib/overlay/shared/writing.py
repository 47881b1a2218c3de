"""What a keeper does for an overlay that its session writes: before, between and after.

Whoever leaves is told whether the image still takes writes, and what they have written is on
the disk then: a file of ours in the image, beside what is seen inside, is synced, and with it
fuse2fs writes out all that it holds. The last is told what the look after a session finds.
"""

from __future__ import annotations

import errno
import os
import socket

from overlay.errors import quote, reason
from overlay.host import holders
from overlay.image import ext3, markers, record
from overlay.safety import finish
from overlay.shared.join import Calls, Door, Refused
from overlay.shared.outcome import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.launch.facts import Facts
    from overlay.launch.learned import Learned

# Why it takes none, where that helps.
_KNOWN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOTCONN)

_PROBE = "work/.overlay-shared"  # in the image, where the engine shows nothing of it


class Writing:
    """The first overlay of a session, and how it is looked after; in the keeper."""

    def __init__(self, facts: Facts, learned: Learned) -> None:
        first = facts.images[0]
        self._facts = facts
        self._learned = learned
        self._image = first.as_ext3() if first.can_be_unclean else None
        self._below = facts.images[1:]
        # The keeper stands in the root directory.
        self._base = os.path.abspath(facts.base)
        self._paths = [os.path.abspath(one.path) for one in facts.images]
        self._place: tuple[int, str] | None = None  # a server's number, and where it has mounted
        self._probe = -1

    def begin(self) -> None:
        """Note that a session begins; its locks are held."""
        for one, path in zip(self._facts.images, self._paths):
            one.path = path
        if self._learned.shared:
            from overlay.launch import shield  # of sessions in a group only

            shield.hand_over()
        image, facts = self._image, self._facts
        if image is not None:
            record.begin(
                image.descriptor,
                facts.environ,
                host=os.uname().nodename,
                stack=markers.stack_name(self._base, [one.path for one in self._below]),
                others=markers.last_second_of_others(image),
                image=self._base,
            )

    def started(self) -> None:
        """Open the file that is synced, when the session has started."""
        image = self._image
        if image is None:
            return
        for server in holders.holding(image.identity):
            if server.name == "fuse2fs" and server.arguments:
                self._place = server.pid, server.arguments[-1]
                self._probe = _opened_inside(*self._place)

    def ends(self) -> None:
        """Let go of it, before the session is ended."""
        if self._probe >= 0:
            os.close(self._probe)
            self._probe = -1
            assert self._place is not None
            _inside(*self._place, os.unlink)

    def look(self) -> Outcome:
        """Return what is to be told to who leaves while others go on."""
        found, image = Outcome(), self._image
        if image is None:
            return found
        path, why = quote(image.path), None
        try:
            if self._probe >= 0:
                os.fsync(self._probe)
            superblock = ext3.read_superblock(image.descriptor)
            why = finish.taken_away(image, superblock)
            if why is None and not self._is_told and finish.is_used_up(superblock):
                why = finish.used_up(path, superblock)
            elif why is not None:
                why = f"{path} {why}"
        except OSError as error:
            # fuse2fs has others as well, which mean nothing to anybody.
            known = f" ({reason(error)})" if error.errno in _KNOWN else ""
            why = (
                f"{path} takes no more writes{known}: what was written last may be lost; is there"
                " room on its disk, and in your quota?"
            )
        except ext3.FormatError as error:
            why = f"{path} is damaged: {error}"
        if why is not None:
            found.lost = True
            found.notice(why, "warning")
        return found

    @property
    def _is_told(self) -> bool:
        """Whether a write inside fails where the overlay is full."""
        return self._learned.launchers is not None

    def finish(self, broken: str | None) -> Outcome:
        """Look after the session, whose engine has ended; return what is to be told.

        broken  why it has ended too early, None when it has not
        """
        found, image, facts = Outcome(), self._image, self._facts
        if broken is not None:
            found.lost = True
            words = f"the session of {quote(self._paths[0])} ended before its commands"
            found.notice(f"{words}: {broken}; what they wrote last may be lost", "warning")
        refused = self._learned.stack and self._learned.stack.take_back()
        if refused:
            from overlay.launch.plan import NOT_APART

            found.notice(NOT_APART.format(refused), "warning")
        if image is not None:
            status = finish.finish(
                image,
                0,
                base=self._base,
                below=self._below,
                full_is_told=self._is_told,
                token=None,
                failed=facts.engine.failed,
                environ=facts.environ,
                output=found,
                program="run-overlay",
            )
            found.lost = found.lost or status != 0
        return found


def _opened_inside(pid: int, mounted: str) -> int:
    """Open the file of ours in an image, in the namespaces of its server; -1 when that fails."""
    ours, theirs = socket.socketpair()

    def send(path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        socket.send_fds(theirs, [b"x"], [os.open(path, flags, 0o600)])

    with ours, theirs:
        if not _inside(pid, mounted, send):
            return -1
        _data, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
        return descriptors[0] if descriptors else -1


def _inside(pid: int, mounted: str, work: Callable[[str], object]) -> bool:
    """Do some work on the file of ours, in the namespaces of a server; return whether it went well.

    pid      its number
    mounted  where it has mounted the image
    work     called there, with the path of the file
    """
    child = os.fork()
    if child == 0:
        try:
            names = (f"/proc/{pid}/ns/{kind}" for kind in ("user", "mnt"))
            user, mount = (os.open(name, os.O_RDONLY | os.O_CLOEXEC) for name in names)
            if Door(Calls(), user, mount).go():
                work(f"{mounted}/{_PROBE}")
                os._exit(0)
        except (OSError, Refused):
            pass
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
