"""The doctor on the engine, and on what it needs of the kernel."""

from __future__ import annotations

import errno
import os
import stat

from overlay.doctor import features
from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check, known_bad
from overlay.errors import OverlayError, quote, reason
from overlay.host import namespace, process
from overlay.host.tools import TOOLS
from overlay.launch import engines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node
    from overlay.launch import engine as launch
    from overlay.settings.config import Config


class Engine:
    """The engine here: its path, name and version, whether it is setuid, where its helpers are."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.found: launch.Engine | None = None
        self.setuid = False
        self.helpers: list[str] = []
        self.checks = list(self._look(config, environ))

    def _look(self, config: Config, environ: Mapping[str, str]) -> Iterator[Check]:
        why = "it runs the containers that overlays are laid over"
        try:
            self.found = engines.find(config["engine.commands"], environ)
            name, numbers = self.found.version(environ)
        except OverlayError as error:
            yield Check("engine", PROBLEM, error.what, why, error.hint)
            return
        self.helpers = self.found.libexec()
        self.setuid = self.found.is_setuid()
        version = ".".join(map(str, numbers))
        words = (
            f"{name} {version}, {quote(self.found.path)}{', setuid root' if self.setuid else ''}"
        )
        bad = known_bad(name, version)
        if bad and not (self.setuid and numbers < (1, 1)):
            yield Check("engine", bad[0], words, bad[1], bad[2])
        else:
            yield Check("engine", OK, words, why)
        own = any(
            os.access(f"{place}/{one}", os.X_OK)
            for place in self.helpers
            for one in ("fuse-overlayfs", "fuse2fs")
        )
        kind = features.kind(name, numbers, setuid=self.setuid, own_helpers=own)
        why = (
            "what these commands do beyond the engine is seen to work with some only: docs/admin.md"
        )
        yield Check("what is tried", OK, features.words(kind), why)
        way = self.found.launchers(environ)
        if way and (way.directory is None or namespace.available(environ)):
            return
        if self.helper("fuse-overlayfs", environ) and self.helper("fuse2fs", environ):
            yield Check(
                "engine's helpers",
                WARNING,
                "it starts its own fuse-overlayfs, which run-overlay cannot adjust",
                "a full overlay then shows when a file is closed, or never, and deleted files can"
                " show again in overlays that are read-only",
                "let it find fuse-overlayfs and fuse2fs in /usr/bin or /usr/local/bin; or, where"
                " it has some of its own, let users have namespaces (unshare --user"
                " --map-current-user), and no setuid root engine",
            )

    def helper(self, name: str, environ: Mapping[str, str]) -> str | None:
        """Return the path of a helper as the engine finds it: its own, or along PATH."""
        for place in self.helpers:
            if os.access(f"{place}/{name}", os.X_OK) and os.path.isfile(f"{place}/{name}"):
                return f"{place}/{name}"
        return process.which(name, environ)


def checks(node: Node) -> Iterator[Check]:
    """Yield the Checks of the engine."""
    yield from node.engine.checks


def or_warning(engine: Engine) -> str:
    """Return the state of what only an engine that is not setuid root cannot do without."""
    return WARNING if engine.setuid else PROBLEM


def namespaces(node: Node) -> Iterator[Check]:
    """Make a user namespace, by the kernel itself: the program for it may be what is missing."""
    why = "without root, the engine mounts in a user namespace"
    refused = _unshare()
    if refused is None:
        yield Check("user namespaces", OK, "one was made", why)
    else:
        yield Check(
            "user namespaces", or_warning(node.engine), f"refused: {refused}", why, _who_refuses()
        )
        return
    program = process.which("unshare", node.environ)
    if not program:
        return  # told among the programs
    result = process.ask([program, *namespace.OPTIONS, "true"], node.environ, PATIENCE)
    words = " ".join(namespace.OPTIONS)
    if result.status == 0:
        yield Check(
            "unshare options", OK, words, "the content of overlays is read in such a namespace"
        )
        return
    said = (result.errors.strip().splitlines() or [f"status {result.status}"])[0]
    yield Check(
        "unshare options",
        PROBLEM,
        f"{words}: {said}",
        "the content of overlays is read in such a namespace",
        f"install {TOOLS['unshare'].package} 2.36 or newer" if "option" in said else _who_refuses(),
    )


def _unshare() -> str | None:
    """Return None when this user can have a user and a mount namespace, else why not."""
    import ctypes

    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        # CLONE_NEWUSER | CLONE_NEWNS of sched.h.
        os._exit(0 if libc.unshare(0x10020000) == 0 else ctypes.get_errno() or 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == errno.ENOSPC:  # user_namespaces(7)
        return "the limit of user namespaces is reached"
    return None if status == 0 else os.strerror(status)


def _who_refuses() -> str:
    """Return the setting of the kernel that keeps users from having namespaces, as advice."""
    for name, bad, good in (
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        try:
            with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as file:
                if file.read().strip() == bad:
                    return f"as root: sysctl -w {name}={good}"
        except OSError:
            pass
    return "see whether a container, seccomp or a security module refuses them here"


def fuse(node: Node) -> Iterator[Check]:
    """Yield the Check of /dev/fuse."""
    why = "fuse2fs, fuse-overlayfs and squashfuse serve file systems through it"
    name, state = "/dev/fuse", or_warning(node.engine)
    try:
        if not stat.S_ISCHR(os.stat(name).st_mode):
            yield Check(name, state, "it is not a device", why, "as root: modprobe fuse")
            return
        os.close(os.open(name, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Check(name, state, "it is missing", why, "as root: modprobe fuse")
    except PermissionError:
        advice = "as root: chmod 666 /dev/fuse, and see which rule of udev sets it"
        yield Check(name, state, "you may not open it", why, advice)
    except OSError as error:
        yield Check(name, state, reason(error), why, "as root: modprobe fuse")
    else:
        yield Check(name, OK, "it opens", why)
