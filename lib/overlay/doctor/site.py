"""The doctor on what the site has set: settings, base images, binds."""

from __future__ import annotations

import os
import stat

from overlay.doctor.check import OK, PROBLEM, WARNING, Check
from overlay.errors import OverlayError, quote
from overlay.host import places
from overlay.image import magic
from overlay.launch.request import find_container
from overlay.settings import config as configuration
from overlay.settings.files import site_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node
    from overlay.settings.config import Config


def settings(node: Node) -> Iterator[Check]:
    """Yield the Check of the settings."""
    yield node.settings


def load(environ: Mapping[str, str], root: str) -> tuple[Config, Check]:
    """Return the Config and its Check; the defaults when it cannot be read."""
    why = "every command reads them, and stops when they are wrong"
    path = environ.get("OVERLAY_CONFIG") or site_file(root)
    try:
        config = configuration.load(environ, root)
        for name in config.names():
            if not name.startswith(("images.", "templates.")):
                config[name]
    except OverlayError as error:
        advice = (
            error.hint
            or "correct that line; to see that it is right: overlay-admin config --check FILE"
        )
        return configuration.Config(environ), Check("settings", PROBLEM, error.what, why, advice)
    if config.left_out:
        why = "who can write a file of settings chooses the programs that its readers start"
        advice = "give the file to root or to the owner of the installation, mode 0644"
        return config, Check("settings", WARNING, "; ".join(config.left_out), why, advice)
    shared = [file for file in config.files if os.stat(file).st_mode & stat.S_IWGRP]
    if shared:
        why = "whoever is in that group chooses the programs that all users start"
        words = f"the group may write {', '.join(map(quote, shared))}"
        advice = f"if that is not meant: chmod g-w {' '.join(map(quote, shared))}"
        return config, Check("settings", WARNING, words, why, advice)
    # Without an overlay.ini, what is beside it is named.
    words = quote(path) if path in config.files else ", ".join(map(quote, config.files))
    return config, Check("settings", OK, words or quote(path), why)


def images(node: Node) -> Iterator[Check]:
    """Yield the Checks of the site's base images."""
    config = node.config
    default = config["images.default"]
    why = "sessions start from it"
    if not default:
        yield Check("base image", OK, "no default: users name one with -c", why)
    names = dict.fromkeys([*([default] if default else []), *config.images()])
    for name in names:
        title = f"base image {quote(name)}"
        state = PROBLEM if name == default else WARNING
        try:
            path = find_container(name, config)
            words = _head(path)
        except OverlayError as error:
            advice = f"correct [images] {quote(name)} in overlay.ini, or put the image there"
            yield Check(title, state, error.what, why, advice)
            continue
        used = ", the default" if name == default and name != path else ""
        yield Check(title, OK, f"{words}, {quote(path)}{used}", why)


def _head(path: str) -> str:
    """Return what kind of image a file is. Raises OverlayError when nobody can start it."""
    if os.path.isdir(path):
        return "a directory"
    with open(path, "rb") as file:
        head = file.read(64)
    words = "SIF" if magic.is_sif(head) else "squashfs" if magic.is_squashfs(head) else None
    if words is None:
        raise OverlayError(f"{quote(path)} is not a container image", status=0)
    return words


def binds(node: Node) -> Iterator[Check]:
    """Yield the Checks of the directories that the site binds."""
    config = node.config
    why = "the site wants these directories of the host to be seen inside"
    for bind in config.binds:
        source = bind.partition(":")[0]
        name = f"bind {quote(source)}"
        if os.path.exists(source):
            yield Check(name, OK, "it is there", why)
        else:
            yield Check(
                name,
                WARNING,
                "it is not there: sessions here go without it",
                why,
                "mount it, or take it out of [binds] paths",
            )
    yield from _links(config)


def _links(config: Config) -> Iterator[Check]:
    """Yield where a directory that users rely on leads out of what is bound."""
    points = [point for bind in config.binds for point in places.parse_binds(bind)]
    view = places.View(points)
    home = config.environ.get("HOME", "")
    for path in dict.fromkeys(
        (home, *config["scratch.locations"], *(point[0] for point in points))
    ):
        way = places.follow(path) if path.startswith("/") else None
        if way and view.leads_out(way):
            yield Check(
                f"links of {quote(path)}",
                WARNING,
                f"it leads out of [binds] paths, to {quote(way.real)}",
                "sessions bind this one by itself; other links to that file system lead nowhere"
                " inside",
                f"add to [binds] paths: {quote(os.path.dirname(way.real))}",
            )
