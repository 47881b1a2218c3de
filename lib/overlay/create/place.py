"""The places where sources go in the staging directory, and trees copied there."""

from __future__ import annotations

import errno
import os
import stat

from overlay.create.allowance import check_room
from overlay.errors import CANNOT_CREATE, DAMAGED, MISSING, OverlayError, quote, reason
from overlay.host import namespace, process
from overlay.image.markers import OPAQUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from overlay.create.kind import Source

DEEPEST = 256  # directories in one another; what walks through trees later is recursive


def make_place(top: str, source: Source) -> str:
    """Make the directory where a source goes, below top, and return its path.

    Raises OverlayError (DAMAGED) when a link or a file that another source has brought is in
    in its way, CANNOT_CREATE.
    """
    name = source.dest.strip("/")
    what = f"{quote(source.path)} cannot go to {quote(source.dest)}"
    try:
        if not make_directories(top, name):
            raise OverlayError(
                f"{what}: another source has a link or a file in its way", status=DAMAGED
            )
    except OSError as error:
        raise OverlayError(f"{what}: {reason(error)}", status=CANNOT_CREATE) from None
    return os.path.join(top, name)


def make_directories(top: str, name: str) -> bool:
    """Make a directory below top, and those above it, without following links.

    Others are to be let through whatever the umask is: a session needs /usr, /data and so on.
    Return whether it is there; not when something in its way is not a directory.
    """
    path = top
    for part in filter(None, name.split("/")):
        path = os.path.join(path, part)
        if not make_directory(path):
            return False
    return True


def make_directory(path: str) -> bool:
    """Make one directory as make_directories() does; return whether it is there."""
    try:
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
    except FileExistsError:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return True


def hide_below(path: str) -> bool:
    """Mark a directory as fuse-overlayfs does where the kernel's overlayfs has an attribute.

    It hides what lower layers have in its place. Return whether it was not marked before.
    """
    marker = os.path.join(path, os.fsdecode(OPAQUE[0]))
    if os.path.lexists(marker):
        return False
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    return True


def copy_tree(
    tree: str,
    target: str,
    environ: Mapping[str, str],
    *options: str,
    through: str | None = None,
    image: tuple[int, str, str] | None = None,
    name: str | None = None,
) -> None:
    """Copy the content of a directory into another, over what has the same names there.

    options  more for cp(1)
    through  a directory that is made for it: the tree is read in its place, where the kernel
             follows no link that somebody puts there while it is read
    image    an image that shows the tree, as of namespace.wrap()
    name     what the tree is called in messages
    Raises OverlayError: DAMAGED when a directory and something else have one name, MISSING for
    what may not be read, CANNOT_CREATE; and OSError (ENOSPC, EDQUOT) when there is no room for it.
    """
    # Without --remove-destination cp would write into a file through a link to it.
    words = [process.need("cp", environ), "-a", "--remove-destination", *options, "--"]
    if not namespace.available(environ):
        result = process.run([*words, os.path.join(tree, "."), target], environ)
    elif through is None:
        images = [] if image is None else [image]
        if images:  # all in it is nobody's there, and becomes the caller's
            words.insert(-1, "--no-preserve=ownership")
        words += [os.path.join(tree, "."), target]
        wrapped = namespace.wrap(words, environ, images=images)
        result = process.run(wrapped, environ)
    else:
        os.mkdir(through)
        try:
            words += [os.path.join(through, "."), target]
            wrapped = namespace.wrap(words, environ, binds=[(os.path.abspath(tree), through)])
            result = process.run(wrapped, environ)
        finally:
            os.rmdir(through)
    if result.status:
        check_room(result.errors)
        why = process.last_line(result.errors, otherwise="cp fails")
        raise _not_copied(name or tree, why, through or tree)


def _not_copied(tree: str, why: str, through: str) -> OverlayError:
    """Return the error for a tree that cp(1) could not copy, for which it has said why.

    through  where it has read it
    """
    if through != tree:
        why = why.replace(os.path.join(through, "."), tree.rstrip("/"))
    status = CANNOT_CREATE
    if "cannot overwrite" in why:
        status = DAMAGED
    elif os.strerror(errno.EACCES) in why:
        status = MISSING
    return OverlayError(
        f"cannot copy {quote(tree)}: {why.partition('cp: ')[2] or why}", status=status
    )
