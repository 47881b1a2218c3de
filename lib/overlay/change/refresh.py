"""What an overlay makes ready, made right again in the copy that an update has changed."""

from __future__ import annotations

import os

from overlay.change import carry
from overlay.create.activate import Wanted, find_out
from overlay.create.ready import has_scripts, identity, lines
from overlay.environment import find, note
from overlay.environment.activation import BASE, Activation, parse
from overlay.environment.note import Note
from overlay.errors import quote
from overlay.launch.facts import gather
from overlay.launch.request import Overlay, Session
from overlay.safety import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from overlay.environment.base import Base
    from overlay.image.ext3_image import Ext3Image
    from overlay.output import Output
    from overlay.settings.config import Config


class Refresh:
    """One copy of an overlay, from before the commands of the update to after them.

    base  what its base image is, where it carries that: known when refresh() is done
    """

    def __init__(
        self, copy: str, name: str, session: Session, config: Config, output: Output
    ) -> None:
        """Look at a copy before the commands run in it. Raises OverlayError.

        copy     an ext3 image of ours, in a private directory
        name     of the overlay, for what is to be typed
        session  what runs in it: its base image and binds
        """
        self.base: Base | None = None
        self._copy = copy
        self._name = name
        self._session = session
        self._config = config
        self._output = output
        whole = guard.open_whole(copy)
        try:
            self._environments = set(find.environments_in(whole))
            named = [path for one in note.read(whole) for path in one.directories]
            self._held = set(filter(whole.holds, named))
            self._scripts = {path: _scripts(whole, path) for path in named}
        finally:
            whole.close()

    def do(self, wanted: Sequence[str] | None) -> None:
        """Find out anew what the overlay makes ready, and write it.

        wanted  directories that are ready from now on, and no others; None: those that were, as
                far as they are there, or where none is left the one that the commands have made
        What cannot be found out of what was ready stays as it was, and is said. Raises
        OverlayError for what is wanted and cannot be, and for an image without room for it.
        """
        whole = guard.open_whole(self._copy)
        try:
            notes = [one for one in note.read(whole) if one.format <= note.FORMAT]
            found = list(find.environments_in(whole))
            changes = self._changes(whole, notes, found, wanted)
            same = [] if wanted is not None else [one for one in changes if self._is(whole, *one)]
        finally:
            whole.close()
        if not notes and not changes:
            return
        image = self._image()
        self.base = identity(image)
        if all(_is_of(one, self.base) for one in notes):
            # What it sets is known: to ask once more takes a session.
            changes = [one for one in changes if one not in same]
            if not changes:
                return
        # What it sets by itself is not to be found there already.
        self._remove([path for one, _directories in changes for path in lines(one)])
        made = {one.id: one for one in notes}
        for one, directories in changes:
            made[one.id] = self._made(one, directories, found, wanted is not None)
        self._write(made.values(), image)

    def _changes(
        self,
        whole: Ext3Image,
        notes: Sequence[Note],
        found: Sequence[str],
        wanted: Sequence[str] | None,
    ) -> list[tuple[Note, list[str]]]:
        """Return the Notes that are made anew, each with the directories that it activates then.

        notes  of the copy, the last made first
        found  the environments that are in it
        """
        ready = [one for one in notes if one.script]
        first = (*ready, *notes, None)[0] or Note(note.new_id())
        if wanted is not None:
            others: list[tuple[Note, list[str]]] = [(one, []) for one in ready if one is not first]
            return [(first, list(wanted)), *others] if wanted or ready else []
        changes: list[tuple[Note, list[str]]] = []
        for one in ready:
            gone = [
                path for path in one.directories if path in self._held and not whole.holds(path)
            ]
            for path in gone:
                self._output.notice(f"{quote(path)} is gone, and no longer activated")
            changes.append((one, [path for path in one.directories if path not in gone]))
        left = [path for _one, directories in changes for path in directories]
        new = [path for path in found if path not in self._environments and path not in left]
        if new and not left and len(found) == 1:
            return [(first, new), *(change for change in changes if change[0] is not first)]
        if new:
            options = " ".join(f"--activate {quote(path)}" for path in (*new, *left)[:5])
            self._output.notice(f"not activated: {' '.join(map(quote, new[:5]))}")
            self._output.notice(f"to choose: update-overlay {quote(self._name)} {options}")
        return changes

    def _is(self, whole: Ext3Image, one: Note, directories: list[str]) -> bool:
        """Return whether a Note still says what its directories do, as far as that is seen at once.

        So it is of venvs, whose own two files alone decide, when neither has changed.
        """
        return (
            directories == list(one.directories)
            and bool(directories)
            and all(
                self._scripts[path] is not None and self._scripts[path] == _scripts(whole, path)
                for path in directories
            )
            and note.is_intact(whole, one)
        )

    def _remove(self, names: Sequence[str]) -> None:
        """Remove files from the copy."""
        whole = guard.open_whole(self._copy)
        try:
            carry.write(whole, {}, names, self._place, self._config.environ)
        finally:
            whole.close()

    def _made(self, old: Note, directories: list[str], found: list[str], chosen: bool) -> Note:
        """Return the Note that activates some directories in the place of another."""
        before = parse(old.script)
        values = {}
        for name in old.names:
            values[name] = before.values.get(name) or ":".join(before.lists.get(name, ()))
        activation: Activation | None = Activation(values=values)
        if directories:
            activation = find_out(
                Wanted(directories, values, chosen=chosen, found=found),
                self._copy,
                self._config,
                self._output,
                image=self._session.container,
                binds=self._session.binds,
                otherwise="is as ready as it was",
            )
        elif old.directories and chosen:
            self._output.notice("nothing is activated any more")
        if activation is None:
            return old
        return Note(
            old.id,
            base=old.base,
            machine=os.uname().machine,
            directories=tuple(activation.directories),
            names=old.names,
            script=activation.script(),
        )

    def _image(self) -> str:
        """Return the path of the base image that a session in the copy has."""
        session = Session(
            [Overlay(self._copy, "ro")],
            container=self._session.container,
            command=["true"],
            program=self._output.program,
        )
        facts = gather(session, self._config)
        try:
            return os.path.realpath(facts.base)
        finally:
            facts.close()

    def _write(self, notes: Collection[Note], image: str) -> None:
        """Write Notes, and what the engine reads, into the copy."""
        files: dict[str, bytes] = {}
        removed: list[str] = []
        for one in notes:
            one.base = self.base or one.base
            files[note.path(one.id)] = one.text()
            if one.script:
                files.update(lines(one))
            else:
                removed += lines(one)
        whole = guard.open_whole(self._copy)
        try:
            if (
                any(one.script for one in notes)
                and not has_scripts(image)
                and not whole.holds(BASE)
            ):
                files[BASE] = b""
            carry.write(whole, files, removed, self._place, self._config.environ)
        finally:
            whole.close()

    @property
    def _place(self) -> str:
        return os.path.dirname(self._copy)


def _scripts(whole: Ext3Image, directory: str) -> tuple[bytes, bytes] | None:
    """Return what decides what a venv sets (see environment.learn), None for what is none."""
    configuration = whole.content_of(f"{directory}/pyvenv.cfg", note.MOST)
    script = whole.content_of(f"{directory}/bin/activate", note.MOST)
    return None if configuration is None or script is None else (configuration, script)


def _is_of(one: Note, base: Base | None) -> bool:
    """Return whether a Note was made for a base image, on a node such as this."""
    return (
        base is not None
        and one.base is not None
        and (one.base.path, one.base.size, one.base.mark) == (base.path, base.size, base.mark)
        and one.machine == os.uname().machine
    )
