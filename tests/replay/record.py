"""What a program and all that it starts do to the files of a directory, in order.

Recorded with strace(1). An event is a tuple whose first word says what it is; files are told
by number, so that a write stays one to the same file whatever its name is by then:

("write", file, offset, bytes)      ("size", file, bytes)       ("room", file, mode, offset, bytes)
("attribute", file, name, value)    ("sync", file)              ("names", {name: file or None})
("mark", text)                      a program in it has said where it is: see operations.mark()

In "sync" the file is None for the directory itself; "names" are changes, new files included.
"""

import os
import re
import subprocess

MARK = "/proc/@mark/"  # what operations.mark() tries to remove
_CALLS = (
    "open,openat,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,"
    "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,setxattr,fsetxattr,"
    "copy_file_range,sendfile,dup,dup2,dup3,fcntl"
)
_LONGEST = 1 << 27  # bytes of a string that strace shows whole
_MODES = {"FALLOC_FL_KEEP_SIZE": 1, "FALLOC_FL_PUNCH_HOLE": 2, "FALLOC_FL_ZERO_RANGE": 16}
_LINE = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (\S+)(.*)", re.DOTALL)
_PARTS = re.compile(r'"[^"]*"(?:\.\.\.)?|<[^>]*>(?:\(deleted\))?|[\[\]{},]|[^"<\[\]{},]+')
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>(\(deleted\))?)?")
_BASES = re.compile(r'iov_base="([^"]*)"')


def trace(words, log, **options):
    """Run a program with all that it starts under strace; return its CompletedProcess."""
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", str(_LONGEST), "--seccomp-bpf"]
    strace += ["-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log), "--"]
    words = [*strace, *map(str, words)]
    return subprocess.run(words, capture_output=True, check=False, **options)


def read(log, directory, numbers):
    """Return the events of a log of trace() on the files of a directory.

    numbers  {name: number} of the files that were there before; new ones get the next
    """
    found = _Log(os.path.realpath(directory), numbers)
    unfinished = {}
    with open(log, errors="surrogateescape") as file:
        for line in file:
            pid, rest = _LINE.match(line.rstrip("\n")).groups()
            if rest.endswith("<unfinished ...>"):
                unfinished[pid] = rest[: -len("<unfinished ...>")]
                continue
            if rest.startswith("<... "):
                rest = unfinished.pop(pid, "") + rest.partition(" resumed>")[2]
            call = _CALL.match(rest)
            if call:
                found.add(pid, *call.groups())
    return found.events


def _bytes(text):
    """Return the bytes that strace -xx shows."""
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


def _path(text):
    return os.fsdecode(_bytes(text)) if "\\x" in text else text


def _arguments(text):
    """Return the arguments of a call, as strace shows them."""
    found, depth = [""], 0
    for part in _PARTS.findall(text):
        if part == "," and not depth:
            found.append("")
            continue
        depth += (part in "[{") - (part in "]}")
        found[-1] += part
    return [argument.strip() for argument in found]


class _Log:
    """Calls of a log, made events of."""

    def __init__(self, directory, numbers):
        self._directory = directory
        self._hexadecimal = "".join(f"\\x{byte:02x}" for byte in os.fsencode(directory))
        self._names = dict(numbers)
        self._next = max(numbers.values(), default=0) + 1
        self._places = {}  # (process, descriptor) -> [offset of the next write]
        self._opened = {}  # (process, descriptor) -> number of the file
        self._marked = "".join(f"\\x{byte:02x}" for byte in MARK.encode())
        self.events = []

    def add(self, pid, call, text, result, rest):
        """Take one call."""
        if self._marked in text and call in ("unlink", "unlinkat"):
            path = _path(_arguments(text)[0 if call == "unlink" else 1])
            self.events.append(("mark", path[len(MARK) :]))
            return
        if result.startswith(("-", "?")):
            return
        concerns = self._hexadecimal in text or self._hexadecimal in result + rest
        if not concerns and call not in ("truncate", "setxattr"):
            return
        method = getattr(self, "_" + call, None)
        if method is None:
            raise ValueError(f"{call} is not known to the recorder")
        method(pid, _arguments(text), result + rest)

    # -- which file is meant

    def _name(self, path):
        """Return the name of a path in the directory; None when it is not there."""
        parent, name = os.path.split(path)
        return name if parent == self._directory else None

    def _file(self, text):
        """Return (number of the descriptor, number of its file), None for what is elsewhere."""
        number, path, _deleted = _DESCRIPTOR.match(text).groups()
        name = self._name(_path(path)) if path else None
        return number, self._names.get(name) if name else None

    def _at(self, directory, text):
        """Return the name that a path below a descriptor means; None for what is elsewhere."""
        path, _number = _path(text), 0
        if not path.startswith("/"):
            above = _DESCRIPTOR.match(directory)[2]
            path = os.path.join(_path(above), path) if above else path
        return self._name(path)

    def _write_at(self, file, offset, data):
        if file is not None and data:
            self.events.append(("write", file, offset, data))

    def _change_names(self, changes):
        self._names.update(changes)
        self.events.append(("names", changes))

    # -- the calls, by their names

    def _openat(self, pid, words, result):
        flags = words[2] if len(words) > 2 else ""
        number, path, _deleted = _DESCRIPTOR.match(result).groups()
        self._places[pid, number] = [0]
        name = self._name(_path(path)) if path else None
        self._opened[pid, number] = self._names.get(name)
        if name is None or not ("O_CREAT" in flags or "O_TRUNC" in flags) or "O_TMPFILE" in flags:
            return
        if self._names.get(name) is None:
            self._opened[pid, number] = self._next
            self._change_names({name: self._next})
            self._next += 1
        elif "O_TRUNC" in flags:
            self.events.append(("size", self._names[name], 0))

    def _open(self, pid, words, result):
        self._openat(pid, ["", *words], result)

    def _creat(self, pid, words, result):
        self._openat(pid, ["", words[0], "O_CREAT|O_TRUNC"], result)

    def _dup(self, pid, words, result):
        old, new = (_DESCRIPTOR.match(text)[1] for text in (words[0], result))
        self._places[pid, new] = self._places.setdefault((pid, old), [0])
        self._opened[pid, new] = self._opened.get((pid, old))

    _dup2 = _dup3 = _dup

    def _fcntl(self, pid, words, result):
        if words[1].startswith("F_DUPFD"):
            self._dup(pid, words, result)

    def _lseek(self, pid, words, result):
        self._places.setdefault((pid, _DESCRIPTOR.match(words[0])[1]), [0])[0] = int(
            result.split()[0]
        )

    def _pwrite64(self, _pid, words, result):
        data = _bytes(words[1])[: int(result.split()[0])]
        self._write_at(self._file(words[0])[1], int(words[3]), data)

    def _pwritev(self, _pid, words, result):
        data = b"".join(map(_bytes, _BASES.findall(words[1])))[: int(result.split()[0])]
        self._write_at(self._file(words[0])[1], int(words[3]), data)

    _pwritev2 = _pwritev

    def _in_turn(self, pid, text, data):
        number, file = self._file(text)
        place = self._places.setdefault((pid, number), [0])
        self._write_at(file, place[0], data)
        place[0] += len(data)

    def _write(self, pid, words, result):
        self._in_turn(pid, words[0], _bytes(words[1])[: int(result.split()[0])])

    def _writev(self, pid, words, result):
        data = b"".join(map(_bytes, _BASES.findall(words[1])))
        self._in_turn(pid, words[0], data[: int(result.split()[0])])

    def _copy_file_range(self, pid, words, result):
        raise ValueError("copy_file_range: its content is not in the log")

    _sendfile = _copy_file_range

    def _ftruncate(self, _pid, words, _result):
        file = self._file(words[0])[1]
        if file is not None:
            self.events.append(("size", file, int(words[1])))

    def _truncate(self, pid, words, _result):
        name = self._at("", words[0])
        if name is not None:
            self.events.append(("size", self._names[name], int(words[1])))

    def _fallocate(self, _pid, words, _result):
        file = self._file(words[0])[1]
        if file is not None:
            mode = sum(bit for word, bit in _MODES.items() if word in words[1])
            self.events.append(("room", file, mode, int(words[2]), int(words[3])))

    def _fsync(self, _pid, words, _result):
        path = _DESCRIPTOR.match(words[0])[2]
        if path and _path(path) == self._directory:
            self.events.append(("sync", None))
        elif self._file(words[0])[1] is not None:
            self.events.append(("sync", self._file(words[0])[1]))

    _fdatasync = _fsync

    def _fsetxattr(self, _pid, words, _result):
        self._attribute(self._file(words[0])[1], words)

    def _setxattr(self, _pid, words, _result):
        self._attribute(self._names.get(self._at("", words[0])), words)

    def _attribute(self, file, words):
        if file is not None:
            self.events.append(("attribute", file, _path(words[1]), _bytes(words[2])))

    def _renameat2(self, _pid, words, _result):
        old, new = self._at(words[0], words[1]), self._at(words[2], words[3])
        if "RENAME_EXCHANGE" in (words[4] if len(words) > 4 else ""):
            changes = {old: self._names.get(new), new: self._names.get(old)}
        else:
            changes = {old: None, new: self._names.get(old)}
        changes.pop(None, None)
        if changes:
            self._change_names(changes)

    _renameat = _renameat2

    def _rename(self, pid, words, result):
        self._renameat2(pid, ["", words[0], "", words[1]], result)

    def _linkat(self, pid, words, _result):
        old, new = _path(words[1]), self._at(words[2], words[3])
        if old.startswith("/proc/self/fd/"):
            number = self._opened[pid, os.path.basename(old)]
        else:
            number = self._names.get(self._at(words[0], words[1]))
        if new is not None:
            self._change_names({new: number})

    def _link(self, pid, words, result):
        self._linkat(pid, ["", words[0], "", words[1]], result)

    def _unlinkat(self, _pid, words, _result):
        name = self._at(words[0], words[1])
        if name is not None:
            self._change_names({name: None})

    def _unlink(self, pid, words, result):
        self._unlinkat(pid, ["", words[0]], result)
