"""What an overlay says of itself without being mounted: room, files, owners, state, use."""

import os
import struct

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import holders
from overlay.host.room import free_bytes
from overlay.image import lock, markers, record, squashfs
from overlay.image.layout import check_locked_layout

_SESSION = ("user", "host", "job", "started", "ended")


class Survey:
    """The figures of one overlay; None stands for what its kind has not, or nobody knows.

    kind                    "ext3", "squashfs" or "directory"
    size, allocated         bytes of the file, and those of them that take disk blocks
    room, used, available   bytes: what df(1) shows inside as size, used and available
    files, files_used       how many it can hold, and holds, as df -i shows inside
    owner, owner_inside     user numbers: of the file, and of upper/ in it
    clean                   whether it was unmounted properly
    use                     "writer" or "reader" when a session has it open
    users, left_behind      the caller's Processes among them; whether a dead session left them
    written, made           seconds since 1970: last write inside, and making of the file system
    session                 what the last writable session noted of itself
    markers                 whether there are deletion markers inside
    nearly_full             whether too little room, or too few files, are left
    compression             of a squashfs file
    plain                   of a directory without upper/: "empty" or "data"
    """

    def __init__(self, image, *, low, who=True):
        """Survey an Image.

        low  percent of room or files below which it is nearly full, as [safety] low has it
        who  whether to look for the processes that use it
        """
        status = image.status
        self.path = image.path
        self.kind = image.kind
        self.size = self.allocated = None
        self.room = self.used = self.available = None
        self.files = self.files_used = None
        self.owner, self.owner_inside = status.st_uid, image.upper
        self.plain = None
        self.clean = self.compression = self.made = self.markers = None
        self.users, self.left_behind = [], False
        if image.kind == "directory":
            self._directory(image)
        else:
            self.size, self.allocated = status.st_size, status.st_blocks * 512
            self.markers = markers.known(image)
            self._ext3(image) if image.superblock else self._squashfs(image)
        if who and self.use != "writer":  # else it may be read while it changes
            check_locked_layout(image)
        noted = record.read(image.descriptor)
        self.session = {name: noted[name] for name in _SESSION if name in noted}
        self.nearly_full = self.kind == "ext3" and (
            self.available * 100 < self.size * low or self.files_free * 100 < self.files * low
        )
        if who and self.use:
            self.users, self.left_behind = holders.users(image.identity)

    def _ext3(self, image):
        superblock = image.superblock
        self.room, self.used = superblock.room_bytes, superblock.used_bytes
        self.available = superblock.available_bytes
        self.files, self.files_used = superblock.inodes_count, superblock.used_inodes_count
        self.clean = bool(superblock.is_clean)
        self.written = superblock.write_time or None
        self.made = superblock.make_time or None
        self.use = lock.holder(image.descriptor, write=True)

    def _squashfs(self, image):
        data = os.pread(image.descriptor, squashfs.HEADER, 0)
        if len(data) == squashfs.HEADER:
            count, made, _block, _fragments, compressor = struct.unpack_from("<IIIIH", data, 4)
            (major,) = struct.unpack_from("<H", data, 28)
        if len(data) < squashfs.HEADER or major != 4:
            raise OverlayError(
                f"{quote(image.path)} is damaged: it has no header of squashfs 4",
                status=DAMAGED,
            )
        self.files_used = count
        self.compression = squashfs.COMPRESSORS.get(compressor)
        self.written = self.made = made or None
        self.use = lock.holder(image.descriptor, write=True)

    def _directory(self, image):
        self.use = _directory_holder(image.identity)
        self.written = int(image.status.st_mtime)
        if image.is_plain_directory:
            self.plain = "data" if image.is_data else "empty"
        try:
            upper = os.stat("upper", dir_fd=image.descriptor, follow_symlinks=False)
            self.owner_inside = upper.st_uid
            self.written = int(upper.st_mtime)
        except OSError:
            pass
        self.available = free_bytes(image.descriptor)

    @property
    def files_free(self):
        """How many more files it can hold, None when it knows no limit."""
        return None if self.files is None else self.files - self.files_used

    def as_dictionary(self):
        """Return it for --json."""
        return {
            "path": self.path,
            "kind": self.kind,
            "size": self.size,
            "allocated": self.allocated,
            "data_total": self.room,
            "data_used": self.used,
            "data_available": self.available,
            "files_total": self.files,
            "files_used": self.files_used,
            "files_available": self.files_free,
            "owner": self.owner,
            "owner_inside": self.owner_inside,
            "nearly_full": self.nearly_full,
            "clean": self.clean,
            "in_use": self.use,
            "left_behind": self.left_behind,
            "users": [
                {"pid": user.pid, "command": user.command, "started": user.started}
                for user in self.users
            ],
            "written": self.written,
            "made": self.made,
            "session": {
                name: int(text) if text.isascii() and text.isdecimal() and name != "user" else text
                for name, text in self.session.items()
            },
            "markers": self.markers,
            "compression": self.compression,
        }


def _directory_holder(identity):
    """Return how a directory is in use on this host, from the flock(2) lines of /proc/locks."""
    device, inode = identity
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted:
                    return "writer" if words[3] == "WRITE" else "reader"
    except OSError:
        pass
    return None
