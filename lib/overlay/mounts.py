"""Where a file lies: the file system, and whether other machines have it too."""

# File systems that no second machine has mounted: a lock there tells everything.
_LOCAL = frozenset(
    "btrfs ext2 ext3 ext4 f2fs overlay ramfs reiserfs tmpfs ubifs vfat xfs zfs".split()
)


class Mount:
    """One line of /proc/self/mountinfo: type, point (the directory), source, all as text.

    options  the words of the file system itself, such as "flock" or "vers=4.2"
    """

    __slots__ = ("options", "point", "source", "type")

    def __init__(self, type, point, source, options=()):
        self.options = options
        self.type = type
        self.point = point
        self.source = source

    @property
    def is_local(self):
        """Whether it is surely mounted on this machine alone."""
        return self.type in _LOCAL


def find(descriptor):
    """Return the Mount that an open file or directory was reached through, or None.

    The kernel names it by number in /proc/self/fdinfo, proc(5): device numbers would not do,
    because the subvolumes of btrfs have their own.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        number = fields["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                words, _dash, rest = line.partition(" - ")
                words = words.split(" ")
                if words[0] == number:
                    type, source, *options = rest.rstrip("\n").split(" ")
                    options = tuple(",".join(options).split(","))
                    return Mount(type, _plain(words[4]), _plain(source), options)
    except (OSError, KeyError):
        pass
    return None


def _plain(text):
    r"""Return a name of mountinfo without its escapes: blanks and the like stand as \040."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
