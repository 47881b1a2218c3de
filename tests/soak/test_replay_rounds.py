"""More than 20,000 moments at which a session, a repair or a change may end.

OVERLAY_SEED is the number of the first story of each kind, 0 without it; the numbers of the
last ones are shown, and the next run goes on there. OVERLAY_SECONDS is after how many seconds
of one kind no further story is begun, 900 without it. The lines that are shown are the table
of docs/replay.md.
"""

import os

import pytest
from replay import scenes, story
from replay.perform import memory, perform  # noqa: F401

SEED = int(os.environ.get("OVERLAY_SEED") or 0)
SECONDS = float(os.environ.get("OVERLAY_SECONDS") or 900)
OFTEN = {scenes.session: 3000, scenes.pip: 800, scenes.repairs: 1000}
# sqlite's journal does not survive it, see docs/replay.md.
NOT_PROMISED = {(scenes.journal, "torn")}
STATES = {scene: OFTEN.get(scene, 500) for scene in scenes.PROMISES}


def test_enough(count):
    """All of them are more than 20,000."""
    count(story.HEAD)
    assert len(story.ENDS) * sum(STATES.values()) > 20000


@pytest.mark.parametrize("scene", STATES, ids=lambda scene: scene.__name__)
def test_every_prefix(perform, count, scene):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    endings = [one for one in story.ENDS if (scene, one) not in NOT_PROMISED]
    tallies, seed = perform(scene, dict.fromkeys(endings, STATES[scene]), SEED, SECONDS)
    count(f"{scene.__name__}: OVERLAY_SEED={seed} goes on there")
    for tally in tallies:
        assert not tally.losses, (tally.row(), tally.losses[:3])
        assert tally.tried > 0
