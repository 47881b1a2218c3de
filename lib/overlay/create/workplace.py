"""The directory on a disk of the node whose content becomes that of a new image."""

from __future__ import annotations

import os

from overlay.errors import CANNOT_CREATE, OverlayError, cannot, reason
from overlay.host import private
from overlay.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.settings.config import Config


def was_changed(what: str) -> OverlayError:
    """Return the error for what somebody has written to while it was unpacked."""
    return OverlayError(
        f"{what} was changed while it was unpacked",
        status=CANNOT_CREATE,
        hint="try again when nobody writes to it",
    )


class Workplace:
    """A directory of this process, which nobody else sees; mke2fs(8) copies it into the image.

    scratch  a directory on a disk of this node
    host     its name
    pid      the number of this process, as private.worker() gives it
    """

    __slots__ = ("host", "pid", "scratch")

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.host = os.uname().nodename
        self.pid = private.worker()

    @property
    def path(self) -> str:
        """The directory itself."""
        return private.work_name(self.scratch, self.host, self.pid)

    @property
    def upper(self) -> str:
        """The directory in it for what a session sees."""
        return os.path.join(self.path, "upper")

    def make(self, directories: tuple[str, ...] = ()) -> None:
        """Make it, with upper/ and work/ in it and directories that a session sees.

        Raises OverlayError (CANNOT_CREATE).
        """
        private.make_work(self.scratch, self.host, self.pid)
        try:
            for path in self._inside(directories):
                os.makedirs(path, exist_ok=True)
            for directory, _names, _files in os.walk(self.path):
                os.chmod(directory, 0o755)  # all of them are in the image then, the top too
        except OSError as error:
            raise cannot(self.path, reason(error)) from None

    def remove(self) -> None:
        """Remove it again, directories without permissions included."""
        private.leave(self.scratch, self.path)

    def keep(self) -> str:
        """Keep what a session would see, beside it, and return where. Raises OSError."""
        return private.keep(self.scratch, self.upper)

    def making(self, config: Config | None = None) -> Step:
        """Return the Step that makes it, with the directories that the site wants in it.

        config  None: what comes in is complete
        """
        directories: tuple[str, ...] = config["create.directories"] if config else ()
        return Step(
            ["mkdir", "-p", *self._inside(directories)],
            action=lambda: self.make(directories),
            why="what belongs to you inside from the start",
        )

    def removing(self) -> Step:
        """Return the Step that removes it again."""
        return Step(["rm", "-rf", self.path], action=self.remove)

    def count(self, config: Config) -> int:
        """Return how many directories are in every new image."""
        return len(self._inside(config["create.directories"]))

    def _inside(self, directories: tuple[str, ...]) -> list[str]:
        # work/work is the engine's, and what it cannot make in an overlay that is full.
        inside = [os.path.join(self.path, name) for name in ("upper", "work", "work/work")]
        for directory in directories:
            inside.append(os.path.normpath(os.path.join(self.upper, directory.lstrip("/"))))
        return inside
