"""Ten thousand damaged images, and as many with misleading contents, before all that reads them.

OVERLAY_ROUNDS is how many of the latter there are in each of ten rounds, a thousand without it.
"""

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


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_mutants(make, block, seed):
    """A thousand in each block size and round: an answer or a refusal, soon, in little memory."""
    path = make(mutants.fill, block)
    refused = mutants.rounds(path, 1000, seed, ENVIRON, str(ROOT))
    assert 50 < refused < 1000


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_entangled(make, block, seed):
    """The same for what is in an image, by sessions, packing and repairs, too."""
    path = make(entangled.fill, block)
    count = int(os.environ.get("OVERLAY_ROUNDS") or 1000)
    change, look = entangled.Image(path).entangle, entangled.look
    refused = mutants.rounds(path, count, seed, ENVIRON, str(ROOT), change, look)
    assert count // 3 < refused < count
