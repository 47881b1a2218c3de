"""Where a file lies: the file system, and whether other machines have it too."""

from __future__ import annotations

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
    def keeps_open_files(self) -> bool:
        """Whether a file that has lost its name stays for those who have it open, everywhere."""
        return not self.type.startswith(_FORGETFUL)


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
                first, _dash, rest = line.partition(" - ")
                words = first.split(" ")
                if words[0] == number:
                    type, source, *options = rest.rstrip("\n").split(" ")
                    options = ",".join(options).split(",")
                    return Mount(type, _plain(words[4]), _plain(source), tuple(options))
    except (OSError, KeyError):
        pass
    return None


def _plain(text: str) -> str:
    r"""Return a name of mountinfo without its escapes: blanks and the like stand as \040."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
