"""A newer fuse2fs than the machine's own, WORK/newer of tools/setup: the same must hold.

OVERLAY_SEED is the number of the first story, 0 without it.
"""

import os
import shutil

import pytest
from e2e.safety.trees import holders
from replay import scenes, story
from replay.perform import Progress, memory, perform  # noqa: F401
from support import ROOT

NEWER = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "newer/usr/bin/fuse2fs")
SEED = int(os.environ.get("OVERLAY_SEED") or 0)


@pytest.fixture
def words(tmp_path):
    """Return a function from the name of a program to its words, in a tree with that server.

    Our launchers look for an engine's own helpers in a directory beside them.
    """
    for name in ("bin", "etc", "lib"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, symlinks=True)
    for kind in ("read-only", "writable", "stack"):
        place = tmp_path / "tree" / "lib" / "overlay" / "helpers" / kind / "engine"
        place.mkdir()
        (place / "fuse2fs").symlink_to(NEWER)
    return lambda name: [str(tmp_path / "tree" / "bin" / name)]


def test_it_is_that_one(make, hold):
    """A session has that server."""
    path = make()
    session = hold()
    assert NEWER in {os.readlink(f"/proc/{pid}/exe") for pid in holders(path)}
    assert session.end()[0] == 0


@pytest.mark.parametrize(
    "scene", [scenes.session, scenes.end, scenes.wal], ids=lambda one: one.__name__
)
def test_every_prefix(perform, scene):  # noqa: F811
    """Nothing is lost that was synced, and every image can be used."""
    for tally in perform(scene, dict.fromkeys(story.ENDS, 100), progress=Progress(seed=SEED)):
        assert not tally.losses, (tally.row(), tally.losses[:3])
