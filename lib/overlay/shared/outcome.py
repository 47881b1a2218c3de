"""What a command is told of the overlay that it has written, when it leaves a shared session."""

from __future__ import annotations

from overlay.errors import DATA_LOST, OverlayError
from overlay.shared.record import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.output import Listener

_ERROR, _HINT = "error", "hint"


class Outcome:
    """What was found: lines for the user, and whether something written may be lost.

    A keeper hands it to a look after a session as the Listener of that, and sends it.
    """

    __slots__ = ("lines", "lost")

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []  # (level, text): see Plan; or an error's
        self.lost = False

    def notice(self, text: str, level: str = "notice") -> None:
        """Take a line for the user."""
        self.lines.append((level, text))

    def error(self, error: OverlayError) -> None:
        """Take an OverlayError, and its hint."""
        self.lines.append((_ERROR, error.what))
        if error.hint:
            self.lines.append((_HINT, error.hint))

    def write(self) -> bytes:
        """Return it as it is sent."""
        lines = [f"{level} {text}" for level, text in self.lines]
        return dump({"n": lines, "s": ["lost" if self.lost else "kept"]})

    @classmethod
    def read(cls, data: bytes) -> Outcome | None:
        """Return what was sent, None when it is not whole."""
        fields = parse(data)
        if fields is None or "s" not in fields:
            return None
        made = cls()
        made.lost = fields["s"] == ["lost"]
        for line in fields.get("n", ()):
            level, _blank, text = line.partition(" ")
            made.lines.append((level, text))
        return made

    def tell(self, output: Listener) -> None:
        """Say it to the user."""
        lines = iter(self.lines)
        for level, text in lines:
            if level == _ERROR:
                output.error(OverlayError(text, status=DATA_LOST))
            elif level == _HINT:
                output.notice(f"hint: {text}", "warning")
            else:
                output.notice(text, level)
