"""A directory that becomes an overlay: what the engine would put into it, made by us before."""

from __future__ import annotations

import os

from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image


def make_upper(image: Image, group: int) -> Step:
    """Return the Step that makes upper/ and work/ in an empty directory.

    The engine would make them with the directory's own group, where that is handed on, and
    could write nothing there: see _foreign_group().
    """
    names = [os.path.join(image.path, name) for name in ("work", "upper")]

    def make() -> None:
        try:
            for name in map(os.path.basename, names):
                try:
                    os.mkdir(name, 0o755, dir_fd=image.descriptor)
                    _open_to_all(name, image.descriptor, group)
                except FileExistsError:
                    pass  # another session was first
        except OSError as error:
            raise OverlayError(
                f"cannot make {quote(names[-1])}: {reason(error)}", status=CANNOT_CREATE
            ) from None

    return Step(["install", "-d", "-m", "00755", "-g", str(group), *names], action=make)


def _open_to_all(name: str, directory: int, group: int) -> None:
    """Give a directory that was just made its group, and the mode 0755; raises OSError.

    directory  an open descriptor of where it is
    Who may write there may put something else in its place: a link, or what is not empty.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, dir_fd=directory)
    try:
        if os.fstat(made).st_uid != os.geteuid() or os.listdir(made):
            raise FileExistsError
        os.fchown(made, -1, group)
        os.fchmod(made, 0o755)  # not the bit that hands on the group
    finally:
        os.close(made)
