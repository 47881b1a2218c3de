"""Overlays frozen into one compressed read-only squashfs file, for sharing and fast reading.

The content is read through fuse2fs in a namespace of the user's own (overlay.host.namespace) and
written by mksquashfs(1) under another name; it is compared with the original before it
takes its name.
"""

from __future__ import annotations

import contextlib
import os

from overlay import __version__, size
from overlay.change import steps
from overlay.create import mksquashfs
from overlay.create.packed import BEHIND, write_behind
from overlay.environment import copies, history
from overlay.errors import CANNOT_CREATE, DATA_LOST, OverlayError, quote, reason
from overlay.host import ending, limits, namespace, private, process
from overlay.host.permissions import Access
from overlay.image import ext3, markers
from overlay.image.ext3_contents import DEEPEST, TOO_DEEP
from overlay.image.ext3_read import Reader
from overlay.image.partial import partial_name
from overlay.image.paths import Paths, TooLong, parents
from overlay.image.record import write
from overlay.plan import Plan, Step, named
from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypedDict

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image

    class Mounts(TypedDict, total=False):
        """What namespace.wrap() mounts."""

        images: list[tuple[int, str, str]]
        layers: tuple[list[str], str]


_LONGEST = 1 << 28  # bytes of all paths that are told

_OPEN = ("-action", "chmod(a+rX)@!type(l)")

# The second of two names for one marker: a device, which no user could unpack again. What stands
# behind -e is left out, too, so it ends the options.
_LEFT_OUT = ("-wildcards", "-e", "... .wh..opq")

# fuse-overlayfs reports the inode numbers of each layer as they are, all with one device number
# (up to 1.16), so mksquashfs would take two files for names of one. Content is stored once anyway.
_SEVERAL = ("-no-hardlinks",)

# What must be equal in the original and the packed tree, as sorted records that end with a
# zero byte, which no name has; the name comes last, because it may have anything else. An
# empty record stands for the end of the list. A directory's size is its own, and the top's
# time that of its mounting for some file systems.
_LIST = (
    r"{{ find . ! -name . -type d -printf '%y\t{mode}\t%Ts\t\t\t\t%P\0' -o"
    r" ! -name . -printf '%y\t{mode}\t%Ts\t%s\t{links}\t%l\t%P\0';"
    r" find . -type f -print0 | xargs -0 -r sha256sum -z; printf '\0'; }} | sort -z"
)
_NAME = 6  # the field of a record of find that is the name

_APART = "pack each of them apart, and name them in the same order"


class Packing:
    """Overlays to be packed. Until the new file is finished and compared, nothing is changed."""

    def __init__(
        self,
        found: Sequence[Ext3Image],
        path: str,
        *,
        compression: str,
        block: int | None = None,
        level: int | None = None,
        everybody: bool = False,
        verify: bool = True,
        existing: Image | None = None,
        progress: bool = True,
        scratch: str,
        environ: Mapping[str, str],
        notice: Callable[[str], object],
    ) -> None:
        """Ask what can be asked before. Raises OverlayError (CANNOT_CREATE, UNAVAILABLE).

        found        Images, ext3, the top layer first, locked against writers
        path         of the new file
        compression  one of settings.table.COMPRESSIONS
        block        bytes that are compressed at a time, None for what mksquashfs takes
        level        of the compression, as squashfs_image.Settings has it; None for ours
        everybody    whether everything is made readable for all
        verify       whether the new file is compared with the original
        existing     the Image whose place it takes, None when there is none
        progress     whether a terminal shows how far it is
        scratch      a directory on a disk of this node
        """
        self._found = found
        self._path = replace.place(path)
        self._settings = mksquashfs.settings(compression, level=level, block=block)
        self._everybody = everybody
        self._existing = existing
        self._scratch = scratch
        self._environ = environ
        self._notice = notice
        self._tool = mksquashfs.find(environ)
        namespace.need(environ)
        several = len(found) > 1
        known = mksquashfs.known(self._tool, environ)
        apart = _SEVERAL if several else ()
        wanted = (*apart, "-quiet", *(() if progress else ("-no-progress",)))
        self._options = [option for option in wanted if option in known]
        # Without those options only a comparison tells whether content was mixed up.
        self._compared = verify or not known.issuperset(apart)
        host, pid = os.uname().nodename, private.worker()
        self._partial = partial_name(self._path, host, pid)
        self._staging = private.work_name(scratch, host, pid)
        self._mounts, self._tree, self._places = _mounts(found, self._staging)
        self._packed = os.path.join(self._staging, "packed")
        self._files = contextlib.ExitStack()

    def plan(self) -> Plan:
        """Return all that do() does. Raises as do() does."""
        try:
            return self._plan()
        except ext3.FormatError as error:
            raise self._damaged(error) from None

    def do(self) -> int:
        """Make the squashfs file and return its size in bytes.

        Raises OverlayError (CANNOT_CREATE, DATA_LOST, UNAVAILABLE); nothing is changed then.
        """
        with ending.cleaning_up():
            try:
                return self._plan().do(lambda _final: self._into_place())
            except OSError as error:
                raise self._cannot(reason(error)) from None
            except ext3.FormatError as error:
                raise self._damaged(error) from None

    def _plan(self) -> Plan:
        path, partial = self._path, self._partial
        writing = self._writing()
        before = [
            steps.tidying(path, self._scratch),
            Step(["mkdir", "-p", *self._places], action=self._begin),
            Step(named(writing), action=lambda: self._write(writing)),
        ]
        if self._compared:
            comparing = self._comparing()
            before += [
                Step(["mkdir", self._packed], action=lambda: os.mkdir(self._packed)),
                Step(
                    named(comparing),
                    action=lambda: self._compare(comparing),
                    why="it is compared with the original: what differs is printed",
                ),
            ]
        why = "nobody may read it who may not read all that it is made of"
        if self._existing is not None:
            why = replace.LIKE_THE_OLD
        before.append(Step(action=self._carry, why=BEHIND))
        return Plan(
            Step(
                ["mv", "-n" if self._existing is None else "-f", "-T", partial, path],
                action=self._into_place,
                why=None if self._everybody else why,
            ),
            before=before,
            after=[
                Step(["rm", "-f", partial], action=self._files.close),
                Step(
                    ["rm", "-rf", self._staging],
                    action=lambda: private.leave(self._scratch, self._staging),
                ),
            ],
        )

    def _begin(self) -> None:
        """Make where it is put together, and the file, for nobody else."""
        private.make_work(self._scratch, os.uname().nodename, private.worker())
        for place in self._places:
            os.mkdir(place)
        self._new = self._files.enter_context(replace.unfinished(self._path))

    def _writing(self) -> list[str | int]:
        """Return the words that write it, under the name that it has until it is finished."""
        words = [self._tool, self._tree, self._partial, "-noappend", "-exit-on-error"]
        words += self._settings
        words += _pseudo(self._found)
        words += ["-force-uid", str(os.getuid()), "-force-gid", str(os.getgid())]
        words += _OPEN if self._everybody else ()
        words += [*self._options, *_LEFT_OUT]
        if self._compared:
            # What is to be in it is listed meanwhile: what one of the two has read, the kernel has
            # in memory for the other, and fuse2fs is asked once.
            script = (
                f'{self._list()} list "$1" >"$2.listed" && mv "$2.listed" "$2.before" &'
                ' shift 2; "$@"; status=$?; [ $status != 0 ] || wait; exit $status'
            )
            words = ["/bin/sh", "-c", script, "sh", self._tree, self._packed, *words]
        return namespace.wrap(words, self._environ, **self._mounts)

    def _list(self) -> str:
        """Return the definition of a function of shell that lists a tree: see _LIST."""
        making = _LIST.format(
            mode="" if self._everybody else "%m", links="%n" if len(self._found) == 1 else ""
        )
        return f'list() {{ cd "$1" || exit 125; {making}; }};'

    def _opened(self, words: Sequence[str | int]) -> list[str | int]:
        """Return words with the file itself in the place of its name."""
        return [self._new.descriptor if word == self._partial else word for word in words]

    def _write(self, words: Sequence[str | int]) -> None:
        status = process.show(self._opened(words), self._environ)
        if status:
            limit = limits.ended(status)
            error = self._cannot(limit or f"mksquashfs ended with {status}")
            error.hint = limits.HINT if limit else None
            raise error

    def _comparing(self) -> list[str | int]:
        """Return the words that compare names, types, modes, times, sizes, links and contents."""
        environ = self._environ
        # The second asks for every file by its whole path, and takes twice as long.
        squashfuse = process.which("squashfuse_ll", environ)
        squashfuse = squashfuse or process.need("squashfuse", environ)
        # What is in one of the two lists only is told.
        script = (
            f'{self._list()} "$1" -o ro "$2" "$3" || exit 125; list "$3" >"$3.after";'
            ' comm -z -3 "$3.before" "$3.after"'
        )
        words: list[str | int] = ["/bin/sh", "-c", script, "sh", squashfuse]
        return namespace.wrap([*words, self._partial, self._packed], environ)

    def _compare(self, words: Sequence[str | int]) -> None:
        """Compare it with the original. Raises OverlayError (DATA_LOST) when they differ."""
        self._notice("comparing it with the original")
        result = process.run(self._opened(words), self._environ)
        wrong = [record for record in result.output.split("\0")[:-1] if not _may_differ(record)]
        if wrong or result.errors or result.status:
            why = _name(wrong[0]) if wrong else result.errors.strip() or "it cannot be read"
            raise OverlayError(
                f"what was packed is not the same as the original ({quote(why)}); nothing was changed",
                status=DATA_LOST,
                hint=_APART if len(self._found) > 1 else None,
            )

    def _carry(self) -> None:
        """Write copies of what the overlays carry, and that they were packed, behind its end."""
        entry = history.entry("pack", __version__)
        write_behind(self._new.descriptor, copies.of(self._found, entry))

    def _into_place(self) -> int:
        """Give the finished file its name, note whether it has markers, and return its size."""
        new, found = self._new, self._found
        there = any(markers.scan(_reader(image)) for image in found)
        made_of = [] if self._everybody else [Access(image.descriptor) for image in found]
        if self._existing is None:
            new.into_place(made_of=made_of)
        else:
            mode = new.mode() if self._everybody else None
            new.over(self._existing.descriptor, mode=mode, made_of=made_of)
        status = os.fstat(new.descriptor)
        write(
            new.descriptor,
            {
                "markers": "some" if there else "none",
                "open": "yes" if self._everybody else "no",
                "stamp": f"{status.st_mtime_ns}.{status.st_size}",
            },
        )
        return status.st_size

    def _cannot(self, why: str) -> OverlayError:
        return OverlayError(
            f"cannot create {quote(self._path)}: {why}; nothing was changed", status=CANNOT_CREATE
        )

    def _damaged(self, error: ext3.FormatError) -> OverlayError:
        told = self._cannot(f"an overlay is damaged: {error}")
        told.hint = "see which: check-overlay OVERLAY"
        return told


def _reader(image: Ext3Image) -> Reader:
    return Reader(image.descriptor, image.superblock)


def _mounts(found: Sequence[Ext3Image], staging: str) -> tuple[Mounts, str, list[str]]:
    """Return (what namespace.wrap mounts, the directory with all of it, those to be made)."""
    images, uppers, places = [], [], []
    for number, image in enumerate(found):
        whole, upper = (os.path.join(staging, f"{name}{number}") for name in ("image", "layer"))
        places += [whole, upper]
        images.append((image.descriptor, whole, upper))
        uppers.append(upper)
    if len(uppers) == 1:
        return {"images": images}, uppers[0], places
    merged = os.path.join(staging, "merged")
    return {"images": images, "layers": (uppers, merged)}, merged, [*places, merged]


def _pseudo(found: Sequence[Ext3Image]) -> list[str]:
    """Return options that put deletions of the base image into a pack of several overlays.

    In the merged tree they have already done their work among the overlays and are gone;
    what none of the upper layers has made anew stays deleted in whatever lies below.
    """
    if len(found) == 1:
        return []
    readers = [_reader(image) for image in found]
    gone: set[bytes] = set()
    words: list[str] = []
    for number, reader in enumerate(readers):
        places: dict[bytes, list[bytes]] = {}  # a path inside -> the names of its markers
        for directory, name in _deletions(reader):
            whole = b"/".join(part for part in (directory, name[len(markers.PREFIX) :]) if part)
            places.setdefault(whole, []).append(b"/".join(filter(None, (directory, name))))
        anew: set[bytes] = set().union(*(_there(above, places) for above in readers[:number]))
        for whole, names in places.items():
            if whole not in anew and whole not in gone and gone.isdisjoint(parents(whole)):
                words += [word for name in names for word in _definition(name, whole)]
        gone |= {
            whole
            for whole, names in places.items()
            if any(os.path.basename(name) not in markers.OPAQUE for name in names)
        }
    return words


def _deletions(reader: Reader) -> Iterator[tuple[bytes, bytes]]:
    """Yield (path of the directory, name) of the markers of a layer, both below its upper/."""
    paths = Paths(reader, reader.upper()[0])
    for marker in markers.scan(reader):
        try:
            directory = None if marker.directory is None else paths.of(marker.directory)
        except TooLong:
            raise _no_definition(marker.name[len(markers.PREFIX) :]) from None
        if directory is not None:
            yield directory, marker.name


def _there(reader: Reader, places: Iterable[bytes]) -> set[bytes]:
    """Return those of some paths that a layer has."""
    return reader.those_there(places, reader.upper()[0])


def _definition(name: bytes, whole: bytes) -> list[str]:
    """Return the options that put a marker into the pack.

    name, whole  paths of bytes of the marker, and of what it says is deleted
    """
    text = os.fsdecode(name)
    # Of these two nobody's quotes need to be right.
    if not text.isprintable() or '"' in text or "\\" in text:
        raise _no_definition(whole)
    return ["-p", f'"{text}" f 644 {os.getuid()} {os.getgid()} true']


def _no_definition(name: bytes) -> OverlayError:
    return OverlayError(
        f"the deletion of {quote(os.fsdecode(name))} cannot be put into a pack of several overlays",
        status=CANNOT_CREATE,
        hint=_APART,
    )


def _name(record: str) -> str:
    """Return the name in a record of find, or of sha256sum."""
    fields = record.removeprefix("\t").split("\t", _NAME)
    return fields[_NAME] if len(fields) > _NAME else record.partition("  ")[2]


def _may_differ(record: str) -> bool:
    """Return whether a record may be in one tree only; behind a tab it is in the packed one.

    The second name of a marker is left out, and deletions of several overlays are put in.
    """
    name = os.path.basename(_name(record))
    return name == ".wh..opq" or (name.startswith(".wh.") and record.startswith("\t"))


def closed(image: Ext3Image) -> list[bytes]:
    """Return the paths in an image that others cannot read, as bytes, sorted.

    Without permission for others to read a file, or to read and enter a directory. Raises
    ext3.FormatError.
    """
    reader, length = _reader(image), 0
    blocks: set[int] = set()
    found: list[bytes] = []
    pending = [(b"", reader.upper()[1])]
    while pending:
        path, inode = pending.pop()
        if len(path) > DEEPEST:
            raise ext3.FormatError(TOO_DEEP)
        for name, number, _kind in reader.entries(inode, blocks):
            if name in (b".", b".."):
                continue
            one = reader.inode(number)
            needed = 0o5 if one.is_directory else 0o4
            if one.mode >> 12 != 0xA and one.mode & needed != needed:
                found.append(path + b"/" + name)
                length += len(found[-1])
                if length > _LONGEST:
                    raise ext3.FormatError("the names in it are too long")
            if one.is_directory:
                pending.append((path + b"/" + name, one))
    return sorted(found)


def summary(path: str, length: int, found: Sequence[Image]) -> str:
    """Return the line that says what came of it."""
    before = sum(image.status.st_size for image in found)
    name = f"./{path}" if path.startswith("-") else path
    return (
        f"packed {quote(path)}, {size.format_size(length)}"
        f" ({'it was' if len(found) == 1 else 'they were'} {size.format_size(before)})\n"
        f"next: mount-overlay -o {quote(name)}"
    )
