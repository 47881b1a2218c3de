"""Which engine does what: what is tried with it at every change of ours, and what is not.

docs/admin.md has the same table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORKS, FALLS_BACK, NOT_TRIED = "works", "falls back", "not tried"

# The kinds of engines: where its helpers are, and whether it is setuid root, counts more than its
# version.
TRIED = "Apptainer 1.4"
LIBEXEC = "Apptainer 1.4 with helpers in libexec"
OTHERS = "Apptainer 1.1 to 1.3, 1.5"
SETUID = "setuid root"
SINGULARITY = "SingularityCE"

_SESSIONS = "sessions, locks and repairs"
_READY = "environments make themselves ready"
_FULL = "a full overlay is told when it is written"
_APART = "files of several overlays are told apart"
_DELETED = "deletions are kept where nothing is written"

# What stands in place of what falls back, in words, is in the table of dangers in docs/admin.md.
TABLE: Mapping[str, Mapping[str, str]] = {
    TRIED: dict.fromkeys((_SESSIONS, _READY, _FULL, _APART, _DELETED), WORKS),
    LIBEXEC: dict.fromkeys((_SESSIONS, _READY, _FULL, _APART, _DELETED), WORKS),
    OTHERS: dict.fromkeys((_SESSIONS, _READY, _FULL, _APART, _DELETED), NOT_TRIED),
    SETUID: {
        **dict.fromkeys((_SESSIONS, _READY, _DELETED), NOT_TRIED),
        **dict.fromkeys((_FULL, _APART), f"{FALLS_BACK}, {NOT_TRIED}"),
    },
    SINGULARITY: dict.fromkeys((_SESSIONS, _READY, _FULL, _APART, _DELETED), NOT_TRIED),
}


def kind(name: str, numbers: Sequence[int], *, setuid: bool, own_helpers: bool) -> str:
    """Return which kind of TABLE an engine is.

    name         "apptainer" or "singularity"
    numbers      its version
    own_helpers  whether it has helpers in libexec
    """
    if setuid:
        return SETUID
    if name != "apptainer":
        return SINGULARITY
    if tuple(numbers[:2]) != (1, 4):
        return OTHERS
    return LIBEXEC if own_helpers else TRIED


def words(found: str) -> str:
    """Return what is known of a kind of engines, in words."""
    ways: dict[str, list[str]] = {}
    for feature, way in TABLE[found].items():
        ways.setdefault(way, []).append(feature)
    if len(ways) == 1:
        (way,) = ways
        return f"{found}: {'all is tried with it' if way == WORKS else 'nothing is tried with it'}"
    return f"{found}: " + "; ".join(f"{way}: {', '.join(names)}" for way, names in ways.items())
