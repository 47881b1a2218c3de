"""The next command after a crash, as a user would type it, and what is there then."""

import mmap
import os
import shutil
import struct

from overlay.change import resize
from overlay.change.repair import Repair
from overlay.errors import DAMAGED, OverlayError
from overlay.image import ext3
from overlay.image import image as images
from overlay.image.ext3_read import Inode, Reader
from overlay.safety import e2fsck, guard, repair
from support import execute

IMAGE = "a.ext3"
_GROWN = 40 << 20  # bytes of an image that is made larger


class Place:
    """A directory in memory in which states are put up, one after the other."""

    def __init__(self, directory, words, config, environ):
        """Take a directory, which is emptied.

        words           function from the name of a program to the words that start it
        config, environ  those of a command
        """
        self.directory = str(directory)
        self._words = words
        self.path = os.path.join(self.directory, IMAGE)
        self._config = config
        self._environ = environ

    def put(self, state):
        """Put up a State in the place of the one before."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.mkdir(self.directory, 0o700)
        state.save(self.directory, IMAGE)

    def program(self):
        """Run a session in the real program; return (status, lines said)."""
        words = [*self._words("run-overlay"), "-o", self.path, "--", "true"]
        done = execute(words, environ=self._environ, cwd="/")
        return done.status, done.stderr.splitlines()

    def session(self):
        """Do what a writable session does before its start; return (status, lines said)."""
        said = []
        try:
            found = [images.look(self.path, write=True)]
            try:
                guard.acquire(found, True, config=self._config, notice=said.append)
            finally:
                found[0].close()
        except OverlayError as error:
            return error.status, [*said, str(error)]
        return 0, said

    def grow(self):
        """Do what resize-overlay does; return (status, lines said)."""
        return self._caught(self._grow)

    def _grow(self):
        whole = guard.open_whole(self.path)
        try:
            size, files = resize.now(whole)
            wanted = _GROWN if size < _GROWN else size + (8 << 20)
            resize.resizing(whole, wanted, files, self._config, *[lambda _line: None] * 2).do()
            return "grown"
        finally:
            whole.close()

    def check(self):
        """Do what check-overlay does; return (status, lines said)."""
        return self._caught(self._check)

    def _check(self):
        whole = guard.open_whole(self.path)
        try:
            return repair.make_sound(self.path, whole.descriptor, self._environ, full=True)
        finally:
            whole.close()

    def repair(self):
        """Do what check-overlay --repair does; return (status, lines said)."""
        return self._caught(self._repair)

    def _repair(self):
        whole = guard.open_whole(self.path)
        try:
            return Repair(whole, self.directory, self._environ).plan().do()
        finally:
            whole.close()

    def _caught(self, action):
        try:
            return 0, action().splitlines()
        except OverlayError as error:
            return error.status, [str(error)]

    def settle(self, command):
        """Run a command, and --repair when it says that this is needed; return a Settled.

        command  the name of a method of this
        """
        status, said = getattr(self, command)()
        repaired = None
        if status == DAMAGED:
            repaired, words = self.repair()
            said += words
            if not repaired:
                status, words = self.session()
                said += words
        return Settled(status, repaired, said, unsound(self.path))


class Settled:
    """What became of a state.

    status    of the last command
    repaired  that of check-overlay --repair; None when it was not needed
    said      lines
    unsound   what e2fsck has to say afterwards, empty when nothing
    """

    def __init__(self, status, repaired, said, unsound):
        self.status, self.repaired, self.said, self.unsound = status, repaired, said, unsound

    @property
    def dead(self):
        """Whether the image can still not be used, or is not sound."""
        return self.status != 0 or bool(self.unsound)


def unsound(path):
    """Return what e2fsck -fn says of an image that is not sound, else nothing."""
    with open(path, "rb") as file:
        done = e2fsck.run("/sbin/e2fsck", "-fn", file.fileno(), {})
    if done.status == e2fsck.ENDLESS:
        return "it does not come to an end"
    return (done.output or "it fails") if done.status else ""


def tree(path):
    """Return what is in an image: {path: bytes of a file, None for a directory}, twice.

    The first is of upper, the second of lost+found.
    """
    with open(path, "rb") as file:
        reader = _InMemory(file)
        return _below(reader, b"upper"), _below(reader, b"lost+found")


class _InMemory(Reader):
    """A Reader that asks the kernel for nothing: an image has thousands of blocks, and is small."""

    def __init__(self, file):
        super().__init__(file.fileno(), ext3.read_superblock(file.fileno()))
        self._data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def inode(self, number):
        place = self.place(number)
        return Inode(self._data[place : place + self.superblock.inode_size])

    def block(self, number):
        size = self.superblock.block_size
        return self._data[number * size : (number + 1) * size]


def _below(reader, top):
    found, place = {}, reader.lookup(top)
    pending = [("", place[1])] if place else []
    while pending:
        above, directory = pending.pop()
        for name, number, _kind in reader.entries(directory):
            if name in (b".", b".."):
                continue
            path = above + os.fsdecode(name)
            inode = reader.inode(number)
            if inode.is_directory:
                found[path] = None
                pending.append((path + "/", inode))
            elif inode.is_file:
                found[path] = content(reader, inode)
    return found


def content(reader, inode):
    """Return the bytes of a file, its holes as zeros."""
    size = reader.superblock.block_size
    hole, count = bytes(size), -(-inode.size // size)
    numbers = list(inode.blocks[:12])
    for depth, number in enumerate(inode.blocks[12:], 1):
        if len(numbers) < count:
            numbers += _pointers(reader, number, depth, count - len(numbers))
    blocks = [reader.block(number) if number else hole for number in numbers[:count]]
    return b"".join(blocks)[: inode.size]


def _pointers(reader, number, depth, most):
    """Return the numbers of the blocks below an indirect one of a depth, at most so many or more."""
    per = reader.superblock.block_size // 4
    if not number:
        return [0] * min(most, per**depth)
    found = struct.unpack(f"<{per}I", reader.block(number))
    if depth == 1:
        return found
    below = []
    for one in found:
        if len(below) >= most:
            break
        below += _pointers(reader, one, depth - 1, most - len(below))
    return below
