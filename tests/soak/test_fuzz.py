"""Ten thousand damaged images before show-overlay and list-overlays."""

import mutants
import pytest
from overlay.image import ext3_size
from support import ROOT, tool


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_mutants(tmp_path, block, seed):
    """A thousand in each block size and round: an answer or a refusal, soon, in little memory."""
    upper = tmp_path / "content" / "upper"
    upper.mkdir(parents=True)
    (tmp_path / "content" / "work").mkdir()
    mutants.fill(upper)
    place = tmp_path / "place"
    place.mkdir()
    path = place / "a.ext3"
    with open(path, "wb") as file:
        file.truncate(20 << 20)
    words = ["-b", str(block), "-I", str(ext3_size.INODE_SIZE), "-N", "256", "-J", "size=4"]
    content = tmp_path / "content"
    assert tool("mke2fs", "-t", "ext3", "-q", *words, "-d", content, path).returncode == 0
    environ = {"OVERLAY_CONFIG": str(ROOT / "etc" / "overlay.ini")}
    refused = mutants.rounds(path, 1000, seed, environ, str(ROOT))
    assert 50 < refused < 1000
