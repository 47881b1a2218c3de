"""A new overlay: what create-overlay asks for, and the plan for it.

The image is made under another name beside its place, checked, and then given its name,
so that nothing incomplete ever carries it; see overlay.replace.
"""

import os
import shutil

from overlay import extfs, lock, process, replace, session, size
from overlay import image as images
from overlay.errors import (
    CANNOT_CREATE,
    DAMAGED,
    IN_USE,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.plan import Plan, Step

SUFFIXES = (".ext3", ".img")

# Instead of the machine's own: the options say all, but mke2fs wants a file with the types.
MKE2FS_CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mke2fs.conf")


class Creation:
    """What the user asked for.

    size    bytes, a multiple of the block size
    files   how many files it must be possible to make in it
    path    where; None for overlay-<size>M-<files>K.ext3 in the current directory
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay that is there
    """

    def __init__(self, size, files, *, path=None, sparse=False, force=False):
        self.size = size
        self.files = files
        self.path = path
        self.sparse = sparse
        self.force = force


class Facts:
    """What gather() found."""

    def __init__(self, *, path, existing=None, tools, scratch, host, pid):
        self.path = path  # of the new overlay, links followed
        self.existing = existing  # the Image in its place, or None
        self.tools = tools  # name -> absolute path, of mke2fs and fallocate
        self.scratch = scratch  # a node-local directory for temporary files
        self.host = host
        self.pid = pid


class Created:
    """What came of it: path, size in bytes, superblock, whether the blocks are reserved."""

    def __init__(self, path, size, superblock, allocated):
        self.path = path
        self.size = size
        self.superblock = superblock
        self.allocated = allocated  # bytes of the file system that it takes now

    def as_dictionary(self):
        """Return it for --json."""
        return {
            "path": self.path,
            "size": self.size,
            "data_available": self.superblock.available_bytes,
            "files_available": self.superblock.free_inodes_count,
            "allocated": self.allocated,
        }


def file_name(creation):
    """Return the name of a new overlay as it was given or follows from size and files."""
    if creation.path is None:
        return (
            f"overlay-{size.mebibytes(creation.size)}M-{size.thousands(creation.files)}K.ext3"
        )
    if creation.path.endswith("/") or os.path.basename(creation.path) in ("", ".", ".."):
        raise OverlayError(
            f"{quote(creation.path)} names a directory, not a file",
            status=USAGE,
            hint=f"-o {quote(os.path.join(creation.path, 'NAME'))}",
        )
    path = creation.path if creation.path.endswith(SUFFIXES) else creation.path + ".ext3"
    if ":" in path or not path.isprintable():
        raise OverlayError(
            f"{quote(path)}: colons and control characters in the name of an overlay would be"
            " misread by the engine",
            status=USAGE,
            hint="choose another name",
        )
    return path


def check_request(creation, plain_count=False):
    """Refuse what no image can be. Raises OverlayError (USAGE) naming the smallest size.

    plain_count  whether the number of files was given without a unit
    """
    if extfs.fits(creation.size, creation.files):
        return
    smallest = extfs.smallest_size(creation.files)
    count = size.format_files(creation.files)
    if creation.size > extfs.LARGEST:
        raise OverlayError(
            f"{size.format_size(creation.size)} is more than an ext3 image can be"
            f" ({size.format_size(extfs.LARGEST)})",
            status=USAGE,
            hint="make several overlays, each for a part of the data",
        )
    if smallest is None:
        what = f"{count} are more than an ext3 image can hold"
        hint = f"the most for {size.format_size(creation.size)}: -n {extfs.most_files(creation.size) // 1000}K"
    else:
        what = f"{count} do not fit into {size.format_size(creation.size)}"
        hint = f"the smallest size for so many files: -s {size.mebibytes(smallest)}"
    if plain_count and creation.files >= 100_000_000:
        hint = (
            "-n counts thousands of files; for"
            f" {size.format_files(creation.files // 1000)}: -n {size.thousands(creation.files // 1000)}"
        )
    raise OverlayError(what, status=USAGE, hint=hint)


def gather(creation, config, environ):
    """Return the Facts for a Creation. Raises OverlayError for what cannot work."""
    path = os.path.realpath(file_name(creation))
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise OverlayError(
            f"there is no directory {quote(parent)}",
            status=CANNOT_CREATE,
            hint=f"mkdir -p {quote(parent)}",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OverlayError(
            f"you may not create files in {quote(parent)}",
            status=CANNOT_CREATE,
            hint="change to a directory of your own first, or name one with -o",
        )
    if len(os.fsencode(os.path.basename(path))) > 255:
        raise OverlayError(f"the name {quote(path)} is too long", status=CANNOT_CREATE)
    existing = None
    if os.path.lexists(path):
        if not creation.force:
            raise OverlayError(
                f"{quote(path)} exists already",
                status=CANNOT_CREATE,
                hint="choose another name with -o; --force replaces it, and all that is in it",
            )
        existing = _replaceable(path)
    tools = {"mke2fs": process.need("mke2fs", "e2fsprogs", environ)}
    if not creation.sparse:
        tools["fallocate"] = process.need("fallocate", "util-linux", environ)
    return Facts(
        path=path,
        existing=existing,
        tools=tools,
        scratch=session.scratch_directory(config),
        host=os.uname().nodename,
        pid=os.getpid(),
    )


def _replaceable(path):
    """Return the overlay at a path that --force is to replace, its lock held."""
    try:
        existing = images.look(path, write=True)
    except OverlayError as error:
        if error.status == DAMAGED:
            error.what += "; --force replaces overlays only"
            error.hint = f"if it is not needed: rm {quote(path)}"
        raise
    if existing.kind == "directory" or not existing.writable and existing.kind == "ext3":
        raise OverlayError(
            f"{quote(path)} cannot be replaced: "
            + ("it is a directory" if existing.kind == "directory" else "you may not write it"),
            status=CANNOT_CREATE,
        )
    busy = lock.holder(existing.descriptor, write=existing.writable)
    if busy:
        raise OverlayError(
            f"{quote(path)} is in use and cannot be replaced",
            status=IN_USE,
            hint="end the sessions that use it, then try again",
        )
    return existing


def plan(creation, config, facts):
    """Return the Plan for a Creation; running its steps makes the overlay. Pure."""
    partial = replace.partial_name(facts.path, facts.host, facts.pid)
    staging = replace.staging_name(facts.scratch, facts.pid)
    inside = [os.path.join(staging, "upper"), os.path.join(staging, "work")]
    for directory in config["create.directories"]:
        inside.append(os.path.normpath(os.path.join(staging, "upper", directory.lstrip("/"))))
    inodes = creation.files + extfs.SPARE_INODES + len(inside)
    steps = [
        Step(
            ["mkdir", "-p", *inside],
            action=lambda: _make_staging(staging, inside),
            why="what belongs to you inside from the start",
        ),
        Step(
            ["truncate", "-s", str(creation.size), partial],
            action=lambda: replace.make_partial(partial, creation.size),
        ),
        Step(
            _mke2fs(facts, creation.size, inodes, staging, partial),
            variables={"MKE2FS_CONFIG": MKE2FS_CONFIG},
        ),
    ]
    if not creation.sparse:
        steps.append(
            Step(
                [facts.tools["fallocate"], "-l", str(creation.size), partial],
                why="the blocks become its own without being written",
            )
        )
    finish = "-f" if creation.force else "-n"
    steps.append(Step(["mv", finish, "-T", partial, facts.path]))
    after = [
        Step(["rm", "-rf", staging], action=lambda: shutil.rmtree(staging, ignore_errors=True))
    ]
    return Plan(before=steps, after=after)


def _mke2fs(facts, bytes_, inodes, staging, partial):
    options = extfs.mke2fs_options(bytes_, inodes)
    return [facts.tools["mke2fs"], *options, "-d", staging, partial]


def run(creation, config, facts, environ, notice):
    """Make the overlay and return what was Created.

    notice  called with a line for the user when the blocks could not be reserved
    Raises OverlayError (CANNOT_CREATE, INTERNAL); then, and at any exception, what was
    begun is removed.
    """
    replace.remove_stale(os.path.dirname(facts.path), facts.scratch)
    made = plan(creation, config, facts)
    staging, truncate, mke2fs, *rest = made.before
    partial = truncate.arguments[-1]
    descriptor = None
    try:
        staging.action()
        descriptor = truncate.action()
        superblock = _make_filesystem(creation, mke2fs, facts.path, descriptor, environ)
        if not creation.sparse:
            _reserve(creation, rest[0], facts.path, descriptor, environ, notice)
        os.fsync(descriptor)
        lock.release(descriptor)
        if facts.existing is not None:
            replace.over(partial, descriptor, facts.path, facts.existing.descriptor)
        else:
            replace.into_place(partial, facts.path)
        allocated = os.fstat(descriptor).st_blocks * 512
        return Created(facts.path, creation.size, superblock, allocated)
    except OSError as error:
        raise _cannot(facts.path, reason(error)) from None
    finally:
        if descriptor is not None:
            os.close(descriptor)
            try:
                os.unlink(partial)
            except FileNotFoundError:
                pass
        for step in made.after:
            step.action()


def _cannot(path, why, hint=None):
    return OverlayError(
        f"cannot create {quote(path)}: {why}; nothing was changed",
        status=CANNOT_CREATE,
        hint=hint,
    )


def _make_staging(staging, inside):
    """Make the directories that mke2fs copies into the new image."""
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run with our process number
    os.mkdir(staging, 0o700)
    for path in inside:
        os.makedirs(path, exist_ok=True)
    for directory, _names, _files in os.walk(staging):
        os.chmod(directory, 0o755)


def _make_filesystem(creation, step, path, descriptor, environ):
    """Run mke2fs until the image holds what was promised; return its Superblock.

    mke2fs rounds the number of inodes, either way; it is read back, and asked again for
    more in the rare case that it is short.
    """
    arguments = list(step.arguments)
    place = arguments.index("-N") + 1
    for _attempt in range(4):
        result = process.run(arguments, environ, variables=step.variables)
        if result.status:
            words = result.errors.strip().splitlines() or [f"mke2fs ended with {result.status}"]
            raise _cannot(path, words[-1])
        superblock = extfs.read_superblock(descriptor)
        missing = creation.files + 2 - superblock.free_inodes_count
        if missing <= 0:
            return superblock
        arguments[place] = str(int(arguments[place]) + missing + 16)
    raise _cannot(
        path,
        f"mke2fs makes {superblock.free_inodes_count} of {creation.files} files",
        "choose a larger size",
    )


def _reserve(creation, step, path, descriptor, environ, notice):
    """Allocate all blocks of the image, or say that they stay holes.

    Raises OverlayError (CANNOT_CREATE) when there is no room for them; asked first, because
    fallocate would take all that there is before it fails, and other jobs write here too.
    """
    room = os.statvfs(descriptor)
    free = room.f_bavail * room.f_frsize
    needed = creation.size - os.fstat(descriptor).st_blocks * 512
    words = "there is no room" if needed > free else None
    if words is None:
        result = process.run(step.arguments, environ)
        if not result.status:
            return
        words = result.errors.strip().rpartition(": ")[2]
    if "not supported" in words:
        notice(
            "this file system cannot reserve blocks: the overlay is sparse, and can run into a"
            " full disk or quota while it is written"
        )
        return
    raise _cannot(
        path,
        f"{words} ({size.format_size(needed)} are needed, {size.format_size(free)} are free)",
        "choose a smaller size, make room, or add --sparse to take blocks only as they are written",
    )
