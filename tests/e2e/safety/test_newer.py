"""Newer servers than the machine's own: what is promised is kept with them, too.

A few of the other tests here once more; tests/soak has more of them.
"""

import os

import pytest
from e2e.safety import test_full, test_sync
from e2e.safety.newer import NEWER, words_with
from e2e.safety.test_full import fill, wrong  # noqa: F401
from e2e.safety.test_stacks import test_new_beside_old, three  # noqa: F401
from e2e.safety.trees import descendants, named
from replay import scenes, story
from replay.perform import memory, perform  # noqa: F401


@pytest.fixture
def words(tmp_path):
    """Return a function from the name of a program to its words, in a tree with those."""
    return words_with(NEWER, tmp_path / "newer")


def test_it_is_them(make, hold):
    """A session has these servers."""
    make()
    session = hold()
    servers = named(descendants(session.pid), *NEWER)
    assert {os.readlink(f"/proc/{pid}/exe") for pid in servers} == set(NEWER.values())
    assert session.end()[0] == 0


def test_every_prefix(perform):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    for tally in perform(scenes.session, dict.fromkeys(story.ENDS, 8)):
        assert not tally.losses, (tally.row(), tally.losses[:3])


def test_full_one(fill, wrong, make):  # noqa: F811
    """What finds no room is told so, and what was written before is there."""
    test_full.test_blocks(fill, wrong, make, "dd", "one deleted")


@pytest.mark.parametrize("line", [line for line in test_sync.WAYS if "mv" in line or "dd" in line])
def test_synced(words, environ, scratch, make, line):
    """What is told to sync does."""
    test_sync.test_way(words, environ, scratch, make, line)
