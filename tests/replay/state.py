"""Files of a directory as they are after some events of record.read()."""

import os

PAGE = 4096
_EMPTY = bytes(PAGE)


class File:
    """Content and attributes of a file; its pages without content are left out.

    pages     {number of the page: bytes}
    reserved  whether its room is reserved, as far as its holes are, too
    """

    __slots__ = ("attributes", "mode", "pages", "reserved", "size")

    def __init__(self):
        self.size = 0
        self.mode = 0o600
        self.reserved = False
        self.pages = {}
        self.attributes = {}

    def copy(self):
        """Return another one, the same for now."""
        other = File()
        other.size, other.mode, other.reserved = self.size, self.mode, self.reserved
        other.pages, other.attributes = dict(self.pages), dict(self.attributes)
        return other

    @classmethod
    def load(cls, path):
        """Return the File at a path."""
        self, status = cls(), os.stat(path)
        self.size, self.mode = status.st_size, status.st_mode & 0o7777
        self.reserved = status.st_blocks * 512 >= status.st_size
        self.attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        with open(path, "rb") as file:
            for number in range(-(-self.size // PAGE)):
                data = file.read(PAGE)
                if data.strip(b"\0"):
                    self.pages[number] = data.ljust(PAGE, b"\0")
        return self

    def apply(self, event):
        """Do what an event says."""
        getattr(self, "_" + event[0])(*event[2:])

    def _write(self, offset, data):
        for at, piece in pieces(offset, data):
            number, start = divmod(at, PAGE)
            old = self.pages.get(number, _EMPTY)
            self.pages[number] = old[:start] + piece + old[start + len(piece) :]
        self.size = max(self.size, offset + len(data))

    def _size(self, size):
        if size < self.size:
            last, within = divmod(size, PAGE)
            self.pages = {number: data for number, data in self.pages.items() if number <= last}
            if last in self.pages:
                self.pages[last] = self.pages[last][:within].ljust(PAGE, b"\0")
        self.size = size

    def _room(self, mode, offset, length):
        keep, zero = mode & 1, mode & (2 | 16)
        if zero:
            end = min(offset + length, self.size)
            for number in [
                one for one in self.pages if offset < (one + 1) * PAGE and one * PAGE < end
            ]:
                start, stop = max(0, offset - number * PAGE), min(PAGE, end - number * PAGE)
                data = self.pages[number]
                self.pages[number] = data[:start] + bytes(stop - start) + data[stop:]
        if not keep:
            self.size = max(self.size, offset + length)
        if not mode and not offset:
            self.reserved = True

    def _attribute(self, name, value):
        self.attributes[name] = value

    def save(self, path):
        """Write it to a path that is free."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.truncate(descriptor, self.size)
            if self.reserved and self.size:
                os.posix_fallocate(descriptor, 0, self.size)
            run = []
            for number in sorted(self.pages):
                if run and run[-1] + 1 != number:
                    self._save(descriptor, run)
                    run = []
                run.append(number)
            if run:
                self._save(descriptor, run)
            for name, value in self.attributes.items():
                os.setxattr(descriptor, name, value)
            os.fchmod(descriptor, self.mode)
        finally:
            os.close(descriptor)

    def _save(self, descriptor, numbers):
        """Write pages that follow each other."""
        data = b"".join(self.pages[number] for number in numbers)
        offset = numbers[0] * PAGE
        os.pwrite(descriptor, data[: max(0, self.size - offset)], offset)

    def __eq__(self, other):
        mine, theirs = (
            {number: data for number, data in one.pages.items() if data != _EMPTY}
            for one in (self, other)
        )
        return self.size == other.size and mine == theirs

    __hash__ = None


def pieces(offset, data, unit=PAGE):
    """Yield (offset, bytes) of what is written to each page, or to another unit."""
    at = 0
    while at < len(data):
        length = min(len(data) - at, unit - (offset + at) % unit)
        yield offset + at, data[at : at + length]
        at += length


class State:
    """The files of a directory, and their names.

    names  {name: number of the file}
    files  {number: File}
    """

    def __init__(self, names=(), files=()):
        self.names = dict(names)
        self.files = dict(files)

    @classmethod
    def load(cls, directory):
        """Return the State of a directory of files, hard links included."""
        self, numbers = cls(), {}
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            status = os.stat(path)
            number = numbers.setdefault(status.st_ino, len(numbers) + 1)
            self.names[name] = number
            if number not in self.files:
                self.files[number] = File.load(path)
        return self

    def copy(self):
        """Return another one, the same for now."""
        return State(self.names, {number: file.copy() for number, file in self.files.items()})

    def fingerprint(self):
        """Return a number that is the same for what is the same, names and holes included."""
        files = (
            (number, file.size, file.reserved, frozenset(file.pages.items()))
            + (frozenset(file.attributes.items()),)
            for number, file in self.files.items()
        )
        return hash((frozenset(self.names.items()), frozenset(files)))

    def apply(self, event):
        """Do what an event says."""
        if event[0] == "names":
            for name, number in event[1].items():
                if number is None:
                    self.names.pop(name, None)
                else:
                    self.names[name] = number
                    self.files.setdefault(number, File())
        elif event[0] not in ("sync", "mark"):
            self.files.setdefault(event[1], File()).apply(event)

    def save(self, directory, main):
        """Write it to a directory that is empty.

        main  the name of the image: the inode number of the one that was recorded, which stands
              in undo files, is exchanged for that of the new file
        """
        saved, inode = {}, None
        for name in sorted(self.names, key=lambda name: name != main):
            number = self.names[name]
            if name == main:
                path = os.path.join(directory, name)
            else:
                path = os.path.join(directory, _renamed(name, inode))
            if number in saved:
                os.link(saved[number], path)
            else:
                self.files[number].save(path)
                saved[number] = path
            if name == main:
                inode = os.stat(path).st_ino
            elif name.startswith(_UNDO):
                _exchange_inode(path, inode)


_UNDO, _LINE = ".overlay-undo.", b"overlay-undo-2\n\0"  # of safety/undo


def _renamed(name, inode):
    """Return the name that an undo file has beside an image with another inode number."""
    if not name.startswith(_UNDO) or inode is None:
        return name
    return _UNDO + ".".join([str(inode), *name[len(_UNDO) :].split(".")[1:]])


def _exchange_inode(path, inode):
    """Let an undo file say that it is of an image with another inode number."""
    with open(path, "rb") as file:
        start, rest = file.read(len(_LINE)), file.read()
    if start == _LINE and inode is not None and b" " in rest[:64]:
        with open(path, "wb") as file:
            file.write(start + str(inode).encode() + rest[rest.index(b" ") :])
