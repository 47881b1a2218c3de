"""Work on the content of overlays without root: in a user and mount namespace of one's own.

There an ordinary user may mount, and reads all that is theirs whatever its mode says
(user_namespaces(7), unshare(1)). A process namespace goes with it, so that nothing that was
started inside outlives the work, however it ends.
"""

from __future__ import annotations

import functools
import os

from overlay.errors import UNAVAILABLE, OverlayError
from overlay.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OPTIONS = ("--user", "--map-current-user", "--mount", "--keep-caps")

# With a root, the kernel can say what security.capability of files in an image means, which
# programs that copy files read; without, it fails (EOVERFLOW). All in an image is then nobody's,
# and fuse2fs with fakeroot asks for no permission.
_AS_ROOT = ("--user", "--map-root-user", "--mount", "--keep-caps")
_FLEETING = ("--pid", "--fork", "--kill-child")

# Mounts what it is told to, then runs a command.
_MOUNTED = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers", "namespace", "mounted"
)


@functools.cache
def script() -> str:
    """Return the text of what mounts: known once, it does not matter when the file has gone.

    A build may last, and an upgrade take the place of this version meanwhile.
    """
    with open(_MOUNTED, encoding="utf-8") as file:
        return file.read()


def available(environ: Mapping[str, str]) -> bool:
    """Return whether this user can have such a namespace here; starts a process."""
    unshare = process.which("unshare", environ)
    return unshare is not None and process.succeeds([unshare, *OPTIONS, "true"], environ)


def blocks_links(environ: Mapping[str, str]) -> bool:
    """Return whether the kernel can be told to follow no link in a mount; starts a process."""
    # Where something is mounted below it, a directory is bound with that or not at all.
    script = "mount --rbind /tmp /tmp && mount -o remount,bind,nosymfollow /tmp"
    unshare = process.need("unshare", environ)
    return process.succeeds([unshare, *OPTIONS, "/bin/sh", "-c", script], environ)


def wrap(
    arguments: Iterable[str | int],
    environ: Mapping[str, str],
    *,
    binds: Iterable[tuple[str, str]] = (),
    images: Iterable[tuple[int, str, str]] = (),
    layers: tuple[Iterable[str], str] | None = None,
) -> list[str | int]:
    """Return the command line that runs another one with trees and images mounted.

    binds   (tree, directory): what is bound where, after the images
    images  (descriptor, directory, place): open ext3 images, where each is mounted, read-only,
            and the directory that then shows its upper/; the words have the number of the
            descriptor, which process.run() hands on, so that what is mounted is what is locked
    layers  (trees, directory): trees that are shown as one there, the top one first
    Raises OverlayError (UNAVAILABLE) when a tool is missing.
    """
    unshare = process.need("unshare", environ)
    triples: list[str | int] = []
    if images:
        fuse2fs = process.need("fuse2fs", environ)
        for descriptor, directory, place in images:
            triples += [fuse2fs, descriptor, directory, "upper", directory, place]
    if layers:
        trees, place = layers
        overlayfs = process.need("fuse-overlayfs", environ)
        triples += [overlayfs, ":".join(trees), place]
    triples += [word for tree, place in binds for word in ("bind", tree, place)]
    options = _AS_ROOT if images else OPTIONS
    mounted = [_MOUNTED] if os.path.exists(_MOUNTED) else ["-c", script(), _MOUNTED]
    return [unshare, *options, *_FLEETING, "/bin/sh", *mounted, *triples, "--", *arguments]


def need(environ: Mapping[str, str]) -> None:
    """Raise OverlayError (UNAVAILABLE) when this user cannot have a namespace here."""
    if not available(environ):
        raise OverlayError(
            "users cannot make namespaces on this machine, and without them the"
            " content of an overlay cannot be read",
            status=UNAVAILABLE,
            hint="try it on another node, or ask the site's admin: overlay-admin doctor",
        )


# Unpacks an archive into the upper/ of an image, and ends when all is written: fuse2fs IMAGE
# ARCHIVE. The directory is one in memory, which goes with the namespace.
_UNPACK = """
mount -t tmpfs -o mode=700 overlay /tmp && mkdir /tmp/image || exit 125
"$1" -f -o fakeroot "$2" /tmp/image >/dev/null 2>&1 &
tries=0
until mountpoint -q /tmp/image; do
    kill -0 $! && [ $tries -lt 1500 ] || exit 125
    tries=$((tries + 1))
    sleep 0.02
done
tar --delay-directory-restore -xpf "$3" -C /tmp/image/upper
status=$?
umount /tmp/image && wait $! && exit $status
"""


def unpack(image: int, archive: int, environ: Mapping[str, str]) -> bool:
    """Unpack a tar archive into the upper/ of an ext3 image; return whether all went well.

    image, archive  descriptors; the image locked whole, and seen to have its upper/
    Raises OverlayError (UNAVAILABLE) when a tool is missing.
    """
    unshare, fuse2fs = process.need("unshare", environ), process.need("fuse2fs", environ)
    words = [unshare, *OPTIONS, *_FLEETING, "/bin/sh", "-c", _UNPACK, "sh", fuse2fs]
    return process.run([*words, image, archive], environ).status == 0
