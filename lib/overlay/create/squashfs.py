"""Squashfs files, listed before they are unpacked: what is in them is not trusted."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys

from overlay.create import attributes
from overlay.create.allowance import check_room
from overlay.create.kind import Source, open_regular
from overlay.create.place import DEEPEST, copy_tree, hide_below, make_directories
from overlay.create.workplace import was_changed
from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import namespace, private, process
from overlay.image.magic import is_squashfs
from overlay.image.squashfs import LONGEST_LISTING
from overlay.output import write_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from overlay.create.allowance import Allowance
    from overlay.create.kind import Means
    from overlay.host.process import Result

# A line of unsquashfs -lln: kind, size or device number, path.
_LISTED = re.compile(
    r"^([a-z-])\S{9} +\d+/\d+ +(\d+)(, *\d+)? +\d+-\d\d-\d\d \d\d:\d\d (/.*)?$", re.M | re.A
)

# What unsquashfs says of attributes: (which, of which file). The first ends it: one that is larger
# than the file system here takes, or of a file that may not be written. Root's it leaves out.
_GIVEN_UP = re.compile(r"failed to write xattr (\S+) for file (.*?) because ", re.DOTALL)
_OF_ROOT = re.compile(
    r"could not write xattr (\S+) for file (.*?) because you're not superuser", re.DOTALL
)

_LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Names that the kernel knows: xattr(7).
_KNOWN = re.compile(r"trusted\.overlay\.|security\.(capability|selinux|ima|evm)$")
_OTHER = {"trusted": "security", "security": "trusted"}
_OPAQUE = "trusted.overlay.opaque"

_LONGEST = 1 << 28  # bytes of all names of attributes that are told

# Mounts a squashfs file, and compares the attributes in it with those of what was unpacked.
_COMPARE = '"$1" -o ro "$2" "$3" && shift 3 && exec "$@"'
_INSIDE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from overlay.create import squashfs;"
    " squashfs.print_missing(*sys.argv[2:])"
)
_EXPECTED = re.compile(
    r"(create_inode: could not create character device |write_xattr: (could not|to avoid) )"
    r".*?superuser!|Further error messages of this type are suppressed!",
    re.DOTALL,
)


class Squashfs(Source):
    """A squashfs file, such as pack-overlay makes."""

    __slots__ = ()

    is_overlay = True

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return is_squashfs(head)

    def words(self, target: str) -> list[str]:
        return ["unsquashfs", "-n", "-f", "-d", target, self.path]

    def _bring(self, target: str, means: Means) -> None:
        unpack_squashfs(self.path, target, means)


def unpack_squashfs(path: str, target: str, means: Means) -> None:
    """Unpack a squashfs file whose listing shows nothing that speaks against it.

    Raises OverlayError, and OSError (ENOSPC, EDQUOT) when there is no room for it.
    """
    import tempfile

    environ = means.config.environ
    program = process.need("unsquashfs", environ)
    with open_regular(path) as file:
        before = private.identity(os.fstat(file.fileno()))
        words: list[str | int] = [program, "-lln", "-d", "", file.fileno()]
        listing = process.run(words, environ, most=LONGEST_LISTING)
        if listing.status == -signal.SIGXFSZ:
            raise OverlayError(
                f"{quote(path)} is refused: the names in it are too long", status=DAMAGED
            )
        if listing.status:
            raise _fails(path, listing)
        whiteouts = _whiteouts(path, listing.output, means.allowance)
        into = target
        if not _only_directories(target):
            # unsquashfs writes through links that it finds; alone in a directory it finds none.
            into = tempfile.mkdtemp(dir=os.path.dirname(target))
        try:
            first = _run_unsquashfs(program, path, file.fileno(), into, whiteouts, environ)
            if first is not None:
                _complete(file.fileno(), into, means, first)
            if private.identity(os.fstat(file.fileno())) != before:
                raise was_changed(quote(path))
            if into != target:
                copy_tree(into, target, environ, "--link")
        finally:
            if into != target:
                private.remove(into)


def _fails(path: str, result: Result) -> OverlayError:
    words = process.last_line(result.errors, result.output)
    return OverlayError(f"cannot unpack {quote(path)}: {words}", status=DAMAGED)


def _only_directories(target: str) -> bool:
    return not any(
        files or any(os.path.islink(os.path.join(directory, name)) for name in names)
        for directory, names, files in os.walk(target)
    )


def _whiteouts(path: str, listing: str, allowance: Allowance) -> list[str]:
    """Return the names of the deletions in a squashfs file: overlayfs's devices 0/0.

    Names may hold the ends of lines, so lines can be forged: they only add to what is looked
    for here. Files with several names count with each. Raises OverlayError for other devices,
    and for what is too large or too deep.
    """
    found, left, count = [], allowance.bytes, -1  # without its top
    for match in _LISTED.finditer(listing):
        kind, number, minor, name = match.groups("")
        count += 1
        if count > allowance.files:
            raise allowance.too_many(path)
        if name.count("/") > DEEPEST:
            raise OverlayError(f"{quote(path)} is refused: it is too deep", status=DAMAGED)
        if kind == "-":
            left -= int(number)
        elif kind in "bc":
            if (kind, int(number), int(minor.strip(", "))) != ("c", 0, 0):
                raise OverlayError(f"{quote(path)} is refused: it holds a device", status=DAMAGED)
            found.append(name.lstrip("/"))
    if left < 0:
        raise allowance.too_much(path)
    return found


def _complete(descriptor: int, target: str, means: Means, first: tuple[str, str]) -> None:
    """Set what attributes unsquashfs has not, and note those that cannot be carried.

    descriptor  of the squashfs file
    first       (path, name) of the one that it has named
    """
    missing = _missing(descriptor, target, means)
    if missing is None:
        means.left_out.add(first[1], first[0])
        means.left_out.is_whole = False
        return
    for below, name in _as_stored(missing, first):
        if name == _OPAQUE:
            with attributes.writable(os.path.join(target, below)):
                hide_below(os.path.join(target, below))
        else:
            means.left_out.add(name, "/" + below)


def _missing(descriptor: int, target: str, means: Means) -> list[tuple[str, str]] | None:
    """Return (path, name) of the attributes that what was unpacked lacks; None: it is not known."""
    environ = means.config.environ
    squashfuse = process.which("squashfuse_ll", environ) or process.which("squashfuse", environ)
    if squashfuse is None or not sys.executable or not namespace.available(environ):
        return None
    mounted = means.through + ".attributes"
    os.mkdir(mounted)
    try:
        words: list[str | int] = ["/bin/sh", "-c", _COMPARE, "sh", squashfuse, descriptor, mounted]
        words += [sys.executable, "-IS", "-c", _INSIDE, _LIB, mounted, target]
        result = process.run(namespace.wrap(words, environ), environ, most=_LONGEST)
    finally:
        os.rmdir(mounted)
    if result.status:
        return None
    words_ = [os.fsdecode(bytes.fromhex(word)) for word in result.output.split()]
    return list(zip(words_[::2], words_[1::2]))


def print_missing(tree: str, copy: str) -> None:
    """Print what _missing() returns, in hexadecimal digits; in a namespace."""
    for pair in attributes.complete(tree, copy):
        path, name = (os.fsencode(word).hex() for word in pair)
        write_result(f"{path} {name}\n")


def _as_stored(missing: list[tuple[str, str]], first: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (path, name) of attributes as they are called in the file.

    first  one that was missing, as unsquashfs has named it
    Some versions of squashfuse call root's those of security, and those of security root's.
    """
    swapped = (first[0].lstrip("/"), _swapped(first[1])) in missing
    swapped = swapped or any(_KNOWN.match(_swapped(name)) for _below, name in missing)
    for below, name in missing:
        yield below, _swapped(name) if swapped else name


def _swapped(name: str) -> str:
    """Return the name of an attribute of root's as one of security, or the other way."""
    kind, _dot, rest = name.partition(".")
    return f"{_OTHER.get(kind, kind)}.{rest}"


def _remove_files(target: str) -> None:
    """Remove all but directories: unsquashfs cannot write what it has made read-only."""
    for directory, names, files in os.walk(target):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            if name in files or os.path.islink(path):
                os.unlink(path)


def _run_unsquashfs(
    program: str,
    path: str,
    descriptor: int,
    target: str,
    whiteouts: Collection[str],
    environ: Mapping[str, str],
) -> tuple[str, str] | None:
    """Unpack into a directory without links, and make the deletions there.

    path, descriptor  its name, for messages, and what was listed
    unsquashfs makes devices for root only. Every user may make the character device 0/0,
    overlayfs's mark of a deletion (mknod(2), Linux 5.8).
    Returns (path, name) of the first attribute that it could not set, or None. Where it gave up at
    that, all is unpacked without attributes.
    """
    words: list[str | int] = [program, "-n", "-f", "-d", target]
    result = process.run([*words, descriptor], environ)
    said = result.errors + result.output
    given_up = _GIVEN_UP.search(said) if result.status else None
    refused = given_up or (_OF_ROOT.search(said) if result.status else None)
    if given_up:
        _remove_files(target)
        result = process.run([*words, "-no-xattrs", descriptor], environ)
    # With 2 it went on after what it tells of; all else means that something is not there.
    told = _EXPECTED.sub("", result.errors).strip()
    if result.status not in (0, 2) or result.status and told:
        check_room(result.errors + result.output)
        raise _fails(path, result)
    for name in whiteouts:
        device = os.path.join(target, name)
        parent, parts = os.path.dirname(name), name.split("/")
        if ".." in parts or not make_directories(target, parent):
            raise OverlayError(f"{quote(path)} is refused: {quote(name)}", status=DAMAGED)
        if not os.path.lexists(device):
            os.mknod(device, stat.S_IFCHR | 0o600, 0)
    return ("/" + os.path.relpath(refused[2], target), refused[1]) if refused else None
