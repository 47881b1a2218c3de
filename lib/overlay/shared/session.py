"""A command in a session that others share: joined where there is one, else started first."""

from __future__ import annotations

import fcntl
import os
import time

from overlay import __version__
from overlay.errors import DATA_LOST, OverlayError, quote
from overlay.host import places, private, process
from overlay.host.limits import NoSoftLimits
from overlay.launch.command import is_plain
from overlay.launch.facts import GPUS, gather
from overlay.launch.learned import learn
from overlay.launch.plan import make_plan
from overlay.launch.request import read_input
from overlay.launch.run import run as run_alone
from overlay.settings import config as configuration
from overlay.settings.files import site_file, user_file
from overlay.shared import environment, join, key, place, scope, short
from overlay.shared.join import Refused
from overlay.shared.record import Record, is_stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import NoReturn

    from overlay.launch.facts import Facts, Opened
    from overlay.launch.joining import Joining
    from overlay.launch.learned import Learned
    from overlay.launch.plan import SessionPlan
    from overlay.launch.request import Session
    from overlay.output import Listener
    from overlay.settings.config import Config
    from overlay.shared.keeper import Start
    from overlay.shared.member import Member

_TRIES = 4  # each time it was another session, or the overlays have changed
_START_WAIT = 90.0  # seconds for the start of a session by another command
_GATE_LOOK = 1.0  # seconds between two looks whether that goes on

_BY = "by "  # in the file of a gate, before the number of who starts the session

# The engine's own shell, as its script for that has it.
_SHELL = (
    "test -x /bin/bash && SHELL=/bin/bash && export SHELL && exec /bin/bash --norc; "
    "SHELL=/bin/sh; export SHELL; exec /bin/sh"
)

# Variables by which the engine would take another shell.
_OWN_SHELL = ("APPTAINER_SHELL", "SINGULARITY_SHELL")


class _Again(Exception):
    """Another session is the right one by now."""


class Way:
    """How a command came here, so that the next finds the short way: see short.

    words  its command line
    root   the tree that it runs from
    """

    __slots__ = ("root", "words")

    def __init__(self, words: Sequence[str], root: str) -> None:
        self.words = words
        self.root = root


def run(
    request: Session,
    config: Config,
    *,
    wait: float | None,
    output: Listener,
    way: Way | None = None,
    copies: str | None = None,
    write: bool = False,
) -> int:
    """Run a session's command in one that is shared, or in one of its own where that cannot be.

    way     how the command came here, where the next may come a shorter way
    copies  the directory of our copies of overlays: they are named after what is in them, and
            touched whenever they are used; None: there are none
    write   whether one is shared, too, that writes its first overlay
    The other arguments are those of launch.run.run(), and so is what is returned: nothing at
    all when the command takes the place of this process, as all do that only read.
    """
    try:
        for _time in range(_TRIES):
            try:
                return _join(request, config, wait, output, way, copies, write)
            except _Again:
                continue
        raise Refused("it changes all the time")
    except Refused as why:
        output.notice(f"a session of its own: {why}", "detail")
    return run_alone(request, config, wait=wait, output=output)


def _join(
    request: Session,
    config: Config,
    wait: float | None,
    output: Listener,
    way: Way | None,
    copies: str | None,
    write: bool,
) -> int:
    """Join a session, started if there is none; return the command's status.

    Where nothing is written it does not return. Raises Refused, _Again.
    """
    facts = gather(request, config)
    try:
        if facts.writable and not write:
            raise Refused("it writes an overlay, and --share was not typed")
        found = _Wanted(request, config, facts, learn(request, facts, remember=False), copies)
        lease = found.look()
        if lease is None:
            lease = _start(request, config, facts, found, wait, output)
        if facts.writable:
            return _stay(found, lease, output)
        _become(found, lease, output, way)
    finally:
        facts.close()


class _Wanted:
    """A session as a command wants it: its plan, its keys, and where its files lie.

    texts  of the keys of sessions that would do: first those that outlive ours, or go before
           it; the last is that of ours
    """

    def __init__(
        self,
        request: Session,
        config: Config,
        facts: Facts,
        learned: Learned,
        copies: str | None = None,
    ) -> None:
        from overlay.shared.keeper import HOLD

        self.request = request
        self.config = config
        self.facts = facts
        self.learned = learned
        self.copies = copies
        self.environ: Mapping[str, str] = config.environ
        self.plan: SessionPlan = make_plan(request, config, facts, learned, hold=HOLD)
        if self.joining.why_not:
            raise Refused(self.joining.why_not)
        if self.joining.words is None and any(name in self.environ for name in _OWN_SHELL):
            raise Refused("the engine is told to start another shell")
        self.scope = scope.find(self.environ)
        self.texts = self._texts()
        self.scratch = place.scratch(self.environ)

    def _texts(self) -> list[str]:
        words = [self.scope.words]
        if self.scope.outer:
            words.insert(0, self.scope.outer)
        own = self._own_parts()
        return [
            key.text([*own, *key.caller(self.environ, one, precedence)])
            for precedence in key.precedences()
            for one in words
        ]

    @property
    def is_outdated(self) -> bool:
        """Whether the session that is wanted is another one by now."""
        return self._texts() != self.texts

    @property
    def joining(self) -> Joining:
        """What the command does in it."""
        assert self.plan.joining is not None
        return self.plan.joining

    @property
    def text(self) -> str:
        """The text of the key of our own."""
        return self.texts[-1]

    def _own_parts(self) -> list[str]:
        """Return the lines of the key that say what the session is."""
        final, facts = self.plan.final, self.facts
        return [
            f"overlay {__version__}",
            *final.arguments,
            f"first {final.path_first or ''}",
            key.of_path(facts.engine.path),
            key.of_path(facts.base),
            *map(self._identity, facts.overlays),
            *(key.of_path(path, content=False) for path in self.joining.sources),
        ]

    def _identity(self, overlay: Opened) -> str:
        """Return what tells an overlay from all others, and what is read from what it was."""
        status = os.fstat(overlay.image.descriptor)
        if overlay.written or os.path.dirname(overlay.image.path) == self.copies:
            return key.place_of(status)
        return key.status_of(status)

    def look(self) -> int | None:
        """Return the lease of a session that can be joined, locked; None when there is none."""
        directory = place.open_directory(private.name(self.scratch))
        if directory is None:
            return None
        try:
            for text in self.texts:
                lease = _lease_of(directory, text)
                if lease is not None:
                    return lease
        finally:
            os.close(directory)
        return None


def _lease_of(directory: int, text: str) -> int | None:
    """Return the lease of the session with a key, locked; None when it is not there, or has ended."""
    name = place.lease_name(key.name_of(text))
    lease = _locked(directory, name, fcntl.LOCK_SH)
    if lease is None:
        return None
    record = Record.read(place.read(lease))
    if record is None or record.key != text or not record.is_alive:
        os.close(lease)
        return None
    return lease


def _start(
    request: Session,
    config: Config,
    facts: Facts,
    found: _Wanted,
    wait: float | None,
    output: Listener,
) -> int:
    """Start the session, unless another command is faster; return its lease, locked.

    Raises Refused; OverlayError for overlays that are in use, or damaged.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        raise Refused("the kernel has no pidfd_open(2): Linux 5.3") from None
    try:
        directory = place.open_directory(private.make(found.scratch))
    except OverlayError as error:
        raise Refused(error.what) from None
    if directory is None:
        raise Refused("the user's directory on scratch cannot be opened")
    begun = time.monotonic()
    name = key.name_of(found.text)
    gate = written = None
    try:
        if facts.writable:
            written = _gate_of_written(found, directory, begun + _START_WAIT)
            if found.is_outdated:
                raise _Again  # who has just started one has noted something on a lower overlay
            lease = found.look()
            if lease is not None:
                return lease
        gate = _take_gate(found, directory, place.gate_name(name), begun + _START_WAIT)
        lease = _lease_of(directory, found.text)
        if lease is not None:
            return lease
        _heed_failure(gate, begun)
        _note_in_gate(gate, f"{_BY}{os.getpid()}")
        place.unlink(directory, place.lease_name(name))  # of one that was killed
        _see_what_is_in_the_way(found, directory, place.lease_name(name))
        why = _begin(request, config, facts, found, directory, wait, output)
        lease = None if why else _lease_of(directory, found.text)
        if lease is None:
            place.unlink(directory, place.lease_name(name))  # its keeper ends when it sees that
            why = why or "it has just ended"
            _note_in_gate(gate, f"{time.monotonic()} {why}")
            raise Refused(why)
        return lease
    finally:
        for descriptor in (gate, written):
            if descriptor is not None:
                os.close(descriptor)
        os.close(directory)


def _locked(
    directory: int, name: str, kind: int, *, make: bool = False, seconds: float = place.PATIENCE
) -> int | None:
    """Return what place.locked() does. Raises Refused where files cannot be locked."""
    try:
        return place.locked(directory, name, kind, make=make, seconds=seconds)
    except OSError as error:
        raise Refused(f"files on scratch cannot be locked: {error.strerror}") from None


def _take_gate(found: _Wanted, directory: int, name: str, deadline: float) -> int:
    """Return the gate of a session, locked. Raises Refused when another command keeps it."""
    while True:
        gate = _locked(directory, name, fcntl.LOCK_EX, make=True, seconds=_GATE_LOOK)
        if gate is not None:
            return gate
        _see_what_is_in_the_way(found, directory, name)
        held = place.open_file(directory, name)
        if held is None:
            raise Refused("its files cannot be made on scratch")
        starter = place.read(held).decode(errors="replace").partition(_BY)[2]
        os.close(held)
        if starter.isdecimal() and is_stopped(int(starter)):
            raise Refused(f"the command that starts it is stopped (process {starter})")
        if time.monotonic() >= deadline:
            raise Refused("another command is still starting it")


def _note_in_gate(gate: int, text: str) -> None:
    """Note in the file of a gate who starts the session, or why that has failed."""
    try:
        os.ftruncate(gate, 0)
        os.pwrite(gate, text.encode(), 0)
    except OSError:
        pass  # there is no room: those who wait find out by themselves


def _gate_of_written(found: _Wanted, directory: int, deadline: float) -> int:
    """Lock the gate of an overlay that is written, whatever else the session's key says.

    Else two that start at once could want it for two sessions. Raises Refused.
    """
    image = found.facts.images[0]
    name = key.name_of(f"written {key.place_of(os.fstat(image.descriptor))}")
    gate = _take_gate(found, directory, place.gate_name(name), deadline)
    _note_in_gate(gate, f"{_BY}{os.getpid()}")
    return gate


def _see_what_is_in_the_way(found: _Wanted, directory: int, name: str) -> None:
    """Raise Refused when a file of the session cannot be had because of what has its name."""
    if place.in_the_way(directory, name):
        path = os.path.join(private.name(found.scratch), name)
        raise Refused(f"{quote(path)} is in the way")


def _heed_failure(gate: int, begun: float) -> None:
    """Raise Refused when another command failed to start it while we have waited."""
    when, _blank, why = place.read(gate).decode(errors="replace").partition(" ")
    try:
        failed = float(when) >= begun
    except ValueError:
        return  # nobody has failed
    if failed:
        raise Refused(why)


def _begin(
    request: Session,
    config: Config,
    facts: Facts,
    found: _Wanted,
    directory: int,
    wait: float | None,
    output: Listener,
) -> str | None:
    """Lock the overlays and start the keeper; return why the session cannot be had, or None.

    Raises _Again when the overlays are others by now.
    """
    from overlay.safety import guard
    from overlay.shared import keeper

    images = facts.images
    with NoSoftLimits():
        guard.acquire(images, facts.writable, config=config, wait=wait, notice=output.notice)
    if images != facts.images:
        for image in images:
            image.close()
        raise _Again
    locked = _Wanted(request, config, facts, learn(request, facts), found.copies)
    if locked.text != found.text:
        raise _Again
    for feature in locked.plan.features:
        facts.engine.check(feature, facts.environ)
    for step in locked.plan.before:
        step.do()  # a directory becomes an overlay
    # Made here, under the gate: a keeper whose starter was killed knows by its lease's name that
    # another one has been started since.
    lease = place.open_file(directory, place.lease_name(key.name_of(found.text)), make=True)
    if lease is None:
        return "the file of its lease cannot be made"
    try:
        return keeper.start(_what(locked, config, lease))
    finally:
        os.close(lease)


def _what(found: _Wanted, config: Config, lease: int) -> Start:
    """Return what a keeper needs to start a session."""
    from overlay.shared.keeper import Start

    facts = found.facts
    writing = None
    if facts.writable:
        from overlay.shared.writing import Writing

        writing = Writing(facts, found.learned)
    return Start(
        step=found.plan.final,
        environ=_for_engine(found.environ, found.joining.unset),
        images=[image.descriptor for image in facts.images],
        lease=lease,
        stack=found.learned.stack,
        scratch=found.scratch,
        key=key.name_of(found.text),
        text=found.text,
        overlays=[os.path.abspath(one.path) for one in facts.overlays],
        image=facts.base,
        scope=found.scope,
        linger=config["launch.linger"],
        writing=writing,
    )


def _for_engine(environ: Mapping[str, str], unset: Sequence[str]) -> dict[str, str]:
    """Return the environment of the engine: nothing of the caller's that would reach the inside.

    unset  what an engine of their own would not get either
    """
    return {
        name: value
        for name, value in environ.items()
        if name in ("PATH", "HOME", "LD_LIBRARY_PATH")
        or (
            name.startswith(environment.ENGINES_OWN)
            and not environment.is_override(name)
            and name not in unset
        )
    }


class _Entry:
    """What a command enters a session with; see _prepare()."""

    __slots__ = ("direct", "door", "environ", "record", "words")

    def __init__(
        self,
        record: Record,
        door: join.Door,
        words: Sequence[str],
        environ: dict[str, str],
        direct: Sequence[str] | None,
    ) -> None:
        self.record = record
        self.door = door
        self.words = words
        self.environ = environ
        self.direct = direct


def _prepare(found: _Wanted, lease: int, variables: Mapping[str, str] | None = None) -> _Entry:
    """Return what a command needs to enter the session whose lease we have; all is tried.

    variables  what it gets beside what joining says
    Raises Refused, _Again.
    """
    joining, facts = found.joining, found.facts
    record = Record.read(place.read(lease))
    if record is None:
        raise _Again
    door = join.open_door(record)
    words = joining.words
    environ = environment.inside(
        found.environ,
        record,
        unset=joining.unset,
        variables={**joining.variables, **(variables or {})},
        cwd=facts.cwd,
        shell=words is None,
    )
    words = ["/bin/sh", "-c", _SHELL] if words is None else words
    try:
        files = {name: os.stat(name) for name in joining.same}
    except OSError as error:
        raise Refused(f"a file is gone: {error}") from None
    join.try_it(door, facts.cwd, files, words[0], environ["PATH"])
    command = found.request.command
    direct = command if command and is_plain(command) else None
    return _Entry(record, door, words, environ, direct)


def _tell(found: _Wanted, entry: _Entry, output: Listener) -> None:
    """Say what is to be said before a command begins, and read what it is to do."""
    for level, text in found.plan.notices:
        output.notice(text, level)
    words = f"joins a session (process {entry.record.pid}) that others share"
    output.notice(words, "detail")
    process.tell(entry.words)
    read_input(found.facts.commands, output.notice)


def _become(found: _Wanted, lease: int, output: Listener, way: Way | None) -> NoReturn:
    """Enter the session whose lease we have, and become the command. Raises Refused."""
    try:
        entry = _prepare(found, lease)
        join.hand_on(lease)
        if way is not None:
            _note(found, entry.record, way, entry.environ)
    except BaseException:
        os.close(lease)
        raise
    _tell(found, entry, output)
    join.become(entry.door, found.facts.cwd, entry.words, entry.environ, entry.direct)


def _stay(found: _Wanted, lease: int, output: Listener) -> int:
    """Run the command in the session whose lease we have, and return its status.

    Beside it we wait for its end, and for what becomes of the overlay then. Raises Refused.
    """
    from overlay.host import foreground
    from overlay.host.limits import restore
    from overlay.safety.finish import tell_of_the_left_behind

    facts, path = found.facts, quote(found.facts.overlays[0].path)
    token = f"{os.getpid()}.{os.times().elapsed}"
    try:
        entry = _prepare(found, lease, {facts.engine.variable("OVERLAY_SESSION"): token})
        member = _enter(found, entry.record, token)
        _tell(found, entry, output)
        for image in facts.images:
            image.close()

        def become() -> NoReturn:
            restore()
            try:
                join.become(entry.door, facts.cwd, entry.words, entry.environ, entry.direct)
            except OverlayError as error:
                output.error(error)
                os._exit(error.status)

        status = foreground.stay_beside(entry.words[0], become)
    finally:
        os.close(lease)
    tell_of_the_left_behind(path, token, output)
    outcome = member.leave()
    if outcome is None:
        words = f"the session of {path} was killed: what this command wrote last may be lost"
        output.notice(words, "warning")
    else:
        outcome.tell(output)
    lost = outcome is None or outcome.lost
    return DATA_LOST if lost and status == 0 and found.request.program == "run-overlay" else status


def _enter(found: _Wanted, record: Record, token: str) -> Member:
    """Say to the keeper that we are in its session. Raises _Again when it has just ended."""
    from overlay.shared.member import Member

    directory = place.open_directory(private.name(found.scratch))
    if directory is None:
        raise _Again
    try:
        return Member(directory, key.name_of(record.key), token)
    except OSError:
        raise _Again from None
    finally:
        os.close(directory)


def _note(found: _Wanted, record: Record, way: Way, environ: Mapping[str, str]) -> None:
    """Note the way of a command that has joined, where another one can take it unseen."""
    config, facts, joining = found.config, found.facts, found.joining
    patterns = config["launch.clear"]
    known = [one.rstrip("*") for one in patterns]
    if config.left_out or configuration.warnings(found.environ):
        return  # what was said of them is to be said again
    if any(set(pattern).intersection("*?[") for pattern in known):
        return
    directory = place.open_directory(private.name(found.scratch))
    if directory is None:
        return
    named = {*places.FILES, *_variables_of(config), facts.engine.variable("PREPEND_PATH")}
    try:
        short.note(
            directory,
            way.words,
            found.environ,
            way.root,
            session=key.name_of(record.key),
            member=record,
            contents=[
                *_files_of(config, way.root),
                facts.engine.path,
                facts.base,
                *(one.path for one in facts.overlays),
            ],
            places=[
                *GPUS.values(),
                *(source for bind in config.binds for source, _ in places.parse_binds(bind)),
                *joining.sources,
                *filter(None, (found.environ.get(name) for name in ("PWD", *places.NAMED))),
            ],
            variables={name: found.environ.get(name) for name in sorted(named)},
            unset=[*patterns, *joining.unset],
            sets={name: value for name, value in joining.variables.items() if name != "PWD"},
            notices=[one for one in found.plan.notices if one[0] != "detail"],
            who=found.scope,
        )
        warned = any(level == "warning" for level, _text in found.plan.notices)
        if "--quick" in way.words and not warned:
            _note_quick(directory, found, record, way, environ)
    finally:
        os.close(directory)


def _note_quick(
    directory: int, found: _Wanted, record: Record, way: Way, made: Mapping[str, str]
) -> None:
    """Note how the programs that are exposed with this one enter the session at once."""
    from overlay.shared import quick

    config, facts, joining = found.config, found.facts, found.joining
    named = [*places.FILES, *_variables_of(config), facts.engine.variable("PREPEND_PATH")]
    cwd, environ = facts.cwd, found.environ
    below = [cwd]
    for bind in config.binds:
        below += [source for source, target in places.parse_binds(bind) if source == target]
    below += [
        one
        for one in (environ.get("HOME", "/"), "/tmp")
        if one != "/" and places.is_below(cwd, [one])
    ]
    quick.note(
        directory,
        way.words[way.words.index("--quick") + 1],
        record,
        lease=os.path.join(private.name(found.scratch), place.lease_name(key.name_of(record.key))),
        environ=environ,
        made=made,
        unset=[*config["launch.clear"], *joining.unset],
        variables={name: environ.get(name) for name in named},
        overlays=[one.path for one in facts.overlays],
        files=[*_files_of(config, way.root), facts.base],
        below=below,
    )


def _files_of(config: Config, root: str) -> Iterator[str]:
    """Yield the files and directories that settings come from, those that are not there too."""
    site = config.environ.get("OVERLAY_CONFIG") or site_file(root)
    yield from dict.fromkeys((site, os.path.join(os.path.dirname(site), "overlay.d")))
    yield from config.files
    user = user_file(config.environ)
    if user:
        yield user


def _variables_of(config: Config) -> set[str]:
    """Return the names of the variables that settings name."""
    import re

    texts = (config.text(name) for name in config.names())
    found = (re.findall(r"\$\{?(\w+)", text) for text in texts)
    return {name for names in found for name in names}
