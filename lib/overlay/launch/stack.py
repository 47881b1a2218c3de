"""What hides what in a stack of read-only layers, in the form that the kernel's overlayfs knows.

A deletion that fuse-overlayfs noted, as a file .wh.NAME, is to the kernel a file of that name.
In its own form it is a character device 0/0, but fuse2fs lists names without their types, and
the kernel then takes such a device for a file that cannot be read. So a session that needs it
gets small layers in memory, one before each layer of the stack, with such devices in them:

- what a layer has deleted, is deleted in the one behind it
- of a directory that hides all below, the whole is: a deletion ends what a directory is merged
  from
- what only fuse-overlayfs should see, the markers, is deleted in the one before it

What is in them is handed to our launcher as a tar archive, which it unpacks (helpers/stack,
helpers/read-only): the directory N lies before the Nth of the layers that the engine names,
and a file called fuse says that fuse-overlayfs has to stand above all.
"""

from __future__ import annotations

import io
import os

from overlay.image import ext3
from overlay.image.hidden import Directory, Hidden, Unknown, hidden
from overlay.image.paths import parents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.image.kind import Image
    from overlay.launch.engine import Launchers
    from overlay.launch.facts import Facts

# Where our launchers look for the archive. The engine and what it starts inherit it; it is far
# above what shells and scripts use, and what it opens itself.
DESCRIPTOR = 199

KERNEL = (5, 11)  # the first whose overlayfs users may mount: its change log

_MOST = 20000  # entries in memory; more take longer than fuse-overlayfs would
_ALONE = b"alone"  # what our launcher writes over the archive when it had to do without


class Stack:
    """What our launcher is told: an archive, handed on as a descriptor."""

    __slots__ = ("_data", "_handed")

    why = (
        f"deletions in lower overlays are handed on as descriptor {DESCRIPTOR};"
        " without it fuse-overlayfs stands alone"
    )

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._handed = False

    def hand_over(self) -> None:
        """Put the archive where our launcher looks for it, and where what we start inherits it."""
        import fcntl

        try:
            fcntl.fcntl(DESCRIPTOR, fcntl.F_GETFD)
            return  # it is somebody else's
        except OSError:
            pass
        memory = os.memfd_create("overlay-stack", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(self._data)
            os.dup2(memory, DESCRIPTOR)
            self._handed = True
        except OSError:
            pass  # a limit on open files: fuse-overlayfs stands alone
        finally:
            os.close(memory)

    def take_back(self) -> str | None:
        """Close the descriptor when the session has ended.

        Returns why our launcher had to do without the kernel's overlayfs; None when it had not.
        """
        if not self._handed:
            return f"descriptor {DESCRIPTOR} cannot be had"
        alone = os.pread(DESCRIPTOR, len(_ALONE), 0) == _ALONE
        os.close(DESCRIPTOR)
        self._handed = False
        return "the kernel does not let you mount them" if alone else None


def look(
    facts: Facts, launchers: Launchers | None, *, remember: bool
) -> tuple[Stack | None, str | None]:
    """Return what our launcher is to be told of a stack, or why the layers cannot be told apart.

    launchers  ours, as they were settled
    remember   whether what was found is noted on the images, which are locked then
    """
    layers = facts.images[1:] if facts.writable else facts.images
    try:
        if launchers is None:
            raise Unknown("this engine does not take our launchers")
        if not _kernel_mounts():
            raise Unknown(f"the kernel is older than {'.'.join(map(str, KERNEL))}")
        found = [hidden(image, facts.environ, remember=remember) for image in layers]
        return Stack(_archive(layers, found, facts.environ, view=not facts.writable)), None
    except Unknown as error:
        # An engine that is setuid root has the kernel mount all of them.
        several = sum(image.is_file for image in facts.images) > 1
        setuid = facts.launchers is None and facts.engine.is_setuid()
        return None, str(error) if several and not setuid else None
    except (ext3.FormatError, OSError):
        return None, None  # said where it matters


def _kernel_mounts() -> bool:
    """Return whether the kernel is one whose overlayfs users may mount."""
    words = os.uname().release.replace("-", ".").split(".")[:2]
    return tuple(int(word) for word in words if word.isdecimal()) >= KERNEL


def _archive(
    layers: Sequence[Image], found: Sequence[Hidden], environ: Mapping[str, str], *, view: bool
) -> bytes:
    """Return the tar archive for our launcher.

    layers  Images of the read-only overlays, locked, the top one first
    found   what they hide
    view    whether the kernel's overlayfs alone is to be seen, without fuse-overlayfs above it
    Raises Unknown, ext3.FormatError, OSError.
    """
    kernel = view and all(map(_can_be_made, found))
    trees = _trees(layers, found, environ, kernel=kernel)
    if sum(len(names) for names, _directories in trees) > _MOST:
        raise Unknown("too much was deleted in them")
    return _packed(trees, fuse=not kernel)


def _can_be_made(layer: Hidden) -> bool:
    """Return whether directories in memory can be like those of a layer: what is seen is theirs."""
    return layer.directories is not None and all(
        one.can_be_made for one in layer.directories.values()
    )


def _trees(
    layers: Sequence[Image],
    found: Sequence[Hidden],
    environ: Mapping[str, str],
    *,
    kernel: bool,
) -> list[tuple[set[bytes], dict[bytes, Directory | None]]]:
    """Return the layers in memory: the first comes before all, the last before the base image.

    Each has the paths of its devices, and its directories, with what they are to be like.
    """
    names: list[set[bytes]] = [set() for _place in range(len(layers) + 1)]
    for place, layer in enumerate(found):
        names[place + 1] |= layer.deleted
        out = layer.markers
        if not kernel:
            # fuse-overlayfs takes the marker of one layer for one of the name that another
            # layer above has anew.
            anew: set[bytes] = set()
            for upper in layers[:place] if out else ():
                anew |= upper.those_inside(set(out.values()), environ)
            out = {path: what for path, what in out.items() if what in anew or path == what}
            if any(path == what for path, what in out.items()) and not _can_be_made(layer):
                raise Unknown("directories with deletions in them are not yours")
        names[place] |= set(out)
    trees = []
    for place, paths in enumerate(names):
        known = found[place].directories if place < len(found) else None
        paths = {path for path in paths if not any(one in paths for one in parents(path))}
        directories = {one for path in paths for one in parents(path)}
        trees.append((paths, {path: (known or {}).get(path) for path in directories}))
    return trees


def _packed(
    trees: Sequence[tuple[set[bytes], dict[bytes, Directory | None]]], *, fuse: bool
) -> bytes:
    import tarfile

    memory = io.BytesIO()
    with tarfile.open(
        fileobj=memory, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        if fuse:
            tar.addfile(tarfile.TarInfo("fuse"))
        for place, (paths, directories) in enumerate(trees):
            top = str(place)
            for path in sorted(directories):
                one = directories[path] or Directory(0o755, 0, 0, "0", plain=True)
                tar.addfile(one.member(f"{top}/{os.fsdecode(path)}"))
            for path in sorted(paths):
                member = tarfile.TarInfo(f"{top}/{os.fsdecode(path)}")
                member.type = tarfile.CHRTYPE
                tar.addfile(member)
    return memory.getvalue()
