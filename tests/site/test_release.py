"""`make release`: what is not ready is not released. What it makes: test_packages."""

import re

import pytest
from checkout import READY, VERSION, Checkout


@pytest.fixture
def git(tmp_path):
    """Return a Checkout that is ready to be released."""
    return Checkout(tmp_path / "my tree")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("lib/overlay/__init__.py", '__version__ = "7.5dev"\n', "'7.5dev' is not a version"),
        ("CHANGELOG.md", READY.replace(VERSION, "7.4"), "CHANGELOG.md begins with 7.4 ("),
        (
            "CHANGELOG.md",
            re.sub(r"\(.*\)", "(2020-01-31)", READY),
            f"CHANGELOG.md begins with {VERSION} (2020-01-31)",
        ),
        ("CHANGELOG.md", re.sub(r" \(.*\)", "", READY), f"CHANGELOG.md begins with {VERSION}\n"),
        ("CHANGELOG.md", "# Changes\n", "CHANGELOG.md begins with nothing"),
        ("CHANGELOG.md", READY.replace("- All", "All"), "lists no change of this version"),
        ("bin/NEW", None, "there are changes that are not committed"),
        ("tag", None, f"the tag v{VERSION} is there already"),
        ("MANIFEST.in", "", "lacks "),
    ],
)
def test_not_ready(git, tmp_path, name, text, said):
    """A checkout that is not ready is not released: the message says why; no tag is set."""
    if name == "tag":
        git("tag", f"v{VERSION}")
    elif text is None:
        (git.tree / name).write_text("x\n")
    else:
        git.write(name, text)
    before = git("tag")
    done = git.release(tmp_path / "made")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert said in done.stderr, done
    assert git("tag") == before
    assert name == "MANIFEST.in" or not (tmp_path / "made").exists()
