"""Which shells a base image has: those for one program alone come without any."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.image.kind import Image

SHELLS = ("sh", "bash")
_PLACES = ("bin", "usr/bin", "usr/local/bin")


def lacking(base: str, overlays: Iterable[Image], environ: Mapping[str, str]) -> frozenset[str]:
    """Return those of SHELLS that neither a base image nor an overlay seems to have."""
    paths = {shell: [f"{place}/{shell}" for place in _PLACES] for shell in SHELLS}
    if os.path.isdir(base):
        there = {path for path in _all(paths) if os.path.lexists(os.path.join(base, path))}
    else:
        there = _listed(base, list(_all(paths)), environ)
    overlays = list(overlays)
    return frozenset(
        shell
        for shell in SHELLS
        if there.isdisjoint(paths[shell])
        # A packed overlay is not looked into.
        and not any(
            image.is_compressed or image.holds("/" + path)
            for path in paths[shell]
            for image in overlays
        )
    )


def _all(paths: Mapping[str, list[str]]) -> Iterable[str]:
    return (path for some in paths.values() for path in some)


def _listed(base: str, paths: list[str], environ: Mapping[str, str]) -> set[str]:
    """Return those of some paths that the file of a base image has; all where nobody knows."""
    from overlay.image import squashfs  # for images of the user's own

    try:
        descriptor = os.open(base, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return set(paths)
    try:
        return squashfs.those_named(descriptor, paths, environ)
    except OSError:
        return set(paths)
    finally:
        os.close(descriptor)
