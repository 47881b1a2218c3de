"""A file system on which every operation takes time: python3 slow_filesystem.py DIRECTORY MOUNT …

What it shows is the files of DIRECTORY, without directories among them. It speaks the protocol of
the kernel's FUSE (linux/fuse.h, version 7.31) itself, and is mounted by fusermount3(1), so that an
ordinary user can have it. As on a file system over the network, each operation takes its time
however small it is, many can be under way at once, and the kernel keeps what it has read.
"""

import argparse
import collections
import contextlib
import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

ROOT = 1  # the number of the top directory
MOST = 1 << 20  # bytes of one request, and more
THREADS = 64  # requests that are under way at once
KEPT = 3600  # seconds that the kernel keeps names and attributes

HEADER_IN = struct.Struct("<IIQQIIII")  # length, operation, unique, node, uid, gid, pid, padding
HEADER_OUT = struct.Struct("<IiQ")  # length, error, unique
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")

ASYNC_READ, BIG_WRITES, WRITEBACK_CACHE = 1, 1 << 5, 1 << 16
MAX_PAGES = 1 << 22
DIRECT_IO, KEEP_CACHE = 1, 2  # of an opened file
SET_MODE, SET_SIZE = 1, 8  # what a SETATTR sets


Operation = collections.namedtuple("Operation", "name offset size others program")


class Mounted:
    """A mount of this file system, for a test: what path shows lies in behind."""

    def __init__(self, directory):
        self.behind, self.path, self._log = (directory / name for name in ("behind", "slow", "log"))

    def forget(self):
        """Begin to note anew what is asked."""
        self._log.write_text("")

    def operations(self, name):
        """Return the operations of one name."""
        lines = (line.split(maxsplit=4) for line in self._log.read_text().splitlines())
        found = [Operation(a, int(b), int(c), int(d), e) for a, b, c, d, e in lines]
        return [one for one in found if one.name == name]


@contextlib.contextmanager
def mounted(directory, *options):
    """Have this file system below a directory, with options of main(); yield it, Mounted."""
    slow = Mounted(directory)
    slow.behind.mkdir(parents=True)
    slow.path.mkdir()
    words = [sys.executable, __file__, slow.behind, slow.path, "--log", directory / "log", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            yield slow
        finally:
            subprocess.run(["fusermount3", "-u", "-z", slow.path], check=False)
            server.kill()


def mount(where):
    """Mount at a directory; return the descriptor on which the kernel asks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        subprocess.run(
            ["fusermount3", "-o", "fsname=slow,subtype=slow", "--", where],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _data, [(_level, _kind, sent), *_rest], _flags, _address = ours.recvmsg(
            1, socket.CMSG_SPACE(4)
        )
        return int.from_bytes(sent[:4], sys.byteorder)


class Server:
    """The server of one mount.

    directory  what it shows
    delay      seconds that each operation takes
    crowded    seconds that a read takes which comes while another operation is under way
    direct     whether the kernel keeps nothing of files
    cached     whether it keeps what is written for a while, as NFS and Lustre do
    log        a descriptor of a file that gets a line for each operation on files: its name,
               offset, size, how many others were under way when it came, and the program that asked
    """

    def __init__(self, directory, where, *, delay, crowded, direct, cached, log):
        self.top = os.path.realpath(directory)
        self.delay, self.crowded = delay, crowded
        self.direct, self.cached = direct, cached
        self.log = log
        self.names = {}  # by number
        self.numbers = {}  # by name
        self.lock = threading.Lock()
        self.under_way = 0
        self.channel = mount(where)

    def serve(self):
        """Answer until it is unmounted."""
        threads = [threading.Thread(target=self._work) for _number in range(THREADS)]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        for thread in threads:
            thread.join()

    def _work(self):
        while True:
            try:
                request = os.read(self.channel, MOST + (1 << 16))
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EAGAIN):
                    continue  # the request was taken back
                return  # ENODEV: unmounted
            _length, operation, unique, node, _uid, _gid, pid, _rest = HEADER_IN.unpack_from(
                request
            )
            data = request[HEADER_IN.size :]
            name = OPERATIONS.get(operation)
            if name in ("forget", "batch_forget", "interrupt"):
                continue
            try:
                if name is None:
                    raise OSError(errno.ENOSYS, "")
                answer = self._timed(name, node, data, pid)
                head = HEADER_OUT.pack(HEADER_OUT.size + len(answer), 0, unique)
            except OSError as error:
                answer, head = b"", HEADER_OUT.pack(HEADER_OUT.size, -error.errno, unique)
            try:
                os.write(self.channel, head + answer)
            except OSError:
                pass  # nobody waits for it any more

    def _timed(self, name, node, data, pid):
        with self.lock:
            others = self.under_way
            self.under_way += 1
        try:
            if name in ("read", "write"):
                _handle, offset, size = struct.unpack_from("<QQI", data)
                self._note(name, offset, size, others, pid)
            elif name in ("fsync", "open", "setattr"):
                self._note(name, 0, 0, others, pid)
            if name != "init":
                time.sleep(self.crowded if others and name == "read" else self.delay)
            return getattr(self, name)(node, data)
        finally:
            with self.lock:
                self.under_way -= 1

    def _note(self, name, offset, size, others, pid):
        """Note an operation: a line as Operation has it."""
        if self.log is None:
            return
        try:
            with open(f"/proc/{pid}/comm") as file:
                program = file.read().strip()
        except OSError:
            program = "?"
        os.write(self.log, f"{name} {offset} {size} {others} {program}\n".encode())

    def _path(self, node):
        return self.top if node == ROOT else os.path.join(self.top, self.names[node])

    def _entry(self, name):
        """Return the answer to a question for a name."""
        found = os.lstat(os.path.join(self.top, name))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.ENOENT, "")
        with self.lock:
            number = self.numbers.setdefault(name, len(self.numbers) + ROOT + 1)
            self.names[number] = name
        return struct.pack("<QQQQII", number, 0, KEPT, KEPT, 0, 0) + self._attributes(number, found)

    def _attributes(self, number, found):
        times = [
            divmod(at, 10**9) for at in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        ]
        return ATTRIBUTES.pack(
            number,
            found.st_size,
            found.st_blocks,
            *(seconds for seconds, _rest in times),
            *(rest for _seconds, rest in times),
            found.st_mode,
            found.st_nlink,
            found.st_uid,
            found.st_gid,
            0,
            4096,
            0,
        )

    def init(self, _node, data):
        _major, _minor, ahead, flags = struct.unpack_from("<IIII", data)
        wanted = ASYNC_READ | BIG_WRITES | MAX_PAGES | (WRITEBACK_CACHE if self.cached else 0)
        return struct.pack(
            "<IIIIHHIIHHI28x",
            7,
            31,
            ahead,
            flags & wanted,
            THREADS,
            THREADS,
            MOST,
            1,
            MOST >> 12,
            0,
            0,
        )

    def lookup(self, node, data):
        if node != ROOT:
            raise OSError(errno.ENOTDIR, "")
        return self._entry(os.fsdecode(data.rstrip(b"\0")))

    def getattr(self, node, _data):
        return struct.pack("<QII", KEPT, 0, 0) + self._attributes(node, os.lstat(self._path(node)))

    def setattr(self, node, data):
        valid, _padding, _handle, size = struct.unpack_from("<IIQQ", data)
        (mode,) = struct.unpack_from("<I", data, 68)
        if valid & SET_SIZE:
            os.truncate(self._path(node), size)
        if valid & SET_MODE:
            os.chmod(self._path(node), stat.S_IMODE(mode))
        return self.getattr(node, data)

    def open(self, node, data):
        (flags,) = struct.unpack_from("<I", data)
        flags &= os.O_ACCMODE | os.O_TRUNC
        if self.cached and flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR  # the kernel reads what it writes a part of
        handle = os.open(self._path(node), flags | os.O_CLOEXEC)
        return struct.pack("<QII", handle, DIRECT_IO if self.direct else KEEP_CACHE, 0)

    def create(self, node, data):
        flags, mode = struct.unpack_from("<II", data)
        name = os.fsdecode(data[16:].rstrip(b"\0"))
        os.close(os.open(os.path.join(self.top, name), flags & ~os.O_TMPFILE | os.O_CREAT, mode))
        entry = self._entry(name)
        (number,) = struct.unpack_from("<Q", entry)
        return entry + self.open(number, struct.pack("<I", os.O_RDWR))

    def read(self, _node, data):
        handle, offset, size = struct.unpack_from("<QQI", data)
        return os.pread(handle, size, offset)

    def write(self, _node, data):
        handle, offset, size = struct.unpack_from("<QQI", data)
        return struct.pack("<II", os.pwrite(handle, data[40 : 40 + size], offset), 0)

    def fsync(self, _node, data):
        return b""

    def flush(self, _node, _data):
        return b""

    def release(self, _node, data):
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def unlink(self, _node, data):
        name = os.fsdecode(data.rstrip(b"\0"))
        os.unlink(os.path.join(self.top, name))
        with self.lock:
            self.numbers.pop(name, None)
        return b""

    def rename2(self, _node, data):
        old, new = data[16:].rstrip(b"\0").split(b"\0")
        flags = struct.unpack_from("<QI", data)[1]
        if flags:
            raise OSError(errno.EINVAL, "")
        old, new = os.fsdecode(old), os.fsdecode(new)
        os.rename(os.path.join(self.top, old), os.path.join(self.top, new))
        with self.lock:
            number = self.numbers.pop(old)
            self.numbers[new], self.names[number] = number, new
        return b""

    def statfs(self, _node, _data):
        found = os.statvfs(self.top)
        return struct.pack(
            "<QQQQQIIII24x",
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_bsize,
            255,
            found.f_frsize,
            0,
        )

    def opendir(self, _node, _data):
        return struct.pack("<QII", 0, 0, 0)

    def readdir(self, _node, data):
        _handle, offset, size = struct.unpack_from("<QQI", data)
        answer = b""
        for place, name in list(enumerate(sorted(os.listdir(self.top)), 1))[offset:]:
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", place + ROOT, place, len(raw), 8) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def releasedir(self, _node, _data):
        return b""

    def destroy(self, _node, _data):
        return b""


OPERATIONS = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    4: "setattr",
    10: "unlink",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    18: "release",
    20: "fsync",
    25: "flush",
    26: "init",
    27: "opendir",
    28: "readdir",
    29: "releasedir",
    35: "create",
    36: "interrupt",
    38: "destroy",
    42: "batch_forget",
    45: "rename2",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("mount")
    parser.add_argument("--delay", type=float, default=5, help="milliseconds of each operation")
    parser.add_argument("--crowded", type=float, help="milliseconds of a read beside others")
    parser.add_argument("--direct", action="store_true", help="the kernel keeps nothing of files")
    parser.add_argument("--cached", action="store_true", help="what is written is kept for a while")
    parser.add_argument("--log", help="a file that gets a line for each operation")
    given = parser.parse_args()
    log = None
    if given.log:
        log = os.open(given.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    Server(
        given.directory,
        given.mount,
        delay=given.delay / 1000,
        crowded=(given.delay if given.crowded is None else given.crowded) / 1000,
        direct=given.direct,
        cached=given.cached,
        log=log,
    ).serve()


if __name__ == "__main__":
    main()
