"""The note that an overlay carries of itself: what a start has to know of it.

It lies inside, in /.singularity.d/overlay/ID/note, beside the history: there it survives copies,
packs and --from, and there the engines keep what an image says of itself. A packed file has a copy
of both behind the end of its file system, which is read at once.

The note is text: "overlay 1" (the number of the format), lines of a name and a value, bytes that
cannot be seen as %XX, an empty line, and the lines of its activation as the engine reads them.
"""

from __future__ import annotations

import os
import time

from overlay.environment.base import Base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image

DIRECTORY = "/.singularity.d/overlay"

# Where the engine's lines lie below upper/, with the overlay's id: of two layers with one name only
# the upper one's counts. Behind 90-environment.sh and 10-docker2singularity.sh, which may set PATH
# outright.
ENGINE = "/.singularity.d/env/92-overlay-{}.sh"

FORMAT = 1
MOST = 1 << 16  # bytes of a note; ours have some hundred
_MOST_NOTES = 64  # of one overlay


class Note:
    """What an overlay carries of itself.

    id           what tells its files from those of other layers, 20 hexadecimal digits
    base         the Base that it was made for, None when that is not known
    machine      the architecture of the node that filled it, as uname(2) calls it
    directories  of the environments that it activates, the first comes first
    names        of the variables that it sets besides, by the user's word
    script       the lines of its activation; empty when there is none
    format       the number of the format; of a newer one nothing else is known
    """

    __slots__ = ("base", "directories", "format", "id", "machine", "names", "script")

    def __init__(
        self,
        id_: str,
        *,
        base: Base | None = None,
        machine: str = "",
        directories: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        script: str = "",
        format_: int = FORMAT,
    ) -> None:
        self.id = id_
        self.base = base
        self.machine = machine
        self.directories = directories
        self.names = names
        self.script = script
        self.format = format_

    def text(self) -> bytes:
        """Return it as it is written."""
        lines = [f"overlay {self.format}", f"machine {_shown(self.machine)}"]
        if self.base is not None:
            lines += [
                f"image {_shown(self.base.path)}",
                f"image-size {self.base.size}",
                f"image-mark {self.base.mark}",
            ]
        lines += [f"directory {_shown(one)}" for one in self.directories]
        lines += [f"set {name}" for name in self.names]
        return ("\n".join(lines) + "\n\n" + self.script).encode(errors="surrogateescape")


def new_id() -> str:
    """Return an id that no other overlay has: what is made later comes later in the alphabet.

    So the engine sources it later, and what it sets comes first.
    """
    return f"{time.time_ns() // 1000:014x}{os.urandom(3).hex()}"


def path(id_: str, name: str = "note") -> str:
    """Return where a file about an overlay lies inside."""
    return f"{DIRECTORY}/{id_}/{name}"


def read(image: Image) -> list[Note]:
    """Return the Notes of an overlay, the last made first; none of one that carries none.

    A squashfs file that another program made has none that could be read at once.
    """
    found = []
    for id_ in ids(image):
        content = image.content_of(path(id_), MOST)
        note = parse(id_, content) if content is not None else None
        if note is not None:
            found.append(note)
    return found


def ids(image: Image) -> list[str]:
    """Return the ids that an overlay carries something under, the last made first."""
    return [name for name in image.names_in(DIRECTORY) if is_id(name)][:_MOST_NOTES]


def is_intact(image: Image, note: Note) -> bool:
    """Return whether the engine sources what the note has, when it starts with an overlay."""
    content = image.content_of(ENGINE.format(note.id), MOST)
    return (content or b"").decode(errors="surrogateescape") == note.script


def is_id(name: str) -> bool:
    """Return whether a name can be an id of ours."""
    return len(name) == 20 and all(char in "0123456789abcdef" for char in name)


def parse(id_: str, data: bytes) -> Note | None:
    """Return the Note that some bytes are, None when they are something else."""
    head, _empty, script = data.decode(errors="surrogateescape").partition("\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.split("\n"):
        name, _space, value = line.partition(" ")
        fields.setdefault(name, []).append(_hidden(value))
    if "\0" in script or any("\0" in value for values in fields.values() for value in values):
        return None  # no path or variable has one, and nothing could be started with it
    first = {name: values[0] for name, values in fields.items()}
    number = first.get("overlay", "")
    if not number.isdecimal() or not number.isascii() or len(number) > 4:
        return None
    if int(number) > FORMAT:
        return Note(id_, format_=int(number))
    base = None
    image_size = first.get("image-size", "")
    if first.get("image", "").startswith("/") and image_size.isascii() and image_size.isdecimal():
        mark = first.get("image-mark", "")
        base = Base(first["image"], int(image_size[:20]), mark, "")
    return Note(
        id_,
        base=base,
        machine=first.get("machine", ""),
        directories=tuple(fields.get("directory", ())),
        names=tuple(fields.get("set", ())),
        script=script,
    )


def _shown(text: str) -> str:
    """Return a value with %XX for all that is not to be seen in a line."""
    data = text.encode(errors="surrogateescape")
    return "".join(
        chr(byte) if 33 <= byte < 127 and byte != 37 else f"%{byte:02x}" for byte in data
    )


def _hidden(text: str) -> str:
    """Return what _shown() was given; what it cannot have been is left as it is."""
    first, *rest = text.split("%")
    data = first.encode(errors="surrogateescape")
    for piece in rest:
        try:
            data += bytes([int(piece[:2], 16)]) + piece[2:].encode(errors="surrogateescape")
        except ValueError:
            data += b"%" + piece.encode(errors="surrogateescape")
    return data.decode(errors="surrogateescape")
