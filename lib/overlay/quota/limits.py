"""Limits, in bytes and in numbers of files, and the Place that a source is asked about."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time

from overlay.errors import OverlayError, quote
from overlay.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Optional

    # used, soft limit, hard limit: in bytes or in files
    Side = tuple[Optional[int], Optional[int], Optional[int]]


class Limits:
    """One quota: what is used, and how far it goes. None is unlimited, or not known.

    kind    user, group, project, or tree (a directory, a subvolume, a file set)
    name    how a message calls it
    source  what said so
    """

    __slots__ = (
        "hard_bytes",
        "hard_files",
        "kind",
        "name",
        "soft_bytes",
        "soft_files",
        "source",
        "used_bytes",
        "used_files",
    )

    def __init__(self, kind: str, source: str, name: str, blocks: Side, files: Side) -> None:
        """Take (used, soft, hard) of bytes and of files; a limit of 0 is none."""
        self.kind = kind
        self.source = source
        self.name = name
        self.used_bytes, self.soft_bytes, self.hard_bytes = _without_zeros(*blocks)
        self.used_files, self.soft_files, self.hard_files = _without_zeros(*files)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Limits({values})"

    def after(self, bytes_: int, files: int) -> Limits:
        """Return the Limits when so many more bytes and files are there."""
        used, count = (
            None if now is None else max(0, now + more)
            for now, more in ((self.used_bytes, bytes_), (self.used_files, files))
        )
        return Limits(
            self.kind,
            self.source,
            self.name,
            (used, self.soft_bytes, self.hard_bytes),
            (count, self.soft_files, self.hard_files),
        )

    @property
    def left_bytes(self) -> int | None:
        """How many bytes may still come; None without a limit, or when it is not known."""
        limit = self.soft_bytes or self.hard_bytes
        if limit is None or self.used_bytes is None:
            return None
        return max(0, limit - self.used_bytes)

    @property
    def left_files(self) -> int | None:
        """How many files may still come; None without a limit, or when it is not known."""
        limit = self.soft_files or self.hard_files
        if limit is None or self.used_files is None:
            return None
        return max(0, limit - self.used_files)

    @property
    def is_empty(self) -> bool:
        """Whether it limits nothing."""
        limits = (self.soft_bytes, self.hard_bytes, self.soft_files, self.hard_files)
        return not any(limits)


def _without_zeros(used: int | None, soft: int | None, hard: int | None) -> Side:
    return used, soft or None, hard or None


class Unknown(Exception):
    """A source did not answer, or not as it is known to; the words say how."""


class Place:
    """Where an overlay is to be, and who will own it there: what the sources ask about.

    command  the words of the site's own command, none when there is none
    group    the gid that new files get in this directory
    project  its project ID, 0 for none
    """

    def __init__(
        self,
        directory: str,
        environ: Mapping[str, str],
        seconds: float,
        command: Iterable[str] = (),
    ) -> None:
        self.directory = os.path.realpath(directory)
        self.environ = environ
        self.command = tuple(command)
        self.user = os.geteuid()
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        # O_PATH where the directory may be written, but not listed.
        listed = os.O_RDONLY if os.access(self.directory, os.R_OK) else os.O_PATH
        descriptor = os.open(self.directory, listed | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.mount = mounts.find(descriptor) or mounts.Mount("unknown", "/", "none")
            status = os.fstat(descriptor)
            self.project = _project(descriptor)
        finally:
            os.close(descriptor)
        self.group = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()

    def ask(self, words: list[str]) -> process.Result:
        """Run a program in the time that is left; return its Result. Raises Unknown."""
        left = self._deadline - time.monotonic()
        name = os.path.basename(words[0])
        try:
            if left <= 0:
                raise TimeoutError
            return process.ask(words, self.environ, left)
        except TimeoutError:
            raise Unknown(f"{name} gave no answer within {self._seconds:g} s") from None
        except OverlayError as error:
            raise Unknown(error.what) from None


def _project(descriptor: int) -> int:
    """Return the project ID that files made in a directory get, or 0.

    ioctl_xfs_fsgetxattr(2): five 32-bit numbers, first the flags, fourth the project;
    ext4, f2fs and Lustre answer it too. 0x200: files in this directory inherit it.
    """
    try:
        answer = fcntl.ioctl(descriptor, 0x801C581F, bytes(28))
    except OSError:
        return 0
    flags, _extent, _count, project, _copy = struct.unpack_from("=5I", answer)
    return project if flags & 0x200 else 0


def owner_names(place: Place) -> dict[str, str]:
    """Return the names of the quotas of a user, a group and a project in messages."""
    from overlay.host.names import group_name  # asks a server on many sites

    where = quote(place.mount.point)
    return {
        "user": f"your quota on {where}",
        "group": f"the quota of group {group_name(place.group)} on {where}",
        "project": f"the quota of project {place.project} on {where}",
    }


def failure(program: str, result: process.Result) -> str:
    """Return why a program's answer cannot be used."""
    name = os.path.basename(program)
    ended = f"{name} ended with {result.status}"
    said = process.last_line(result.errors, result.output, otherwise=ended)
    return said if said.startswith(name) else f"{name}: {said}"
