"""Copies of what overlays carry, for the end of a packed file: there they are read at once."""

from __future__ import annotations

from overlay.environment import history, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from overlay.image.kind import Image

_MOST = 1 << 16  # bytes of a note or of the engine's lines


def of(images: Iterable[Image], entry: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Return what some overlays carry, by the path inside, the top one's first.

    entry  what is added to the history of each, None for nothing
    """
    found = {}
    for image in images:
        histories = history.read(image)
        for id_ in note.ids(image):
            content = image.content_of(note.path(id_), _MOST)
            if content is None:
                continue
            found[note.path(id_)] = content
            lines = image.content_of(note.ENGINE.format(id_), _MOST)
            if lines is not None:
                found[note.ENGINE.format(id_)] = lines
            if id_ in histories and histories[id_][0] <= history.FORMAT:
                try:
                    data = history.data([*histories[id_][1], *([entry] if entry else [])])
                except RecursionError:  # nobody writes such a one but to do harm
                    continue
                found[note.path(id_, history.NAME)] = data
    return found
