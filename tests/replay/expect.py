"""What must be there after a crash: from operations, and from how far they had come.

A promise is kept for a file from when it is synced (or, after a kill, closed) on: under one of
the names that it has had since, with its content, as far as nothing was begun that changes it.
"""

from replay.operations import pattern


class Content:
    """One file, whatever its names are.

    kept     its bytes when they were last synced; None when that is not promised (any more)
    names    those of them under which it may be found
    """

    def __init__(self, data=b"", names=()):
        self.kept = None
        self.data = data
        self.names = set(names)  # all since it was synced
        self.now = set(names)  # those that it has
        self._changed = []  # [(first byte, byte after the last)] since then
        self._shortest = None  # bytes that it has had, at the least

    @property
    def is_moving(self):
        """Whether its names were changed since it was synced."""
        return self.names != self.now or len(self.names) > 1

    def sync(self):
        """Note that all that was written is on the disk."""
        self.kept, self.names = self.data, set(self.now)
        self._changed, self._shortest = [], None

    def write(self, offset, data):
        """Note that a write has begun."""
        self._changed.append((offset, offset + len(data)))
        self.data = self.data[:offset] + data + self.data[offset + len(data) :]

    def cut(self, size):
        """Note that it begins to be cut off."""
        self._shortest = min(
            size, len(self.data), *(() if self._shortest is None else (self._shortest,))
        )
        self.data = self.data[:size]

    def holds(self, data):
        """Return whether some bytes are what was kept, but for what was changed since."""
        kept = self.kept
        if not self._changed and self._shortest is None:
            return data == kept
        least = len(kept) if self._shortest is None else min(self._shortest, len(kept))
        if len(data) < least:
            return False
        start = 0
        for first, end in [*sorted(self._changed), (least, least)]:
            stop = min(first, least)
            if start < stop and data[start:stop] != kept[start:stop]:
                return False
            start = max(start, end)
        return True


class Expected:
    """All that must be there.

    contents     list of Content
    directories  set of the paths of those that must be there
    gone         set of the paths that must not
    known        set of all paths that may be there
    """

    def __init__(self, files, directories):
        """Begin with what is there before: {path: bytes}, hard links in one list of paths."""
        self.contents = []
        self.there = {}
        self.directories = set(directories)
        self.known = set(directories)
        self.gone = set()
        self.any_name = False  # whether a program has made more than is known
        self._unsynced_directories, self._unsynced_gone = set(), set()
        for paths, data in files:
            content = Content(data, paths)
            content.sync()
            self.contents.append(content)
            self.there.update(dict.fromkeys(paths, content))
            self.known.update(paths)

    def synced(self, content):
        """Note an fsync: what was made and removed before is on the disk with it."""
        content.sync()
        self.directories |= self._unsynced_directories
        self.gone |= self._unsynced_gone
        self._unsynced_directories, self._unsynced_gone = set(), set()

    def name(self, path, content):
        """Note that a file gets a name, and that another may lose it."""
        old = self.there.get(path)
        if old is not None and old is not content:
            old.now.discard(path)
            if not old.now:
                old.kept = None
        self.there[path] = content
        self.known.add(path)
        self._come(path)
        content.names.add(path)
        content.now.add(path)

    def _come(self, path):
        self.gone.discard(path)
        self._unsynced_gone.discard(path)

    def leave(self, path, done):
        """Note that a name is taken away, from now on or done."""
        content = self.there[path]
        content.now.discard(path)
        if not content.now:
            content.kept = None
        if done:
            del self.there[path]
            self._unsynced_gone.add(path)

    def operation(self, what, done, closed):
        """Note one operation.

        done    whether it has ended
        closed  whether what is closed counts as synced
        """
        kind, path = what["do"], what.get("path")
        synced = done and (what.get("sync") or kind in ("replace", "mmap", "sync"))
        content = self.there.get(path)
        if kind in ("mkdir", "rmdir"):
            self._directory(kind, path, done)
            return
        if kind == "program":
            self._program(what, done)
            return
        if kind == "create":
            if content is None:
                content = Content()
                self.contents.append(content)
                self.name(path, content)
            else:
                content.cut(0)
            content.write(0, pattern(what["tag"], 0, what["size"]))
        elif kind == "replace":
            new = Content(pattern(what["tag"], 0, what["size"]))
            self.contents.append(new)
            self.name(path + ".new", new)
            self.name(path, new)
            if done:
                self.leave(path + ".new", True)
            content = new
        elif content is None:
            return
        elif kind in ("append", "overwrite", "mmap"):
            offset = len(content.data) if kind == "append" else what["offset"]
            content.write(offset, pattern(what["tag"], offset, what["size"]))
        elif kind == "truncate":
            content.cut(what["size"])
        elif kind in ("rename", "link"):
            self.name(what["to"], content)
            if kind == "rename" and done:
                self.leave(path, True)
            return
        elif kind == "unlink":
            self.leave(path, done)
            return
        if synced:
            self.synced(content)
        elif done and closed:
            content.sync()

    def _program(self, what, done):
        """Note that a program makes files, {path: [tag, size]}, and removes others."""
        self.any_name = True
        for path in [*what["makes"], *what["removes"]]:
            if path in self.there:
                self.leave(path, done)
        for path, (tag, size) in what["makes"].items():
            if done:
                content = Content(pattern(tag, 0, size))
                self.contents.append(content)
                self.name(path, content)

    def _directory(self, kind, path, done):
        self.known.add(path)
        if kind == "mkdir":
            self._come(path)
            if done:
                self._unsynced_directories.add(path)
        else:
            self.directories.discard(path)
            self._unsynced_directories.discard(path)
            if done:
                self._unsynced_gone.add(path)


def places(events, number):
    """Return, for each of so many operations, the indexes of the marks at its begin and its end.

    An end of None: it was not reached, or the operation failed and did nothing.
    """
    found = [[None, None, True] for _one in range(number)]
    for index, event in enumerate(events):
        if event[0] == "mark" and event[1].split()[0] in ("begin", "end", "failed"):
            word, which = event[1].split()
            found[int(which)][word != "begin"] = index
            if word == "failed":
                found[int(which)][2] = False
    return found


def expected(before, operations, where, moment, closed):
    """Return the Expected at the index of an event.

    before  (list of (paths, bytes), paths of directories), see Expected
    where   of places()
    closed  whether a file that is closed is kept: after a kill, not when a node fails
    """
    found = Expected(*before)
    for what, (begin, end, worked) in zip(operations, where):
        if begin is None or begin >= moment:
            break
        if worked or (end is not None and end >= moment):
            found.operation(what, end is not None and end < moment, closed)
    return found


def losses(found, tree, saved):
    """Return a list of (kind, words) of what is not as it must be.

    found  the Expected
    tree   {path: bytes of a file, None for a directory}, of what sessions show
    saved  the same of lost+found
    """
    wrong, there = [], {path for path in tree}
    for content in found.contents:
        if content.kept is None:
            continue
        if any(tree.get(name) is not None and content.holds(tree[name]) for name in content.names):
            continue
        elsewhere = [
            name for name, data in saved.items() if data is not None and content.holds(data)
        ]
        if elsewhere and content.is_moving:
            continue  # the repair has told of it
        present = sorted(name for name in content.names if tree.get(name) is not None)
        kind = "only in lost+found" if elsewhere else "content" if present else "file"
        wrong.append(
            (kind, f"{sorted(content.names)}: {len(content.kept)} bytes; there: {present}")
        )
    wrong += [("directory", path) for path in found.directories - there]
    wrong += [("came back", path) for path in found.gone & there]
    unknown = there - found.known if not found.any_name else ()
    wrong += [("unknown", path) for path in unknown if "/.wh." not in "/" + path]
    return wrong
