"""What is left when a session, a repair or a change ends at any of its writes.

All that they and the engine write is recorded once, and played back to many moments: killed
there, or the node failed and some of what was not synced is lost. See docs/replay.md.
"""

import pytest
from replay import scenes, story
from replay.perform import memory, perform  # noqa: F401

# Crashes of each kind, some seconds a scene; tests/soak plays all of them for long.
STATES = {
    scenes.session: 40,
    scenes.end: 10,
    scenes.pip: 20,
    scenes.wal: 15,
    scenes.persist: 15,
    scenes.repairs: 15,
    scenes.growth: 20,
    scenes.foreign_growth: 15,
    scenes.shrinking: 12,
    scenes.update: 12,
    scenes.pack: 12,
}


@pytest.mark.parametrize("scene", STATES, ids=lambda scene: scene.__name__)
def test_every_prefix(perform, scene):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    tallies = perform(scene, dict.fromkeys(story.ENDS, STATES[scene]))
    for tally in tallies:
        assert not tally.losses, (tally.row(), tally.losses[:3])
    assert sum(tally.numbers["tried"] for tally in tallies) >= 8
