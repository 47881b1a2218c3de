"""Images whose contents are made to mislead, thousands of them, before all that reads contents.

Each is whole as a file system's tables go: what is wrong is what leads where. Directories
share their blocks or hold one another, names are none or would be others', links and devices
stand in the place of directories, pointers lead round in a circle.
"""

import os
import struct

import mutants
from overlay.change.pack import closed
from overlay.environment import copies, history, note
from overlay.errors import DAMAGED, OverlayError
from overlay.image import ext3, hidden, layout, markers
from overlay.image.ext3_image import Ext3Image
from overlay.image.ext3_read import Reader
from overlay.image.paths import Paths, TooLong, names
from overlay.safety import salvage

NAMES = [b".", b"..", b"", b"a/b", b"a\0b", b"upper", b"work", b"\x1b[2J", b"a\nb", b".wh.x"]
NAMES += [b".wh..wh..opq", b".wh.", b".wh...", b"-rf", b"\xff\xfe", b"x" * 255]
KINDS = [0o040755, 0o100644, 0o120777, 0o020000, 0o060600, 0o010644, 0o140755, 0, 0o170000]
MOST_WORDS = 64 << 20  # characters of what is said of one image


def fill(upper):
    """Make a large directory, many small ones, a deep one, and markers, all in /opt/env."""
    (upper.parent / "work" / "work").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        place = upper / note.path(f"{number:020x}").lstrip("/")
        place.parent.mkdir(parents=True)
        place.write_bytes(note.Note("", directories=("/opt/env",), script="export A=1\n").text())
        (place.parent / history.NAME).write_bytes(history.data([{"recipe": "x" * 9000}] * 3))
    upper = upper / "opt" / "env"
    (upper / "lib").mkdir(parents=True)
    (upper / "lib" / "one").write_bytes(b"x" * 20000)
    os.link(upper / "lib" / "one", upper / "lib" / "other")
    for number in range(900):
        (upper / "large" / f"{number:04}-{'n' * 60}").mkdir(parents=True)
    for number in range(60):
        (upper / "many" / str(number) / "x").mkdir(parents=True)
        (upper / "many" / str(number) / ".wh..wh..opq").write_bytes(b"")
        (upper / "many" / str(number) / "file").write_bytes(b"x")
    (upper / "/".join(["deep", *(["d" * 200] * 12)])).mkdir(parents=True)
    (upper / "link").symlink_to("x" * 100)


class Image:
    """A sound image: its directories, and functions that each entangle something of it.

    Every function takes a chance and yields (offset, bytes) of what to write.
    """

    def __init__(self, path):
        self.descriptor = os.open(path, os.O_RDONLY)
        self.reader = Reader(self.descriptor, ext3.read_superblock(self.descriptor))
        self.size = self.reader.superblock.block_size
        found = list(self.reader.inodes(4, 8, 10))
        self.numbers = [number for number, _inode in found]
        self.directories = [one for one in found if one[1].is_directory]
        paths = [b"upper", b"work", b"work/work", b"upper/opt/env"]
        paths += [b"upper" + os.fsencode(note.DIRECTORY), b"upper/.singularity.d"]
        paths += [b"upper/opt/env/" + name for name in (b"large", b"many", b"deep")]
        self.chief = [ext3.ROOT_INODE, *(self.reader.lookup(path)[0] for path in paths)]

    def some(self, chance):
        """Return (number, Inode) of a directory, often one that is looked at first."""
        if chance.randrange(2):
            number = chance.choice(self.chief)
            return number, self.reader.inode(number)
        return chance.choice(self.directories)

    def share(self, chance):
        """Let a directory have the blocks of another."""
        number, _inode = self.some(chance)
        _other, taken = self.some(chance)
        place = self.reader.place(number)
        yield place + 4, struct.pack("<I", taken.size)
        yield place + 40, struct.pack("<15I", *taken.blocks)

    def share_all(self, chance):
        """Let many directories have the blocks of one."""
        _other, taken = self.some(chance)
        for number, _inode in chance.sample(self.directories, 50):
            yield self.reader.place(number) + 4, struct.pack("<I", taken.size)
            yield self.reader.place(number) + 40, struct.pack("<15I", *taken.blocks)

    def entry(self, chance):
        """Change names, numbers, lengths and kinds in a block of a directory."""
        _number, inode = self.some(chance)
        blocks = [block for block in inode.blocks[:12] if block]
        block = chance.choice(blocks)
        data = self.reader.block(block)
        offset, places = 0, []
        while offset + 8 <= len(data):
            places.append(offset)
            offset += struct.unpack_from("<IHBB", data, offset)[1]
        for offset in chance.sample(places, min(len(places), chance.randint(1, 20))):
            at = block * self.size + offset
            length = struct.unpack_from("<IHBB", data, offset)[1]
            kind = chance.randrange(5)
            if kind < 2:
                yield at, struct.pack("<I", chance.choice([*self.numbers, 0, 1, 7, 8, 2**32 - 1]))
            elif kind == 2:
                name = chance.choice(NAMES)[: length - 8]
                yield at + 6, struct.pack("<BB", len(name), 2) + name
            elif kind == 3:
                yield at + 4, struct.pack("<H", chance.choice([0, 4, 8, 12, 0xFFFC, 0xFFFF]))
            else:
                yield at + 7, bytes([chance.randrange(256)])

    def inode(self, chance):
        """Change what a file is, how long, how many names it has, how it is stored."""
        number = chance.choice([*self.chief, *self.numbers])
        place = self.reader.place(number)
        kind = chance.randrange(5)
        if kind == 0:
            yield place, struct.pack("<H", chance.choice(KINDS))
        elif kind == 1:
            size = chance.choice([0, 1, 59, 60, 4096, 1 << 20, 2**31, 2**32 - 1])
            yield place + 4, struct.pack("<I", size)
        elif kind == 2:
            yield place + 26, struct.pack("<H", chance.choice([0, 1, 2, 0xFFFF]))
        elif kind == 3:
            yield place + 32, struct.pack("<I", chance.choice([0x80000, 0x10000000, 0x800, 1]))
        else:
            yield place + 108, struct.pack("<I", chance.choice([1, 0xFFFFFFFF]))

    def circle(self, chance):
        """Let indirect blocks lead to themselves, or to blocks of directories."""
        number, inode = self.some(chance)
        place = self.reader.place(number)
        block = chance.choice([one for one in inode.blocks if one])
        depth = chance.randint(1, 3)
        yield place + 4, struct.pack("<I", chance.choice([1 << 18, 1 << 24, 1 << 31]))
        yield place + 40 + 4 * (11 + depth), struct.pack("<I", block)
        if chance.randrange(2):
            yield block * self.size, struct.pack("<I", block) * (self.size // 4)

    def entangle(self, chance):
        """Return what to write for an image with one to eight of all this."""
        kinds = [self.share, self.share_all, self.entry, self.entry, self.inode, self.circle]
        return [
            change
            for _number in range(chance.randint(1, 8))
            for change in chance.choice(kinds)(chance)
        ]


def looks(answered):
    """Return a function as mutants.look() is, for all that reads contents.

    answered  a Counter: how many images each of the READERS has answered for
    """

    def look(path, environ, root):
        statuses, said = mutants.look(path, environ, root)
        for reader in READERS:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                status, superblock = os.fstat(descriptor), ext3.read_superblock(descriptor)
                found = Ext3Image(str(path), status, descriptor, False, superblock)
                assert _length(reader(found)) < MOST_WORDS
                answered[reader.__name__] += 1
            except ext3.FormatError:
                statuses.append(DAMAGED)
            except OverlayError as error:
                statuses.append(error.status)
            finally:
                os.close(descriptor)
        return statuses, said

    return look


def layout_of(found):
    """Look as is done before each session."""
    layout.check_locked_layout(found)
    return ()


def packed(found):
    """List what pack-overlay --open opens for all."""
    return closed(found)


def tidied(found):
    """Find the paths of all directories with markers, as tidying after a session does."""
    reader, paths = found.reader(), []
    upper = reader.lookup(b"upper")
    ways = Paths(reader, upper[0]) if upper else None
    for directory in sorted({marker.directory for marker in markers.scan(reader)} - {None}):
        try:
            paths.append(ways.of(directory) or b"" if ways else b"")
        except TooLong:
            continue
    return paths


def stacked(found):
    """Find what an overlay hides of those below."""
    try:
        return hidden.of_ext3(found.reader()).deleted
    except hidden.Unknown:
        return ()


def linked(found):
    """Find names of hard links, and attributes, as is done after a session over others."""
    reader = found.reader()
    values = [
        value for number in reader.made_since(1) for _name, value in reader.attributes(number)
    ]
    return values + [path for _number, path in names(reader, set(reader.linked()))]


def saved(found):
    """List the names that a repair keeps."""
    return salvage.names(found.descriptor)


def carried(found):
    """Read what it says of itself, and copy that as pack-overlay does."""
    assert all(len(one.script) <= note.MOST for one in note.read(found))
    return copies.of([found], {}).values()


READERS = (layout_of, packed, tidied, stacked, linked, saved, carried)


def _length(words):
    return sum(map(len, words))
