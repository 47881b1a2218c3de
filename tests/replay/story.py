"""Stories: something is done to an image once, recorded, and played back to many crashes."""

import collections
import os
import random

from replay import crashes, judge, record
from replay.state import State

# How a story can end: what of the writes before that moment is there.
ENDS = {
    "killed": "the processes are killed",
    "failed": "the node fails, pages are lost",
    "torn": "the node fails, sectors are lost",
}
_PROGRAM = 20  # states of which one is given to a program, which takes longer
_UNITS = {"failed": 4096, "torn": 512}


class Story:
    """What was recorded, and what must be there after a crash.

    start, events  of record.read()
    lost           a function from the index of an event, a Place, which a command has put in
                   order, and one of ENDS to a list of (kind, words)
    commands       names of the methods of Place that are tried by turns
    first          index of the first event at which something may happen
    """

    def __init__(self, start, events, lost, commands=("session", "check"), first=0):
        self.start, self.events, self.lost = start, events, lost
        self.commands, self.first = commands, first

    def states(self, ending, number, seed):
        """Yield (index, State) for so many crashes of a kind, chosen by a seed."""
        chance = random.Random(f"{seed} {ending}")
        moments = crashes.choose(self.events, number, chance, self.first)
        if ending == "killed":
            yield from crashes.kills(self.start, self.events, moments, chance)
        else:
            unit = _UNITS[ending]
            yield from crashes.failures(self.start, self.events, moments, chance, unit)

    def play(self, place, ending, number, seed, tally):
        """Try crashes, and count them in a Tally; every twentieth with a real session."""
        for turn, (moment, state) in enumerate(self.states(ending, number, seed)):
            place.put(state)
            command = self.commands[turn % len(self.commands)]
            settled = place.settle("program" if turn % _PROGRAM == _PROGRAM - 1 else command)
            if settled.dead:
                wrong = [("dead", f"{settled.status} {settled.unsound[-300:]}")]
            else:
                wrong = self.lost(moment, place, ending)
            tally.add(settled, [(moment, command, *one, settled.said) for one in wrong])


class Tally:
    """How many states were tried, and what became of them."""

    def __init__(self, promise, ending):
        """Count for a promise, in words, and one of ENDS."""
        self.promise, self.ending = promise, ending
        self.tried = self.decisions = 0
        self.losses = []
        self.kinds = collections.Counter()

    def add(self, settled, wrong):
        """Count one: a Settled, and a list of what is wrong."""
        self.tried += 1
        self.decisions += settled.repaired is not None
        self.losses += wrong[:1]
        self.kinds.update({one[2] for one in wrong})

    def row(self):
        """Return the row of the table: see HEAD."""
        words = self.promise, ENDS[self.ending]
        numbers = self.tried, self.decisions, len(self.losses)
        return "| " + " | ".join([*words, *(f"{one:,}" for one in numbers)]) + " |"


HEAD = "| promise | when | states | needed `--repair` | lost |\n|---|---|---|---|---|"


def recorded(words, directory, log, **options):
    """Run a program in a directory, and return (State before, events, CompletedProcess).

    What the events make of the files is compared with what is there at the end.
    """
    before = State.load(directory)
    done = record.trace(words, log, cwd=directory, **options)
    events = record.read(log, directory, before.names)
    os.unlink(log)
    played, now = before.copy(), State.load(directory)
    for event in events:
        played.apply(event)
    assert played.names.keys() == now.names.keys(), (played.names, now.names)
    for name, number in now.names.items():
        assert played.files[played.names[name]] == now.files[number], name
    return before, events, done


def whole(before, after):
    """Return what a Story calls when an image is to be as it was or as it has become.

    before, after  trees of judge.tree()
    """

    def lost(_moment, place, _ending):
        now = judge.tree(place.path)
        if now in (before, after):
            return []
        names = sorted(set(now[0]) ^ set(before[0]))
        return [("content", f"neither the old nor the new one: {names[:5]}")]

    return lost
