"""What the pages say of a site: its images, places and limits, as its settings have them."""

from __future__ import annotations

import os

from overlay import size
from overlay.settings.values import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlay.settings.config import Config


def values(config: Config) -> dict[str, str]:
    """Return what stands for each name in a text; "" where the site has no such thing.

    Values are for all users: {user} is $USER in them, and a variable stays one.
    Raises OverlayError when a setting is wrong.
    """
    images = {
        name.partition(".")[2]: _everybodys(config.text(name))
        for name in config.names()
        if name.startswith("images.") and name not in ("images.default", "images.follow")
    }
    default = _everybodys(config.text("images.default"))
    path = images.get(default, default)
    others = [name for name in images if name != default]
    places = [_everybodys(word) for word in words(config.text("scratch.locations"))]
    place = places[0] if places else "$HOME"
    templates = [name for name in config.names() if name.startswith("templates.")]
    conda = "templates.conda" in templates
    module = config["engine.module"] or ""
    bound = list(
        dict.fromkeys(bind.split(":")[1 if ":/" in bind else 0] for bind in _binds(config))
    )
    found = {
        "load": "module load overlay",
        "module": "" if module in ("", "none") else f"module load {module}\n",
        "engine": os.path.basename(words(config.text("engine.commands"))[0]),
        "image": default,
        "images": f"`-c NAME` takes another one: {_list(others)}." if others else "",
        "others": _list(others),
        "path": path,
        "file": os.path.basename(path),
        "binds": _list(bound),
        # A directory of the overlay's own, which the host's does not cover.
        "own": next(name for name in ("/data", "/work", "/inside") if name not in bound),
        "place": place,
        "filesystem": "/".join(place.split("/")[:2]),
        "purge": str(config["scratch.purge"] or ""),
        "quota": _code(config["quota.hint"]) if config["quota.hint"] else "",
        "largest": _largest(config),
        "conda": "-conda" if conda else "",
    }
    found["no_conda"] = "" if conda else "no"
    return found


def _binds(config: Config) -> Iterable[str]:
    for name in ("binds.paths", "binds.add"):
        yield from map(_everybodys, words(config.text(name)))


def _largest(config: Config) -> str:
    """Return the limits of a new overlay, in words."""
    parts = []
    if config["create.max_size"]:
        parts.append(size.format_size(config["create.max_size"]))
    if config["create.max_files"]:
        parts.append(size.format_files(config["create.max_files"]))
    return " and ".join(parts)


def _everybodys(text: str) -> str:
    """Return a value of a setting as it is right for every user, in a shell too."""
    return (
        text.replace("{user}", "$USER")
        .replace("{home}", "$HOME")
        .replace("{machine}", os.uname().machine)
    )


def _list(texts: Iterable[str]) -> str:
    """Return words, each as code: a, b and c."""
    coded = [_code(text) for text in texts]
    return " and ".join(filter(None, (", ".join(coded[:-1]), *coded[-1:])))


def _code(text: str) -> str:
    return f"`{text}`"
