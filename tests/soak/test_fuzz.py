"""Ten thousand damaged images, and as many with misleading contents, before all that reads them.

OVERLAY_ROUNDS is how many of the latter there are in each of ten rounds, a thousand without it.
OVERLAY_SECONDS is after how many seconds a round ends, 600 without it; what it has met is shown.
OVERLAY_SEED is the number of the first of five rounds, 0 without it: the next five go on there.
"""

import collections
import os

import entangled
import mutants
import pytest
from overlay.image import ext3_size
from support import ROOT, tool

ENVIRON = {"OVERLAY_CONFIG": str(ROOT / "etc" / "overlay.ini")}


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a sound image, filled by a function, with blocks of a size."""

    def make(fill, block):
        content, place = tmp_path / "content", tmp_path / "place"
        (content / "upper").mkdir(parents=True)
        (content / "work").mkdir()
        fill(content / "upper")
        place.mkdir()
        path = place / "a.ext3"
        with open(path, "wb") as file:
            file.truncate(20 << 20)
        words = ["-b", str(block), "-I", str(ext3_size.INODE_SIZE), "-N", "2000", "-J", "size=4"]
        assert tool("mke2fs", "-t", "ext3", "-q", *words, "-d", content, path).returncode == 0
        return path

    return make


SEED = int(os.environ.get("OVERLAY_SEED") or 0)
SECONDS = float(os.environ.get("OVERLAY_SECONDS") or 600)
LEAST = 20  # images of which some are refused, and some are not


def told(count, name, seed, block, met):
    """Show what a round has met."""
    count(f"{name}, blocks of {block}, OVERLAY_SEED={seed}: {met[1]} images, {met[0]} refused")


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_mutants(make, block, seed, count):
    """A thousand in each block size and round: an answer or a refusal, soon, in little memory."""
    path = make(mutants.fill, block)
    met = mutants.rounds(path, 1000, seed, ENVIRON, str(ROOT), seconds=SECONDS)
    told(count, "damaged", seed, block, met)
    assert met[1] < LEAST or met[1] // 20 <= met[0] < met[1]


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_entangled(make, block, seed, count):
    """The same for what is in an image, by sessions, packing and repairs, too."""
    path = make(entangled.fill, block)
    most = int(os.environ.get("OVERLAY_ROUNDS") or 1000)
    answered = collections.Counter()
    change, look = entangled.Image(path).entangle, entangled.looks(answered)
    met = mutants.rounds(path, most, seed, ENVIRON, str(ROOT), change, look, seconds=SECONDS)
    told(count, "entangled", seed, block, met)
    for name, number in sorted(answered.items()):
        count(f"  {name}: {number} answered")
    assert met[1] < LEAST or met[1] // 3 < met[0] < met[1]
    assert met[1] < LEAST or len(answered) == len(entangled.READERS)
