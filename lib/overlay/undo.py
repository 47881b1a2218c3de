"""Going back after an interrupted change of an image in its place.

resize2fs(8) notes what it is going to overwrite in an undo file beside the image, and the
image is marked as not clean from before its start until that file is gone. So whoever finds
an image that is not clean, and such a file that fits it, plays it back with e2undo(8) first.
"""

import os

from overlay import extfs, process
from overlay.errors import DAMAGED, OverlayError, quote

_PREFIX = ".overlay-undo."
_MAGIC = b"E2UNDO02"


def name(path, status, superblock):
    """Return the path of the undo file for an image in its present state.

    The image's inode, length, identity and mount times are in the name: when it is another
    image, or was mounted since, the file does not fit, and playing it back would do harm.
    """
    words = (status.st_ino, status.st_size, *_identity(superblock))
    return os.path.join(os.path.dirname(path), _PREFIX + ".".join(map(str, words)))


def _identity(superblock):
    """Return, as words, what tells an image and its last mount from every other."""
    return superblock.uuid.hex(), str(superblock.mount_time), str(superblock.mount_count)


def recover(path, environ):
    """Play back what an interrupted change of an image left; return whether there was any.

    path  the image, locked whole by the caller
    Raises OverlayError (DAMAGED) when it cannot be played back.
    """
    path = os.path.realpath(path)
    directory, inode = os.path.dirname(path), os.stat(path).st_ino
    found = [entry for entry in os.listdir(directory) if entry.startswith(f"{_PREFIX}{inode}.")]
    done = False
    for entry in found:
        undo = os.path.join(directory, entry)
        numbers = entry[len(_PREFIX) :].split(".")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            superblock = extfs.read_superblock(descriptor)
            fits = tuple(numbers[2:]) == _identity(superblock)
            if fits and not superblock.is_clean and numbers[1].isdecimal():
                if _is_begun(undo):
                    _play_back(undo, path, environ)
                os.truncate(descriptor, int(numbers[1]))
                extfs.write_state(descriptor, 0)
                done = True
        finally:
            os.close(descriptor)
        os.unlink(undo)
    return done


def _is_begun(undo):
    """Return whether an undo file has its header.

    Without, resize2fs was killed when it had written nothing but groups that are not yet
    part of the file system: the superblock, which counts them, is written at its end.
    """
    with open(undo, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _play_back(undo, path, environ):
    program = process.need("e2undo", "e2fsprogs", environ)
    # -f: a killed resize2fs had no time to finish the file.
    result = process.run([program, "-f", undo, path], environ)
    if result.status:
        words = (result.errors or result.output).strip().splitlines() or ["it failed"]
        raise OverlayError(
            f"an interrupted change of {quote(path)} cannot be undone: {words[-1]}",
            status=DAMAGED,
            hint=f"by hand: e2undo -f {quote(undo)} {quote(path)}",
        )
