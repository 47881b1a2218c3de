"""Trees of all that a file system can hold, and lists of them to compare."""

import json
import os
import random
import subprocess
import sys

from support import NAMES

TIME = 1_234_567_890

# Prints one JSON list a path: name, type and mode, size, time, names of the file, target,
# attributes, content. What may not be read has no content.
LISTER = """
import hashlib, json, os, stat, sys

def look(path):
    status = os.lstat(path)
    kind, regular = stat.S_IFMT(status.st_mode), stat.S_ISREG(status.st_mode)
    marks = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith("user.") and "overlay" not in name:
            marks[name] = os.getxattr(path, name, follow_symlinks=False).hex()
    content = None
    if regular and os.access(path, os.R_OK):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    return [
        kind, stat.S_IMODE(status.st_mode), int(status.st_mtime),
        status.st_size if regular else 0, status.st_nlink if regular else 0,
        ascii(os.readlink(path)) if stat.S_ISLNK(status.st_mode) else None, marks, content,
        status.st_uid if "owners" in sys.argv[2:] else 0,
    ]

top = os.fsencode(sys.argv[1])
found, pending = {}, [top]
while pending:
    path = pending.pop()
    found[ascii(path[len(top):])] = look(path)
    if stat.S_ISDIR(os.lstat(path).st_mode) and os.access(path, os.R_OK | os.X_OK):
        pending += [os.path.join(path, name) for name in os.listdir(path)]
print(json.dumps(found, sort_keys=True))
"""


def plant(tree):
    """Make a tree with one of everything."""
    tree.mkdir()
    top = os.fsencode(tree)
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "random").write_bytes(random.Random(1).randbytes(3_000_000))
    (tree / "empty").touch()
    os.link(tree / "deep" / "er" / "random", tree / "same")
    (tree / "names").mkdir()
    for number, name in enumerate(NAMES):
        with open(os.path.join(top, b"names", name), "wb") as file:
            file.write(b"content %d" % number)
    for name, target in (
        ("r", "deep/er"),
        ("a", "/etc/passwd"),
        ("d", "not there"),
        ("l", "x" * 90),
    ):
        (tree / f"link {name}").symlink_to(target)
    with open(tree / "sparse", "wb") as file:
        file.truncate(50_000_000)
        file.seek(30_000_000)
        file.write(b"middle")
    os.mkfifo(tree / "fifo")
    for number, size in enumerate((10, 3000)):
        path = tree / f"attribute {number}"
        path.write_text("text")
        os.setxattr(path, "user.note", bytes(range(250)) * (size // 250) + b"end")
    for number in range(300):
        (tree / "deep" / str(number)).write_bytes(b"%d" % number * number)
    for mode in (0, 0o400, 0o4755, 0o2711, 0o666):
        path = tree / f"mode {mode:o}"
        path.write_text("text")
        path.chmod(mode)
    for mode in (0o1777, 0o2750, 0o500, 0):
        path = tree / f"directory {mode:o}"
        path.mkdir()
        (path / "inner").write_text("inner")
        path.chmod(mode)
    for number, path in enumerate(sorted(tree.rglob("*"))):
        os.utime(path, (TIME, TIME + number), follow_symlinks=False)
    os.utime(tree, (TIME, TIME))
    return tree


def unlock(tree):
    """Give a tree permissions that let it be removed."""
    for directory, _names, _files in os.walk(tree):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)


def listing(tree, *options):
    """Return the list of a tree of the host."""
    words = [sys.executable, "-c", LISTER, tree, *options]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def listed(ok, layers, tree, *options, fakeroot=False):
    """Return the list of a tree inside a session."""
    words = [word for layer in layers for word in ("-o", layer)]
    words += ["--fakeroot"] if fakeroot else []
    printed = ok("run-overlay", *words, "--", "python3", "-c", LISTER, tree, *options)
    return json.loads(printed)
