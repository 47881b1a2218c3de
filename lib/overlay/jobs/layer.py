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
from overlay.create.request import Creation, check_request
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, DATA_LOST, OverlayError, quote, reason
from overlay.host import permissions, private, task
from overlay.host.room import free_bytes
from overlay.image import lock
from overlay.safety import replace
from overlay.safety.unused import remove_unused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.plan import Plan
    from overlay.settings.config import Config


class Layer:
    """A writable layer of a task's own.

    path     of its image, on a disk of the node
    request  the Creation that makes it
    keep     the directory where it goes at the end; None: it is thrown away
    made_of  permissions.Access of the overlays below: it may hold what was read there
    made     whether it is; until then the path may be another session's
    """

    __slots__ = ("keep", "made", "made_of", "path", "request")

    def __init__(
        self,
        path: str,
        request: Creation,
        keep: str | None,
        made_of: Iterable[permissions.Access] = (),
    ) -> None:
        self.path = path
        self.made_of = list(made_of)
        self.request = request
        self.keep = keep
        self.made = False


def plan_layer(
    config: Config,
    environ: Mapping[str, str],
    *,
    scratch: str,
    size: int | None = None,
    files: int | None = None,
    keep: str | None = None,
    overlays: Iterable[str] = (),
) -> Layer:
    """Return the Layer for this task; nothing is made yet.

    environ     which says what task of a batch system this is
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
    name = task.task_name(environ, os.uname().nodename, os.getpid()) + ".ext3"
    path = os.path.join(private.name(scratch), name)
    request = Creation(
        size or config["jobs.size"], files or config["jobs.files"], path=path, sparse=True
    )
    check_request(request)
    if size is not None or files is not None:
        check_policy(config, size=request.size, files=request.files)
    return Layer(path, request, keep, _accesses(overlays) if keep else ())


def _accesses(paths: Iterable[str]) -> Iterator[permissions.Access]:
    for path in paths:
        with contextlib.suppress(OSError):  # what is wrong with it is told when it is opened
            yield permissions.Access(path)


def plan_making(layer: Layer, config: Config) -> Plan:
    """Return what make_layer() does while no other session has its name, to be printed."""
    scratch = os.path.dirname(os.path.dirname(layer.path))
    facts = make.Facts(
        path=layer.path,
        tools=make.find_tools(config.environ, sparse=True, filled=False),
        workplace=Workplace(scratch),
    )
    return make.plan(layer.request, config, facts)


def make_layer(layer: Layer, config: Config) -> None:
    """Make the image of a Layer, under another name if another session has its name.

    Raises OverlayError (CANNOT_CREATE).
    """
    scratch = os.path.dirname(os.path.dirname(layer.path))
    try:
        own = private.Locked(scratch)
        if own.take(wait=False):  # else somebody copies, and it can wait
            remove_unused(private.name(scratch))
        own.close()
    except OSError as error:
        raise OverlayError(
            f"cannot make {quote(layer.path)}: {reason(error)}",
            status=CANNOT_CREATE,
            hint=f"make room there, or {private.HINT}",
        ) from None
    wanted = layer.request
    for path in _names(layer.path):
        if os.path.lexists(path):
            continue
        try:
            request = Creation(wanted.size, wanted.files, path=path, sparse=True)
            make.make(request, config, lambda text: None)
        except OverlayError:
            if os.path.lexists(path):
                continue  # another session was faster
            raise
        layer.path = path
        layer.made = True
        return


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


def keep_layer(layer: Layer) -> str:
    """Move the image of a Layer to where it is kept; return its new path.

    On one file system it only gets another name; else it is copied beside its new place,
    synced, and then gets its name. What is there is never overwritten.
    Raises OverlayError (DATA_LOST) that says where it lies now.
    """
    descriptor = None
    try:
        descriptor = os.open(layer.path, os.O_RDWR | os.O_CLOEXEC)
        lock.take(descriptor, write=True)
        lock.take_engine(descriptor)
        for path in _names(os.path.join(layer.keep, os.path.basename(layer.path))):
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
            f"what was written could not be moved to {quote(layer.keep)}: {words}",
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
    directory = os.open(layer.keep, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace.link(descriptor, os.path.basename(path), directory)
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
    if status.st_blocks * 512 > free_bytes(layer.keep):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path = os.path.join(os.path.realpath(layer.keep), os.path.basename(path))
    with replace.unfinished(path) as new:
        replace.copy_sparse(source, new.descriptor)
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
