"""More than 20,000 states in which a session, a repair or a change may end.

OVERLAY_PROGRESS names a file that keeps how many were tried, and the next run goes on there.
OVERLAY_SEED is the number of the first story of each kind, 0 without it. States of a story
that are the same count once. OVERLAY_SECONDS is after how many seconds of one kind no further
story is begun, 900 without it. The lines that are shown are the tables of docs/replay.md.
"""

import os

import pytest
from replay import scenes, story
from replay.perform import Progress, memory, perform  # noqa: F401

SEED = int(os.environ.get("OVERLAY_SEED") or 0)
SECONDS = float(os.environ.get("OVERLAY_SECONDS") or 900)
# Crashes of each kind; of four, about three leave what no other has left.
OFTEN = {scenes.session: 3000, scenes.pip: 1200, scenes.repairs: 1500}
STATES = {scene: OFTEN.get(scene, 800) for scene in scenes.PROMISES}


@pytest.fixture
def progress():
    """Return the Progress of all runs."""
    return Progress(os.environ.get("OVERLAY_PROGRESS"), SEED)


def test_enough(count):
    """All of them are more than 20,000."""
    count(story.HEAD)
    assert len(story.ENDS) * sum(STATES.values()) > 30000


@pytest.mark.parametrize("scene", STATES, ids=lambda scene: scene.__name__)
def test_every_prefix(perform, progress, scene):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    endings = [one for one in story.ENDS if (scene, one) not in scenes.NOT_PROMISED]
    for tally in perform(scene, dict.fromkeys(endings, STATES[scene]), SECONDS, progress):
        assert not tally.numbers["lost"], (tally.row(), tally.losses[:3])
        assert tally.numbers["tried"]


@pytest.mark.parametrize("scene, ending", sorted(scenes.NOT_PROMISED, key=str), ids=str)
def test_what_is_not_promised(perform, progress, count, scene, ending):  # noqa: F811
    """An image can be used at least; what else is lost, is only counted."""
    count("no promise:")
    (tally,) = perform(scene, {ending: STATES[scene]}, SECONDS, progress)
    count(f"{progress.tried():,} different states in all")
    assert not [one for one in tally.losses if one[2] == "dead"]
