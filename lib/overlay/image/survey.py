"""What an overlay says of itself without being mounted: room, files, owners, state, use."""

from __future__ import annotations

from overlay.host import holders
from overlay.image import markers, record
from overlay.image.ext3_size import SLOW
from overlay.image.layout import check_locked_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image

_SMALL = 10 << 30  # bytes; that none need be smaller than
_GIB = 1 << 30
_INODES = 2 * 256  # bytes that a file takes in the tables, and one more of them

_SESSION = ("user", "host", "job", "started", "ended", "image")


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
    lacks_upper             whether it is an image without upper/
    own_files               how many of files_used are nobody's
    """

    # What a kind fills in, as far as it has it.
    room: int | None = None
    used: int | None = None
    available: int | None = None
    files: int | None = None
    files_used: int | None = None
    plain: str | None = None
    compression: str | None = None
    clean: bool | None = None
    written: int | None = None
    made: int | None = None
    use: str | None = None

    def __init__(self, image: Image, *, low: int, who: bool = True) -> None:
        """Survey an Image.

        low  percent of room or files below which it is nearly full, as [safety] low has it
        who  whether to look for the processes that use it
        """
        status = image.status
        self.path = image.path
        self.kind = image.kind
        self.size = status.st_size if image.is_file else None
        self.allocated = status.st_blocks * 512 if image.is_file else None
        self.markers = markers.known(image) if image.is_file else None
        self.owner, self.owner_inside = status.st_uid, image.upper
        self.lacks_upper = image.lacks_upper
        self.own_files = image.own_files
        self.users: list[holders.Process] = []
        self.left_behind = False
        image.fill(self)
        if who and self.use != "writer":  # else it may be read while it changes
            check_locked_layout(image)
        noted = record.read(image.descriptor)
        self.session = {name: noted[name] for name in _SESSION if name in noted}
        self.nearly_full = any(image.is_short(low))
        if who and self.use:
            self.users, self.left_behind = holders.users(image.identity)

    @property
    def files_inside(self) -> int:
        """How many files and directories of somebody's are in it; those of a directory are not."""
        return max(0, self.files_used - self.own_files) if self.files_used else 0

    @property
    def enough(self) -> int | None:
        """The bytes that would do, with as much to spare, where it is far larger than what is in it.

        None where it is not, or where its size costs little: neither much of a disk, nor time.
        """
        if self.size is None or self.allocated is None or self.used is None or not self.files:
            return None
        enough = -(-max(2 * self.used + _INODES * self.files_inside, _SMALL) // _GIB) * _GIB
        spare = self.size if self.size >= SLOW else self.allocated
        return enough if 4 * enough <= spare else None

    @property
    def files_enough(self) -> int | None:
        """The number of files for that size: as now, but no more than one for each 64 KiB; or None."""
        enough = self.enough
        if enough is None or self.files is None:
            return None
        return max(2 * self.files_inside, min(self.files, enough >> 16))

    @property
    def files_free(self) -> int | None:
        """How many more files it can hold, None when it knows no limit."""
        if self.files is None or self.files_used is None:
            return None
        return self.files - self.files_used

    def as_dictionary(self) -> dict[str, object]:
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
            "size_enough": self.enough,
            "files_enough": self.files_enough,
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
