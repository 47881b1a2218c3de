"""Filling a new overlay: from sources, from a template, by a file of commands.

Everything is brought together before the image is made, in the Workplace on a disk of the
node and in trees that are read where they are; mke2fs then writes it in one go.
"""

from __future__ import annotations

import os

from overlay.create import activate, attributes, build, moved, ready
from overlay.create.allowance import NO_ROOM, Allowance, no_room
from overlay.create.attributes import LeftOut
from overlay.create.kind import Means
from overlay.create.measure import BLOCK, Amount, measure
from overlay.create.place import copy_tree, make_place
from overlay.create.request import Content
from overlay.create.source import parse_source
from overlay.errors import MISSING, USAGE, OverlayError, quote
from overlay.host import namespace, permissions, places, process
from overlay.launch.request import check_commands, read_commands
from overlay.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from overlay.create.kind import Source
    from overlay.create.request import Order
    from overlay.create.workplace import Workplace
    from overlay.output import Output
    from overlay.settings.config import Config


class Filling:
    """What a new overlay is to be filled with.

    sources  Sources, in the order in which they are brought
    build    the Build whose commands run at last; None for none
    wish     the Wish of what it carries of itself
    container  name or path of the base image that it is for, None for the site's
    """

    __slots__ = ("build", "container", "sources", "wish")

    def __init__(
        self,
        sources: Iterable[Source],
        build_: build.Build | None = None,
        *,
        wish: ready.Wish,
        container: str | None = None,
    ) -> None:
        self.sources = list(sources)
        self.build = build_
        self.wish = wish
        self.container = container


def parse(
    config: Config,
    *,
    sources: Iterable[str] = (),
    template: str | None = None,
    commands: str | None = None,
    container: str | None = None,
    binds: Sequence[str] = (),
    wish: ready.Wish | None = None,
) -> Filling:
    """Return the Filling that a command line asks for, the sources of a template first.

    sources    each as SOURCE[:DEST]
    template   the name of one of the site's
    commands   the path of a file of commands
    container  the base image that they run in, and that it is for; None for the site's
    binds      what is bound there, as the engine takes it
    wish       what it carries of itself, None: what every filled overlay does
    Raises OverlayError for a template or source that is not there.
    """
    words = list(sources)
    if template is not None:
        check_template(template, config)
        # Read by its name: what is wrong with it, such as a variable that is not set, is told.
        words = [*config[f"templates.{template}"], *words]
    check_commands(commands)
    if commands is not None:
        read_commands(commands, "create-overlay")  # before anything is unpacked
    if commands is None and binds:
        raise OverlayError(
            "-b is for the commands of -f, and there is no -f",
            status=USAGE,
            hint="to bind it in a session: mount-overlay -o NAME -b PATH",
        )
    if commands is None and not words:
        raise _not_filled(container, wish or ready.Wish())
    hidden = _hidden(config)
    found = [parse_source(text, hidden) for text in words]
    wish = wish or ready.Wish()
    if commands is None:
        activate.check(wish.activate or (), found)
    return Filling(
        found,
        None if commands is None else build.Build(commands, container, binds),
        wish=wish,
        container=container,
    )


def check_template(name: str, config: Config) -> None:
    """See whether the site has a template. Raises OverlayError (MISSING)."""
    templates = config.templates()
    if name in templates:
        return
    if name == "conda":
        raise OverlayError(
            "this site offers no conda",
            status=MISSING,
            hint="put the lines that install one into a file: create-overlay -f FILE -s 10G"
            " -n 200 -o conda; the user's guide has them, under: A conda environment",
        )
    known = ", ".join(map(quote, sorted(templates))) or "none"
    raise OverlayError(
        f"there is no template {quote(name)}",
        status=MISSING,
        hint=f"templates of this site: {known}"
        if known != "none"
        else "this site has none; fill it from a directory or archive: --from SOURCE",
    )


def _not_filled(container: str | None, wish: ready.Wish) -> OverlayError:
    """Return the error for what is asked of an overlay into which nothing is put."""
    if container is not None:
        return OverlayError(
            "-c is for an overlay that is filled, and this one is not",
            status=USAGE,
            hint=f"leave it out, and name the base image later: mount-overlay -o NAME -c {quote(container)}",
        )
    words = [word for path in wish.activate or () for word in ("--activate", path)]
    words += [word for pair in wish.values.items() for word in ("--set", "=".join(pair))]
    return OverlayError(
        f"{words[0]} is for an overlay that is filled, and this one is not",
        status=USAGE,
        hint=f"create-overlay --from DIRECTORY:/opt/env {' '.join(map(quote, words))} -o env",
    )


def _hidden(config: Config) -> list[str]:
    """Return the directories of the host that cover what lies in their place inside."""
    hidden = [bind.split(":")[1] if ":" in bind else bind for bind in config.binds]
    hidden += ["/proc", "/sys", "/dev", "/tmp", "/var/tmp"]
    if config.environ.get("HOME", "").strip("/"):
        hidden.append(config.environ["HOME"])
    return hidden


class Collection:
    """How everything is brought together.

    steps    Steps that put it below upper/ in the Workplace, and make the places there for
             what is read where it is
    binds    (directory, place below upper/) of that
    """

    def __init__(
        self, filling: Filling, order: Order, workplace: Workplace, config: Config, output: Output
    ) -> None:
        """Look at the sources; nothing is done.

        order  how large the overlay is to be, as far as it is known
        """
        self._filling = filling
        self._order = order
        self._workplace = workplace
        self._config = config
        self._output = output
        self._environ: Mapping[str, str] = config.environ
        self._left_out = LeftOut()
        self._in_namespace: bool = namespace.available(self._environ)
        bindable: list[Source] = []
        if filling.build is None and self._in_namespace:
            place = os.path.dirname(os.path.realpath(order.path or "x"))
            bindable = _bindable(filling.sources, place, self._environ)
        self.binds = [
            (os.path.abspath(source.path), source.dest.lstrip("/")) for source in bindable
        ]
        self._made_of = [
            permissions.Access(source.path) for source in filling.sources if source.is_overlay
        ]
        self._is_bound = filling.build is None and len(bindable) == len(filling.sources)
        self.steps: list[Step] = []
        for source in filling.sources:
            self.steps += self._place(source) if source in bindable else self._bring(source)
        if filling.build is not None:
            self.steps += filling.build.steps(workplace, config, order.path, output)
        self.steps.append(
            Step(
                action=self._make_ready,
                why="what its environments set is found out inside, once, and written for the engine;"
                " and how it was made",
            )
        )

    def _place(self, source: Source) -> list[Step]:
        """Return the Step that makes the place of a source."""
        upper = self._workplace.upper
        return [
            Step(["mkdir", "-p", self._target(source)], action=lambda: make_place(upper, source))
        ]

    def _bring(self, source: Source) -> list[Step]:
        """Return the Steps that put a source in its place."""
        target, top = self._target(source), self._workplace.upper
        return [
            *self._place(source),
            Step(
                source.words(target),
                action=lambda: self._unpack(source, target),
                why=source.why(target),
            ),
            Step(
                ["chmod", "755", top],
                action=lambda: os.chmod(top, 0o755),
                why="the mode of a source's top, taken over, could close all of the overlay",
            ),
        ]

    def _target(self, source: Source) -> str:
        return os.path.join(self._workplace.upper, source.dest.lstrip("/")).rstrip("/")

    def _unpack(self, source: Source, target: str) -> None:
        scratch, output, order = self._workplace.scratch, self._output, self._order
        means = Means(
            Allowance(scratch, size=order.size, files=order.files),
            scratch=scratch,
            through=self._workplace.path,
            config=self._config,
            left_out=self._left_out,
            notice=output.notice,
            tick=lambda count: output.progress(f"{count:,} files"),
        )
        words = source.notice()
        if words:
            output.notice(words)
        try:
            source.bring(target, means)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise no_room(f"{source.task} {quote(source.path)}", scratch, error) from None
        finally:
            output.progress("")

    def keep(self, error: OverlayError) -> None:
        """Keep what the commands of a build have made, all Steps done, and say so in an error."""
        if self._filling.build is None:
            return
        try:
            tree = self._workplace.keep()
        except OSError:
            return
        error.what += f"; what the commands made is kept in {quote(tree)}"
        line = f"create-overlay --from {quote(tree + ':/')} -o {self._name()}"
        if self._order.force:
            line += " --force"
        # What fits no content is not asked for again: the overlay is then as large as it needs.
        hint = f"{error.hint}; then" if error.hint and error.status != USAGE else "to go on with it"
        error.hint = f"{hint}: {line}; when it is not needed: rm -rf {quote(tree)}"

    def _name(self) -> str:
        return "NAME" if self._order.path is None else quote(self._order.path)

    def _make_ready(self) -> None:
        filling, base = self._filling, None
        recipe = None
        if filling.build is not None:
            base, recipe = filling.build.base(self._workplace, self._config), filling.build.text()
        try:
            ready.make_ready(
                filling.wish,
                self._workplace,
                self._config,
                self._output,
                sources=filling.sources,
                binds=self.binds,
                container=filling.container,
                base=base,
                recipe=recipe,
            )
        except OverlayError as error:
            self.keep(error)
            raise

    def content(self) -> Content:
        """Return the Content, when all Steps are done."""
        upper = self._workplace.upper
        for place in _hidden(self._config) if self._filling.sources else ():
            if _holds_something(os.path.join(upper, place.lstrip("/"))):
                self._output.notice(
                    f"what is put in {quote(place)} is not seen in sessions: the host's covers it",
                    "warning",
                )
        bound = {place: directory for directory, place in self.binds}
        dests = [source.dest for source in self._filling.sources]
        for source in self._filling.sources:
            tree = bound.get(source.dest.lstrip("/"), self._target(source))
            for line in moved.find(tree, source.dest, dests):
                self._output.notice(line, "warning")
        amount = Amount() if self._order.is_packed else self._measured()
        words = self._left_out.words()
        if words:
            self._output.notice(words)
        return self._content(amount)

    def _measured(self) -> Amount:
        """Return the Amount of all of it, when what ext3 has no room for is left out."""
        upper, amount = self._workplace.upper, self._places()
        if not self._is_bound:
            amount = Amount()
            _add(amount, upper, "", self._environ)
            self._strip(amount.unfit, upper)
        self._measure_binds(amount)
        self._bring_unfit(amount)
        return amount

    def _strip(self, unfit: Iterable[tuple[bytes, list[str]]], top: str) -> None:
        """Remove, and note, attributes that ext3 has no room for from files in the Workplace."""
        for path, names in unfit:
            attributes.remove(path, names)
            for name in names:
                self._left_out.add(name, "/" + os.path.relpath(os.fsdecode(path), top))

    def _bring_unfit(self, amount: Amount) -> None:
        """Copy those of the binds that mke2fs could not read as they are, and strip the copies."""
        for bind in list(self.binds):
            tree, place = bind
            target = os.path.join(self._workplace.upper, place)
            top = os.fsencode(tree) + b"/"
            unfit = [one for one in amount.unfit if one[0].startswith(top)]
            if not unfit:
                continue
            through = self._workplace.path + ".source"
            copy_tree(tree, target, self._environ, through=through)
            self.binds.remove(bind)
            for path, names in unfit:
                copied = os.path.join(os.fsencode(target), path[len(top) :])
                self._strip([(copied, names)], self._workplace.upper)
                attributes.carry(path, copied, names)

    def foretold(self) -> Content:
        """Return the Content before anything is done, as far as it can be known.

        Raises OverlayError (USAGE) when the size of the overlay follows from what cannot.
        """
        order = self._order
        if order.is_packed:
            return self._content(Amount())
        if not self._is_bound and (order.size is None or order.files is None):
            what = "how large an archive is" if self._filling.sources else "what the commands write"
            raise OverlayError(f"--dry-run cannot know {what}", status=USAGE, hint="give -s and -n")
        amount = self._places() if self._is_bound else Amount()
        self._measure_binds(amount)
        return self._content(amount)

    def _measure_binds(self, amount: Amount) -> None:
        """Add what is read where it is to the Amount that is, or will be, in the Workplace."""
        for directory, place in self.binds:
            _add(amount, directory, place, self._environ)

    def _content(self, amount: Amount) -> Content:
        """Return the Content, from the Amount of all of it."""
        if amount.crowded and _is_slow_in_crowds(self._environ):
            self._tell_of_crowds(amount)
        return Content(
            amount, binds=self.binds, in_namespace=self._in_namespace, made_of=self._made_of
        )

    def _tell_of_crowds(self, amount: Amount) -> None:
        """Say of the directory with the most names that it takes its time, and the way out."""
        top = os.fsencode(self._workplace.upper)
        path, count = max(amount.crowded.items(), key=lambda item: item[1])
        name = os.fsdecode(path[len(top) :] if path.startswith(top + b"/") else path)
        self._output.notice(
            f"{quote(name)} has {count:,} files in one directory: to write them takes long, four"
            " times as long for twice as many. Quicker: subdirectories; or, only to be read, a"
            " packed one: -o NAME.sqsh"
        )

    def _places(self) -> Amount:
        """Return the Amount of the directories in the Workplace when nothing else is there."""
        found = {"/"}
        wanted = [source.dest for source in self._filling.sources]
        for path in (*wanted, *self._config["create.directories"]):
            path = os.path.normpath("/" + path.lstrip("/"))
            while path != "/":
                found.add(path)
                path = os.path.dirname(path)
        files, blocks = len(found) + ready.FILES, len(found) + ready.BLOCKS
        return Amount(files, blocks * BLOCK)


def _is_slow_in_crowds(environ: Mapping[str, str]) -> bool:
    """Return whether mke2fs looks through a whole directory for each name: before 1.47.3."""
    said = process.run([process.need("mke2fs", environ), "-V"], environ)
    words = (said.errors + said.output).split()[1:2]
    numbers = [int(part) for part in ".".join(words).split(".") if part.isdecimal()]
    return numbers < [1, 47, 3]


def _holds_something(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except OSError:
        return False  # it is not there, or closed to everybody


def _add(amount: Amount, tree: str, place: str, environ: Mapping[str, str]) -> None:
    """Add a tree that will lie at a place below upper/ in the image to what there is to write."""
    more = measure(tree, environ)
    amount.files += more.files
    amount.bytes += more.bytes
    amount.unfit += more.unfit
    amount.crowded.update(more.crowded)
    for path, time_ in more.times.items():
        inside = os.path.join(
            b"upper", os.fsencode(place), os.path.relpath(path, os.fsencode(tree))
        )
        amount.times[inside] = time_


def _bindable(parsed: Sequence[Source], place: str, environ: Mapping[str, str]) -> list[Source]:
    """Return the directories that can be read where they are.

    place  the directory of the new overlay; a source that it lies in is copied, because the
           overlay would be written into itself

    One whose place is /, or below or above another source's, is copied: it would hide the
    other, or a place for the other would have to be made in it. So is one that overlaps
    another source itself: mke2fs would make one file of two with several names. And so is, where
    the kernel cannot be told to follow no link, one that others can write: mke2fs would follow
    a link that they put in the place of a file meanwhile.
    """
    found = []
    for source in parsed:
        rest = [other for other in parsed if other is not source]
        apart = not any(
            _nested(source.dest, other.dest)
            or _nested(os.path.realpath(source.path), os.path.realpath(other.path))
            for other in rest
        )
        inside = places.is_below(place, [os.path.realpath(source.path)])
        if source.is_tree and source.dest != "/" and apart and not inside:
            found.append(source)
    if not all(map(_is_mine, found)) and not namespace.blocks_links(environ):
        found = list(filter(_is_mine, found))
    return found


def _is_mine(source: Source) -> bool:
    """Return whether nobody but the caller can write in the top of a source."""
    status = os.stat(source.path)
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _nested(one: str, other: str) -> bool:
    """Return whether one of two absolute paths is the other or lies in it."""
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)
