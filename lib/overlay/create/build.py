"""Filling a new overlay with what a file of commands makes, run in the base image."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
import time

from overlay.create.allowance import NO_ROOM, Allowance, check_room, no_room
from overlay.create.workplace import was_changed
from overlay.errors import CANNOT_CREATE, INTERRUPTED, OverlayError, quote, reason
from overlay.host import ending, foreground, namespace, private, process, upgrade
from overlay.host.scratch import can_execute
from overlay.image.partial import is_partial, partial_name
from overlay.launch import engines
from overlay.launch.facts import check_memory, gather
from overlay.launch.learned import learn
from overlay.launch.plan import make_plan
from overlay.launch.request import Overlay, Session, find_container, read_input
from overlay.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from overlay.create.workplace import Workplace
    from overlay.output import Output
    from overlay.settings.config import Config

_LOG = "user.overlay.log"  # the attribute of a log that a build has made
_UNUSED = 7 * 86400  # seconds after which an unpacked base image is removed


class Build:
    """Commands that fill a new overlay, in the base image, with the Workplace as their overlay.

    Over an unpacked base image and a directory, both on a local disk, the engine takes the
    kernel's overlayfs: files are made there as fast as on the disk itself.

    commands   the path of the file of them
    container  name or path of the base image, None for the site's
    binds      what is bound, as the engine takes it
    """

    __slots__ = ("binds", "commands", "container")

    def __init__(
        self, commands: str, container: str | None = None, binds: Iterable[str] = ()
    ) -> None:
        self.commands = commands
        self.container = container
        self.binds = list(binds)

    def steps(
        self, workplace: Workplace, config: Config, path: str | None, output: Output
    ) -> list[Step]:
        """Return the Steps that run the commands; what they print goes to a log, too.

        path  of the new overlay as it was given: the log lies beside it
        Doing them raises OverlayError when a command fails.
        """
        check_memory()
        base: str = find_container(self.container, config)
        if not os.path.isdir(base):
            base = os.path.realpath(base)  # a link may lead to another image meanwhile
        place = unpacked_name(base, workplace)
        log = self._log_name(path)
        binds = [word for bind in self.binds for word in ("-b", bind)]
        words = ["run-overlay", "-o", workplace.path, "-c", place, *binds, "-f", self.commands]
        steps = [] if place == base else unpacking(base, workplace, config, output)
        return [
            *steps,
            Step(
                words,
                action=lambda: self._run(place, workplace, config, log, output),
                why=f"what the commands print goes to {quote(log)}, too, until they have ended well",
            ),
            Step(
                action=lambda: _settle(workplace.path, place),
                why="what the kernel has noted of replaced directories is written as an image has it",
            ),
        ]

    def base(self, workplace: Workplace, config: Config) -> str:
        """Return where the base image lies unpacked, once the Steps are done."""
        base: str = find_container(self.container, config)
        return base if os.path.isdir(base) else unpacked_name(os.path.realpath(base), workplace)

    def text(self) -> bytes | None:
        """Return the commands; None where they cannot be read again, from a pipe."""
        try:
            with open(self.commands, "rb") as file:
                return file.read() if os.path.isfile(self.commands) else None
        except OSError:
            return None

    def _log_name(self, path: str | None) -> str:
        if path is None:
            return os.path.basename(self.commands) + ".log"
        return os.path.splitext(path)[0] + ".log"

    def _run(
        self, base: str, workplace: Workplace, config: Config, log: str, output: Output
    ) -> None:
        """Run the commands over an unpacked base image. Raises OverlayError when one fails."""
        request = Session(
            [Overlay(workplace.path, "rw")],
            container=base,
            binds=self.binds,
            commands=self.commands,
            program=output.program,
        )
        log = os.path.abspath(log)
        found = gather(request, config)
        try:
            commands = read_input(found.commands, output.notice)
            plan = make_plan(request, config, found, learn(request, found, commands=commands))
            with new_log(log) as file:
                log = file.name
                output.notice(
                    f"running the commands of {quote(self.commands)};"
                    f" what they print goes to {quote(log)}, too"
                )
                keep = [one.descriptor for one in found.images]
                status = plan.do(
                    lambda _final: foreground.stay(plan.final, config.environ, file, keep, _prepare)
                )
        except OSError as error:
            raise OverlayError(
                f"cannot write {quote(log)}: {reason(error)}", status=CANNOT_CREATE
            ) from None
        finally:
            found.close()
        self._see(status, log, workplace.scratch, "bash" in found.lacking)
        os.unlink(log)

    def _see(self, status: int, log: str, scratch: str, without_bash: bool) -> None:
        """Raise what the status of the commands means, when it is not 0.

        without_bash  whether the base image seems to have none
        """
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status in (-1, -15):  # we got the signal, too, and handed it on
            raise ending.cleaning_up.Ended(-status)
        if status:
            ended = f"status {status}" if status > 0 else f"signal {-status}"
            hint = see(log)
            if without_bash:
                ended += ": the base image seems to have no bash"
                hint = "choose one that has: -c NAME-or-PATH"
            elif Allowance(scratch).is_used_up:
                ended += f", and {quote(scratch)} is full"
                hint = private.HINT
            raise OverlayError(
                f"the commands of {quote(self.commands)} ended with {ended}; no overlay was made",
                status=CANNOT_CREATE if status != INTERRUPTED else INTERRUPTED,
                hint=hint,
            )


def _prepare() -> None:
    """Hold what will be needed when the commands have ended: all of this version."""
    upgrade.hold()
    namespace.script()


def see(log: str) -> str:
    """Return the hint that names a log."""
    return f"see what they printed: less {quote(log)}"


def new_log(path: str) -> BinaryIO:
    """Open the log of a build, empty, with a number behind its name when that is another file's.

    It is for nobody else: what commands print may hold what is not for others, as an address
    with a password.
    The log that an earlier build has left is taken anew: it is marked as ours, and nobody writes it.
    Raises OSError.
    """
    for number in itertools.count(1):
        name = path if number == 1 else f"{path}.{number}"
        with contextlib.suppress(FileExistsError):
            file = open(name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600))
            with contextlib.suppress(OSError):  # no attributes here: it is never taken anew
                os.setxattr(file.fileno(), _LOG, b"")
            fcntl.flock(file, fcntl.LOCK_EX)
            return file
        old = _old_log(name)
        if old is not None:
            return old
    raise AssertionError("no name is free")


def _old_log(name: str) -> BinaryIO | None:
    """Open a log that an earlier build of ours has left, empty; None when it is not such a one."""
    try:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = open(name, "wb", opener=lambda path, _flags: os.open(path, flags))
    except OSError:
        return None
    try:
        status = os.fstat(file.fileno())
        os.getxattr(file.fileno(), _LOG)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
            file.truncate(0)
            os.fchmod(file.fileno(), 0o600)
            return file
    except OSError:
        pass
    file.close()
    return None


def unpacked_name(base: str, workplace: Workplace) -> str:
    """Return the directory with the content of a base image, unpacked once a node and user.

    Known by the image's identity, and the caller's group, to whom it belongs.
    """
    if os.path.isdir(base):
        return base
    name = f"{private.identity(os.stat(base))}.{os.getegid()}"
    return os.path.join(private.name(workplace.scratch), "base", name)


def unpacking(base: str, workplace: Workplace, config: Config, output: Output) -> list[Step]:
    """Return the Steps that see that a base image is unpacked, or used now.

    What killed runs have left, and what was not used for long, is removed first.
    """
    place = unpacked_name(base, workplace)
    parent = os.path.dirname(place)
    tidy = Step(
        ["mkdir", "-p", parent],
        action=lambda: _tidy(workplace, parent),
        why="where base images are unpacked; those that nobody has used for a week go",
    )
    if os.path.isdir(place) and os.stat(place).st_mtime >= time.time() - _UNUSED:
        words, why = ["touch", place], "the unpacked base image is in use"
    else:
        engine = engines.find(config["engine.commands"], config.environ)
        words, _variables = engine.unpack(base, place, parent)
        why = "once on this node"
    return [
        tidy,
        Step(words, action=lambda: _unpack(base, place, workplace, config, output), why=why),
    ]


def _tidy(workplace: Workplace, parent: str) -> None:
    """Make the directory for unpacked base images, and remove from it what is not needed."""
    try:
        private.make(workplace.scratch)
        os.makedirs(parent, exist_ok=True)
        _remove_unfinished(parent, workplace)
    except OSError as error:
        raise OverlayError(
            f"cannot use {quote(parent)}: {reason(error)}",
            status=CANNOT_CREATE,
            hint=private.HINT,
        ) from None


def _unpack(base: str, place: str, workplace: Workplace, config: Config, output: Output) -> None:
    """Unpack a base image in a directory of this process, which then gets its name.

    Not where that is there already. Two builds at once do no harm: the first is taken.
    Raises OverlayError (CANNOT_CREATE).
    """
    if os.path.isdir(place):
        os.utime(place)  # it is in use, and not to be removed
        return
    engine = engines.find(config["engine.commands"], config.environ)
    output.notice(f"unpacking the base image {quote(base)} (once on this node)")
    partial = partial_name(place, workplace.host, workplace.pid)
    tree = os.path.join(partial, "tree")
    # The engine's own temporary files go there too: it leaves them behind when it is killed.
    words, own = engine.unpack(base, tree, partial)
    try:
        os.mkdir(partial, 0o700)
        if not can_execute(partial):
            raise OverlayError(
                f"no base image can be unpacked in {quote(workplace.scratch)}: programs may not be"
                " started there (it is mounted noexec)",
                status=CANNOT_CREATE,
                hint=private.HINT,
            )
        result = process.ask(words, {**config.environ, **own}, None)
        if result.status:
            check_room(result.errors)
            why = process.last_line(result.errors)
            raise OverlayError(
                f"cannot unpack the base image {quote(base)}: {why}", status=CANNOT_CREATE
            )
        if unpacked_name(base, workplace) != place:
            raise was_changed(f"the base image {quote(base)}")
        try:
            os.utime(tree)  # the image's own time would be old
            os.rename(tree, place)
        except OSError:
            if not os.path.isdir(place):  # else another build was first
                raise
    except OSError as error:
        if error.errno in NO_ROOM:
            task = f"unpack the base image {quote(base)}"
            raise no_room(task, workplace.scratch, error) from None
        raise OverlayError(
            f"cannot unpack the base image {quote(base)}: {reason(error)}", status=CANNOT_CREATE
        ) from None
    finally:
        private.remove(partial)


def _remove_unfinished(parent: str, workplace: Workplace) -> None:
    """Remove what killed runs of this host have begun to unpack, and images not used for long.

    Of those, programs that tidy by age (tmpfiles.d(5)) may have taken a part already.
    """
    prefix = partial_name("", workplace.host, "")
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        unfinished = is_partial(name)
        pid = name[len(prefix) :].partition("-")[0]
        killed = name.startswith(prefix) and not os.path.exists(f"/proc/{pid}")
        if not unfinished and os.stat(path).st_mtime < time.time() - _UNUSED:
            # Not under its name: a run that is killed meanwhile would leave a part of it, as new.
            old = f"{partial_name(path, workplace.host, workplace.pid)}-{os.urandom(4).hex()}"
            os.rename(path, old)
            private.remove(old)
        elif killed:
            private.remove(path)


def _settle(staging: str, base: str) -> None:
    """Make of the kernel's overlay directory what reads the same in an image.

    A directory that replaces one of the base image is marked by an attribute that counts in
    no image; the file that fuse-overlayfs knows says the same. In all other directories
    the attribute means nothing.
    """
    work = os.path.join(staging, "work")
    for name in os.listdir(work):
        os.chmod(os.path.join(work, name), 0o700)
        private.remove(os.path.join(work, name))
    upper = os.path.join(staging, "upper")
    for directory, names, _files in os.walk(upper):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            below = os.path.join(base, os.path.relpath(path, upper))
            try:
                opaque = os.getxattr(path, "user.overlay.opaque") == b"y"
                if opaque:
                    os.removexattr(path, "user.overlay.opaque")
            except OSError:
                continue
            if opaque and os.path.isdir(below) and not os.path.islink(below):
                with open(os.path.join(path, ".wh..wh..opq"), "xb"):
                    pass
