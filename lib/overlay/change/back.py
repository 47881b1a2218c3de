"""The versions before the updates of an overlay: put back, or removed."""

from __future__ import annotations

import os

from overlay.change.permitted import check_own, take_update
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.host import permissions
from overlay.image import image as images
from overlay.image import lock
from overlay.safety import replace
from overlay.safety import versions as versions_of
from overlay.safety.use import in_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image
    from overlay.output import Output


def undo(path: str, output: Output) -> str:
    """Put the last version that was kept in the place of an overlay, which takes its name.

    Return that name. Raises OverlayError: CANNOT_CREATE when there is none.
    """
    whole = os.path.realpath(path)
    images.look(path).close()
    versions_of.tidy(whole)
    found = versions_of.kept(whole) or versions_of.named(whole)
    if not found:
        raise _no_version(path)
    version = images.look(found[-1])  # what is not an overlay does not take the place of one
    try:
        image = images.look(path, write=True)
        try:
            kept = _put_back(image, version, whole)
        finally:
            image.close()
    finally:
        version.close()
    output.notice(f"what it was until now is {quote(kept)}")
    return kept


def _put_back(image: Image, version: Image, whole: str) -> str:
    """Put a version in the place of an overlay; return the name that this has now.

    image    the overlay
    version  what takes its place; nobody gets to read it by that who could not before
    whole    the path of the overlay, absolute, without links
    Raises OverlayError.
    """
    check_own(image)
    try:
        image.lock(False)
    except lock.Busy as busy:
        raise in_use(image, busy) from None
    take_update(image, None, waits=False)
    try:
        # Who else may read it is what it is by now.
        access = permissions.Access(version.descriptor)
        os.fchmod(version.descriptor, version.status.st_mode & 0o700)
        replace.keep_attributes(image.descriptor, version.descriptor, made_of=[access])
        kept = _exchange(image, version, whole)
    except (ImportError, AttributeError, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else "this system cannot do it"
        raise OverlayError(
            f"cannot exchange {quote(image.path)} and {quote(version.path)}: {why}",
            status=CANNOT_CREATE,
            hint=f"mv {quote(whole)} NAME; mv {quote(version.path)} {quote(whole)}",
        ) from None
    versions_of.unmark(version.path, version.descriptor)
    versions_of.mark(kept, image.descriptor)
    return kept


def _exchange(image: Image, version: Image, whole: str) -> str:
    """Exchange the names of both, and return that of what was the overlay.

    Where that cannot be done in one step, as on NFS and Lustre, the overlay gets another name
    first: so its own leads to one of the two at every moment.
    Raises as replace.exchange_known() does.
    """
    try:
        replace.exchange_known(whole, image.descriptor, version.path, version.descriptor)
        return version.path
    except OSError as error:
        if error.errno not in replace.NO_EXCHANGE:
            raise
        kept = versions_of.keep(whole, image.descriptor)
        if kept is None:
            raise
    try:
        replace.rename_known(version.path, version.descriptor, whole)
    except BaseException:
        versions_of.let_go(kept, image.descriptor)
        raise
    return kept


def forget(path: str) -> list[str]:
    """Remove all versions that were kept of an overlay, and return their names.

    Raises OverlayError: CANNOT_CREATE when there are none.
    """
    whole = os.path.realpath(path)
    image = images.look(path, write=True)
    try:
        check_own(image)
    finally:
        image.close()
    found = versions_of.kept(whole)
    if not found:
        raise _no_version(path)
    versions_of.prune(whole, 0)
    return found


def _no_version(path: str) -> OverlayError:
    return OverlayError(
        f"no version before is kept of {quote(path)}",
        status=CANNOT_CREATE,
        hint="update-overlay keeps one at each update",
    )
