"""A layer of a task's own, over overlays that are only read.

It is a sparse overlay on a disk of the node, thrown away at the end of the session or moved
to where the user wants it.
"""

from __future__ import annotations

import contextlib
import errno
import os

from overlay.create import make
from overlay.create.policy import check_policy
from overlay.create.request import Creation, check_request, file_name
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, DATA_LOST, OverlayError, quote, reason
from overlay.host import permissions, private, task
from overlay.host.room import free_bytes
from overlay.image import lock
from overlay.plan import Plan, Step
from overlay.safety import blocks, replace
from overlay.safety.unused import remove_unused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from overlay.settings.config import Config


class Layer:
    """A writable layer of a task's own.

    name     what it is called where it is kept: after its task
    path     of its image, on a disk of the node; no other session has one of this name
    request  the Creation that makes it
    keep     the directory where it goes at the end; None: it is thrown away
    made_of  permissions.Access of the overlays below: it may hold what was read there
    """

    __slots__ = ("keep", "made_of", "name", "path", "request")

    def __init__(
        self,
        name: str,
        request: Creation,
        keep: str | None,
        made_of: Iterable[permissions.Access] = (),
    ) -> None:
        self.name = name
        self.path = file_name(request)
        self.request = request
        self.keep = keep
        self.made_of = list(made_of)


def plan_layer(
    config: Config,
    *,
    scratch: str,
    size: int | None = None,
    files: int | None = None,
    keep: str | None = None,
    overlays: Iterable[str] = (),
) -> Layer:
    """Return the Layer for this task; nothing is made yet.

    scratch     a node-local directory
    size        bytes, None for the site's
    files       how many files it can hold, None for the site's
    keep        the directory where it goes at the end, or None
    overlays    paths of those that it will lie over
    Raises OverlayError: USAGE for amounts that cannot be, NOT_ALLOWED for those that the site
    does not want, CANNOT_CREATE when keep cannot be written.
    """
    if keep is not None and not (os.path.isdir(keep) and os.access(keep, os.W_OK | os.X_OK)):
        there = os.path.lexists(keep)
        raise OverlayError(
            f"the directory {quote(keep)} for what is to be kept "
            + ("cannot be written" if there else "does not exist"),
            status=CANNOT_CREATE,
            hint=None if there else f"mkdir -p {quote(keep)}",
        )
    name = task.task_name(config.environ, os.uname().nodename, os.getpid())
    # A session of the same task, or one that was killed, may have left one there.
    path = os.path.join(private.name(scratch), f"{name}.{os.urandom(4).hex()}.ext3")
    request = Creation(
        size or config["jobs.size"], files or config["jobs.files"], path=path, sparse=True
    )
    check_request(request)
    if size is not None or files is not None:
        check_policy(config, size=request.size, files=request.files)
    return Layer(f"{name}.ext3", request, keep, _accesses(overlays) if keep else ())


def _accesses(paths: Iterable[str]) -> Iterator[permissions.Access]:
    for path in paths:
        with contextlib.suppress(OSError):  # what is wrong with it is told when it is opened
            yield permissions.Access(path)


def plan_making(layer: Layer, config: Config) -> Plan:
    """Return the Plan that makes the image of a Layer.

    Doing it raises OverlayError (CANNOT_CREATE).
    """
    directory = os.path.dirname(layer.path)
    scratch = os.path.dirname(directory)
    facts = make.Facts(
        path=layer.path,
        tools=make.find_tools(config.environ, sparse=True, filled=False),
        workplace=Workplace(scratch),
    )
    tidy = Step(
        action=lambda: _tidy(scratch),
        why=f"what nobody has used for a day goes from {quote(directory)}",
    )
    return Plan(before=[tidy, make.plan(layer.request, config, facts)])


def _tidy(scratch: str) -> None:
    """Remove what nobody uses from the user's directory on scratch."""
    try:
        own = private.Locked(scratch)
        if own.take(wait=False):  # else somebody copies, and it can wait
            remove_unused(private.name(scratch))
        own.close()
    except OSError as error:
        raise OverlayError(
            f"cannot use {quote(private.name(scratch))}: {reason(error)}",
            status=CANNOT_CREATE,
            hint=f"make room there, or {private.HINT}",
        ) from None


def _names(path: str) -> Iterator[str]:
    """Yield a path, and others like it: a.ext3, a-2.ext3, a-3.ext3."""
    yield path
    stem, dot, ending = path.rpartition(".")
    for number in range(2, 10000):
        yield f"{stem}-{number}{dot}{ending}"


def remove_layer(layer: Layer) -> None:
    """Throw the image of a Layer away."""
    try:
        os.unlink(layer.path)
    except FileNotFoundError:
        pass


def keep_layer(layer: Layer, directory: str) -> str:
    """Move the image of a Layer to the directory where it is kept; return its new path.

    On one file system it only gets another name; else it is copied beside its new place,
    synced, and then gets its name. What is there is never overwritten.
    Raises OverlayError (DATA_LOST) that says where it lies now.
    """
    descriptor = None
    try:
        descriptor = os.open(layer.path, os.O_RDWR | os.O_CLOEXEC)
        lock.take(descriptor, write=True)
        lock.take_engine(descriptor)
        for path in _names(os.path.join(directory, layer.name)):
            if os.path.lexists(path):
                continue
            try:
                _link_or_copy(layer, descriptor, path)
            except (OverlayError, FileExistsError):
                if os.path.lexists(path):
                    continue  # it has just appeared
                raise
            remove_layer(layer)
            return path
    except (OSError, lock.Busy, OverlayError) as error:
        words = "it is still being written"
        if not isinstance(error, lock.Busy):
            words = reason(error) if isinstance(error, OSError) else error.what
        raise OverlayError(
            f"what was written could not be moved to {quote(directory)}: {words}",
            status=DATA_LOST,
            hint=f"it lies on this node ({os.uname().nodename}), for a day at least:"
            f" {quote(layer.path)}",
        ) from None
    finally:
        if descriptor is not None:
            os.close(descriptor)
    raise AssertionError("no name is free")


def _link_or_copy(layer: Layer, descriptor: int, path: str) -> None:
    """Give the image of a Layer a name, copied where that is on another file system.

    Raises OSError, and OverlayError as replace does.
    """
    mode = os.fstat(descriptor).st_mode
    os.fchmod(descriptor, mode & permissions.most(layer.made_of, descriptor))
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace.link(descriptor, name, directory)
    except OSError as error:
        if error.errno not in (errno.EXDEV, *replace.NO_LINKS):
            raise
        _copy_into_place(layer, descriptor, path, mode)
    finally:
        os.close(directory)


def _copy_into_place(layer: Layer, source: int, path: str, mode: int) -> None:
    """Copy the image of a Layer to a path on another file system. Raises OSError.

    mode  of the copy, as far as the layers below allow it
    """
    status = os.fstat(source)
    parent, name = os.path.split(path)
    if status.st_blocks * 512 > free_bytes(parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with replace.unfinished(os.path.join(os.path.realpath(parent), name)) as new:
        blocks.copy_sparse(source, new.descriptor)
        _copy_attributes(source, new.descriptor)
        new.into_place(mode=mode, made_of=layer.made_of)


def _copy_attributes(source: int, target: int) -> None:
    """Copy what we noted on an image, where both file systems have such attributes."""
    try:
        for name in os.listxattr(source):
            if name.startswith("user.overlay."):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError:
        pass
