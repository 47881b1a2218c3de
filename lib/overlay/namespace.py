"""Work on the content of overlays without root: in a user and mount namespace of one's own.

There an ordinary user may mount, and reads all that is his whatever its mode says
(user_namespaces(7), unshare(1)). A process namespace goes with it, so that nothing that was
started inside outlives the work, however it ends.
"""

from overlay import process
from overlay.errors import UNAVAILABLE, OverlayError

OPTIONS = ("--user", "--map-current-user", "--mount", "--keep-caps")
_FLEETING = ("--pid", "--fork", "--kill-child")

# Mounts images read-only with fuse2fs and trees over one another, binds trees, then runs a
# command. The triples are fuse2fs IMAGE DIRECTORY, fuse-overlayfs TREE:TREE DIRECTORY or
# bind TREE DIRECTORY; -- ends them.
_SCRIPT = """
while [ "$1" != -- ]; do
    case $1 in
    bind) mount --bind "$2" "$3" || exit 125 ;;
    */fuse-overlayfs) "$1" -o "ro,noacl,allow_other,lowerdir=$2" "$3" || exit 125 ;;
    *) "$1" -o ro,fakeroot,kernel_cache "$2" "$3" || exit 125 ;;
    esac
    shift 3
done
shift
"$@"
"""


def available(environ):
    """Return whether this user can have such a namespace here; starts a process."""
    unshare = process.which("unshare", environ)
    return bool(unshare) and process.succeeds([unshare, *OPTIONS, "true"], environ)


def wrap(arguments, environ, *, binds=(), images=(), layers=None):
    """Return the command line that runs another one with trees and images mounted.

    binds   (tree, directory): what is bound where, after the images
    images  (ext3 image, directory): what is mounted where, read-only
    layers  (trees, directory): trees that are shown as one there, the top one first
    Raises OverlayError (UNAVAILABLE) when a tool is missing.
    """
    unshare = process.need("unshare", "util-linux", environ)
    triples = []
    if images:
        fuse2fs = process.need("fuse2fs", "fuse2fs", environ)
        triples += [word for image, place in images for word in (fuse2fs, image, place)]
    if layers:
        trees, place = layers
        overlayfs = process.need("fuse-overlayfs", "fuse-overlayfs", environ)
        triples += [overlayfs, ":".join(trees), place]
    triples += [word for tree, place in binds for word in ("bind", tree, place)]
    words = [unshare, *OPTIONS, *_FLEETING, "/bin/sh", "-c", _SCRIPT, "sh", *triples, "--"]
    return [*words, *arguments]


def need(environ):
    """Raise OverlayError (UNAVAILABLE) when this user cannot have a namespace here."""
    if not available(environ):
        raise OverlayError(
            "users cannot make namespaces on this machine, and without them the"
            " content of an overlay cannot be read",
            status=UNAVAILABLE,
            hint="try it on another node, or ask the site's admin: overlay-admin doctor",
        )
