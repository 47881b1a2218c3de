"""A Check, the answer to one question about this node, and versions known to be bad."""

from overlay.host.tools import TOOLS

OK, WARNING, PROBLEM = "ok", "warning", "problem"

PATIENCE = 20  # seconds that a program may take to say its version


class Check:
    """One question and its answer.

    name    what was looked at; a directory's begins with its path
    state   OK, WARNING or PROBLEM
    found   what there is, in words
    why     what it is needed for, or what would go wrong
    advice  what to do; None when all is well
    """

    __slots__ = ("advice", "found", "name", "state", "why")

    def __init__(self, name, state, found, why, advice=None):
        self.name = name
        self.state = state
        self.found = found
        self.why = why
        self.advice = advice if state != OK else None

    def as_dictionary(self):
        """Return it for --json."""
        return {name: getattr(self, name) for name in ("name", "state", "found", "why", "advice")}


# Versions that are known to be bad: program, first bad, first good again, why, what to do.
# Sources: the threads that are named.
BAD = (
    ("apptainer", (0,), (1, 1), PROBLEM,
     "it mounts ext3 overlays only when it is installed setuid root", "install 1.1 or newer"),
    ("apptainer", (1, 4, 3), (1, 4, 4), WARNING,
     "it starts no base image that the user may not write (apptainer/apptainer 3163)",
     "install 1.4.4 or newer"),
    ("fuse-overlayfs", (1, 16), (1, 17), WARNING,
     "large files that are rewritten in part were seen to be corrupted"
     " (containers/fuse-overlayfs 475)", "install another version"),
    ("mksquashfs", (0,), (4, 4), WARNING,
     "it can take a name in an overlay for a command, and pack-overlay refuses it",
     f"install {TOOLS['mksquashfs'].package} 4.4 or newer"),
)  # fmt: skip


def known_bad(name, version):
    """Return (state, why, advice) of a version that is known to be bad, or None."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    for program, first, good, state, why, advice in BAD:
        if program == name and numbers and first <= numbers < good:
            return state, why, advice
    return None
