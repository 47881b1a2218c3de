"""create-overlay: make a new overlay."""

from __future__ import annotations

import os

from overlay import size
from overlay.commands.arguments import (
    Command,
    Once,
    add_activate,
    add_binds,
    add_container,
    add_json,
    add_sizes,
    add_verbosity,
    add_wait,
    variable,
)
from overlay.create import make
from overlay.create.policy import check_place, check_policy, check_room, room_for
from overlay.create.request import Order, file_name, full_name, settle
from overlay.create.workplace import Workplace
from overlay.errors import USAGE, OverlayError, printable, quote
from overlay.host import ending
from overlay.host.limits import set_soft_aside
from overlay.host.scratch import scratch_directory
from overlay.image import ext3_size
from overlay.plan import Plan
from overlay.settings import config as configuration

_STEP = 64 << 20  # bytes by which an overlay becomes larger that turned out too small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping

    from overlay.commands.arguments import Parser
    from overlay.create.fill import Collection, Filling
    from overlay.create.make import Facts
    from overlay.create.packed import Packing
    from overlay.create.request import Content, Created, Creation
    from overlay.output import Output
    from overlay.quota.check import Room
    from overlay.quota.limits import Limits
    from overlay.settings.config import Config


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Create what the options ask for, and say what it is."""
    set_soft_aside()
    config = configuration.load(environ, root, output.notice)
    if options.list_templates:
        return _list_templates(config, output)
    _hold(options, config)
    order, filling = _order(options, config), _filling(options, config)
    _check_packed(order, options, is_filled=filling is not None)
    with ending.cleaning_up():
        work = _Work(order, filling, config, output)
        try:
            if options.dry_run:
                output.result(work.plan().shell(), exact=True)
                return 0
            created, limits = work.do()
        finally:
            work.close()
    if options.json:
        import json

        output.result(json.dumps(created.as_dictionary(limits)))
    elif not options.quiet:
        output.result(_summary(created, limits, filling))
    if created.superblock and created.size >= ext3_size.SLOW:
        output.notice(_slow(created))
    return 0


def _hold(options: Namespace, config: Config) -> None:
    """Refuse options that would set aside what the site has locked."""
    config.hold("create.size", "-s", options.size)
    config.hold("create.files", "-n", options.files)
    if options.sparse is not None:
        option, given = ("--sparse", "sparse") if options.sparse else ("--reserve", "reserve")
        config.hold("create.allocation", option, given)
    config.hold("images.default", "-c", options.container)
    config.hold("binds.paths", "-b", options.binds)


def _order(options: Namespace, config: Config) -> Order:
    """Return what the command line says of the overlay itself."""
    sparse = options.sparse
    return Order(
        options.size,
        options.files,
        path=options.overlay,
        sparse=config["create.allocation"] == "sparse" if sparse is None else sparse,
        force=options.force,
        usable=options.usable,
        plain_count=options.files is not None and options.files.is_plain,
        wait=None if options.dry_run else options.wait,
    )


def _check_packed(order: Order, options: Namespace, *, is_filled: bool) -> None:
    """Refuse what no packed overlay can be. Raises OverlayError (USAGE)."""
    if not order.is_packed or order.path is None:
        return
    stem = quote(os.path.splitext(order.path)[0])
    if not is_filled:
        raise OverlayError(
            f"{quote(order.path)} would be packed, and nobody could put anything in",
            status=USAGE,
            hint=f"one that is written: -o {stem}; one filled at once: --from SOURCE or -f FILE",
        )
    given = {"-s": order.size, "-n": order.files, "--usable": order.usable or None}
    given["--reserve" if options.sparse is False else "--sparse"] = options.sparse
    for option, value in given.items():
        if value is not None:
            raise OverlayError(
                f"{quote(order.path)} is packed, and as large as what is in it: {option} is not"
                " for it",
                status=USAGE,
                hint=f"leave it out; or one that can be written: -o {stem}",
            )


def _filling(options: Namespace, config: Config) -> Filling | None:
    """Return what the command line says it is filled with; None for nothing."""
    # Where nothing is put in, --no-activate asks for what is so anyway.
    given = (options.file, options.template, options.container, options.activate or None)
    if not (
        options.sources
        or options.binds
        or options.values
        or any(word is not None for word in given)
    ):
        return None
    from overlay.create import fill, ready  # what an empty one does without

    return fill.parse(
        config,
        sources=options.sources,
        template=options.template,
        commands=options.file,
        container=options.container,
        binds=options.binds,
        wish=ready.Wish(
            activate=options.activate,
            values=dict(options.values),
            history=options.history,
            command=options.words,
        ),
    )


class _Work:
    """One new overlay: what was asked for it, each thing once and as soon as it can be.

    What it is filled with decides on its size where that was left open, and the size on the
    name: so a part is asked before anything is unpacked, and the rest after that.
    """

    def __init__(
        self, order: Order, filling: Filling | None, config: Config, output: Output
    ) -> None:
        """Ask what can be asked before anything is done. Raises OverlayError."""
        self._order = order
        self._config = config
        self._output = output
        builds = filling is not None and filling.build is not None
        self._workplace = Workplace(scratch_directory(config, programs=builds))
        self._facts: Facts | None = None
        self._room: Room | None = None
        self._is_filled = filling is not None
        self._packing: Packing | None = None
        try:
            self._ask_early()
            self._collection = self._collect(filling)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of what is to be replaced."""
        if self._facts is not None:
            self._facts.close()

    def _ask_early(self) -> None:
        """Ask what does not depend on the content."""
        order, config = self._order, self._config
        if order.is_packed and order.path is not None:
            from overlay.create.packed import Packing

            facts = self._look(order.path)
            self._packing = Packing(facts, config, quiet=self._output.quiet)
            return
        if not self._is_filled or order.size is not None and order.files is not None:
            creation = settle(order, config)
            check_policy(config, size=creation.size, files=creation.files)
            self._look(file_name(creation))
            if self._is_filled:  # what is only to be warned of is said later
                check_room(self._room, None, size=creation.size, sparse=creation.sparse)
            return
        check_policy(config, size=None if order.usable else order.size, files=order.files)
        if order.path is not None:
            self._look(full_name(order.path))

    def _look(self, name: str) -> Facts:
        """Look at the place of the new overlay, and ask what room there is."""
        order, config = self._order, self._config
        self._facts = make.look(
            name,
            config,
            sparse=order.sparse,
            force=order.force,
            filled=self._is_filled,
            workplace=self._workplace,
            packed=order.is_packed,
            wait=order.wait,
            notice=self._output.notice,
        )
        check_place(self._facts.path, config, self._output.notice)
        self._room = room_for(self._facts.path, config)
        return self._facts

    def _collect(self, filling: Filling | None) -> Collection | None:
        if filling is None:
            return None
        from overlay.create.fill import Collection

        return Collection(filling, self._order, self._workplace, self._config, self._output)

    def _settle(self, content: Content | None, more: int = 0) -> tuple[Creation, Facts]:
        """Ask the rest, when the content is known; more as for settle()."""
        creation = settle(self._order, self._config, content, more)
        check_policy(self._config, size=creation.size, files=creation.files)
        facts = self._facts
        if facts is None or more and self._order.path is None:  # then the size is in the name
            self.close()
            facts = self._look(file_name(creation))
        data = content.amount.bytes if content else 0
        size_, sparse = creation.size, creation.sparse
        check_room(self._room, self._output.notice, size=size_, sparse=sparse, data=data)
        return creation, facts

    def plan(self) -> Plan:
        """Return what do() would do, to be printed."""
        first = self._first()
        if self._packing is not None and self._collection is not None:
            return self._packing.plan(
                self._collection.foretold(), before=first.before, after=first.after
            )
        creation, facts = self._settle(self._collection.foretold() if self._collection else None)
        return make.plan(creation, self._config, facts, before=first.before)

    def do(self) -> tuple[Created, list[Limits]]:
        """Make the overlay; return what was Created, and the Limits of its place now."""
        return self._first().do(lambda _final: self._finish())

    def _first(self) -> Plan:
        """Return the Plan for what is done before the image is made."""
        place = self._workplace
        steps = self._collection.steps if self._collection else []
        return Plan(before=[place.making(self._config), *steps], after=[place.removing()])

    def _finish(self) -> tuple[Created, list[Limits]]:
        """Make the image when its content is brought together; else keep what a build made."""
        try:
            return self._write(self._collection.content() if self._collection else None)
        except OverlayError as error:
            if self._collection is not None:
                self._collection.keep(error)
            raise

    def _write(self, content: Content | None, more: int = 0) -> tuple[Created, list[Limits]]:
        """Make the image, and a larger one where its size is open and turns out too small."""
        if self._packing is not None and content is not None:
            created = self._packing.do(content)
            return created, self._limits(created)
        creation, facts = self._settle(content, more)
        if content:
            self._output.notice(
                f"writing {size.format_files(content.amount.files)},"
                f" {size.format_size(content.amount.bytes)}"
            )
        try:
            created = make.run(
                creation, self._config, facts, self._output.notice, self._output.progress
            )
        except make.TooSmall:
            if content is None or self._order.size is not None:
                raise
            self._output.notice("it does not fit; once more, into a larger one")
            return self._write(content, more + max(creation.size // 2, _STEP))
        return created, self._limits(created)

    def _limits(self, created: Created) -> list[Limits]:
        """Return the Limits of its place, now that it is there."""
        if self._room is None or self._facts is None:
            return []
        old = self._facts.existing
        taken = created.allocated - (old.status.st_blocks * 512 if old else 0)
        return self._room.after(taken, 0 if old else 1)


def _list_templates(config: Config, output: Output) -> int:
    """Print the site's templates, a line each."""
    templates = config.templates()
    if not templates:
        output.notice("the site has no templates")
    for name, words in sorted(templates.items()):
        # One that needs a variable which is not set here is shown as it is written.
        text = config.text(f"templates.{name}") if words is None else " ".join(map(quote, words))
        output.result(f"{quote(name)}\t{printable(text)}")
    return 0


def _slow(created: Created) -> str:
    """Return what the size of a large overlay costs: no disk where it has holes, but time."""
    return (
        f"{size.format_size(created.size)} is large: every new file or directory in an overlay takes"
        " time in proportion to the overlay's size, in 1 TiB some 20 times as long as in 1 GiB; begin"
        " with less, and give it more when that is needed:"
        f" resize-overlay {quote(os.path.relpath(created.path))} -s +SIZE"
    )


def _summary(created: Created, limits: Iterable[Limits], filling: Filling | None) -> str:
    """Return what a person wants to know of a new overlay."""
    path = created.path
    sources = filling.sources if filling else []
    short = os.path.relpath(path)
    state = "reserved" if created.allocated >= created.size else "sparse"
    room = ""
    if created.superblock is None:
        state = "packed, only to be read"
    else:
        room = (
            f"  room   {size.format_size(created.superblock.available_bytes)} of data,"
            f" {size.format_files(created.superblock.free_inodes_count)}\n"
        )
    return (
        f"created {quote(path)}\n"
        f"  size   {size.format_size(created.size)}, {state}\n"
        + room
        + "".join(
            f"  left   {size.format_size(one.left_bytes)}, {one.name}\n"
            for one in limits
            if one.left_bytes is not None
        )
        + "".join(f"  from   {quote(one.path)}, at {quote(one.dest)} inside\n" for one in sources)
        + f"next: mount-overlay -o {quote(path if short.startswith(('..', '-')) else short)}"
    )


def _add_options(parser: Parser) -> None:
    parser.usage = (
        f"{parser.prog} -s SIZE -n FILES [-o NAME] [option ...]\n"
        f"       {parser.prog} --from SOURCE | -t NAME | -f FILE [-o NAME] [option ...]"
    )
    group = parser.add_argument_group("the overlay")
    add_sizes(
        group,
        parser.prog,
        "its size: MiB, or with a unit as in 500M, 20G",
        "how many files: thousands, or as in 700K, 2M",
    )
    group.add_argument(
        "-o",
        "--overlay",
        metavar="NAME",
        action=Once,
        help="its name, to which .ext3 is added",
    )
    allocation = group.add_mutually_exclusive_group()
    allocation.add_argument(
        "--sparse",
        action="store_true",
        default=None,
        help="take disk blocks only as they are written",
    )
    allocation.add_argument(
        "--reserve",
        dest="sparse",
        action="store_false",
        help="take all disk blocks at once",
    )
    group.add_argument("--force", action="store_true", help="replace an overlay of that name")
    add_wait(group, "with --force: wait while that is being written")
    group.add_argument(
        "--usable",
        action="store_true",
        help="SIZE is the room for data; the file is larger",
    )
    group = parser.add_argument_group("filled at creation")
    group.add_argument(
        "--from",
        metavar="SOURCE[:DEST]",
        dest="sources",
        action="append",
        default=[],
        help="fill it with a directory, an archive or an overlay; -s and -n may be left out",
    )
    group.add_argument(
        "-t", "--template", metavar="NAME", help="fill it with a template of the site"
    )
    group.add_argument(
        "--list-templates", action="store_true", help="list the site's templates and exit"
    )
    group.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        action=Once,
        help="fill it with what the commands of FILE make",
    )
    add_activate(group, "make this environment, /opt/env inside, ready in every session")
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="values",
        action="append",
        type=variable,
        default=[],
        help="set a variable in every session",
    )
    group.add_argument(
        "--no-history",
        dest="history",
        action="store_false",
        help="do not keep in it how it was made",
    )
    add_container(group, "the base image that it is for, by name or path")
    add_binds(group, "for -f: bind a path of the host: PATH[:INSIDE[:ro]]")
    group = parser.add_argument_group("output")
    add_json(group)
    add_verbosity(group)


def _check_conda(environ: Mapping[str, str], root: str) -> None:
    """See whether the site offers conda at all. Raises OverlayError (MISSING)."""
    from overlay.create.fill import check_template

    check_template("conda", configuration.load(environ, root))


def _add_conda_options(parser: Parser) -> None:
    _add_options(parser)
    parser.usage = f"{parser.prog} -s SIZE -n FILES [-o NAME] [option ...]"
    parser.set_defaults(template="conda")


_IN_PAGE = (
    *("--sparse", "--reserve", "--wait", "--usable", "--list-templates"),
    *("--activate", "--no-activate", "--set", "--no-history"),
    *("--bind", "--json", "--verbose"),
)

PROGRAMS = {
    "create-overlay": Command(
        "Create an overlay: one file that holds as many files as you need.",
        "create-overlay -s 20G -n 2M -o env\n"
        "create-overlay -f install.txt -s 10G -n 200 -o env\n"
        "create-overlay --from dataset.tar.gz:/data -o dataset",
        _add_options,
        in_page=_IN_PAGE,
    ),
    "create-overlay-conda": Command(
        "Create an overlay with the site's conda in it.",
        "create-overlay-conda -s 7000 -n 700 -o env",
        _add_conda_options,
        in_page=_IN_PAGE,
        check=_check_conda,
    ),
}
