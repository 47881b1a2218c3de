"""Where a file lies: the file system, and whether other machines have it too."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# File systems that no second machine has mounted: a lock there tells everything.
_LOCAL = frozenset(
    "btrfs ext2 ext3 ext4 f2fs overlay ramfs reiserfs tmpfs ubifs vfat xfs zfs".split()
)

# Whose servers remove a file although clients on other machines still have it open.
_FORGETFUL = ("nfs", "cifs", "smb", "9p", "afs")


class Mount:
    """One line of /proc/self/mountinfo: type, point (the directory), source, all as text.

    options  the words of the file system itself, such as "flock" or "vers=4.2"
    """

    __slots__ = ("options", "point", "source", "type")

    def __init__(self, type: str, point: str, source: str, options: tuple[str, ...] = ()) -> None:
        self.options = options
        self.type = type
        self.point = point
        self.source = source

    @property
    def is_local(self) -> bool:
        """Whether it is surely mounted on this machine alone."""
        return self.type in _LOCAL

    @property
    def is_of_others(self) -> bool:
        """Whether a program of another user, not root's, shows what is there: see fuse(4)."""
        owner = next((one[8:] for one in self.options if one.startswith("user_id=")), "0")
        return self.type.startswith("fuse") and owner not in ("0", str(os.getuid()))

    @property
    def keeps_open_files(self) -> bool:
        """Whether a file that has lost its name stays for those who have it open, everywhere."""
        return not self.type.startswith(_FORGETFUL)


class Served:
    """What programs of other users show as files and directories (FUSE), wherever it is mounted.

    To be closed. Such a program need not answer, and who waits for it cannot even be killed. Nothing is asked
    of it here.
    """

    def __init__(self) -> None:
        import select  # for searches only

        self._points: frozenset[str] | None = None
        self._poll = select.poll()
        try:
            self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1  # there is no such thing then
            self._points = frozenset()
            return
        self._poll.register(self._file, select.POLLPRI)

    def close(self) -> None:
        """Close what tells of new mounts."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def names_in(self, directory: int) -> frozenset[str]:
        """Return the names in an open directory where such a mount is."""
        points = self._now()
        if not points:
            return points
        place = os.readlink(f"/proc/self/fd/{directory}").rstrip("/")
        pairs = (point.rpartition("/") for point in points)
        return frozenset(name for above, _slash, name in pairs if above == place)

    def shows(self, path: str) -> bool:
        """Return whether a path leads to the top of such a mount. Raises OSError."""
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # the top itself is not asked by that
        try:
            mount = find(place)
            return mount is not None and mount.is_of_others
        finally:
            os.close(place)

    def _now(self) -> frozenset[str]:
        """Return the points of all; where there are some, anew: a name above may have changed."""
        if self._points is None or self._points or (self._file >= 0 and self._poll.poll(0)):
            self._points = frozenset(mount.point for mount in _all() if mount.is_of_others)
        return self._points


def _all() -> Iterator[Mount]:
    """Yield every Mount that is seen from here."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            yield _parse(line)[1]


def _parse(line: str) -> tuple[str, Mount]:
    """Return (number, Mount) of a line of mountinfo, proc(5)."""
    first, _dash, rest = line.partition(" - ")
    words = first.split(" ")
    type, source, *options = rest.rstrip("\n").split(" ")
    return words[0], Mount(
        type, _plain(words[4]), _plain(source), tuple(",".join(options).split(","))
    )


def find(descriptor: int) -> Mount | None:
    """Return the Mount that an open file or directory was reached through, or None.

    The kernel names it by number in /proc/self/fdinfo, proc(5): device numbers would not do,
    because the subvolumes of btrfs have their own.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        number = fields["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.startswith(number + " "):
                    return _parse(line)[1]
    except (OSError, KeyError):
        pass
    return None


def _plain(text: str) -> str:
    r"""Return a name of mountinfo without its escapes: blanks and the like stand as \040."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
