"""One file inside an overlay, as a session sees it."""

from __future__ import annotations

import stat

from overlay.errors import MISSING, OverlayError, quote
from overlay.image import markers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image

_WHITEOUT = markers.PREFIX.decode()
_OPAQUE = tuple(name.decode() for name in markers.OPAQUE)


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

    def __init__(
        self, path: str, mode: int, owner: str, group: str, size: int, modified: int
    ) -> None:
        self.path = path
        self.mode = mode
        self.owner = owner
        self.group = group
        self.size = size
        self.room = size
        self.modified = modified
        self.target: str | None = None
        self.device: tuple[int, int] | None = None
        self.links: int | None = None
        self.number: int | None = None
        self.note: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    def interpret(self) -> Entry:
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

    def as_dictionary(self) -> dict[str, object]:
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


def nothing(image: Image, top: str) -> OverlayError:
    """Return the error for a path that is not in an overlay."""
    return OverlayError(
        f"there is no {quote(top)} in {quote(image.path)}",
        status=MISSING,
        hint=f"see what there is: show-overlay {quote(image.path)} --files /",
    )
