"""A new overlay: what create-overlay asks for, and the plan for it.

The image is made under another name beside its place, checked, and then given its name,
so that nothing incomplete ever carries it; see overlay.replace.
"""

import os

from overlay import (
    extfs,
    guard,
    lock,
    markers,
    namespace,
    private,
    process,
    quota,
    repair,
    replace,
    session,
    size,
)
from overlay import image as images
from overlay.errors import (
    CANNOT_CREATE,
    DAMAGED,
    NOT_ALLOWED,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.plan import Plan, Step

_WAYS_OUT = (
    "choose a smaller size, make room, or add --sparse to take blocks only as they are written"
)

SUFFIXES = (".ext3", ".img")

# Instead of the machine's own: the options say all, but mke2fs wants a file with the types.
MKE2FS_CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mke2fs.conf")


class Creation:
    """What the user asked for.

    size    bytes, a multiple of the block size
    files   how many files it can hold in all, those that it is filled with included
    path    where; None for overlay-<size>M-<files>K.ext3 in the current directory
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay that is there
    content what it is filled with, a Content; None for nothing
    """

    def __init__(self, size, files, *, path=None, sparse=False, force=False, content=None):
        self.size = size
        self.files = files
        self.path = path
        self.sparse = sparse
        self.force = force
        self.content = content


class Content:
    """What a new overlay is filled with.

    amount  the sources.Amount of all of it
    binds   (directory, place below upper/): trees that are read where they are
    steps   Steps that have put, or would put, the rest below upper/ in the staging directory
    images  (descriptor, directory, place): open ext3 images, where they are mounted, and where
            their upper/ is shown
    in_namespace  whether mke2fs runs in a namespace, where it reads all that is the user's
    owners  called with the new image's descriptor and Superblock to set the owners of what is
            inside; None: all becomes the caller's
    made_of  permissions.Access of the overlays that it comes from
    """

    def __init__(self, amount, binds=(), steps=(), images=(), in_namespace=False, owners=None):
        self.made_of = []
        self.amount = amount
        self.binds = list(binds)
        self.steps = list(steps)
        self.images = list(images)
        self.in_namespace = in_namespace
        self.owners = owners


class Facts:
    """What gather() found."""

    def __init__(self, *, path, existing=None, tools, scratch, host, pid, environ):
        self.environ = environ
        self.path = path  # of the new overlay, links followed
        self.existing = existing  # the Image in its place, or None
        self.tools = tools  # name -> absolute path, of mke2fs, fallocate, e2fsck
        self.scratch = scratch  # a node-local directory for temporary files
        self.host = host
        self.pid = pid

    @property
    def staging(self):
        """The directory that mke2fs copies into the image."""
        return private.work_name(self.scratch, self.host, self.pid)

    @property
    def partial(self):
        """The name of the image until it is finished, as far as it is known before."""
        return replace.partial_name(self.path, self.host, self.pid)


class Created:
    """What came of it: path, size in bytes, superblock, whether the blocks are reserved."""

    def __init__(self, path, size, superblock, allocated):
        self.limits = ()  # quota.Limits of its place, where somebody wants to know
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
            "limits": [
                {
                    "kind": limits.kind,
                    "name": limits.name,
                    "bytes_left": limits.left_bytes,
                    "files_left": limits.left_files,
                }
                for limits in self.limits
            ],
        }


def file_name(creation):
    """Return the name of a new overlay as it was given or follows from size and files."""
    if creation.path is None:
        return f"overlay-{size.mebibytes(creation.size)}M-{size.thousands(creation.files)}K.ext3"
    if creation.path.endswith("/") or os.path.basename(creation.path) in ("", ".", ".."):
        raise OverlayError(
            f"{quote(creation.path)} names a directory, not a file",
            status=USAGE,
            hint=f"-o {quote(os.path.join(creation.path, 'NAME'))}",
        )
    path = creation.path if creation.path.endswith(SUFFIXES) else creation.path + ".ext3"
    if ":" in path or not path.isprintable():
        raise OverlayError(
            f"{quote(path)}: colons, control characters and bytes that are no UTF-8 in the name of"
            " an overlay would be misread by the engine",
            status=USAGE,
            hint="choose another name",
        )
    return path


def check_policy(creation, config):
    """Refuse what the site does not want. Raises OverlayError (NOT_ALLOWED)."""
    checks = (
        ("-s", creation.size, "min_size", "max_size", size.format_size, size.mebibytes),
        ("-n", creation.files, "min_files", "max_files", size.format_files, size.thousands),
    )
    for option, amount, least, most, words, number in checks:
        low, high = config[f"create.{least}"], config[f"create.{most}"]
        for limit, wrong, side in (
            (low, low and amount < low, "least"),
            (high, high and amount > high, "most"),
        ):
            if wrong:
                raise OverlayError(
                    f"{words(amount)} are not allowed here: {words(limit)} are the {side}"
                    f" ({config.origin('create.' + (least if side == 'least' else most))})",
                    status=NOT_ALLOWED,
                    hint=f"{option} {number(limit)}",
                )


def check_place(path, config, notice):
    """Warn of, or refuse, a place where the site does not want overlays.

    Raises OverlayError (NOT_ALLOWED).
    """
    places = [os.path.realpath(place) for place in config["scratch.locations"]]
    rule = config["scratch.outside"]
    if rule == "allow" or any(os.path.commonpath((path, place)) == place for place in places):
        return
    known = ", ".join(map(quote, config["scratch.locations"])) or "nowhere"
    what = f"{quote(path)} is not where overlays belong here: {known}"
    if rule == "refuse":
        raise OverlayError(
            what,
            status=NOT_ALLOWED,
            hint=f"cd {quote(config['scratch.locations'][0])}" if places else None,
        )
    notice(what, "warning")


def check_room(creation, path, config, environ, notice):
    """Refuse, or warn of, an overlay for which quotas or the disk have no room.

    As [quota] says; raises OverlayError (CANNOT_CREATE).
    """
    now = creation.size
    if creation.sparse:  # the journal, and what describes every 128 MiB
        now = extfs.JOURNAL + now // 8192 + size.MIB
        now += creation.content.amount.bytes if creation.content else 0
    found = quota.check(
        os.path.dirname(path),
        now_bytes=now,
        full_bytes=max(now, creation.size),
        files=1,
        config=config,
        environ=environ,
    )
    for words in found:
        notice(words, "warning")


def check_request(creation, plain_count=False):
    """Refuse what no image can be. Raises OverlayError (USAGE) naming the smallest size.

    plain_count  whether the number of files was given without a unit
    """
    data = creation.content.amount.bytes if creation.content else 0
    count = size.format_files(creation.files)
    if creation.content and creation.content.amount.files > creation.files:
        needed = -(-creation.content.amount.files // 1000)
        raise OverlayError(
            f"the sources have {size.format_files(creation.content.amount.files)}, and the overlay"
            f" is to hold {count}",
            status=USAGE,
            hint=f"the smallest number: -n {needed}",
        )
    if extfs.fits(creation.size, creation.files, data):
        return
    smallest = extfs.smallest_size(creation.files, data)
    if data:
        count += f" and {size.format_size(data)} of data"
    if creation.size > extfs.LARGEST:
        raise OverlayError(
            f"{size.format_size(creation.size)} is more than an ext3 image can be"
            f" ({size.format_size(extfs.LARGEST)})",
            status=USAGE,
            hint="make several overlays, each for a part of the data",
        )
    if smallest is None:
        what = f"{count} are more than an ext3 image can hold"
        most = extfs.most_files(creation.size) // 1000
        hint = f"the most for {size.format_size(creation.size)}: -n {most}K"
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
    try:
        path = replace.place(file_name(creation))
    except OSError as error:
        raise OverlayError(
            f"the current directory is gone: {reason(error)}", status=CANNOT_CREATE, hint="cd"
        ) from None
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise OverlayError(
            f"there is no directory {quote(parent)}",
            status=CANNOT_CREATE,
            hint=None if os.path.lexists(parent) else f"mkdir -p {quote(parent)}",
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
        existing = replaceable(path)
    tools = {"mke2fs": process.need("mke2fs", "e2fsprogs", environ)}
    if not creation.sparse:
        tools["fallocate"] = process.need("fallocate", "util-linux", environ)
    if creation.content:
        tools["e2fsck"] = process.need("e2fsck", "e2fsprogs", environ)
    return Facts(
        path=path,
        existing=existing,
        tools=tools,
        scratch=session.scratch_directory(config),
        host=os.uname().nodename,
        pid=os.getpid(),
        environ=environ,
    )


def replaceable(path):
    """Return the overlay at a path that --force is to replace, locked until it is closed.

    Raises OverlayError: DAMAGED for what is no overlay, IN_USE, CANNOT_CREATE.
    """
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
    replace.check_names(path, existing.status)
    try:
        if existing.kind == "ext3":
            lock.take(existing.descriptor, write=True)
            lock.take_engine(existing.descriptor)
        elif lock.holder(existing.descriptor, write=False):
            raise lock.Busy(True)
    except lock.Busy as busy:
        raise guard.in_use(existing, busy) from None
    return existing


def plan(creation, config, facts):
    """Return the Plan for a Creation, to be printed; run() does the same. Pure."""
    inside = _inside(config, facts)
    steps = [
        Step(["mkdir", "-p", *inside], why="what belongs to you inside from the start"),
        *(creation.content.steps if creation.content else ()),
        Step(["truncate", "-s", str(creation.size), facts.partial]),
        _mke2fs(creation, facts, len(inside)),
    ]
    if not creation.sparse:
        steps.append(_fallocate(creation, facts))
    finish = "-f" if creation.force else "-n"
    steps.append(Step(["mv", finish, "-T", facts.partial, facts.path]))
    return Plan(before=steps, after=[Step(["rm", "-rf", facts.staging])])


def _inside(config, facts):
    """Return the directories of the staging directory that are in every new image."""
    # work/work is the engine's, and what it cannot make in an overlay that is full.
    inside = [os.path.join(facts.staging, name) for name in ("upper", "work", "work/work")]
    for directory in config["create.directories"]:
        inside.append(os.path.normpath(os.path.join(inside[0], directory.lstrip("/"))))
    return inside


def _mke2fs(creation, facts, inside):
    """Return the Step that makes the file system.

    inside  how many directories come with it
    """
    inodes = creation.files + extfs.SPARE_INODES + inside
    options = extfs.mke2fs_options(creation.size, inodes)
    arguments = [facts.tools["mke2fs"], *options, "-d", facts.staging, facts.partial]
    if creation.content and creation.content.in_namespace:
        upper = os.path.join(facts.staging, "upper")
        binds = [(tree, os.path.join(upper, place)) for tree, place in creation.content.binds]
        arguments = namespace.wrap(
            arguments, facts.environ, binds=binds, images=creation.content.images
        )
    return Step(arguments, variables={"MKE2FS_CONFIG": MKE2FS_CONFIG})


def _fallocate(creation, facts):
    return Step(
        [facts.tools["fallocate"], "-l", str(creation.size), facts.partial],
        why="the blocks become its own without being written",
    )


def make_staging(config, facts, bare=False):
    """Make the directory whose content mke2fs copies into the new image.

    bare  only upper/ and work/, without the site's directories
    """
    private.make_work(facts.scratch, facts.host, facts.pid)
    try:
        for path in _inside(config, facts)[: 3 if bare else None]:
            os.makedirs(path, exist_ok=True)
        for directory, _names, _files in os.walk(facts.staging):
            os.chmod(directory, 0o755)  # all of them are in the image then, the top too
    except OSError as error:
        raise _cannot(facts.path or facts.staging, reason(error)) from None


def remove_staging(facts):
    """Remove it again, directories without permissions included."""
    private.leave(facts.scratch, facts.staging)


def make(creation, config, environ, notice):
    """Make an overlay that is filled with nothing, and return what was Created.

    Raises OverlayError, as gather() and run() do.
    """
    facts = gather(creation, config, environ)
    try:
        make_staging(config, facts)
        return run(creation, config, facts, environ, notice)
    finally:
        remove_staging(facts)
        if facts.existing is not None:
            facts.existing.close()


def run(creation, config, facts, environ, notice):
    """Make the overlay and return what was Created.

    The staging directory is made, and holds what Content has put there.
    notice  called with a line for the user when the blocks could not be reserved
    Raises OverlayError (CANNOT_CREATE, INTERNAL); then, and at any exception, what was
    begun is removed.
    """
    replace.remove_stale(os.path.dirname(facts.path), facts.scratch)
    try:
        with replace.unfinished(facts.path, creation.size) as new:
            return _write(creation, config, facts, environ, notice, new)
    except OSError as error:
        raise _cannot(facts.path, reason(error)) from None


def _write(creation, config, facts, environ, notice, new):
    """Make the overlay in its Unfinished file, give that its name; return what was Created."""
    descriptor = new.descriptor
    inside = _inside(config, facts)
    superblock = _make_filesystem(creation, facts, len(inside), descriptor, environ)
    if creation.content:
        if creation.content.owners:
            creation.content.owners(descriptor, superblock)
        else:
            extfs.give_away(descriptor, superblock, os.getuid(), os.getgid())
            _set_times(creation.content.amount.times, descriptor, superblock)
        _verify(facts, descriptor, environ)
    if not creation.sparse:
        reserve(facts.path, descriptor, creation.size, environ, notice)
    if facts.existing is None or creation.content:
        markers.note_new(_NewImage(descriptor, superblock))
    made_of = creation.content.made_of if creation.content else ()
    if facts.existing is not None:
        new.over(facts.existing.descriptor, made_of=made_of)
    else:
        new.into_place(mode=config["create.permissions"], made_of=made_of)
    allocated = os.fstat(descriptor).st_blocks * 512
    return Created(facts.path, creation.size, superblock, allocated)


def _set_times(times, descriptor, superblock):
    """Set the times that mke2fs has cut off: path of bytes in the image -> time."""
    if times:
        reader = extfs.Reader(descriptor, superblock)
        numbers = {}
        for path, time in times.items():
            found = reader.lookup(path)
            if found:
                numbers[found[0]] = time
        extfs.set_times(descriptor, superblock, numbers)


class _NewImage:
    """What the notes on an Image need of one."""

    def __init__(self, descriptor, superblock):
        self.descriptor = descriptor
        self.superblock = superblock


def _verify(facts, descriptor, environ):
    """See with e2fsck that a filled image is sound. Raises OverlayError.

    Of a directory with more than 65,000 others mke2fs gives a number of links that it cannot
    have; what a session would do to such an image is done at once.
    """
    if repair.is_sound(facts.tools["e2fsck"], descriptor, environ):
        return
    most = max(inode.links for _number, inode in _directories(descriptor))
    try:
        if most > extfs.MOST_LINKS and repair.check(facts.path, descriptor, environ, full=True):
            return
    except OverlayError:
        pass
    raise _cannot(facts.path, "what mke2fs wrote is not sound")


def _directories(descriptor):
    """Yield (number, Inode) of every directory of an image."""
    yield from extfs.Reader(descriptor, extfs.read_superblock(descriptor)).inodes(4)


def _cannot(path, why, hint=None, task="create"):
    return OverlayError(
        f"cannot {task} {quote(path)}: {why}; nothing was changed",
        status=CANNOT_CREATE,
        hint=hint,
    )


def _make_filesystem(creation, facts, inside, descriptor, environ):
    """Run mke2fs until the image holds what was promised; return its Superblock.

    mke2fs rounds the number of inodes, either way; it is read back, and asked again for
    more in the rare case that it is short.
    """
    step = _mke2fs(creation, facts, inside)
    arguments = [*step.arguments[:-1], descriptor]  # its last word is the name of that
    place = arguments.index("-N") + 1
    for _attempt in range(4):
        result = process.run(arguments, environ, variables=step.variables)
        if result.status:
            words = result.errors.strip().splitlines() or [f"mke2fs ended with {result.status}"]
            hint = "choose a larger size with -s" if "allocate" in words[-1] else None
            raise _cannot(facts.path, words[-1], hint)
        superblock = extfs.read_superblock(descriptor)
        missing = creation.files + inside + extfs.RESERVED_INODES + 2 - superblock.inodes_count
        if missing <= 0:
            return superblock
        arguments[place] = str(int(arguments[place]) + missing + 16)
    raise _cannot(
        facts.path,
        f"mke2fs makes {superblock.free_inodes_count} of {creation.files} files",
        "choose a larger size",
    )


def reserve(path, descriptor, bytes_, environ, notice, task="create"):
    """Allocate all blocks of an image, or say that they stay holes.

    path     its name for messages
    bytes_   how long it is
    notice   called with a line when the file system cannot; None to say nothing
    task     what cannot be done then, a verb
    Raises OverlayError (CANNOT_CREATE) when there is no room for them; asked first, because
    fallocate would take all that there is before it fails, and other jobs write here too.
    """
    room = os.statvfs(descriptor)
    free = room.f_bavail * room.f_frsize
    needed = bytes_ - os.fstat(descriptor).st_blocks * 512
    words = "there is no room" if needed > free else None
    if words is None:
        program = process.need("fallocate", "util-linux", environ)
        result = process.run([program, "-l", str(bytes_), descriptor], environ)
        if not result.status:
            return
        words = result.errors.strip().rpartition(": ")[2]
    if "not supported" in words:
        if notice:
            notice(
                "this file system cannot reserve blocks: the overlay is sparse, and can run into"
                " a full disk or quota while it is written"
            )
        return
    raise _cannot(
        path,
        f"{words} ({size.format_size(needed)} are needed, {size.format_size(free)} are free)",
        _WAYS_OUT if task == "create" else "make room there first",
        task,
    )
