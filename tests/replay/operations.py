"""Do a list of operations on files, each between two marks; what they write says whose it is.

It is also the program that does so inside of a session, given to its Python as text:
python3 -c TEXT ROOT LIST, the list as JSON. An operation is a dictionary:

do      create, append, overwrite, truncate, replace, rename, link, unlink, mkdir, rmdir,
        mmap, sync (of a file), program (words, to be run)
path    the file, below the root; `to` is the second name of rename and link
size, offset    bytes; `tag` is what is written, see pattern()
sync    whether the file is synced before it is closed
"""

import contextlib
import functools
import json
import mmap
import os
import subprocess
import sys


def mark(text):
    """Leave a word in the record, see record.MARK; it changes nothing."""
    with contextlib.suppress(OSError):
        os.unlink("/proc/@mark/" + text)


@functools.lru_cache(maxsize=4096)
def pattern(tag, offset, length):
    """Return bytes of a file from an offset on: of every sixteen each say whose and where."""
    first, end = offset // 16, -(-(offset + length) // 16)
    lines = b"".join(b"%-8s%07x\n" % (tag.encode(), number) for number in range(first, end))
    return lines[offset - first * 16 :][:length]


def _write(path, flags, what):
    """Write what an operation says to a file, in pieces."""
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    offset, done = what.get("offset", 0), 0
    if flags & os.O_APPEND:
        offset = os.fstat(descriptor).st_size
    os.lseek(descriptor, offset, os.SEEK_SET)
    while done < what["size"]:
        piece = min(what.get("piece", 1 << 17), what["size"] - done)
        done += os.write(descriptor, pattern(what["tag"], offset + done, piece))
    if what.get("sync"):
        os.fsync(descriptor)
    os.close(descriptor)


def do(root, what):
    """Do one operation below a directory. Raises OSError."""
    path = os.path.join(root, what.get("path", ""))
    other = os.path.join(root, what.get("to", ""))
    kind = what["do"]
    if kind in ("create", "append", "overwrite"):
        new = os.O_CREAT | os.O_TRUNC
        flags = {"create": new, "append": os.O_APPEND, "overwrite": 0}[kind]
        _write(path, flags, what)
    elif kind == "replace":
        _write(path + ".new", os.O_CREAT | os.O_TRUNC, {**what, "sync": True})
        os.rename(path + ".new", path)
    elif kind in ("truncate", "sync"):
        descriptor = os.open(path, os.O_WRONLY)
        if kind == "truncate":
            os.ftruncate(descriptor, what["size"])
        if kind == "sync" or what.get("sync"):
            os.fsync(descriptor)
        os.close(descriptor)
    elif kind == "mmap":
        descriptor = os.open(path, os.O_RDWR)
        with mmap.mmap(descriptor, 0) as memory:
            start, size = what["offset"], what["size"]
            memory[start : start + size] = pattern(what["tag"], start, size)
            memory.flush()
        os.fsync(descriptor)
        os.close(descriptor)
    elif kind in ("rename", "link"):
        getattr(os, kind)(path, other)
    elif kind == "program":
        subprocess.run(what["words"], check=True, stdout=subprocess.DEVNULL)
    else:
        getattr(os, kind)(path)


def main(root, text):
    """Do all of a list."""
    for number, what in enumerate(json.loads(text)):
        mark(f"begin {number}")
        try:
            do(root, what)
            mark(f"end {number}")
        except OSError as error:
            mark(f"failed {number}")
            print(number, what, error, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
