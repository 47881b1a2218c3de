"""PATH, as it is for all that we start by name."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Where tools like mke2fs lie, although an ordinary user's PATH may not say so.
SYSTEM = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")

# What expose-overlay writes beside a directory bin of programs that start sessions.
EXPOSED = ".exposed"


def trusted(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return an environment whose PATH has absolute parts only, and exposed programs last.

    Programs of ours start others by name, where the caller may be in somebody else's directory;
    and an exposed program that an engine takes for the system's would start another session.
    """
    parts = environ.get("PATH", "").split(":")
    kept = [part for part in parts if part.startswith("/")]
    exposed = [part for part in kept if _is_exposed(part)]
    if exposed:
        others = [part for part in kept if part not in exposed]
        kept = [*others, *(part for part in SYSTEM if part not in others), *exposed]
    # An empty PATH would mean the current directory as well.
    return environ if kept == parts else {**environ, "PATH": ":".join(kept or SYSTEM)}


def _is_exposed(part: str) -> bool:
    above, _slash, name = part.rstrip("/").rpartition("/")
    return name == "bin" and os.path.exists(f"{above}/{EXPOSED}")
