"""What is in an overlay before, and what is done in it: chosen by a number.

As CrashMonkey does it (Mohan et al., OSDI 2018): up to three operations on a few files, around
an fsync(2), many times, each time in a directory of its own.
"""

import os

from replay.operations import pattern

# Fits into an inode's own pointers (48 KiB of blocks of 4 KiB), just so, and not.
SIZES = [0, 1, 3000, 4096, 47 << 10, 49152, 60000, 150000]
KINDS = {
    "create": 4,
    "append": 5,
    "overwrite": 3,
    "truncate": 2,
    "replace": 3,
    "rename": 3,
    "link": 2,
    "unlink": 3,
    "mkdir": 1,
    "rmdir": 1,
    "mmap": 2,
}


def base(directory, number):
    """Make the files that are there before, below a directory.

    number  how many directories for workloads()
    A large directory, which e2fsck -p would rewrite to index it, is among them.
    """
    keep = os.path.join(directory, "keep")
    os.makedirs(keep)
    for file in range(220):
        _make(
            os.path.join(keep, f"a-file-with-a-rather-long-name-indeed-{file}"),
            f"k{file}",
            file * 7,
        )
    for file, size in enumerate(SIZES):
        _make(os.path.join(keep, f"size{file}"), f"s{file}", size)
    os.link(os.path.join(keep, "size3"), os.path.join(keep, "second-name"))
    for place in range(number):
        below = os.path.join(directory, f"w{place}")
        os.makedirs(os.path.join(below, "d"))
        os.mkdir(os.path.join(below, "empty"))
        for file, (name, size) in enumerate({"a": 45000, "d/a": 9000, "b": 100}.items()):
            _make(os.path.join(below, name), f"b{place}.{file}", size)


def _make(path, tag, size):
    with open(path, "wb") as file:
        file.write(pattern(tag, 0, size))


def workloads(number, chance):
    """Return a list of operations: of so many workloads, one after the other.

    chance  a random.Random
    """
    return [what for place in range(number) for what in _workload(f"w{place}", place, chance)]


def _workload(place, number, chance):
    """Return the operations of one workload, in a directory: an fsync(2) after one of them."""
    files = {"a": 45000, "d/a": 9000, "b": 100}
    directories, made = ["", "d/"], []
    turns = chance.randint(1, 3)
    synced = chance.randrange(turns)
    for turn in range(turns):
        kind = chance.choices(list(KINDS), KINDS.values())[0]
        what = _operation(kind, files, directories, turn, chance)
        if what:
            sync = chance.random() < 0.3
            made.append({"tag": f"{number}.{turn}", "sync": sync, **what})
        if turn == synced and files:
            made.append({"do": "sync", "path": chance.choice(sorted(files))})
    return [_placed(what, place) for what in made]


def _placed(what, place):
    names = {key: f"{place}/{what[key]}" for key in ("path", "to") if key in what}
    return {**what, **names}


def _operation(kind, files, directories, turn, chance):
    """Return one operation, and note in the two first what is there then; None if it cannot be."""
    size = chance.choice(SIZES)
    path = chance.choice(sorted(files)) if files else None
    if kind in ("mkdir", "rmdir"):
        if kind == "mkdir":
            directories.append(f"new{turn}/")
            return {"do": kind, "path": f"new{turn}"}
        return {"do": kind, "path": "empty"}
    if kind == "create":
        path = path if path and chance.random() < 0.3 else chance.choice(directories) + f"n{turn}"
        files[path] = size
        return {"do": kind, "path": path, "size": size, "piece": chance.choice([4096, 1 << 17])}
    if path is None:
        return None
    if kind in ("append", "replace"):
        files[path] = size + 1 + (files[path] if kind == "append" else 0)
        return {"do": kind, "path": path, "size": size + 1}
    if kind in ("overwrite", "mmap") and files[path]:
        offset = chance.randrange(files[path])
        length = chance.randint(1, files[path] - offset)
        return {"do": kind, "path": path, "offset": offset, "size": length}
    if kind == "truncate" and files[path]:
        files[path] = chance.randrange(files[path])
        return {"do": kind, "path": path, "size": files[path]}
    if kind == "unlink":
        del files[path]
        return {"do": kind, "path": path}
    if kind in ("rename", "link"):
        over = [other for other in sorted(files) if other != path]
        if kind == "rename" and over and chance.random() < 0.4:
            other = chance.choice(over)
        else:
            other = chance.choice(directories) + f"{kind}{turn}"
        files[other] = files[path] if kind == "link" else files.pop(path)
        return {"do": kind, "path": path, "to": other}
    return None


def leave_in_free_blocks(path, chance, blocks=700):
    """Fill free blocks of an image with what deleted files leave: text, and numbers of blocks."""
    import struct

    from overlay.image import ext3
    from overlay.image.ext3_read import Reader

    with open(path, "r+b") as file:
        superblock = ext3.read_superblock(file.fileno())
        reader, size = Reader(file.fileno(), superblock), superblock.block_size
        bitmap = reader.block(reader._group(0)[0])
        free = [
            n
            for n in range(superblock.first_data_block, superblock.blocks_count)
            if not bitmap[n // 8] >> n % 8 & 1
        ]
        for number in free[:blocks]:
            if chance.random() < 0.7:
                data = chance.getrandbits(8 * size).to_bytes(size, "little")
            else:
                numbers = chance.choices(range(superblock.blocks_count), k=size // 4)
                data = struct.pack(f"<{size // 4}I", *numbers)
            os.pwrite(file.fileno(), data, number * size)
