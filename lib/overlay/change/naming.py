"""What is said of a copy, said of the overlay that it is a copy of."""

from __future__ import annotations

from overlay.errors import OverlayError, quote
from overlay.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Naming(Output):
    """An Output that calls the files of an update by the name of the overlay."""

    def __init__(self, output: Output) -> None:
        super().__init__(output.program, output.quiet, output.verbose)
        self._names: dict[str, str] = {}

    def name_words(self, words: str, others: str) -> None:
        """Say other words from now on."""
        self._names[words] = others

    def name(self, file: str, path: str) -> None:
        """Call a file by another path from now on."""
        self._names[quote(file)] = quote(path)
        self._names[file] = path

    def notice(self, text: str, level: str = "notice") -> None:
        super().notice(_renamed(text, self._names), level)

    def error(self, error: OverlayError) -> None:
        super().error(self.told(error))

    def told(self, error: OverlayError) -> OverlayError:
        """Return an error with those names in its words."""
        error.what = _renamed(error.what, self._names)
        error.hint = error.hint and _renamed(error.hint, self._names)
        return error


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for file, path in names.items():
        text = text.replace(file, path)
    return text
