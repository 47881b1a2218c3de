"""Stories: something is done to an image once, recorded, and played back to many crashes."""

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
    lost           a function from the index of an event, and a Place, which a command has put
                   in order, to a list of (kind, words)
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

    def play(self, place, numbers, seed, tallies):
        """Try crashes, and count them; every twentieth with a real session.

        numbers, tallies  {one of ENDS: how many crashes, a Tally}
        States that are the same come once, whenever and however they came about; what must be
        there is asked for each of these moments.
        """
        moments = {}
        for ending, number in numbers.items():
            for moment, state in self.states(ending, number, seed):
                moments.setdefault(state.fingerprint(), []).append(moment)
        turn = 0
        for ending, number in numbers.items():
            for _moment, state in self.states(ending, number, seed):
                same = moments.pop(state.fingerprint(), None)
                if same is None:
                    tallies[ending].numbers["same"] += 1
                    continue
                turn += 1
                self._try(place, state, same, turn, tallies[ending])

    def _try(self, place, state, moments, turn, tally):
        """Try a State, in which several moments may leave the files."""
        place.put(state)
        command = "program" if turn % _PROGRAM == 0 else self.commands[turn % len(self.commands)]
        settled = place.settle(command)
        if settled.dead:
            wrong = [(moments[0], "dead", f"{settled.status} {settled.unsound[-300:]}")]
        else:
            wrong = [(moment, *one) for moment in moments for one in self.lost(moment, place)]
        tally.add(settled, [(command, *one, settled.said) for one in wrong])


class Tally:
    """How many states were tried, and what became of them.

    numbers  {what is counted: how many}; "tried" are all different, and "same" are those that were
             the same as one of these, "repaired" needed --repair, "lost" is never to be
    losses   what is known of the lost ones
    """

    def __init__(self, promise, ending, numbers=()):
        """Count for a promise, in words, and one of ENDS, from some numbers on."""
        self.promise, self.ending = promise, ending
        self.numbers = {"tried": 0, "same": 0, "repaired": 0, "lost": 0, **dict(numbers)}
        self.losses = []

    @property
    def looked(self):
        """How many crashes were looked at; different ones may leave the same."""
        return self.numbers["tried"] + self.numbers["same"]

    def add(self, settled, wrong):
        """Count one: a Settled, and a list of what is wrong."""
        self.numbers["tried"] += 1
        self.numbers["repaired"] += settled.repaired is not None
        self.numbers["lost"] += bool(wrong)
        self.losses += wrong[:1]

    def row(self):
        """Return the row of the table: see HEAD."""
        words = self.promise, ENDS[self.ending]
        numbers = (f"{self.numbers[name]:,}" for name in ("tried", "repaired", "lost"))
        return "| " + " | ".join([*words, *numbers]) + " |"


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

    def lost(_moment, place):
        now = judge.tree(place.path)
        if now in (before, after):
            return []
        names = sorted(set(now[0]) ^ set(before[0]))
        return [("content", f"neither the old nor the new one: {names[:5]}")]

    return lost
