"""The states in which a kill, or the failure of a node, can leave files.

A kill leaves all writes before a moment, and of the one at that moment perhaps the first
pages. When a node fails, of what was written since the last fsync(2) of a file each page, or
each sector, can be there or not, in any order; names change in their order, and are on the
disk at the latest when the directory, or a file with a new name, is synced.
"""

import collections

from replay.state import PAGE, File, pieces

SECTOR = 512
CHANGES = ("write", "size", "room", "attribute", "names")


def choose(events, number, chance, first=0, last=None):
    """Return the indexes of events before which something happens, in order.

    number       how many there are to be; all when there are fewer
    chance       a random.Random
    first, last  index of the first that may be among them, and of the one after the last; the
                 end, len(events), may be if last is that
    """
    last = len(events) if last is None else last
    there = [index for index in range(first, last) if events[index][0] in CHANGES]
    if last == len(events):
        there.append(last)
    return sorted(chance.sample(there, min(number, len(there))))


def kills(start, events, moments, chance):
    """Yield (index, State) after a kill before each of some events.

    start  the State before the first event
    Every fourth has the beginning of a write of several pages, where it is one.
    """
    state, done = start.copy(), 0
    for moment in moments:
        for event in events[done:moment]:
            state.apply(event)
        done = moment
        torn = state.copy()
        if moment < len(events) and events[moment][0] == "write" and chance.random() < 0.25:
            _write, file, offset, data = events[moment]
            parts = list(pieces(offset, data))
            for at, piece in parts[: chance.randrange(len(parts))]:
                torn.apply(("write", file, at, piece))
        yield moment, torn


def failures(start, events, moments, chance, unit):
    """Yield (index, State) after the failure of a node before each of some events.

    unit  bytes that are there or not as a whole: a page, or a sector
    """
    synced, pending, names, done = start.copy(), collections.defaultdict(list), [], 0
    for moment in moments:
        for event in events[done:moment]:
            if event[0] == "names":
                names.append(event)
            elif event[0] == "sync":
                for one in pending.pop(event[1], ()):
                    synced.apply(one)
                if event[1] is None:
                    for one in names:
                        synced.apply(one)
                    names = []
            elif event[0] in CHANGES:
                pending[event[1]].append(event)
        done = moment
        state = synced.copy()
        for event in names[: chance.randrange(len(names) + 1)]:
            state.apply(event)
        likely = chance.choice([0.1, 0.5, 0.9])
        for file, changes in pending.items():
            state.files[file] = _after_failure(
                state.files.get(file) or File(), changes, chance, likely, unit
            )
        yield moment, state


def _after_failure(before, changes, chance, likely, unit):
    """Return a File of which some changes, that were not synced, were lost."""
    versions, sizes, file = {}, [before.size], before.copy()
    for event in changes:
        file.apply(event)
        sizes.append(file.size)
        if event[0] == "write":
            for at, _piece in pieces(event[2], event[3]):
                number = at // PAGE
                old = before.pages.get(number, bytes(PAGE))
                versions.setdefault(number, [old]).append(file.pages[number])
    found = file.copy() if chance.random() < likely else before.copy()
    # What was cut off and what was reserved is as one of the two has it.
    for number, all_of_it in versions.items():
        page = b"".join(
            _one(all_of_it, chance, likely)[at : at + unit] for at in range(0, PAGE, unit)
        )
        found.pages[number] = page
    found.size = file.size if chance.random() < likely else chance.choice(sizes)
    found.pages = {
        number: data for number, data in found.pages.items() if number * PAGE < found.size
    }
    return found


def _one(versions, chance, likely):
    """Return a version of a page, the last one more or less likely."""
    return versions[-1] if chance.random() < likely else chance.choice(versions)
