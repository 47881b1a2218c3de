"""`make release`: what it builds runs, and what is not ready is not released."""

import datetime
import os
import re
import shutil
import subprocess
import sys

import pytest
from support import PATH, ROOT

VERSION = "7.5"  # of no release that there ever was
READY = f"# Changes\n\n## {VERSION} ({datetime.date.today()})\n\n- All is better.\n"


@pytest.fixture
def git(tmp_path):
    """Return a function that runs git in a checkout of this tree, ready to be released."""
    tree = tmp_path / "my tree"
    leave = shutil.ignore_patterns(".git", ".tox", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=leave)

    def git(*words):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", *who, "-C", tree, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    git.tree = tree
    git("init", "-q", "-b", "main")
    git("config", "user.name", "x")
    git("config", "user.email", "x@example.org")
    write(git, "lib/overlay/__init__.py", f'__version__ = "{VERSION}"\n')
    write(git, "CHANGELOG.md", READY)
    return git


def write(git, name, text):
    """Change a file, and commit that."""
    (git.tree / name).write_text(text)
    git("add", "-A")
    git("commit", "-qm", "a change")


def release(git, place):
    """Run tools/release and return its CompletedProcess."""
    return subprocess.run(
        [sys.executable, git.tree / "tools/release", place],
        env={"PATH": PATH, "HOME": "/", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_release(git, tmp_path):
    """Both archives hold all that they must, the wheel installs and runs, and the tag is set."""
    done = release(git, tmp_path / "made")
    assert (done.returncode, done.stderr) == (0, "")
    wheel, source = sorted(os.listdir(tmp_path / "made"))
    assert (wheel, source) == (f"overlay-{VERSION}-py3-none-any.whl", f"overlay-{VERSION}.tar.gz")
    assert git("tag", "--points-at", "HEAD") == f"v{VERSION}\n"
    assert git("status", "--porcelain") == ""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    words = [place / "bin/pip", "install", "-q", "--no-index", tmp_path / "made" / wheel]
    subprocess.run(words, check=True)
    said = subprocess.run(
        [place / "bin/show-overlay", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"show-overlay {VERSION}\n"
    # The source archive is the whole tree: it installs as a checkout does.
    subprocess.run(["tar", "-C", tmp_path, "-xf", tmp_path / "made" / source], check=True)
    tree = tmp_path / f"overlay-{VERSION}"
    subprocess.run(
        ["make", "-s", "-C", tree, "install", f"PREFIX={tmp_path}/prefix"],
        check=True,
        capture_output=True,
    )
    assert os.access(tmp_path / "prefix" / VERSION / "bin/run-overlay", os.X_OK)


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
        write(git, name, text)
    before = git("tag")
    done = release(git, tmp_path / "made")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert said in done.stderr, done
    assert git("tag") == before
    assert name == "MANIFEST.in" or not (tmp_path / "made").exists()
