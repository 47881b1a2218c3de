"""Where directories of the host are seen inside, and what has to be bound so that they are.

A name may lead through symbolic links (/home/ana -> /gpfs/home/ana, ~/scratch ->
/gpfs/scratch/ana). Inside, each of them must be there too, and what it leads to; otherwise
the name is nothing there, or a directory of the container, and results that are written to
it end up in the overlay. follow() looks, View decides.
"""

from __future__ import annotations

import errno
import os

from overlay.errors import MISSING, OverlayError, quote, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# What every image has of its own: nothing of the host is laid over these.
SYSTEM = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr", "/var")

_NEVER = ("/", "/opt", "/run", *SYSTEM)

# Variables that name directories which the commands rely on.
NAMED = ("HOME", "TMPDIR", "SLURM_TMPDIR")

# Variables of widespread programs that name a file or directory: of the manuals of OpenSSL,
# curl(1), requests, pip, git-config(1), Node.js, the AWS and Google command lines, the XDG Base
# Directory Specification, venv, ncurses(3X), locale(7), Xsecurity(7), and of Java, R and Perl
# installations.
FILES = (
    "AWS_CA_BUNDLE",
    "CARGO_HOME",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GOROOT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "JAVA_HOME",
    "LOCPATH",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "RUSTUP_HOME",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERMINFO",
    "VIRTUAL_ENV",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
)

_LINKS = 40  # as many as the kernel follows: path_resolution(7)


class Way:
    """How the host gets from a name to what is there.

    name   the name, absolute
    links  (link, path) of each symbolic link on the way: its place, which is reached without
           a link, and how the whole name reads at that point
    real   the name of what is there, without links
    """

    __slots__ = ("links", "name", "real")

    def __init__(
        self, name: str, links: Iterable[tuple[str, str]] = (), real: str | None = None
    ) -> None:
        self.name = name
        self.links = list(links)
        self.real = real or name


def follow(name: str) -> Way | None:
    """Return the Way of an absolute name; None when nothing is there that we may see."""
    rest = _parts(name)
    place = ""
    links: list[tuple[str, str]] = []
    while rest:
        part = rest.pop()
        if part == "..":
            place = place.rpartition("/")[0]
            continue
        path = f"{place}/{part}"
        try:
            target = os.readlink(path)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return None
            place = path  # it is not a link
            continue
        if len(links) == _LINKS:
            return None
        links.append((path, "/".join([path, *reversed(rest)])))
        if target.startswith("/"):
            place = ""
        rest += _parts(target)
    return Way(name, links, place or "/")


def _parts(path: str) -> list[str]:
    """Return the parts of a path, the last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def is_below(path: str, directories: Iterable[str]) -> bool:
    """Return whether a path is one of the directories or lies in one."""
    return any(
        path == directory or path.startswith(directory.rstrip("/") + "/")
        for directory in directories
        if directory != "/"
    )


def named_directories(environ: Mapping[str, str], cwd: str) -> dict[str, Way]:
    """Return the Ways of the directories that PWD and NAMED are set to, by the variable's name."""
    named = {name: environ.get(name, "") for name in NAMED}
    logical = environ.get("PWD", "")
    try:
        # A shell's name for the current directory; it may be an old one.
        if logical != cwd and os.path.samefile(logical, cwd):
            named["PWD"] = logical
    except (OSError, ValueError):
        pass
    found = {
        name: follow(path)
        for name, path in named.items()
        if path.startswith("/") and os.path.isdir(path)
    }
    return {name: way for name, way in found.items() if way}


def named_files(environ: Mapping[str, str], inside: Callable[[str], bool]) -> dict[str, Way]:
    """Return the Ways of the host's files that FILES are set to, by the variable's name.

    inside  whether an overlay has a path: then it is meant for the inside; so is what the host
            has not
    """
    ways = {}
    for name in FILES:
        path = environ.get(name, "")
        if path.startswith("/") and not inside(path):
            way = follow(path)
            if way:
                ways[name] = way
    return ways


def parse_binds(text: str) -> Iterator[tuple[str, str]]:
    """Yield (source, target) of all that a bind specification names.

    Nothing of one that is the engine's to read, because something in it is escaped.
    """
    if "\\" in text or '"' in text:
        return
    for bind in text.split(","):
        source, _colon, rest = bind.partition(":")
        source = source.rstrip("/") or "/"
        yield source, rest.partition(":")[0].rstrip("/") or source


def current_is_gone(error: OSError) -> OverlayError:
    """Return the error for a current directory that has been removed."""
    return OverlayError(
        f"the current directory is gone: {reason(error)}", status=MISSING, hint="cd"
    )


def check_current(path: str) -> None:
    """Refuse a current directory that the caller may not read, as after su(1).

    Raises OverlayError (MISSING).
    """
    if not os.access(path, os.R_OK | os.X_OK):
        raise OverlayError(
            f"the current directory {quote(path)} cannot be read: Permission denied",
            status=MISSING,
            hint="cd",
        )


class View:
    """What of the host is seen inside.

    points  (source, target) of what is mounted, in that order: the last one counts
    """

    def __init__(self, points: Iterable[tuple[str, str]]) -> None:
        self._points = list(points)

    def add(self, path: str) -> None:
        """Take note that a directory of the host is seen under its own name.

        It is mounted before the others.
        """
        self._points.insert(0, (path, path))

    def _covering(self, path: str) -> tuple[str, str] | None:
        """Return the (source, target) in which a path lies inside, or None."""
        found = None
        for point in self._points:
            if is_below(path, [point[1]]):
                found = point
        return found

    def shows(self, path: str) -> bool:
        """Return whether a path that leads through no link is the host's inside."""
        source, target = self._covering(path) or (None, "")
        return source == target

    def needed(self, way: Way, system: bool = False) -> list[tuple[str, str, bool]]:
        """Return the binds after which a Way leads inside to where it leads on the host.

        They are noted as seen. What the user has laid over a part of the way stays.
        system  whether something below the directories of the system may be bound
        """
        binds, mounted = [], False
        for link, path in way.links:
            point = self._covering(link)
            if point is None:
                if not mounted and self._covering(path) is None and ".." not in path.split("/"):
                    binds.append((way.real, path, False))
                break
            if point[0] != point[1]:
                return []
            mounted = mounted or point[1] == link  # a mount, which is not a link inside
        if self._covering(way.real) is None:
            binds.insert(0, (way.real, way.real, False))
        kept = []
        for bind in binds:
            if bind[1] in _NEVER or bind[0] in _NEVER or not system and is_below(bind[1], SYSTEM):
                continue
            kept.append(bind)
            self._points.insert(0, (bind[1], bind[1]))
        return kept

    def leads_to(self, way: Way) -> bool:
        """Return whether a Way leads inside to where it leads on the host."""
        for link, _path in way.links:
            source, target = self._covering(link) or (None, "")
            if source != target or target == link:
                return source == target  # what is mounted under the link's name is what it leads to
        return self.shows(way.real)

    def leads_out(self, way: Way) -> bool:
        """Return whether a Way begins in what is seen of the host, and leads out of it."""
        return bool(way.links) and self.shows(way.links[0][0]) and not self.shows(way.real)

    def place_of(self, way: Way) -> str:
        """Return where inside a file must be mounted for its Way to lead to it."""
        for link, path in way.links:
            source, target = self._covering(link) or (None, link)
            if source != target or target == link:
                return path
        return way.real
