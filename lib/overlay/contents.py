"""The files inside an overlay, listed without mounting it.

An ext3 image is read by our own Reader, a squashfs file by unsquashfs(1), a directory is a
directory. Paths are those that a session sees: upper/opt is /opt. Links are not followed.
"""

import grp
import os
import re
import stat

from overlay import extfs, markers, process, survey
from overlay.errors import DAMAGED, MISSING, OverlayError, quote, reason

DEEPEST = 16384  # bytes of a path; four times what Linux takes
_WHITEOUT = markers.PREFIX.decode()
_OPAQUE = tuple(name.decode() for name in markers.OPAQUE)

# -rw-r--r-- user/group   1234 2024-05-31 12:34 /name -> target; for a device two numbers
_LINE = re.compile(
    r"([-a-zA-Z]{10}) (\S+)/(\S+) +(?:(\d+), *(\d+)|(\d+)) (\d+)-(\d\d)-(\d\d) (\d\d):(\d\d) ?(.*)",
    re.DOTALL,
)


class Entry:
    """One file inside.

    path            as a session sees it
    mode            type and permissions, as in stat(2)
    links           how many names it has; None where that cannot be told
    number          what files of one inode share; None where that cannot be told
    owner, group    names, or numbers as text
    size, room      bytes of content, bytes that it takes
    modified        seconds since 1970
    target          where a symbolic link leads
    device          (major, minor) of a device
    note            what a marker of overlayfs means, in words; the path is then what it is about
    """

    __slots__ = (
        "device",
        "group",
        "links",
        "mode",
        "modified",
        "note",
        "number",
        "owner",
        "path",
        "room",
        "size",
        "target",
    )

    def __init__(self, path, mode, owner, group, size, modified):
        self.path = path
        self.mode = mode
        self.owner = owner
        self.group = group
        self.size = size
        self.room = size
        self.modified = modified
        self.target = self.device = self.links = self.number = None
        self.note = None

    @property
    def is_directory(self):
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    def interpret(self):
        """Put into words what overlayfs means by a file that is a marker; return self."""
        directory, _slash, name = self.path.rpartition("/")
        if self.is_directory:
            return self
        if name in _OPAQUE:
            self.path = f"{directory}/"
            self.note = "what lower layers have in it is hidden"
        elif name.startswith(_WHITEOUT):
            self.path = f"{directory}/{name[len(_WHITEOUT) :]}"
            self.note = "deleted"
        elif self.device == (0, 0) and stat.S_ISCHR(self.mode):
            self.note = "deleted"
        return self

    def as_dictionary(self):
        """Return it for --json."""
        return {
            "path": self.path,
            "mode": stat.filemode(self.mode),
            "links": self.links,
            "owner": self.owner,
            "group": self.group,
            "size": self.size,
            "allocated": self.room,
            "modified": self.modified,
            "target": self.target,
            "marker": self.note,
        }


def walk(image, top, environ):
    """Yield the Entries below a path in an Image, each directory before what is in it.

    top  an absolute path as a session sees it; a file gives itself
    Raises OverlayError: DAMAGED, MISSING when there is no such path, UNAVAILABLE.
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    try:
        if image.kind == "ext3":
            yield from _ext3(image, top)
        elif image.kind == "squashfs":
            yield from _squashfs(image, top, environ)
        else:
            yield from _directory(image, top)
    except (extfs.FormatError, OSError) as error:
        words = reason(error) if isinstance(error, OSError) else error
        raise OverlayError(
            f"{quote(image.path)} is damaged: {words}",
            status=DAMAGED,
            hint="when a session is writing to it, try again; else:"
            f" check-overlay {quote(image.path)}",
        ) from None


def _nothing(image, top):
    return OverlayError(
        f"there is no {quote(top)} in {quote(image.path)}",
        status=MISSING,
        hint=f"see what there is: show-overlay {quote(image.path)} --files /",
    )


def _ext3(image, top):
    if image.upper is None:
        raise OverlayError(
            f"{quote(image.path)} has no directory upper, where an overlay has its files",
            status=DAMAGED,
            hint=f"see all that it holds: /sbin/debugfs -R 'ls -l /' {quote(image.path)}",
        )
    reader = extfs.Reader(image.descriptor, image.superblock)
    found = reader.lookup(os.fsencode(f"upper{top}".rstrip("/")))
    if found is None:
        raise _nothing(image, top)
    number, inode = found
    if not inode.is_directory:
        yield _of_inode(reader, top, number, inode)
        return
    seen, blocks = {number}, set()
    # A stack of our own: how deep directories nest is the image's to say.
    stack = [(top.rstrip("/"), _names(reader, inode, blocks))]
    while stack:
        parent, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name, number = names.pop()
        inode = reader.inode(number)
        path = f"{parent}/{os.fsdecode(name)}"
        yield _of_inode(reader, path, number, inode)
        if inode.is_directory:
            if number in seen:
                raise extfs.FormatError("a directory in it has two names")
            if len(path) > DEEPEST:
                raise extfs.FormatError("directories in it are nested too deeply")
            seen.add(number)
            stack.append((path, _names(reader, inode, blocks)))


def _names(reader, inode, blocks):
    """Return (name, inode number) of what is in a directory, the last name first."""
    entries = reader.entries(inode, blocks)
    found = {(name, number) for name, number, _kind in entries if name not in (b".", b"..")}
    if any(not name or b"/" in name or b"\0" in name for name, _number in found):
        raise extfs.FormatError("a name in it is none")
    return sorted(found, reverse=True)


def _of_inode(reader, path, number, inode):
    """Return the Entry of a file in an ext3 image."""
    owner, group = survey.user_name(inode.owner), group_name(inode.group)
    entry = Entry(path, inode.mode, owner, group, inode.size, inode.modify_time)
    entry.links, entry.number, entry.room = inode.links, number, inode.room
    if stat.S_ISLNK(inode.mode):
        entry.target = os.fsdecode(reader.link_target(inode))
    elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        old, new = inode.blocks[:2]  # the kernel's two encodings of a device number
        entry.device = (
            (old >> 8 & 0xFF, old & 0xFF)
            if old
            else (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
        )
    return entry.interpret()


def _directory(image, top):
    root = os.path.realpath(os.path.join(image.path, "upper"))
    start = (root + top).rstrip("/")
    if not os.path.lexists(start) or os.path.realpath(os.path.dirname(start)) != os.path.dirname(
        start
    ):
        raise _nothing(image, top)
    if os.path.islink(start) or not os.path.isdir(start):
        yield _of_status(start, top, os.lstat(start))
        return
    stack = [(top.rstrip("/"), _listed(start))]
    while stack:
        parent, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name = names.pop()
        path = f"{parent}/{name}"
        try:
            entry = _of_status(root + path, path, os.lstat(root + path))
        except FileNotFoundError:
            continue  # it went while we looked
        if entry.is_directory:
            try:
                stack.append((path, _listed(root + path)))
            except OSError as error:
                entry.note = f"cannot be read: {reason(error)}"
        yield entry


def _listed(directory):
    with os.scandir(directory) as found:
        return sorted((entry.name for entry in found), reverse=True)


def _of_status(real, path, status):
    """Return the Entry of a file in a directory overlay."""
    owner, group = survey.user_name(status.st_uid), group_name(status.st_gid)
    entry = Entry(path, status.st_mode, owner, group, status.st_size, int(status.st_mtime))
    entry.links, entry.number, entry.room = status.st_nlink, status.st_ino, status.st_blocks * 512
    if stat.S_ISLNK(status.st_mode):
        entry.target = os.readlink(real)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
    return entry.interpret()


def _squashfs(image, top, environ):
    program = process.need("unsquashfs", "squashfs-tools", environ)
    words = [program, "-ll", "-d", "", image.path]
    result = process.run(words, environ, variables={"TZ": "UTC0", "LC_ALL": "C"})
    if result.status:
        lines = result.errors.strip().splitlines()
        raise extfs.FormatError(lines[-1] if lines else "unsquashfs cannot read it")
    below = top.rstrip("/") + "/"
    there = top == "/"
    for line in _joined(result.output):
        mode, owner, group, major, minor, size, *date, rest = _LINE.match(line).groups()
        target = None
        if mode[0] == "l":
            # What follows the last arrow is as long as the link says: a name may have one too.
            data = rest.encode(errors="surrogateescape")
            length = int(size or 0)
            target = os.fsdecode(data[len(data) - length :])
            rest = os.fsdecode(data[: len(data) - length - len(" -> ")])
        is_top = rest == top
        there = there or is_top
        if not (rest.startswith(below) and rest != below) and not (is_top and mode[0] != "d"):
            continue
        entry = Entry(rest, _mode(mode), owner, group, int(size or 0), _seconds(date))
        entry.target = target
        if major is not None:
            entry.device = int(major), int(minor)
        yield entry.interpret()
    if not there:
        raise _nothing(image, top)


def _seconds(date):
    """Return the time of a line, year to minute as text; 0 when there is no such time.

    A name with a line feed in it can make a line of anything.
    """
    import calendar

    try:
        return calendar.timegm((*map(int, date), 0))
    except (ValueError, OverflowError):
        return 0


def _joined(text):
    """Yield the lines of a listing; a name with a line feed in it makes one of two."""
    line = None
    for piece in text.split("\n"):
        if _LINE.match(piece):
            if line is not None:
                yield line
            line = piece
        elif line is not None:
            line += "\n" + piece
    if line is not None:
        yield line.rstrip("\n")


_TYPES = {
    "-": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}


def _mode(text):
    """Return the number that ten letters such as drwxr-sr-t stand for."""
    mode = _TYPES.get(text[0], 0)
    for place, letter in enumerate(text[1:]):
        if letter not in "-ST":
            mode |= 0o400 >> place
        if letter in "sStT":
            mode |= 0o4000 >> place // 3
    return mode


_groups = {}


def group_name(number):
    """Return a group's name, or its number as text when it has none here."""
    if number not in _groups:
        try:
            _groups[number] = grp.getgrgid(number).gr_name
        except (KeyError, OverflowError):
            _groups[number] = str(number)
    return _groups[number]


class Usage:
    """What all below a directory takes: bytes, and how many files and directories it is."""

    __slots__ = ("files", "path", "room")

    def __init__(self, path):
        self.path = path
        self.room = 0
        self.files = 0

    def as_dictionary(self):
        """Return it for --json."""
        return {"path": self.path, "allocated": self.room, "files": self.files}


def directories(image, top, environ):
    """Return the Usage of every directory below a path and of the path itself, largest first.

    A file with several names counts where it is met first. Raises OverlayError as walk().
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    found = {top: Usage(top)}
    counted = set()
    for entry in walk(image, top, environ):
        if entry.is_directory:
            found[entry.path] = Usage(entry.path)
        elif entry.links is not None and entry.links > 1:
            if entry.number in counted:
                continue
            counted.add(entry.number)
        usage = found.get(_above(entry.path), found[top])
        usage.room += entry.room
        usage.files += 1
    # Each directory came after the one that it is in; one that a squashfs file has made up of
    # a name with a line feed is in none, and counted at the top.
    for path in reversed(list(found)):
        if path != top:
            above = found.get(_above(path), found[top])
            above.room += found[path].room
            above.files += found[path].files
    return sorted(found.values(), key=lambda usage: (-usage.room, usage.path))


def _above(path):
    return path.rpartition("/")[0] or "/"
