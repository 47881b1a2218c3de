"""Whether there is room for a new overlay: quotas and free space, asked before writing.

check() is called with what an overlay will take; it only reads. Where a quota is asked for
follows from the type of the file system, or from the site's own [quota] command. What a
source says becomes Limits, always in bytes and in numbers of files.
"""

import errno
import fcntl
import os
import stat
import struct
import time

from overlay import mounts, process, size
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason

_BTRFS_SYSFS = "/sys/fs/btrfs"

# For the tables of the file system beside the file itself, when a size is proposed.
_SPARE = size.MIB

# MiB that make a sparse overlay worth while: its journal and some tables are written at once.
_SPARSE = 32


class Limits:
    """One quota: what is used, and how far it goes. None is unlimited, or not known.

    kind    user, group, project, or tree (a directory, a subvolume, a file set)
    name    how a message calls it
    source  what said so
    """

    __slots__ = (
        "hard_bytes",
        "hard_files",
        "kind",
        "name",
        "soft_bytes",
        "soft_files",
        "source",
        "used_bytes",
        "used_files",
    )

    def __init__(self, kind, source, name, blocks, files):
        """Take (used, soft, hard) of bytes and of files; a limit of 0 is none."""
        self.kind = kind
        self.source = source
        self.name = name
        self.used_bytes, self.soft_bytes, self.hard_bytes = _without_zeros(*blocks)
        self.used_files, self.soft_files, self.hard_files = _without_zeros(*files)

    def __repr__(self):
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Limits({values})"

    @property
    def left_bytes(self):
        """How many bytes may still come; None without a limit, or when it is not known."""
        limit = self.soft_bytes or self.hard_bytes
        if limit is None or self.used_bytes is None:
            return None
        return max(0, limit - self.used_bytes)

    @property
    def left_files(self):
        """How many files may still come; None without a limit, or when it is not known."""
        limit = self.soft_files or self.hard_files
        if limit is None or self.used_files is None:
            return None
        return max(0, limit - self.used_files)

    @property
    def is_empty(self):
        """Whether it limits nothing."""
        limits = (self.soft_bytes, self.hard_bytes, self.soft_files, self.hard_files)
        return not any(limits)


def _without_zeros(used, soft, hard):
    return used, soft or None, hard or None


class Unknown(Exception):
    """A source did not answer, or not as it is known to; the words say how."""


class Place:
    """Where an overlay is to be, and who will own it there: what the sources ask about.

    group    the gid that new files get in this directory
    project  its project ID, 0 for none
    """

    def __init__(self, directory, environ, seconds):
        self.directory = os.path.realpath(directory)
        self.environ = environ
        self.user = os.geteuid()
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        # O_PATH where the directory may be written, but not listed.
        listed = os.O_RDONLY if os.access(self.directory, os.R_OK) else os.O_PATH
        descriptor = os.open(self.directory, listed | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.mount = mounts.find(descriptor) or mounts.Mount("unknown", "/", "none")
            status = os.fstat(descriptor)
            self.project = _project(descriptor)
        finally:
            os.close(descriptor)
        self.group = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()

    def ask(self, words):
        """Run a program in the time that is left; return its Result. Raises Unknown."""
        left = self._deadline - time.monotonic()
        name = os.path.basename(words[0])
        try:
            if left <= 0:
                raise TimeoutError
            return process.ask(words, self.environ, left)
        except TimeoutError:
            raise Unknown(f"{name} gave no answer within {self._seconds:g} s") from None
        except OverlayError as error:
            raise Unknown(error.what) from None


def _project(descriptor):
    """Return the project ID that files made in a directory get, or 0.

    ioctl_xfs_fsgetxattr(2): five 32-bit numbers, first the flags, fourth the project;
    ext4, f2fs and Lustre answer it too. 0x200: files in this directory inherit it.
    """
    try:
        answer = fcntl.ioctl(descriptor, 0x801C581F, bytes(28))
    except OSError:
        return 0
    flags, _extent, _count, project, _copy = struct.unpack_from("=5I", answer)
    return project if flags & 0x200 else 0


def check(directory, *, now_bytes, full_bytes, files, config, environ):
    """See whether a new overlay has room in a directory; return notices for the user.

    now_bytes   what is written or reserved at once
    full_bytes  what it takes when it is full
    files       how many files are made
    Raises OverlayError (CANNOT_CREATE) when there is no room, or when that cannot be
    found out, as the site has it.
    """
    mode = config["quota.check"]
    if mode == "off":
        return []
    limits, failures = look(directory, config, environ)
    findings = _findings(limits, now_bytes, full_bytes, files)
    if findings and findings[0].short and _settle(directory, config, environ):
        limits, failures = look(directory, config, environ)
        findings = _findings(limits, now_bytes, full_bytes, files)
    if mode == "refuse" and findings and findings[0].short:
        raise OverlayError(
            f"there is no room for the overlay in {quote(directory)}: {findings[0].words}",
            status=CANNOT_CREATE,
            hint=_hint(findings[0], limits, now_bytes < full_bytes, config),
        )
    if mode == "refuse" and failures and config["quota.on_failure"] == "refuse":
        raise OverlayError(
            f"whether there is room for the overlay in {quote(directory)} is not known:"
            f" {failures[0]}",
            status=CANNOT_CREATE,
            hint="try again later, or choose another directory with -o",
        )
    return [finding.words for finding in findings] + [
        f"the quota could not be checked: {words}" for words in failures
    ]


class _Finding:
    """What one quota means for the new overlay.

    short  how much of it is missing, so that nothing can be made; 0 for a warning
    words  the sentence with the numbers
    files  whether it is about files
    """

    def __init__(self, short, words, files):
        self.short = short
        self.words = words
        self.files = files


def _findings(found, now_bytes, full_bytes, files):
    """Return what is short, the most so first, and what will be when the overlay is full."""
    findings = []
    for limits in found:
        blocks = (limits.used_bytes, limits.soft_bytes, limits.hard_bytes, now_bytes, full_bytes)
        counts = (limits.used_files, limits.soft_files, limits.hard_files, files, files)
        findings.append(_finding(limits, *blocks, False))
        findings.append(_finding(limits, *counts, True))
    findings = [finding for finding in findings if finding]
    return sorted(findings, key=lambda finding: (finding.short, not finding.files), reverse=True)


def _finding(limits, used, soft, hard, now, full, files):
    """Return the _Finding for one side of Limits, or None when there is room."""
    if used is None or not (soft or hard):
        return None
    form = size.format_files if files else size.format_size
    if hard and used + now > hard:
        short, limit, needed = used + now - hard, hard, now
        words = f"{limits.name} is short by {form(short)}"
    elif soft and used + now > soft:
        short, limit, needed = 0, soft, now
        words = f"with the overlay, {limits.name} is over its soft limit"
    elif used + full > min(soft or hard, hard or soft):
        short, limit, needed = 0, min(soft or hard, hard or soft), full
        words = f"when the overlay fills, {limits.name} has not enough room for all of it"
    else:
        return None
    form = size.format_count if files else size.format_size
    if limits.kind == "space":
        numbers = f"free {form(limit - used)}"
    else:
        numbers = f"used {form(used)}, limit {form(limit)}"
    return _Finding(short, f"{words} ({numbers}, needed {form(needed)})", files)


def _hint(finding, limits, sparse, config):
    """Return what the user can do about a quota that is short."""
    ways = []
    if not finding.files:
        fits = min(
            each.hard_bytes - each.used_bytes
            for each in limits
            if each.hard_bytes and each.used_bytes is not None
        )
        fits = (fits - _SPARE) // size.MIB
        if sparse:
            ways.append("choose a smaller size with -s: its journal and tables take the room")
        elif fits > 0:
            way = f"choose a smaller size (-s {fits} fits)"
            if fits > _SPARSE:
                way += (
                    ", or add --sparse: then room is taken only as the overlay fills, and a"
                    " session can run into the limit"
                )
            ways.append(way)
    ways.append(
        config["quota.hint"] or "remove what you do not need, or choose another directory with -o"
    )
    return "; ".join(ways)


def _settle(directory, config, environ):
    """Let btrfs count what has been removed; return whether it may have.

    It does so only when it next commits, and commits itself before it says EDQUOT.
    """
    place = Place(directory, environ, config["quota.timeout"])
    program = process.which("sync", environ)
    if place.mount.type != "btrfs" or program is None:
        return False
    try:
        return not place.ask([program, "-f", place.directory]).status
    except Unknown:
        return False


def look(directory, config, environ):
    """Return (list of Limits, list of words about what could not be found out).

    The free space of the file system is among the Limits. Programs take [quota] timeout
    seconds at most, all together.
    """
    place = Place(directory, environ, config["quota.timeout"])
    found, failures = [], []
    try:
        answer = _command(place, config["quota.command"])
        if answer is None:
            source = _kernel if place.mount.is_local else _none
            answer = _SOURCES.get(place.mount.type, source)(place)
        for limits in answer:  # one by one: what is known before a source fails stays
            found.append(limits)
    except Unknown as unknown:
        failures.append(str(unknown))
    except OSError as error:
        failures.append(f"{place.mount.type}: {reason(error)}")
    found += _space(place, any(limits.kind in ("project", "tree") for limits in found))
    return [limits for limits in found if not limits.is_empty], failures


def _none(_place):
    return []


def _owner_names(place):
    """Return the names of the quotas of a user, a group and a project in messages."""
    where = quote(place.mount.point)
    return {
        "user": f"your quota on {where}",
        "group": f"the quota of group {_group_name(place.group)} on {where}",
        "project": f"the quota of project {place.project} on {where}",
    }


def _user_name(number):
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number):
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _amount(word, unit):
    """Return the number that a word such as 12291*, 2.644T, 0k or - stands for, or None.

    unit  what a number without a letter counts: 1024 for KiB, 1 for bytes or files
    A * marks what is over its limit, [ ] what a server that is down has not confirmed.
    Raises ValueError.
    """
    text = word.rstrip("*").strip("[]").rstrip("*")
    if text in ("-", ""):
        return None
    letter = text[-1].upper()
    if letter in "KMGTPE":
        # Files are counted in thousands, by quota(1); rounded up to be on the safe side.
        base = 1000 if unit == 1 else 1024
        return int(float(text[:-1]) * base ** ("KMGTPE".index(letter) + 1))
    return int(text) * unit


def _row(words, now):
    """Return ((used, soft, hard) in bytes, the same for files) of eight columns.

    They are `blocks quota limit grace files quota limit grace`, in KiB or with a letter,
    as quota(1) and `lfs quota` print them. A soft limit whose time of grace is over is
    as good as a hard one. Raises ValueError.
    """
    sides = []
    for (used, soft, hard, grace), unit in ((words[:4], 1024), (words[4:], 1)):
        used, soft, hard = (_amount(word, unit) for word in (used, soft, hard))
        # quota(1) prints when it ends, in seconds since 1970; lfs "none" when it is over, and
        # a dash while nothing is over its limit.
        over = grace in ("expired", "none") or grace.isdecimal() and 0 < int(grace) < now
        if over and soft and used is not None and used > soft:
            hard = min(soft, hard or soft)
        sides.append((used, soft, hard))
    return sides


# The site's command.


def _command(place, words):
    """Ask the site's own command; None when there is none, or it prints nothing."""
    if not words:
        return None
    known = {"{user}": _user_name(place.user), "{path}": place.directory}
    arguments = []
    for word in words:
        for name, value in known.items():
            word = word.replace(name, value)
        arguments.append(word)
    program = process.which(arguments[0], place.environ)
    if program is None:
        raise Unknown(f"the site's command {quote(arguments[0])} is missing")
    result = place.ask([program, *arguments[1:]])
    if result.status:
        raise Unknown(_failure(program, result))
    try:
        return parse_command(result.output, place) or None
    except ValueError:
        line = result.output.strip().splitlines()[0]
        raise Unknown(f"the site's command prints {quote(line)}, not four numbers") from None


def parse_command(text, place):
    """Return the Limits of the answer of the site's command.

    A line for a quota: used_bytes limit_bytes used_files limit_files [name], in whole
    numbers; - for what is not known, - or 0 for no limit. Raises ValueError.
    """
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        words = line.split(None, 4)
        numbers = [None if word == "-" else int(word) for word in words[:4]]
        if len(numbers) < 4 or any(number is not None and number < 0 for number in numbers):
            raise ValueError(line)
        name = f"the quota of {words[4].strip()}" if words[4:] else _owner_names(place)["user"]
        used, limit, used_files, limit_files = numbers
        found.append(
            Limits("user", "command", name, (used, None, limit), (used_files, None, limit_files))
        )
    return found


def _failure(program, result):
    """Return why a program's answer cannot be used."""
    lines = (result.errors.strip() or result.output.strip()).splitlines()
    name = os.path.basename(program)
    if not lines:
        return f"{name} ended with {result.status}"
    return lines[-1] if lines[-1].startswith(name) else f"{name}: {lines[-1]}"


# Local file systems: the kernel.

_GETQUOTA = 0x800007  # Q_GETQUOTA, linux/quota.h
_TYPES = {"user": 0, "group": 1}  # USRQUOTA, GRPQUOTA; projects are answered to root alone
_QUOTACTL_FD = 443  # the system call's number, the same on all architectures of our day

# There are no quotas here, none of this type, or none for this user.
_NO_QUOTA = (
    errno.ENOSYS,
    errno.ESRCH,
    errno.EINVAL,
    errno.ENOENT,
    errno.ENODEV,
    errno.ENOTBLK,
    errno.ENXIO,
    errno.EOPNOTSUPP,
)


def _kernel(place):
    """Ask the kernel by quotactl(2), or quota(1) where it may not be asked so."""
    found = []
    for kind, owner in (("user", place.user), ("group", place.group)):
        try:
            answer = _quotactl(place, kind, owner)
        except (ImportError, OSError):
            return _rpc(place) if process.which("quota", place.environ) else found
        if answer:
            found.append(Limits(kind, "quotactl", _owner_names(place)[kind], *answer))
    return found


def _quotactl(place, kind, owner):
    """Return (used, soft, hard) in bytes and in files of a user or group, or None.

    struct if_dqblk of linux/quota.h, as quotactl(2) has it: limits in KiB, used space in
    bytes, end of grace in seconds since the epoch. An ordinary user may ask for himself
    and his groups. Raises OSError and ImportError.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    command = ctypes.c_int(_GETQUOTA << 8 | _TYPES[kind])
    buffer = ctypes.create_string_buffer(72)
    descriptor = os.open(place.directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        failed = libc.syscall(_QUOTACTL_FD, descriptor, command, owner, buffer)
    finally:
        os.close(descriptor)
    if failed and ctypes.get_errno() == errno.ENOSYS:  # before Linux 5.14, or no quotas
        failed = libc.quotactl(command, os.fsencode(place.mount.source), owner, buffer)
    if failed:
        number = ctypes.get_errno()
        if number in _NO_QUOTA:
            return None
        raise OSError(number, os.strerror(number))
    hard, soft, used, *files, grace, grace_files = struct.unpack_from("=8Q", buffer)
    hard_files, soft_files, used_files = files
    return (
        _with_grace(used, soft * 1024, hard * 1024, grace),
        _with_grace(used_files, soft_files, hard_files, grace_files),
    )


def _with_grace(used, soft, hard, grace):
    """Return (used, soft, hard): a soft limit whose time of grace is over is a hard one."""
    if soft and used > soft and 0 < grace < time.time():
        hard = min(soft, hard or soft)
    return used, soft, hard


# NFS: quota(1), which asks the server.


def _rpc(place):
    """Ask quota(1). Without it, or when the server has no service for it, nothing is known.

    It ends with 1 when the user is over a limit, on an error, and when there is no quota:
    only its text tells which.
    """
    program = process.which("quota", place.environ)
    if program is None:
        return []
    options = ["-Q", "-w", "-p", "--show-mntpoint", "-u", "-g", "-f"]
    result = place.ask([program, *options, place.mount.point])
    try:
        found = parse_quota(result.output, place, time.time())
    except ValueError:
        raise Unknown("the answer of quota is not understood") from None
    if not found and result.status and result.errors.strip():
        raise Unknown(_failure(program, result))
    return found


def parse_quota(text, place, now):
    """Return the Limits of a place in the output of `quota -w -p --show-mntpoint -u -g`.

    A title such as "Disk quotas for user alice (uid 1001):" ends with "none", or a head
    and a row for each file system follow: device and mount point, then eight columns.
    now  seconds since the epoch; -p gives the end of grace so. Raises ValueError.
    """
    owners = {("uid", place.user): "user", ("gid", place.group): "group"}
    names = _owner_names(place)
    found, kind = [], None
    for line in text.splitlines():
        if line.startswith("Disk quotas for "):
            title, _bracket, number = line.rpartition(":")[0].rpartition("(")
            what, _blank, number = number.rstrip(")").partition(" ")
            kind = owners.get((what, int(number)))
        elif kind and line.split()[:1] != ["Filesystem"]:
            where, *columns = line.rsplit(None, 8)
            if len(columns) < 8:
                raise ValueError(line)
            if where.strip().endswith(" " + place.mount.point):
                found.append(Limits(kind, "quota", names[kind], *_row(columns, now)))
    return found


# Lustre.


def _lustre(place):
    """Ask `lfs quota` for the user, the group and, where there is one, the project."""
    program = process.which("lfs", place.environ)
    if program is None:
        raise Unknown("the program lfs of Lustre is missing on this machine")
    questions = [("user", "-u", place.user), ("group", "-g", place.group)]
    if place.project:
        questions.append(("project", "-p", place.project))
    names = _owner_names(place)
    for kind, option, number in questions:
        result = place.ask([program, "quota", option, str(number), place.directory])
        try:
            sides = parse_lfs(result.output)
        except ValueError:
            # Groups and projects are often not counted: that is no failure.
            if kind == "user" and "not enabled" not in result.errors:
                raise Unknown(_failure(program, result)) from None
            continue
        yield Limits(kind, "lfs quota", names[kind], *sides)


def parse_lfs(text):
    """Return (used, soft, hard) in bytes and in files from the output of `lfs quota`.

    After the head, the path and eight columns; a long path has a line of its own. Lines
    such as "uid 1001 is using default block quota setting" follow: the columns show what
    is in force then. Raises ValueError.
    """
    words = None
    for line in text.splitlines():
        if line.split()[:1] == ["Filesystem"]:
            words = []
        elif words is not None:
            words += line.split()
            if len(words) > 8:
                return _row(words[-8:], 0)
    raise ValueError(text)


# btrfs: the group of a subvolume, as the kernel shows it to everybody since Linux 5.9.


def _btrfs(place):
    """Read the limit of the subvolume that the directory belongs to.

    /sys/fs/btrfs/UUID/qgroups/0_SUBVOLUME has a file for each number, in bytes. What is
    only promised (rsv_*) counts as used, as it does for the kernel. Groups of groups
    (1/0 and up) are there too, but not who belongs to them.
    """
    descriptor = os.open(place.directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # BTRFS_IOC_FS_INFO: the UUID after 16 bytes; BTRFS_IOC_INO_LOOKUP with tree 0 and
        # inode 256, the top of every subvolume: its number first. btrfs-ioctl(2).
        info = bytearray(1024)
        fcntl.ioctl(descriptor, 0x8400941F, info)
        lookup = bytearray(struct.pack("=QQ4080x", 0, 256))
        fcntl.ioctl(descriptor, 0xD0009412, lookup)
    finally:
        os.close(descriptor)
    digits = info[16:32].hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    subvolume = struct.unpack_from("=Q", lookup)[0]
    directory = os.path.join(_BTRFS_SYSFS, uuid, "qgroups", f"0_{subvolume}")
    name = f"the quota of the subvolume of {quote(place.directory)}"
    try:
        return parse_qgroup(lambda key: _number(os.path.join(directory, key)), name)
    except FileNotFoundError:
        return []


def _number(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def parse_qgroup(read, name):
    """Return the Limits of a qgroup; read(key) returns the number of one of its files."""
    flags = read("limit_flags")
    reserved = sum(read(f"rsv_{what}") for what in ("data", "meta_pertrans", "meta_prealloc"))
    found = []
    for flag, used in ((1, "referenced"), (2, "exclusive")):  # BTRFS_QGROUP_LIMIT_MAX_RFER, _EXCL
        if flags & flag:
            blocks = (read(used) + reserved, None, read(f"max_{used}"))
            found.append(Limits("tree", "qgroup", name, blocks, (None, None, None)))
    return found


# Ceph: attributes of directories.


def _ceph(place):
    """Read the quotas of the directory and of those above it, as far as they are mounted.

    ceph.quota.max_bytes and .max_files of a directory, and what is below it in all, as
    text; they are not listed, but can be asked for.
    """
    found = []
    directory = place.directory
    while True:
        keys = ("dir.rbytes", "quota.max_bytes", "dir.rentries", "quota.max_files")
        used, limit, used_files, limit_files = (_attribute(directory, key) for key in keys)
        if limit or limit_files:
            name = f"the quota of {quote(directory)}"
            sides = (used, None, limit), (used_files, None, limit_files)
            found.append(Limits("tree", "ceph", name, *sides))
        if directory in (place.mount.point, "/"):
            return found
        directory = os.path.dirname(directory)


def _attribute(directory, key):
    try:
        return int(os.getxattr(directory, f"ceph.{key}").partition(b".")[0])
    except (OSError, ValueError):
        return None


# All file systems: statvfs(3).


def _space(place, known):
    """Return what statvfs tells: a quota of the directory, and free space and inodes.

    A directory with a project quota, or a file set, shows its own size there, which is
    less than that of the mount point.
    known  whether the quota of the directory is known already, and better
    """
    here = os.statvfs(place.directory)
    try:
        whole = os.statvfs(place.mount.point)
    except OSError:
        whole = here
    found = []
    if _is_less(here.f_blocks, whole.f_blocks) or _is_less(here.f_files, whole.f_files):
        if not known:
            name = f"the quota of {quote(place.directory)}"
            found.append(Limits("project", "statvfs", name, *_of_statvfs(here)))
        here = whole
    if here.f_blocks:
        name = f"the file system {quote(place.mount.point)}"
        found.append(Limits("space", "statvfs", name, *_of_statvfs(here)))
    return found


def _is_less(part, whole):
    """Return whether a size is really less: that of XFS and ZFS changes all the time."""
    return 0 < part * 100 < whole * 99


def _of_statvfs(room):
    """Return (used, soft, hard) in bytes and files: what is kept for root is not there."""
    used = (room.f_blocks - room.f_bfree) * room.f_frsize
    used_files = room.f_files - room.f_ffree
    return (
        (used, None, used + room.f_bavail * room.f_frsize),
        (used_files, None, used_files + room.f_favail if room.f_files else None),
    )


_SOURCES = {
    "btrfs": _btrfs,
    "ceph": _ceph,
    "fuse.ceph": _ceph,
    "fuse.ceph-fuse": _ceph,
    "lustre": _lustre,
    "nfs": _rpc,
    "nfs4": _rpc,
}
