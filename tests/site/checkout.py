"""A checkout of this tree of its own, ready to be released."""

import datetime
import shutil
import subprocess
import sys

from support import PATH, ROOT

VERSION = "7.5"  # of no release that there ever was
READY = f"# Changes\n\n## {VERSION} ({datetime.date.today()})\n\n- All is better, 100 % of it.\n"


class Checkout:
    """A repository of git with a copy of this tree; what is called runs git in it."""

    def __init__(self, tree):
        self.tree = tree
        leave = shutil.ignore_patterns(".git", ".tox", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=leave)
        self("init", "-q", "-b", "main")
        self("config", "user.name", "x")
        self("config", "user.email", "x@example.org")
        self.write("lib/overlay/__init__.py", f'__version__ = "{VERSION}"\n')
        self.write("CHANGELOG.md", READY)

    def __call__(self, *words):
        """Run git and return what it prints."""
        done = subprocess.run(
            ["git", "-C", self.tree, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def write(self, name, text):
        """Change a file, and commit that."""
        (self.tree / name).write_text(text)
        self("add", "-A")
        self("commit", "-qm", "a change")

    def release(self, place, umask=0o022):
        """Run tools/release and return its CompletedProcess."""
        return subprocess.run(
            [sys.executable, self.tree / "tools/release", place],
            env={"PATH": PATH, "HOME": "/", "LC_ALL": "C.UTF-8"},
            umask=umask,
            capture_output=True,
            text=True,
            check=False,
        )
