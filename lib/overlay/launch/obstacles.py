"""Why the first overlay of a session is not written: the words, for each obstacle that was found."""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, NOT_ALLOWED, OverlayError, quote
from overlay.image.kind import MAY_NOT_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from overlay.image.kind import Image
    from overlay.launch.facts import Facts
    from overlay.launch.request import Session


def told(obstacle: str, session: Session, facts: Facts) -> str | None:
    """Return why the first overlay is read-only, None where nobody expects it to be written.

    obstacle  a key of OBSTACLES
    Raises OverlayError: NOT_ALLOWED when the user insists with :rw, DAMAGED for a directory
    with data.
    """
    path, mode = facts.overlays[0].path, facts.overlays[0].mode
    why, hint, at_once = OBSTACLES[obstacle](session, facts)
    if mode == "rw":
        raise OverlayError(
            f"{quote(path)} cannot be mounted writable: {why}",
            status=NOT_ALLOWED,
            hint=hint
            or f"to look into it: -o {quote(path)}:ro; to change it, work on a copy of your own",
        )
    if obstacle == "kind":
        return None
    return f"{why}; {hint}" if at_once else why


def _kind(_session: Session, facts: Facts) -> tuple[str, str | None, bool]:
    """Return (why, what to type, whether that is said without being asked for); so do all."""
    path = quote(facts.overlays[0].path)
    why = facts.images[0].never_writable
    assert why
    hint = f"to write above it: -o NEW -o {path}; to"
    if facts.images[0].status.st_uid == facts.uid:
        return why, f"{hint} change what is in it: update-overlay {path}", False
    return why, f"{hint} make it writable: create-overlay --from {path} -o NAME", False


def _permission(_session: Session, facts: Facts) -> tuple[str, str | None, bool]:
    mine = facts.images[0].status.st_uid == facts.uid
    return MAY_NOT_WRITE if mine else "it is not yours", None, False


def _owner(_session: Session, facts: Facts) -> tuple[str, str | None, bool]:
    first = facts.images[0]
    why, own = first.whose_inside()
    if first.status.st_uid != facts.uid:
        return why, None, False
    return why, own, bool(own and "--own" in own)


def _group(session: Session, facts: Facts) -> tuple[str, str | None, bool]:
    from overlay.host.names import group_name  # asks a server on many sites

    path = facts.overlays[0].path
    assert facts.foreign_group is not None
    name, own = quote(group_name(facts.foreign_group)), quote(group_name(facts.gid))
    inside = " ".join(quote(os.path.join(path, name)) for name in ("upper", "work"))
    hint = f"to write it: sg {name} -c '{session.program} …'"
    if not facts.images[0].is_file:
        hint += f"; or make it all your group's: chgrp -R {own} {inside}"
    return f"what is inside belongs to the group {name}, and your group is {own}", hint, True


def _data(_session: Session, facts: Facts) -> NoReturn:
    """Refuse a directory with data: the engine would put upper/ and work/ among them."""
    raise only_data(facts.overlays[0].path, facts.images[0], facts.environ)


def only_data(path: str, image: Image, environ: Mapping[str, str]) -> OverlayError:
    """Return the error for a directory with data in the place of an overlay."""
    overlays = [os.path.join(path, name) for name in image.overlays_in_it()[:3]]
    if overlays:
        return OverlayError(
            f"{quote(path)} is a directory, and an overlay is a file in it",
            status=DAMAGED,
            hint=f"name the file: {' or '.join(f'-o {quote(name)}' for name in overlays)}",
        )
    if os.path.abspath(path) == environ.get("HOME"):
        return OverlayError(
            f"{quote(path)} is your home directory, not an overlay",
            status=DAMAGED,
            hint="name the overlay in it: -o ~/NAME.ext3; to make one there: create-overlay -s 10G"
            " -n 200 -o ~/NAME",
        )
    return OverlayError(
        f"{quote(path)} is a directory with data in it, not an overlay; only an empty"
        " directory can become one",
        status=DAMAGED,
        hint=f"to see the data inside: -b {quote(os.path.abspath(path) + ':/data')}; to make an"
        f" overlay of them: create-overlay --from {quote(path)}:/data",
    )


# What keeps an overlay from being written -> what tells of it.
OBSTACLES = {
    "kind": _kind,
    "permission": _permission,
    "owner": _owner,
    "group": _group,
    "data": _data,
}
