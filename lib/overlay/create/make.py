"""The plan for a new overlay, and its making.

gather() asks all the read-only questions, plan() tells what would be done, run() does it: the
Steps are the same.
"""

from __future__ import annotations

import contextlib
import os

from overlay.create.request import LARGER, Created, file_name
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, OverlayError, cannot, quote, reason
from overlay.host import process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, ext3_size, record
from overlay.image.partial import partial_name
from overlay.plan import Plan, Step, ToldPlan, named
from overlay.safety import blocks, replace, stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TypeVar

    from overlay.create.request import Creation
    from overlay.image.ext3_read import Inode
    from overlay.image.kind import Image
    from overlay.plan import Part
    from overlay.settings.config import Config

    Value = TypeVar("Value")

# Instead of the machine's own: the options say all, but mke2fs wants a file with the types.
MKE2FS_CONFIG = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mke2fs.conf"
)


class TooSmall(OverlayError):
    """The image has no room for its content."""


class Facts:
    """What gather() found.

    path       of the new overlay, links followed
    existing   the Image in its place, locked; or None
    tools      name -> absolute path, of mke2fs, fallocate, e2fsck
    workplace  the Workplace whose content becomes that of the image
    """

    __slots__ = ("existing", "path", "tools", "workplace")

    def __init__(
        self,
        *,
        path: str,
        existing: Image | None = None,
        tools: Mapping[str, str],
        workplace: Workplace,
    ) -> None:
        self.path = path
        self.existing = existing
        self.tools = dict(tools)
        self.workplace = workplace

    @property
    def partial(self) -> str:
        """The name of the image until it is finished, as far as it is known before."""
        return partial_name(self.path, self.workplace.host, self.workplace.pid)

    def tidying(self) -> Step:
        """Return the Step that comes first: removing what killed runs have left here."""
        return Step(
            action=lambda: stale.remove_stale(os.path.dirname(self.path), self.workplace.scratch),
            why="what killed runs have left here is removed first",
        )

    def close(self) -> None:
        """Let go of what is in its place."""
        if self.existing is not None:
            self.existing.close()


def gather(creation: Creation, config: Config) -> Facts:
    """Return the Facts for a Creation. Raises OverlayError for what cannot work."""
    return look(
        file_name(creation),
        config,
        sparse=creation.sparse,
        force=creation.force,
        filled=creation.content is not None,
        workplace=Workplace(scratch_directory(config)),
    )


def look(
    name: str,
    config: Config,
    *,
    sparse: bool,
    force: bool,
    filled: bool,
    workplace: Workplace,
    packed: bool = False,
    wait: float | None = None,
    notice: Callable[[str], None] | None = None,
) -> Facts:
    """Return the Facts for a new overlay of a name, whatever size it will have.

    sparse     whether its blocks are taken only as they are written
    force      whether it may take the place of an overlay, which nobody can write from then on
    filled     whether anything is put in
    workplace  the Workplace whose content becomes that of the image
    packed     whether it is a squashfs file, which other tools make
    wait       seconds to wait for who writes that overlay; None not at all
    notice     called with a line for the user then
    Raises OverlayError for what cannot work.
    """
    try:
        path = replace.place(name)
    except OSError as error:
        from overlay.host import places

        raise places.current_is_gone(error) from None
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise OverlayError(
            f"there is no directory {quote(parent)}",
            status=CANNOT_CREATE,
            hint=None if os.path.lexists(parent) else f"mkdir -p {quote(parent)}",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        stem = os.path.splitext(path)[0]
        raise OverlayError(
            f"you may not create files in {quote(parent)}",
            status=CANNOT_CREATE,
            hint=f"to put it into that directory: -o {quote(os.path.join(stem, 'NAME'))}"
            if os.path.isdir(stem)
            else "change to a directory of your own first, or name one with -o",
        )
    if len(os.fsencode(os.path.basename(path))) > 255:
        raise OverlayError(f"the name {quote(path)} is too long", status=CANNOT_CREATE)
    tools = {} if packed else find_tools(config.environ, sparse=sparse, filled=filled)
    existing = None
    if os.path.lexists(path):
        if not force:
            raise OverlayError(
                f"{quote(path)} exists already",
                status=CANNOT_CREATE,
                hint="choose another name with -o; --force replaces it, and all that is in it",
            )
        from overlay.safety.existing import replaceable  # for --force

        existing = replaceable(path, wait, notice)
    return Facts(path=path, existing=existing, tools=tools, workplace=workplace)


def find_tools(environ: Mapping[str, str], *, sparse: bool, filled: bool) -> dict[str, str]:
    """Return the paths of the tools by name. Raises OverlayError (UNAVAILABLE) without one."""
    tools = {"mke2fs": process.need("mke2fs", environ)}
    if not sparse:
        tools["fallocate"] = process.need("fallocate", environ)
    if filled:
        tools["e2fsck"] = process.need("e2fsck", environ)
    return tools


def plan(
    creation: Creation, config: Config, facts: Facts, *, before: Iterable[Part] | None = None
) -> Plan:
    """Return all that is done for a Creation; make() and run() do the same, and say more.

    before  the Steps that make the Workplace and fill it; None where only the first is needed
    Doing it raises OverlayError, as run() does.
    """
    if before is None:
        before = [facts.workplace.making(config)]
    made = _Making(creation, config, facts, _say_nothing, _say_nothing).plan()
    return Plan(before=[*before, made], after=[facts.workplace.removing()])


def make(creation: Creation, config: Config, notice: Callable[[str], object]) -> Created:
    """Make an overlay that is filled with nothing, and return what was Created.

    Raises OverlayError, as gather() and run() do.
    """
    facts = gather(creation, config)
    try:
        return make_at(creation, config, facts, notice)
    finally:
        facts.close()


def make_at(
    creation: Creation, config: Config, facts: Facts, notice: Callable[[str], object]
) -> Created:
    """Do what make() does, where gather() has been called."""
    place = facts.workplace
    return Plan(before=[place.making(config)], after=[place.removing()]).do(
        lambda _final: run(creation, config, facts, notice)
    )


def _say_nothing(_text: str) -> None:
    pass


def run(
    creation: Creation,
    config: Config,
    facts: Facts,
    notice: Callable[[str], object],
    progress: Callable[[str], object] = _say_nothing,
) -> Created:
    """Make the overlay and return what was Created.

    The Workplace is made, and holds what is to be in the image.
    notice    called with a line for the user when the blocks could not be reserved
    progress  called with how far it is, in place of what was said before; "" takes it away
    Raises OverlayError (CANNOT_CREATE, UNAVAILABLE); then, and at any exception, what was
    begun is removed.
    """
    making = _Making(creation, config, facts, notice, progress)
    return making.plan().do(lambda _final: making.into_place())


class _Making:
    """An image on its way: what the Steps of its Plan do, one after the other."""

    def __init__(
        self,
        creation: Creation,
        config: Config,
        facts: Facts,
        notice: Callable[[str], object],
        progress: Callable[[str], object],
    ) -> None:
        self._creation = creation
        self._progress = progress
        self._config = config
        self._facts = facts
        self._notice = notice
        self._inside = facts.workplace.count(config)
        self._files = contextlib.ExitStack()

    def plan(self) -> Plan:
        """Return the Plan; its final Step is into_place()."""
        creation, facts = self._creation, self._facts
        steps = [
            facts.tidying(),
            Step(["truncate", "-s", str(creation.size), facts.partial], action=self._begin),
            self._mke2fs(),
        ]
        if creation.content:
            steps += [
                Step(action=self._settle, why="owners and times in it are set: no program does"),
                Step([facts.tools["e2fsck"], "-fn", facts.partial], action=self._verify),
            ]
        if not creation.sparse:
            steps.append(
                Step(
                    [facts.tools["fallocate"], "-l", str(creation.size), facts.partial],
                    action=self._reserve,
                    why=blocks.RESERVING,
                )
            )
        if facts.existing is None or creation.content:
            steps.append(Step(action=self._note, why="on it is noted that it is new"))
        finish = "-f" if creation.force else "-n"
        return ToldPlan(
            Step(
                ["mv", finish, "-T", facts.partial, facts.path],
                action=self.into_place,
                why=self._permissions(),
            ),
            lambda error: cannot(facts.path, reason(error)),
            before=steps,
            after=[Step(["rm", "-f", facts.partial], action=self._files.close)],
        )

    def _permissions(self) -> str | None:
        """Return the line that says who may read it, where that is not what the umask says."""
        if self._facts.existing is not None:
            return replace.LIKE_THE_OLD
        mode = self._config["create.permissions"]
        return None if mode is None else f"its mode is {mode:04o}, as the site has it"

    def _mke2fs(self) -> Step:
        """Return the Step that makes the file system."""
        creation, facts = self._creation, self._facts
        inodes = creation.files + ext3_size.SPARE_INODES + self._inside
        options = ext3_size.mke2fs_options(creation.size, inodes)
        place = facts.workplace
        arguments: list[str | int] = [
            facts.tools["mke2fs"],
            *options,
            "-d",
            place.path,
            facts.partial,
        ]
        if creation.content and creation.content.in_namespace:
            from overlay.host import namespace

            binds = [
                (tree, os.path.join(place.upper, where)) for tree, where in creation.content.binds
            ]
            arguments = namespace.wrap(
                arguments, self._config.environ, binds=binds, images=creation.content.images
            )
        variables = {"MKE2FS_CONFIG": MKE2FS_CONFIG}
        return Step(
            named(arguments),
            variables=variables,
            action=lambda: self._make_filesystem(arguments, variables),
        )

    def _begin(self) -> None:
        """Make the file, for nobody else and locked; it is removed unless it gets its name."""
        make = None
        if self._facts.existing is not None:
            from overlay.safety import stripes  # of what takes the place of another

            make = stripes.like(self._facts.path, self._config.environ)
        new = replace.unfinished(self._facts.path, self._creation.size, make)
        self._new = self._files.enter_context(new)

    def _make_filesystem(self, words: list[str | int], variables: dict[str, str]) -> None:
        """Run mke2fs until the image holds what was promised.

        words  its command line; the last is the name of the image
        mke2fs rounds the number of inodes, either way; it is read back, and asked again for
        more in the rare case that it is short.
        """
        facts, files = self._facts, self._creation.files
        arguments = [*words[:-1], self._new.descriptor]
        place = arguments.index("-N") + 1
        watch = self._tell_progress if self._creation.content else None
        for _attempt in range(4):
            try:
                result = process.run(
                    arguments, self._config.environ, variables=variables, watch=watch
                )
            finally:
                self._progress("")
            if result.status:
                ended = f"mke2fs ended with {result.status}"
                why = process.last_line(result.errors, otherwise=ended)
                error = cannot(facts.path, why)
                if "allocate" not in why:
                    raise error
                raise TooSmall(error.what, status=error.status, hint=LARGER)
            self._superblock = ext3.read_superblock(self._new.descriptor)
            needed = files + self._inside + ext3.RESERVED_INODES + 2
            missing = needed - self._superblock.inodes_count
            if missing <= 0:
                return
            arguments[place] = str(int(arguments[place]) + missing + 16)
        raise cannot(
            facts.path,
            f"mke2fs makes {self._superblock.free_inodes_count} of {files} files",
            "choose a larger size",
        )

    def _tell_progress(self) -> bool:
        """Say how much of the content is written: it takes blocks of the file, as inodes do."""
        content = self._creation.content
        if content is None:
            return True
        amount = content.amount
        written = os.fstat(self._new.descriptor).st_blocks * 512 - ext3.JOURNAL
        percent = 100 * written // (amount.bytes + amount.files * ext3_size.INODE_SIZE + 1)
        self._progress(f"{max(0, min(99, percent))} % written")
        return True

    def _settle(self) -> None:
        """Set owners and times of what is inside."""
        from overlay.image import ext3_write

        content, descriptor = self._creation.content, self._new.descriptor
        assert content
        if content.owners:
            content.owners(descriptor, self._superblock)
        else:
            ext3_write.give_away(descriptor, self._superblock, os.getuid(), os.getgid())
            _set_times(content.amount.times, descriptor, self._superblock)

    def _verify(self) -> None:
        """See with e2fsck that a filled image is sound. Raises OverlayError.

        Of a directory with more than 65,000 others mke2fs gives a number of links that it
        cannot have; what a session would do to such an image is done at once.
        """
        from overlay.safety import repair

        facts, descriptor, environ = self._facts, self._new.descriptor, self._config.environ
        if repair.is_sound(facts.tools["e2fsck"], descriptor, environ):
            return
        most = max(inode.links for _number, inode in _directories(descriptor))
        try:
            if most > ext3.MOST_LINKS and repair.make_sound(
                facts.path, descriptor, environ, full=True
            ):
                return
        except OverlayError:
            pass
        raise cannot(facts.path, "what mke2fs wrote is not sound")

    def _reserve(self) -> None:
        """Take all blocks that it still lacks."""
        blocks.reserve(
            self._facts.path,
            self._new.descriptor,
            self._creation.size,
            self._config.environ,
            self._notice,
        )

    def _note(self) -> None:
        """Write down on it whether what it was filled with has deletion markers."""
        descriptor, there = self._new.descriptor, False
        if self._creation.content:
            from overlay.image import markers
            from overlay.image.ext3_read import Reader

            there = bool(markers.scan(Reader(descriptor, self._superblock)))
        record.note_markers(descriptor, self._superblock.stamp, there)

    def into_place(self) -> Created:
        """Give the finished file its name, and return what was Created."""
        creation, facts, new = self._creation, self._facts, self._new
        made_of = creation.content.made_of if creation.content else ()
        if facts.existing is not None:
            new.over(facts.existing.descriptor, made_of=made_of)
        else:
            new.into_place(mode=self._config["create.permissions"], made_of=made_of)
        allocated = os.fstat(new.descriptor).st_blocks * 512
        return Created(facts.path, creation.size, self._superblock, allocated)


def _set_times(
    times: Mapping[bytes, tuple[int, int]], descriptor: int, superblock: ext3.Superblock
) -> None:
    """Set the times that mke2fs has cut off: path of bytes in the image -> time."""
    if times:
        from overlay.image import ext3_write
        from overlay.image.ext3_read import Reader

        reader = Reader(descriptor, superblock)
        numbers = {}
        for path, time in times.items():
            found = reader.lookup(path)
            if found:
                numbers[found[0]] = time
        ext3_write.set_times(descriptor, superblock, numbers)


def _directories(descriptor: int) -> Iterator[tuple[int, Inode]]:
    """Yield (number, Inode) of every directory of an image."""
    from overlay.image.ext3_read import Reader

    yield from Reader(descriptor, ext3.read_superblock(descriptor)).inodes(4)
