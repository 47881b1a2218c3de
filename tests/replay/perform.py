"""Fixtures: a place in memory, and how often a story is played; how far that has come."""

import json
import os
import shutil
import tempfile
import time

import pytest
from replay import judge, scenes, story


@pytest.fixture
def memory(tmp_path):
    """Return a directory in memory, where that can be had: the states of an image are many."""
    # In a container that may be a few megabytes; a record of a session takes 100.
    roomy = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > _ROOM
    above = "/dev/shm" if roomy else tmp_path
    path = tempfile.mkdtemp(prefix="overlay-replay-", dir=above)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def perform(memory, words, environ, settings, count):
    """Return a function that plays a story in each way, and says what it has cost.

    numbers   {ending: how many crashes}; as many stories are recorded as are needed for them
    seconds   after which no further one is recorded; without it one is enough
    progress  a Progress that is gone on with, and kept
    """
    config = settings()

    def perform(scene, numbers, seconds=None, progress=None):
        progress = progress or Progress()
        tallies, seed = progress.read(scene, numbers)
        begun = time.monotonic()

        def is_done():
            return all(tallies[one].looked >= number for one, number in numbers.items())

        while not is_done():
            _round(scene, numbers, seed, tallies)
            seed += 1
            progress.write(scene, tallies, seed)
            if seconds is None or time.monotonic() - begun > seconds:
                break
        for tally in tallies.values():
            count(tally.row())
        return tallies.values()

    def _round(scene, numbers, seed, tallies):
        """Record a story, and play it as often as it is worth it."""
        directory = tempfile.mkdtemp(dir=memory)
        stage = scenes.Stage(words, environ, directory)
        place = judge.Place(os.path.join(directory, "place"), words, config, environ)
        found = scene(stage, seed)
        found = found if isinstance(found, list) else [found]
        left = {one: number - tallies[one].looked for one, number in numbers.items()}
        each = {one: -(-min(_EACH, max(0, number)) // len(found)) for one, number in left.items()}
        for one in found:
            one.play(place, each, seed, tallies)
        shutil.rmtree(directory)

    return perform


class Progress:
    """How far a long run has come: what was counted of each scene, and its next story.

    It is kept in a file, so that it may end at any time.
    """

    def __init__(self, path=None, seed=0):
        """Go on with what is in a file, where there is one; path None: keep nothing.

        seed  the number of the first story of what was not begun
        """
        self._path, self._seed, self._found = path, seed, {}
        if path and os.path.exists(path):
            with open(path) as file:
                self._found = json.load(file)

    def read(self, scene, endings):
        """Return ({ending: Tally}, number of the next story)."""
        found = self._found.get(scene.__name__, {})
        tallies = {
            one: story.Tally(scenes.PROMISES[scene], one, found.get(one, {})) for one in endings
        }
        return tallies, found.get("seed", self._seed)

    def tried(self):
        """Return how many different states have been tried in all."""
        found = (one.get(ending, {}) for one in self._found.values() for ending in story.ENDS)
        return sum(numbers.get("tried", 0) for numbers in found)

    def write(self, scene, tallies, seed):
        """Note what was counted, and the number of the next story."""
        numbers = {one: tally.numbers for one, tally in tallies.items()}
        old = self._found.get(scene.__name__, {})
        self._found[scene.__name__] = {**old, **numbers, "seed": seed}
        if self._path:
            with open(self._path + ".new", "w") as file:
                json.dump(self._found, file, indent=1)
            os.replace(self._path + ".new", self._path)


_ROOM = 1 << 30  # bytes
_EACH = 250  # states of a story that is recorded once
