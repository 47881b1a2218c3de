"""An ext3 overlay as a source of a new one."""

from __future__ import annotations

import os

from overlay.create.allowance import Allowance
from overlay.create.kind import Source
from overlay.create.place import copy_tree
from overlay.errors import quote
from overlay.host import namespace
from overlay.image import image as images
from overlay.image.magic import SUPERBLOCK_OFFSET, is_superblock
from overlay.safety import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.create.kind import Means
    from overlay.settings.config import Config


class Ext3(Source):
    """An ext3 overlay."""

    __slots__ = ()

    task = "copy"
    is_overlay = True

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return is_superblock(head[SUPERBLOCK_OFFSET:])

    def words(self, target: str) -> list[str]:
        return []

    def why(self, target: str) -> str | None:
        return f"what is in {quote(self.path)} is copied to {target}"

    def notice(self) -> str | None:
        return f"copying what is in {quote(self.path)}"

    def _bring(self, target: str, means: Means) -> None:
        extract(
            self.path,
            target,
            means.through,
            allowance=Allowance(means.scratch),
            config=means.config,
            notice=means.notice,
        )


def extract(
    path: str,
    target: str,
    through: str,
    *,
    allowance: Allowance,
    config: Config,
    notice: Callable[[str], None],
) -> None:
    """Copy what a session sees of an ext3 overlay into a directory, with the deletions in it.

    through    the beginning of names for directories in which it is mounted
    allowance  the Allowance: how much there is room for
    notice     called with a line for the user
    Nobody writes it meanwhile. Raises OverlayError, as for a session that reads it; OSError
    (ENOSPC, EDQUOT) when there is no room for it.
    """
    environ = config.environ
    namespace.need(environ)
    found = [images.look(path)]
    try:
        guard.acquire(found, False, config=config, notice=notice, session=False)
        image = found[0].as_ext3()
        image.check_upper()
        if image.superblock.used_bytes > allowance.bytes:
            raise allowance.too_much(path)
        if image.superblock.used_inodes_count - image.own_files > allowance.files:
            raise allowance.too_many(path)
        whole, upper = through + ".image", through + ".upper"
        os.mkdir(whole)
        os.mkdir(upper)
        try:
            mounted = (image.descriptor, whole, upper)
            copy_tree(upper, target, environ, image=mounted, name=path)
        finally:
            os.rmdir(upper)
            os.rmdir(whole)
    finally:
        for one in found:
            one.close()
