"""A file system whose locks do not work, in a user and mount namespace of one's own.

    python3 tests/site/unlocked.py LOCKS DIRECTORY COMMAND [ARGUMENT ...]

serves an empty file system at DIRECTORY while COMMAND runs. Files are kept in memory; there
are neither extended attributes nor fallocate(2). LOCKS is how requests for locks end:

    local   the kernel keeps them itself, as on a local file system
    none    ENOLCK, as NFS without its lock daemon
    unknown ENOSYS, as Lustre without -o flock
    all     everybody gets every lock
    stay    a lock outlives the process that held it
    silent  there is no answer

The protocol is that of the kernel's fuse(4), linux/fuse.h, version 7.31.
"""

import ctypes
import errno
import os
import struct
import subprocess
import sys
import threading

ROOT = 1
INIT_FLAGS = 1 << 1 | 1 << 10  # FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS
SIZE = 1 << 3  # FATTR_SIZE


class Refused(Exception):
    """An errno for an answer."""


class Server:
    """Serve one mount until it is gone.

    device  an open /dev/fuse that is mounted
    """

    def __init__(self, device, locks):
        self.device = device
        self.locks = locks
        self.names = {}  # name -> number
        self.files = {}  # number -> content
        self.next = ROOT + 1
        self.held = {}  # owner -> [(number, start, end, type)]

    def run(self):
        """Answer requests."""
        while True:
            try:
                data = os.read(self.device, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _length, code, unique, node, _uid, _gid, _pid, _extra = struct.unpack_from(
                "<IIQQIIII", data
            )
            try:
                action = self.ACTIONS.get(code)
                if action is None:
                    raise Refused(errno.ENOSYS)
                answer, number = action(self, node, data[40:]), 0
            except Refused as refused:
                answer, number = b"", refused.args[0]
            if answer is not None:
                head = struct.pack("<IiQ", 16 + len(answer), -number, unique)
                try:
                    os.write(self.device, head + answer)
                except OSError:
                    pass  # who asked has gone

    def attributes(self, node):
        """Return struct fuse_attr."""
        size = len(self.files[node]) if node != ROOT else 0
        mode = 0o100600 if node != ROOT else 0o40700
        numbers = (mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)
        return struct.pack("<6Q3I7I", node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, *numbers)

    def entry(self, node):
        """Return struct fuse_entry_out."""
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def init(self, _node, data):
        """Agree on a version, and on who keeps the locks."""
        flags = 0 if self.locks == "local" else INIT_FLAGS
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, flags, 8, 6, 1 << 16, 1, 16, 0, 0)

    def lookup(self, _node, data):
        """Find a name in the one directory."""
        name = data.rstrip(b"\0")
        if name not in self.names:
            raise Refused(errno.ENOENT)
        return self.entry(self.names[name])

    def getattr(self, node, _data):
        """Say size and mode."""
        return struct.pack("<QII", 0, 0, 0) + self.attributes(node)

    def setattr(self, node, data):
        """Change the size."""
        valid, _padding, _handle, size = struct.unpack_from("<IIQQ", data)
        if valid & SIZE:
            content = self.files[node]
            del content[size:]
            content.extend(bytes(size - len(content)))
        return self.getattr(node, data)

    def create(self, _node, data):
        """Make a file and open it."""
        self.next += 1
        self.names[data[16:].rstrip(b"\0")] = self.next
        self.files[self.next] = bytearray()
        return self.entry(self.next) + struct.pack("<QII", 0, 0, 0)

    def unlink(self, _node, data):
        """Remove a name."""
        if self.names.pop(data.rstrip(b"\0"), None) is None:
            raise Refused(errno.ENOENT)
        return b""

    def open(self, _node, _data):
        """Open, without a handle of ours."""
        return struct.pack("<QII", 0, 0, 0)

    def read(self, node, data):
        """Read from a file."""
        _handle, offset, size = struct.unpack_from("<QQI", data)
        return bytes(self.files[node][offset : offset + size])

    def write(self, node, data):
        """Write to a file."""
        _handle, offset, size = struct.unpack_from("<QQI", data)
        content = self.files[node]
        content.extend(bytes(max(0, offset + size - len(content))))
        content[offset : offset + size] = data[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def statfs(self, _node, _data):
        """Say that there is room."""
        return struct.pack("<5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 1000, 900, 4096, 255, 4096, 0)

    def nothing(self, _node, _data):
        """Let it be so."""
        return b""

    def no_answer(self, _node, _data):
        """Say nothing, as FORGET and INTERRUPT want it."""
        return None

    def _in_the_way(self, node, owner, start, end, kind):
        for other, locks in self.held.items():
            for number, first, last, type in locks:
                meets = number == node and first <= end and start <= last
                if meets and other != owner and 1 in (kind, type):  # F_WRLCK
                    return first, last, type
        return None

    def getlk(self, node, data):
        """Say who holds a lock."""
        _handle, owner, start, end, kind, _pid = struct.unpack_from("<QQQQII", data)
        self._refuse()
        found = self._in_the_way(node, owner, start, end, kind)
        return struct.pack("<QQII", *(found or (start, end, 2)), 0)

    def setlk(self, node, data):
        """Give a lock, or not."""
        _handle, owner, start, end, kind, _pid = struct.unpack_from("<QQQQII", data)
        if self.locks == "silent":
            return None
        self._refuse()
        if self.locks == "all":
            return b""
        mine = [
            held
            for held in self.held.get(owner, ())
            if held[0] != node or not start <= held[1] <= end
        ]
        if kind != 2 and self._in_the_way(node, owner, start, end, kind):
            raise Refused(errno.EAGAIN)
        self.held[owner] = [*mine, (node, start, end, kind)] if kind != 2 else mine
        return b""

    def _refuse(self):
        numbers = {"none": errno.ENOLCK, "unknown": errno.ENOSYS}
        if self.locks in numbers:
            raise Refused(numbers[self.locks])

    ACTIONS = {
        1: lookup,
        2: no_answer,
        3: getattr,
        4: setattr,
        10: unlink,
        14: open,
        15: read,
        16: write,
        17: statfs,
        18: nothing,  # RELEASE
        20: nothing,  # FSYNC
        25: nothing,  # FLUSH
        26: init,
        27: open,  # OPENDIR
        28: nothing,  # READDIR: it looks empty
        29: nothing,  # RELEASEDIR
        31: getlk,
        32: setlk,
        33: setlk,
        35: create,
        36: no_answer,
        42: no_answer,
    }


def main(locks, directory, command):
    """Mount, run the command, and return its status."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"unlocked", os.fsencode(directory), b"fuse", 2 | 4, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    threading.Thread(target=Server(device, locks).run, daemon=True).start()
    try:
        os.stat(directory)  # until it is asked for, its owner is root, who is unknown here
        return subprocess.run(command, check=False).returncode
    finally:
        libc.umount2(os.fsencode(directory), 2)  # MNT_DETACH


if __name__ == "__main__":
    if os.environ.get("OVERLAY_INSIDE") != "1":
        unshare = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps"]
        again = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
        os.execvpe("unshare", [*unshare, *again], {**os.environ, "OVERLAY_INSIDE": "1"})
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
