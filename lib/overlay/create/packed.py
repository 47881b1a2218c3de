"""A new overlay that is packed from the start: mksquashfs(1) reads what was brought together.

Nothing is measured before, and a directory of very many files takes no longer than many of few.
"""

from __future__ import annotations

import contextlib
import os

from overlay.create import mksquashfs
from overlay.create.request import Created
from overlay.environment import copies
from overlay.errors import cannot, reason
from overlay.host import limits, namespace, process
from overlay.image import carried, record
from overlay.image import image as images
from overlay.image.squashfs import has_markers
from overlay.image.squashfs_image import used_bytes
from overlay.plan import Plan, Step, named
from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlay.create.make import Facts
    from overlay.create.request import Content
    from overlay.plan import Part
    from overlay.settings.config import Config


# What is done for a new squashfs file, for the reader of a plan.
BEHIND = "a checksum, and what it carries of itself, are written behind its end"


def write_behind(descriptor: int, files: dict[str, bytes]) -> None:
    """Write copies of files, by the path inside, and a checksum behind the end of a squashfs file."""
    files[carried.CHECKSUM] = carried.checksum(descriptor, used_bytes(descriptor))
    carried.write(descriptor, files)


class Packing:
    """A squashfs file on its way: what the Steps of its Plan do, one after the other."""

    def __init__(self, facts: Facts, config: Config, *, quiet: bool) -> None:
        """Ask what can be asked before. Raises OverlayError (UNAVAILABLE).

        quiet  whether nothing is shown of how far it is
        """
        self._facts = facts
        self._config = config
        self._tool = mksquashfs.find(config.environ)
        known = mksquashfs.known(self._tool, config.environ)
        wanted = ("-quiet", *(("-no-progress",) if quiet else ()))
        self._options = [option for option in wanted if option in known]
        self._files = contextlib.ExitStack()

    def plan(
        self, content: Content, *, before: Iterable[Part] = (), after: Iterable[Part] = ()
    ) -> Plan:
        """Return the Plan; its final Step is into_place().

        before, after  the Steps that make the Workplace and fill it, and remove it
        """
        facts = self._facts
        words = self._words(content)
        steps: list[Part] = [
            *before,
            facts.tidying(),
            Step(action=self._begin, why="the file is for nobody else until it is finished"),
            Step(named(words), action=lambda: self._write(words)),
            Step(action=self._carry, why=BEHIND),
        ]
        return Plan(
            Step(
                ["mv", "-n" if facts.existing is None else "-f", "-T", facts.partial, facts.path],
                action=lambda: self.into_place(content),
                why=None if facts.existing is None else replace.LIKE_THE_OLD,
            ),
            before=steps,
            after=[Step(["rm", "-f", facts.partial], action=self._files.close), *after],
        )

    def do(self, content: Content) -> Created:
        """Do it and return what was Created. Raises OverlayError (CANNOT_CREATE)."""
        try:
            return self.plan(content).do(lambda _final: self.into_place(content))
        except OSError as error:
            raise cannot(self._facts.path, reason(error)) from None

    def _words(self, content: Content) -> list[str | int]:
        """Return the words that write it, under the name that it has until it is finished."""
        facts, environ = self._facts, self._config.environ
        words = [self._tool, facts.workplace.upper, facts.partial, "-noappend", "-exit-on-error"]
        words += mksquashfs.settings(self._config["pack.compression"])
        words += ["-force-uid", str(os.getuid()), "-force-gid", str(os.getgid()), *self._options]
        if not content.in_namespace:
            return list(words)
        upper = facts.workplace.upper
        binds = [(tree, os.path.join(upper, place)) for tree, place in content.binds]
        return namespace.wrap(words, environ, binds=binds)

    def _begin(self) -> None:
        self._new = self._files.enter_context(replace.unfinished(self._facts.path))

    def _write(self, words: list[str | int]) -> None:
        words = [self._new.descriptor if word == self._facts.partial else word for word in words]
        status = process.show(words, self._config.environ)
        if status:
            limit = limits.ended(status)
            why = limit or f"mksquashfs ended with {status}"
            raise cannot(self._facts.path, why, limits.HINT if limit else None)

    def _carry(self) -> None:
        """Write copies of what it carries behind its end, where they are read at once."""
        found = images.look(self._facts.workplace.path)
        try:
            files = copies.of([found])
        finally:
            found.close()
        write_behind(self._new.descriptor, files)

    def into_place(self, content: Content) -> Created:
        """Give the finished file its name, and return what was Created."""
        new, facts, environ = self._new, self._facts, self._config.environ
        there = has_markers(new.descriptor, environ)
        if facts.existing is not None:
            new.over(facts.existing.descriptor, made_of=content.made_of)
        else:
            new.into_place(mode=self._config["create.permissions"], made_of=content.made_of)
        status = os.fstat(new.descriptor)
        stamp = f"{status.st_mtime_ns}.{status.st_size}"
        fields = {"markers": "some" if there else "none", "open": "no", "stamp": stamp}
        record.write(new.descriptor, fields)
        return Created(facts.path, status.st_size, None, status.st_blocks * 512)
