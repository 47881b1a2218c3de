"""What the tests share that is no fixture."""

import collections
import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = "/usr/local/bin:/usr/bin:/bin"  # of an ordinary user
BASE = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "images", "base.sif")

# Every byte that a name may have, and names that a careless program would misread.
NAMES = [
    bytes(range(1, 47)),
    bytes(range(48, 128)),
    bytes(range(128, 256)),
    b"-rf",
    b" ",
    b"a\nb",
    b"---",
    b"---\nx",
    b"\\012",
    b"a:b,c",
    b"'\"$HOME`",
    b"special file",
    b"x" * 255,
]

Result = collections.namedtuple("Result", "status stdout stderr")


def from_environment(name):
    """Return the path that tests/prepare-colleague has printed for a variable."""
    path = os.environ.get(name)
    assert path, f"{name} is not set: see tests/prepare-colleague --help"
    return Path(path)


def version():
    """Return the version of the tree under test."""
    start = (ROOT / "lib" / "overlay" / "__init__.py").read_text()
    return re.search('__version__ = "(.+)"', start)[1]


def execute(arguments, *, environ, cwd, stdin=None):
    """Run a program to its end and return its Result; what is not UTF-8 is kept escaped."""
    done = subprocess.run(
        arguments,
        env=environ,
        cwd=cwd,
        input=os.fsencode(stdin or ""),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


def tool(name, *arguments):
    """Run a tool of the system's admin and return its subprocess.CompletedProcess."""
    environ = {"LC_ALL": "C", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    words = ["/usr/bin/env", name, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environ)


def base_of(tree, *programs):
    """Make a base image of a few programs of the host, a directory, and return its path."""
    found = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    for path in {*programs, *re.findall(r"(/\S+) \(", found)}:
        (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tree / path.lstrip("/"))
    for name in ("dev", "etc", "opt", "proc", "sys", "tmp"):
        (tree / name).mkdir()
    return tree


def create(request, settings, facts, notice):
    """Make an overlay as create-overlay does, and return what was Created."""
    from overlay.create import make

    try:
        return make.make_at(request, settings, facts, notice)
    finally:
        facts.close()


def shell(line, environ, scratch, stdin=None):
    """Run a line as a user types it into bash, and return its Result."""
    return execute(
        ["bash", "--norc", "--noprofile", "-c", line],
        environ=environ,
        cwd=scratch,
        stdin=stdin,
    )


def wait_until(condition, seconds=60):
    """Wait until a condition holds, and return what it gave; fail when it does not in time."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def digests(directory):
    """Return names and content of all files of a directory, to see that nothing changed."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[str(path)] = path.lstat().st_mode, content
    return found


def is_clean(path):
    """Return whether e2fsck finds nothing in an image."""
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", path], capture_output=True, check=False)
    return done.returncode == 0
