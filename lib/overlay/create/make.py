"""The plan for a new overlay, and its making.

gather() asks all the read-only questions, plan() tells what would be done, run() does it.
"""

import os

from overlay.create.request import Created, file_name
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.host import namespace, private, process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, ext3_size, ext3_write, markers
from overlay.image.ext3_image import Ext3Image
from overlay.image.partial import partial_name
from overlay.plan import Plan, Step
from overlay.safety import repair, replace

# Instead of the machine's own: the options say all, but mke2fs wants a file with the types.
MKE2FS_CONFIG = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mke2fs.conf"
)


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
        return partial_name(self.path, self.host, self.pid)


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
        existing = replace.replaceable(path)
    tools = {"mke2fs": process.need("mke2fs", environ)}
    if not creation.sparse:
        tools["fallocate"] = process.need("fallocate", environ)
    if creation.content:
        tools["e2fsck"] = process.need("e2fsck", environ)
    return Facts(
        path=path,
        existing=existing,
        tools=tools,
        scratch=scratch_directory(config),
        host=os.uname().nodename,
        pid=os.getpid(),
        environ=environ,
    )


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
    inodes = creation.files + ext3_size.SPARE_INODES + inside
    options = ext3_size.mke2fs_options(creation.size, inodes)
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
        raise replace.cannot(facts.path or facts.staging, reason(error)) from None


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
        raise replace.cannot(facts.path, reason(error)) from None


def _write(creation, config, facts, environ, notice, new):
    """Make the overlay in its Unfinished file, give that its name; return what was Created."""
    descriptor = new.descriptor
    inside = _inside(config, facts)
    superblock = _make_filesystem(creation, facts, len(inside), descriptor, environ)
    if creation.content:
        if creation.content.owners:
            creation.content.owners(descriptor, superblock)
        else:
            ext3_write.give_away(descriptor, superblock, os.getuid(), os.getgid())
            _set_times(creation.content.amount.times, descriptor, superblock)
        _verify(facts, descriptor, environ)
    if not creation.sparse:
        replace.reserve(facts.path, descriptor, creation.size, environ, notice)
    if facts.existing is None or creation.content:
        status = os.fstat(descriptor)
        markers.note_new(Ext3Image(facts.path, status, descriptor, True, superblock))
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
        reader = ext3.Reader(descriptor, superblock)
        numbers = {}
        for path, time in times.items():
            found = reader.lookup(path)
            if found:
                numbers[found[0]] = time
        ext3_write.set_times(descriptor, superblock, numbers)


def _verify(facts, descriptor, environ):
    """See with e2fsck that a filled image is sound. Raises OverlayError.

    Of a directory with more than 65,000 others mke2fs gives a number of links that it cannot
    have; what a session would do to such an image is done at once.
    """
    if repair.is_sound(facts.tools["e2fsck"], descriptor, environ):
        return
    most = max(inode.links for _number, inode in _directories(descriptor))
    try:
        if most > ext3.MOST_LINKS and repair.check(facts.path, descriptor, environ, full=True):
            return
    except OverlayError:
        pass
    raise replace.cannot(facts.path, "what mke2fs wrote is not sound")


def _directories(descriptor):
    """Yield (number, Inode) of every directory of an image."""
    yield from ext3.Reader(descriptor, ext3.read_superblock(descriptor)).inodes(4)


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
            ended = f"mke2fs ended with {result.status}"
            words = process.last_line(result.errors, otherwise=ended)
            hint = "choose a larger size with -s" if "allocate" in words else None
            raise replace.cannot(facts.path, words, hint)
        superblock = ext3.read_superblock(descriptor)
        missing = creation.files + inside + ext3.RESERVED_INODES + 2 - superblock.inodes_count
        if missing <= 0:
            return superblock
        arguments[place] = str(int(arguments[place]) + missing + 16)
    raise replace.cannot(
        facts.path,
        f"mke2fs makes {superblock.free_inodes_count} of {creation.files} files",
        "choose a larger size",
    )
