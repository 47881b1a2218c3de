"""Fixtures: a place in memory, and how often a story is played."""

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

    numbers  {ending: how many states}; as many stories are recorded as are needed for them
    seed     the number of the first of them
    seconds  after which no further one is recorded; None: not before all is tried
    """
    config = settings()

    def perform(scene, numbers, seed=0, seconds=None):
        tallies = {ending: story.Tally(scenes.PROMISES[scene], ending) for ending in numbers}
        begun = time.monotonic()
        while any(tallies[ending].tried < number for ending, number in numbers.items()):
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            _round(scene, numbers, seed, tallies)
            seed += 1
        for tally in tallies.values():
            count(tally.row())
        return tallies.values(), seed

    def _round(scene, numbers, seed, tallies):
        """Record a story, and play it as often as it is worth it."""
        directory = tempfile.mkdtemp(dir=memory)
        stage = scenes.Stage(words, environ, directory)
        place = judge.Place(os.path.join(directory, "place"), words, config, environ)
        found = scene(stage, seed)
        found = found if isinstance(found, list) else [found]
        for ending, number in numbers.items():
            tally = tallies[ending]
            each = -(-min(_EACH, number - tally.tried) // len(found))
            for one in found:
                one.play(place, ending, each, seed, tally)
        shutil.rmtree(directory)

    return perform


_ROOM = 1 << 30  # bytes
_EACH = 250  # states of a story that is recorded once
