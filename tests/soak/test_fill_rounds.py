"""Filled overlays over sizes, files and options: a seeded walk; what is accepted holds."""

import json
import os
import random
import re
import shutil

import pytest
from e2e.listing import listed, listing
from support import is_clean

MIB = 1 << 20


def grow_tree(tree, moments):
    """Make a tree of random shape: few large files, or many small ones, links, holes."""
    tree.mkdir()
    for number in range(moments.choice((0, 1, 30, 1500))):
        path = tree / str(number % moments.choice((1, 5, 50)))
        path.mkdir(exist_ok=True)
        size = int(moments.expovariate(1 / moments.choice((100, 5000, 60000))))
        file = path / f"{number}{'n' * moments.randrange(200)}"
        file.write_bytes(moments.randbytes(size))
        if moments.random() < 0.05:
            os.setxattr(file, "user.note", moments.randbytes(moments.choice((10, 1000, 3000))))
        if moments.random() < 0.05:
            os.link(file, path / f"{number} again")
        if moments.random() < 0.05:
            os.truncate(file, size + moments.randrange(50 * MIB))


def options(moments):
    """Return random options of create-overlay."""
    words = ["--sparse"] if moments.random() < 0.7 else []
    if moments.random() < 0.6:
        words += ["-s", f"{moments.choice((5, 12, 50, 300, 2000)) * moments.uniform(0.7, 1.5):.0f}"]
        words += ["--usable"] if moments.random() < 0.3 else []
    if moments.random() < 0.6:
        words += ["-n", f"{moments.choice((0.05, 1, 5, 100)) * moments.uniform(0.7, 1.5):.3f}"]
    return words


@pytest.mark.parametrize("seed", range(20))
def test_walk(ok, run, scratch, environ, seed):
    """Every accepted request is clean, exact and complete; every refusal names what would do."""
    moments = random.Random(seed)
    for turn in range(5):
        grow_tree(scratch / "tree", moments)
        words = options(moments)
        result = run("create-overlay", "--json", "--from", "tree", *words, "-o", "a")
        for _attempt in range(3):
            if result.status == 0:
                break
            assert result.status == 2, (turn, words, result)
            option, amount = re.search(r": (-[sn]) (\S+)\n", result.stderr).groups()
            if option in words:
                words[words.index(option) + 1] = amount
            else:
                words += [option, amount]
            result = run("create-overlay", "--json", "--from", "tree", *words, "-o", "a")
        assert result.status == 0, (turn, words, result)
        told = json.loads(result.stdout)
        path = scratch / "a.ext3"
        assert os.stat(path).st_size == told["size"]
        if "-s" in words and "--usable" not in words:
            assert told["size"] == int(words[words.index("-s") + 1]) * MIB
        assert is_clean(path), (turn, words)
        assert listed(ok, ["a.ext3:ro"], "/tree") == listing(scratch / "tree"), (turn, words)
        path.unlink()
        shutil.rmtree(scratch / "tree")
