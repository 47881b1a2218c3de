"""Newer servers than the machine's own, WORK/newer of tools/setup: the same must hold.

Each of them beside the machine's other one. OVERLAY_SEED is the number of the first story, 0
without it.
"""

import os

import pytest
from e2e.safety.newer import NEWER, words_with
from e2e.safety.test_full import apart, fill, test_blocks, test_files, wrong  # noqa: F401
from e2e.safety.test_kill import (  # noqa: F401
    test_end_of_session,
    test_repair_before_a_session,
    test_server_left_alive,
    test_whole_tree,
)
from e2e.safety.test_stacks import (  # noqa: F401
    stack,
    test_copies_are_the_same,
    test_moved,
    test_new_beside_old,
    three,
)
from e2e.safety.test_sync import test_way  # noqa: F401
from e2e.safety.test_update_killed import test_killed as test_update_killed  # noqa: F401
from e2e.safety.trees import descendants, named
from replay import scenes, story
from replay.perform import Progress, memory, perform  # noqa: F401

SEED = int(os.environ.get("OVERLAY_SEED") or 0)


@pytest.fixture(params=NEWER)
def words(request, tmp_path):
    """Return a function from the name of a program to its words, in a tree with one of them."""
    return words_with([request.param], tmp_path / "newer")


def test_it_is_that_one(words, make, hold, request):
    """A session has that server."""
    name = request.node.callspec.params["words"]
    make()
    session = hold()
    (server,) = named(descendants(session.pid), name)
    assert os.readlink(f"/proc/{server}/exe") == NEWER[name]
    assert session.end()[0] == 0


@pytest.mark.parametrize(
    "scene", [scenes.session, scenes.end, scenes.pip, scenes.wal], ids=lambda one: one.__name__
)
def test_every_prefix(perform, scene):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    for tally in perform(scene, dict.fromkeys(story.ENDS, 100), progress=Progress(seed=SEED)):
        assert not tally.losses, (tally.row(), tally.losses[:3])
