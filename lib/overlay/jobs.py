"""Overlays in jobs: what the environment tells of the task, and a layer of its own for it.

A layer is a sparse overlay on a disk of the node, laid over overlays that are only read.
It is thrown away at the end of the session or moved to where the user wants it.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time

from overlay import creation, lock, permissions, private, replace, size
from overlay.errors import CANNOT_CREATE, DATA_LOST, USAGE, OverlayError, quote, reason

# How many tasks there are, and which of them this is, as batch systems and MPI say it.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")

_UNUSED = 86400  # seconds after which what a killed session left on scratch is removed
_LOCK = ".lock"
_BLOCK = 1 << 20  # bytes that are copied at a time


def is_parallel(environ):
    """Return whether this may be one of several tasks, or an element of an array."""
    return "SLURM_ARRAY_TASK_ID" in environ or any(
        environ.get(name, "").isdecimal() and int(environ[name]) > 1 for name in _COUNTS
    )


def ways_out(path, environ):
    """Return the hint for a task that wants to write an overlay which another one has."""
    array = environ.get("SLURM_ARRAY_TASK_ID")
    stem, ending = os.path.splitext(path)
    variable = "$SLURM_ARRAY_TASK_ID" if array else "$SLURM_PROCID"
    own = f"{quote(stem + '-')}{variable}{quote(ending) if ending else ''}"
    return (
        "one task at a time can write an overlay; in a parallel job let all tasks read it:"
        f" -o {quote(path)}:ro; or give each its own, made before: -o {own}; or let each write"
        " into a layer of its own over it: --per-task"
    )


def task_name(environ, host, pid):
    """Return the name of this task: by job, array index and rank, else by host and pid."""
    numbers = {
        name: environ[name]
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", *_RANKS)
        if environ.get(name, "").isdecimal()
    }
    rank = next((f"-task{numbers[name]}" for name in _RANKS if name in numbers), "")
    if "SLURM_ARRAY_JOB_ID" in numbers and "SLURM_ARRAY_TASK_ID" in numbers:
        return f"job{numbers['SLURM_ARRAY_JOB_ID']}_{numbers['SLURM_ARRAY_TASK_ID']}{rank}"
    if "SLURM_JOB_ID" in numbers:
        return f"job{numbers['SLURM_JOB_ID']}{rank}"
    return f"{host}-{pid}{rank}"


# ------------------------------------------------------------------- scratch --


class Locked:
    """The lock on the user's directory in scratch, for one process of the node at a time.

    It is the kernel's, and free again however its holder ends.
    """

    def __init__(self, scratch):
        self._descriptor = private.open_file(scratch, _LOCK)

    def take(self, wait=True):
        """Take the lock. Returns False when another has it and we do not wait."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def close(self):
        """Let it go."""
        os.close(self._descriptor)


def remove_unused(directory, *, prefix="", older=_UNUSED, enough=lambda: False):
    """Remove files that no session uses from a directory, the longest unused first.

    prefix  how their names begin
    older   seconds since they were last used
    enough  asked after each whether this will do
    The caller holds the lock on the directory.
    """
    found = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name.startswith(prefix) and name != _LOCK:
            try:
                status = os.lstat(path)
            except OSError:
                continue  # its session has just removed it
            if stat.S_ISREG(status.st_mode):
                found.append((max(status.st_atime, status.st_mtime), path))
    for used, path in sorted(found):
        if used > time.time() - older or enough():
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            lock.take(descriptor, write=True)
            lock.take_engine(descriptor)
            os.unlink(path)
        except (OSError, lock.Busy):
            continue
        finally:
            os.close(descriptor)


def copy_sparse(source, target):
    """Copy an open file to an empty one, holes and zeros as holes; return the bytes written.

    Raises OSError, also when the source ends before its size.
    """
    whole = os.fstat(source).st_size
    os.truncate(target, whole)
    block, zeros, written, place = memoryview(bytearray(_BLOCK)), bytes(_BLOCK), 0, 0
    end = 0  # of the data at place
    while place < whole:
        if place >= end:
            try:
                place = os.lseek(source, place, os.SEEK_DATA)
                end = os.lseek(source, place, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # a hole up to the end
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                end = whole
        count = os.preadv(source, [block[: min(_BLOCK, end - place)]], place)
        if count == 0:
            raise OSError(errno.EIO, "it became shorter while it was copied")
        data, done = block[:count], 0
        if data != zeros[:count]:
            while done < count:
                done += os.pwrite(target, data[done:], place + done)
            written += count
        place += count
    if os.fstat(target).st_size != whole:
        raise OSError(errno.EIO, "the copy has not the size of the original")
    return written


# --------------------------------------------------------------------- layer --


class Layer:
    """A writable layer of a task's own.

    path     of its image, on a disk of the node
    request  the creation.Creation that makes it
    keep     the directory where it goes at the end; None: it is thrown away
    made_of  permissions.Access of the overlays below: it may hold what was read there
    """

    def __init__(self, path, request, keep, made_of=()):
        self.path = path
        self.made_of = made_of
        self.request = request
        self.keep = keep
        self.made = False  # until then the path may be another session's


def plan_layer(
    config, environ, *, scratch, size_text=None, files_text=None, keep=None, overlays=()
):
    """Return the Layer for this task; nothing is made yet.

    overlays    paths of those that it will lie over
    scratch     a node-local directory
    size_text   its size and number of files as the user gave them, None for the site's
    keep        the directory where it goes at the end, or None
    Raises OverlayError: USAGE for amounts that cannot be, CANNOT_CREATE when keep cannot be
    written.
    """
    bytes_ = _amount("-s", size_text, size.parse_size) or config["jobs.size"]
    files = _amount("-n", files_text, size.parse_count) or config["jobs.files"]
    if keep is not None and not (os.path.isdir(keep) and os.access(keep, os.W_OK | os.X_OK)):
        there = os.path.lexists(keep)
        raise OverlayError(
            f"the directory {quote(keep)} for what is to be kept "
            + ("cannot be written" if there else "does not exist"),
            status=CANNOT_CREATE,
            hint=None if there else f"mkdir -p {quote(keep)}",
        )
    name = task_name(environ, os.uname().nodename, os.getpid()) + ".ext3"
    path = os.path.join(private.name(scratch), name)
    request = creation.Creation(bytes_, files, path=path, sparse=True)
    creation.check_request(request)
    if size_text is not None or files_text is not None:
        creation.check_policy(request, config)
    return Layer(path, request, keep, list(_accesses(overlays)) if keep else ())


def _accesses(paths):
    for path in paths:
        with contextlib.suppress(OSError):  # what is wrong with it is told when it is opened
            yield permissions.Access(path)


def _amount(option, text, parse):
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise OverlayError(f"{option}: {error}", status=USAGE) from None


def make_layer(layer, config, environ):
    """Make the image of a Layer, under another name if another session has its name.

    Raises OverlayError (CANNOT_CREATE).
    """
    scratch = os.path.dirname(os.path.dirname(layer.path))
    try:
        own = Locked(scratch)
        if own.take(wait=False):  # else somebody copies, and it can wait
            remove_unused(private.name(scratch))
        own.close()
    except OSError as error:
        raise OverlayError(
            f"cannot make {quote(layer.path)}: {reason(error)}",
            status=CANNOT_CREATE,
            hint="make room there, or set TMPDIR to a directory of yours with room",
        ) from None
    for path in _names(layer.path):
        layer.request.path = path
        if os.path.lexists(path):
            continue
        try:
            creation.make(layer.request, config, environ, lambda text: None)
        except OverlayError:
            if os.path.lexists(path):
                continue  # another session was faster
            raise
        layer.path = path
        layer.made = True
        return


def _names(path):
    """Yield a path, and others like it: a.ext3, a-2.ext3, a-3.ext3."""
    yield path
    stem, dot, ending = path.rpartition(".")
    for number in range(2, 10000):
        yield f"{stem}-{number}{dot}{ending}"


def remove_layer(layer):
    """Throw the image of a Layer away."""
    try:
        os.unlink(layer.path)
    except FileNotFoundError:
        pass


def keep_layer(layer):
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


def _link_or_copy(layer, descriptor, path):
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


def _copy_into_place(layer, source, path, mode):
    """Copy the image of a Layer to a path on another file system. Raises OSError.

    mode  of the copy, as far as the layers below allow it
    """
    status = os.fstat(source)
    room = os.statvfs(layer.keep)
    if status.st_blocks * 512 > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path = os.path.join(os.path.realpath(layer.keep), os.path.basename(path))
    with replace.unfinished(path) as new:
        copy_sparse(source, new.descriptor)
        _copy_attributes(source, new.descriptor)
        new.into_place(mode=mode, made_of=layer.made_of)


def _copy_attributes(source, target):
    """Copy what we noted on an image, where both file systems have such attributes."""
    try:
        for name in os.listxattr(source):
            if name.startswith("user.overlay."):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError:
        pass
