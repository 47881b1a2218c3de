"""The stories that are recorded: sessions, programs in them, and changes of an image as a whole.

Each function records in an empty directory and returns a Story. Its first argument is a
Stage, which knows how the programs of the tree under test are called.
"""

import json
import os
import random
import shutil
import sqlite3
import tempfile
import zipfile
from pathlib import Path

from overlay.errors import DAMAGED
from overlay.image import ext3_size
from replay import expect, generate, judge, operations, story
from replay.operations import pattern
from support import tool

_ROOM = 20 << 20  # bytes of an image
_TOP = "data"  # the directory in an overlay in which all is done


class Stage:
    """Where stories are recorded.

    words      function from the name of a program to the words that start it
    environ    its environment
    directory  path of an empty directory, in memory
    """

    def __init__(self, words, environ, directory):
        self.words, self.environ, self.directory = words, environ, Path(directory)

    def image(self, seed, number=0, *, growable=True):
        """Make an image with what generate.base() makes, in which much was deleted before.

        growable  whether it has room for the descriptors of a larger size, as those of ours have
        """
        tree = Path(tempfile.mkdtemp(dir=self.directory))
        (tree / "work" / "work").mkdir(parents=True)
        generate.base(tree / "upper" / _TOP, number)
        path = Path(tempfile.mkdtemp(dir=self.directory)) / judge.IMAGE
        with open(path, "wb") as file:
            file.truncate(_ROOM)
        options = ext3_size.mke2fs_options(_ROOM, 1500)
        if not growable:
            options = [one.replace("resize_inode,", "") for one in options[:-2]]
        made = tool("mke2fs", *options, "-d", tree, path)
        assert made.returncode == 0, made
        shutil.rmtree(tree)
        generate.leave_in_free_blocks(path, random.Random(seed))
        return path

    def record(self, path, program, *arguments):
        """Run a program of the tree under test beside an image; return (State before, events)."""
        words = [*self.words(program), *arguments]
        log = self.directory / "log"
        before, events, done = story.recorded(words, path.parent, log, env=self.environ)
        assert done.returncode == 0, done.stderr.decode()
        return before, events

    def record_session(self, path, *words):
        """Record a session of Python with a text and arguments."""
        return self.record(path, "run-overlay", "-o", path.name, "--", "python3", "-c", *words)


def _below(tree):
    """Return what is in the directory of all operations: {path: bytes, or None}."""
    return {
        path[len(_TOP) + 1 :]: data for path, data in tree.items() if path.startswith(_TOP + "/")
    }


def _before(path):
    """Return what expect.Expected begins with, for an image of Stage.image()."""
    there = _below(judge.tree(path)[0])
    pair = ["keep/size3", "keep/second-name"]
    files = [
        ([name], data) for name, data in there.items() if data is not None and name not in pair
    ]
    files.append((pair, there[pair[0]]))
    return files, [name for name, data in there.items() if data is None]


def session(stage, seed, number=20):
    """Generated operations: files made, appended to, replaced, renamed, removed, around an fsync."""
    made = generate.workloads(number, random.Random(seed))
    path = stage.image(seed, number)
    there = _before(path)
    text = Path(operations.__file__).read_text()
    return _story_of(there, *stage.record_session(path, text, "/" + _TOP, json.dumps(made)), made)


def _story_of(there, before, events, made):
    """Return the Story of operations that were recorded."""
    where = expect.places(events, len(made))
    begun = [place[0] for place in where]
    assert None not in begun

    def lost(moment, place):
        now, saved = map(_below_or_all, judge.tree(place.path), (True, False))
        return expect.losses(expect.expected(there, made, where, moment, False), now, saved)

    return story.Story(before, events, lost)


def _below_or_all(tree, below):
    return _below(tree) if below else tree


def end(stage, seed):
    """The end of a session: what fuse2fs writes then, markers, the record of the session."""
    found = session(stage, seed, 6)
    found.first = max(index for index, event in enumerate(found.events) if event[0] == "mark")
    return found


def pip(stage, seed):
    """An installation by pip, and another version in its place; then some of it is synced."""
    path = stage.image(seed)
    there = _before(path)
    made, site = [], "site"
    names = _wheel(stage.directory, seed, 1, {}), _wheel(stage.directory, seed, 2, {})
    text = Path(operations.__file__).read_text()
    old = {}
    for wheel, files in names:
        program = (
            "set /usr/share/python-wheels/pip-*.whl; exec python3 $1/pip install -q --no-index"
        )
        program += f" --no-compile --upgrade --target /{_TOP}/{site} {wheel}"
        makes = {f"{site}/{name}": what for name, what in files.items()}
        removes = [name for name in old if name not in makes]
        words = ["sh", "-c", program]
        made.append({"do": "program", "words": words, "makes": makes, "removes": removes})
        made += [{"do": "sync", "path": name} for name in list(makes)[::3]]
        old = makes
    return _story_of(there, *stage.record_session(path, text, "/" + _TOP, json.dumps(made)), made)


def _wheel(directory, seed, version, _files):
    """Make a wheel of data files; return (its path, {name: (tag, size)})."""
    chance = random.Random(f"{seed} {version}")
    files = {
        f"replayed/part{number}.txt": (f"p{version}.{number}", chance.choice([0, 700, 5000, 60000]))
        for number in range(version, 12 + version)
    }
    path = directory / f"replayed-{version}-py3-none-any.whl"
    info, record = f"replayed-{version}.dist-info", []
    with zipfile.ZipFile(path, "w") as file:
        for name, (tag, size) in files.items():
            file.writestr(name, pattern(tag, 0, size))
            record.append(f"{name},,\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: replayed\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{info}/RECORD", "".join(record))
    return path, files


# Prints nothing; each row is committed between two marks.
_ROWS = """
import os, sqlite3, sys
def mark(text):
    try:
        os.unlink("/proc/@mark/" + text)
    except OSError:
        pass
for first in range(0, int(sys.argv[2]), int(sys.argv[3])):
    base = sqlite3.connect("/data/base", isolation_level=None)
    base.execute("pragma journal_mode=" + sys.argv[1])
    base.execute("pragma synchronous=full")
    base.execute("create table if not exists rows (number integer, text)")
    for number in range(first, first + int(sys.argv[3])):
        mark(f"begin {number}")
        base.execute("insert into rows values (?, ?)", (number, f"{number} " * (37 * number % 900)))
        mark(f"end {number}")
    base.close()
"""
ROWS = 12
_EACH = 4  # rows after which the base is closed and opened again


def sqlite(stage, seed, mode):
    """Rows of sqlite, each committed for itself; mode is one of its journals."""
    path = stage.image(seed)
    words = _ROWS, mode, str(ROWS), str(_EACH)
    before, events = stage.record_session(path, *words)
    where = expect.places(events, ROWS)

    def lost(moment, place):
        committed = sum(end is not None and end < moment for _begin, end, _worked in where)
        return _rows_lost(place, judge.tree(place.path)[0], committed)

    return story.Story(before, events, lost)


def _rows_lost(place, tree, committed):
    """Return what is wrong with the base of sqlite that is in an image."""
    copy = os.path.join(place.directory, "base")
    for suffix in ("", "-wal", "-journal"):
        data = tree.get(f"{_TOP}/base{suffix}")
        if data is not None:
            with open(copy + suffix, "wb") as file:
                file.write(data)
    if not committed:
        return []
    try:
        base = sqlite3.connect(copy)
        sound = base.execute("pragma integrity_check").fetchone()[0]
        rows = [row for (row,) in base.execute("select number from rows order by number")]
        base.close()
    except sqlite3.Error as error:
        return [("base", str(error))]
    wrong = [] if sound == "ok" else [("base", sound)]
    if rows[:committed] != list(range(committed)):
        wrong.append(("commit", f"{committed} committed, there: {rows}"))
    return wrong


def growth(stage, seed, own=True):
    """An image made larger in its place; its way back written by us, or by resize2fs."""
    path = stage.image(seed, growable=own)
    there = judge.tree(path)
    before, events = stage.record(path, "resize-overlay", "-q", path.name, "-s", "+20M")
    return story.Story(before, events, story.whole(there, there), ("session", "check", "grow"))


def shrinking(stage, seed):
    """An image made smaller: a copy, which takes its place."""
    path = stage.image(seed)
    there = judge.tree(path)
    before, events = stage.record(path, "resize-overlay", "-q", path.name, "-s", "16M")
    return story.Story(before, events, story.whole(there, there))


def update(stage, seed):
    """update-overlay: a change on a copy, which takes the image's place."""
    path = stage.image(seed)
    old = judge.tree(path)
    line = f"echo new >/{_TOP}/new; rm /{_TOP}/keep/size4"
    before, events = stage.record(path, "update-overlay", "-q", path.name, "--", "sh", "-c", line)
    return story.Story(before, events, story.whole(old, judge.tree(path)))


def pack(stage, seed):
    """pack-overlay: a new file beside the image, which stays as it is."""
    path = stage.image(seed)
    old = judge.tree(path)
    before, events = stage.record(path, "pack-overlay", "-q", path.name)
    packed = path.with_suffix(".sqsh")
    data, as_it_was = packed.read_bytes(), story.whole(old, old)

    def lost(moment, place):
        there = os.path.join(place.directory, packed.name)
        if os.path.exists(there) and Path(there).read_bytes() != data:
            return [("packed", "the new file has its name, and is not whole")]
        return as_it_was(moment, place)

    return story.Story(before, events, lost)


def repairs(stage, seed, number=3):
    """Return a Story for each of so many states of a killed session: check-overlay --repair."""
    first = session(stage, seed)
    return [
        _repair(stage, first, moment, state)
        for moment, state in first.states("killed", number, f"repair {seed}")
    ]


def _repair(stage, first, moment, state):
    """Return the Story of a repair of an image that another Story left in a state.

    By check-overlay, or by the next session; with --repair where a decision is needed.
    """
    lines = [
        ["run-overlay", "-o", judge.IMAGE, "--", "true"],
        ["check-overlay", judge.IMAGE],
        ["check-overlay", "--repair", judge.IMAGE],
    ]
    for name, *arguments in lines[moment % 2 :]:
        place = Path(tempfile.mkdtemp(dir=stage.directory))
        state.save(place, judge.IMAGE)
        words = [*stage.words(name), *arguments]
        log = stage.directory / "log"
        before, events, done = story.recorded(words, place, log, env=stage.environ)
        if done.returncode != DAMAGED:
            break
    return story.Story(before, events, lambda _moment, *rest: first.lost(moment, *rest))


def wal(stage, seed):
    """Rows of sqlite, with its write-ahead log."""
    return sqlite(stage, seed, "wal")


def persist(stage, seed):
    """Rows of sqlite, with one journal for all commits."""
    return sqlite(stage, seed, "persist")


def journal(stage, seed):
    """Rows of sqlite, with a journal for each commit."""
    return sqlite(stage, seed, "delete")


def foreign_growth(stage, seed):
    """An image made larger that has no room for more descriptors."""
    return growth(stage, seed, False)


# The promises, and what they are tried with.
PROMISES = {
    session: "what was synced is whole, all else as it was",
    end: "the same, at the end of a session",
    pip: "the same, when pip installs and upgrades",
    wal: "what sqlite has committed, with a log (WAL)",
    persist: "what sqlite has committed, with a journal that stays (PERSIST)",
    journal: "what sqlite has committed, with a journal for each commit (its default)",
    repairs: "a repair that is cut short loses nothing",
    growth: "resize-overlay: nothing is changed inside",
    foreign_growth: "the same, an image of another maker",
    shrinking: "a smaller size: the old or the new one",
    update: "update-overlay: the old or the new one",
    pack: "pack-overlay: the old one; the new one whole or not there",
}
# What is no promise, and why: see docs/replay.md.
NOT_PROMISED = {(journal, "failed"), (journal, "torn")}
