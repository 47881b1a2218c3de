"""What every kind of overlay answers. A kind is a class, in a module of its own beside this."""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, USAGE, OverlayError, quote, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.image.entry import Entry
    from overlay.image.ext3_image import Ext3Image
    from overlay.image.ext3_read import Reader
    from overlay.image.survey import Survey


MAY_NOT_WRITE = "you may not write it"
MAKE_ONE = "make one: create-overlay -s SIZE -n FILES"


MOST_NAMES = 1024  # of a directory whose names are asked for at the start of each session


def as_base_image(path: str) -> str:
    """Return the hint for a container image in the place of an overlay."""
    return f"to use it as the base image: -c {quote(path)}"


def may_be_written(status: os.stat_result) -> bool:
    """Return whether others than the caller and root may write a file, or in a directory.

    A list of access is in the bits of the group.
    """
    return status.st_uid not in (os.getuid(), 0) or bool(status.st_mode & 0o022)


def damaged(path: str, why: object, hint: str | None = "check-overlay {}") -> OverlayError:
    """Return the OverlayError (DAMAGED) for an overlay that is not what it should be.

    why   the exception that came of it, or words
    hint  where {} stands, it gets the path
    """
    words = reason(why) if isinstance(why, OSError) else why
    return OverlayError(
        f"{quote(path)} is damaged: {words}",
        status=DAMAGED,
        hint=hint and hint.format(quote(path)),
    )


def check_name(path: str, hint: str) -> None:
    """Refuse the name of an overlay that the engine would misread. Raises OverlayError (USAGE)."""
    if ":" in path or not path.isprintable():
        raise OverlayError(
            f"{quote(path)}: colons, control characters and bytes that are not UTF-8 in the name of"
            " an overlay would be misread by the engine",
            status=USAGE,
            hint=hint,
        )


class Image:
    """An overlay as it was found, kept open.

    path        as the user named it
    status      its os.stat_result
    descriptor  an open file descriptor, closed on exec; read-write where that was allowed
    writable    whether the caller may write the file, or into the directory
    upper       the owner's uid of upper/ in an ext3 image; None when there is no upper/
    group       the gid of upper/ in an ext3 image or a directory; None when there is no upper/

    What holds for all of a kind stands in the class:

    kind            what it is called: "ext3", "squashfs" or "directory"
    suffixes        how the names of such files end; the first is that of those that we make
    is_file         whether it is one file, which a server shows, and not what lies in a directory
    is_compressed   whether it takes less than its files say
    can_be_unclean  whether a session that is killed leaves a state in it that has to be repaired
    never_writable  why nobody can write it, in words; None when that depends
    own_files       how many of the files in it are nobody's
    """

    __slots__ = ("descriptor", "group", "path", "status", "upper", "writable")

    kind = ""
    suffixes: tuple[str, ...] = ()
    is_file = True
    is_compressed = False
    can_be_unclean = False
    never_writable: str | None = None
    own_files = 1

    def __init__(self, path: str, status: os.stat_result, descriptor: int, writable: bool) -> None:
        self.path = path
        self.status = status
        self.descriptor = descriptor
        self.writable = writable
        self.upper: int | None = None
        self.group: int | None = None

    # -------------------------------------------------------------- finding it --

    @classmethod
    def found(
        cls, path: str, status: os.stat_result, descriptor: int, writable: bool, head: bytes
    ) -> Image:
        """Return the Image of what is seen to be of this kind.

        head  what the file begins with, HEAD bytes; nothing of a directory
        Raises OverlayError for what cannot be an overlay all the same, OSError.
        """
        raise NotImplementedError

    @classmethod
    def may_be(cls, path: str, descriptor: int, head: bytes) -> bool:
        """Return whether a file, seen to be of this kind, is likely to be an overlay."""
        raise NotImplementedError

    @property
    def identity(self) -> tuple[int, int]:
        """What tells it from every other file on this host, whatever its name."""
        return self.status.st_dev, self.status.st_ino

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    # ----------------------------------------------------------- what it is like --

    @property
    def upper_is_mine(self) -> bool:
        """Whether what is inside belongs to the caller, who could then write it."""
        return self.upper in (None, os.getuid()) or os.getuid() == 0

    @property
    def others_may_write(self) -> bool:
        """Whether somebody else than the caller and root may change what is in it."""
        return may_be_written(self.status)

    @property
    def lacks_upper(self) -> bool:
        """Whether it cannot be an overlay, because it has no upper/."""
        return False

    @property
    def is_plain_directory(self) -> bool:
        """Whether it is a directory that no session has made an overlay of: without upper/."""
        return False

    @property
    def is_data(self) -> bool:
        """Whether it is a plain directory with something in it."""
        return False

    def check_mountable(self) -> None:
        """Refuse it when no engine can show what it holds. Raises OverlayError (DAMAGED)."""

    def check_upper(self) -> None:
        """Refuse it when it was not made as an overlay. Raises OverlayError (DAMAGED)."""
        if self.lacks_upper:
            raise OverlayError(
                f"{quote(self.path)} holds no upper directory: it was not made as an overlay",
                status=DAMAGED,
                hint=MAKE_ONE,
            )

    def direct_reader(self) -> Reader | None:
        """Return a Reader of what is in it; None where it cannot be read without being mounted."""
        return None

    def whose_inside(self) -> tuple[str, str]:
        """Return in words that what is inside belongs to another user, and what mends that."""
        from overlay.host.names import user_name  # asks a server on many sites

        why = f"what is inside belongs to another user ({user_name(self.upper or 0)})"
        return why, f"to make all inside yours: check-overlay --own {quote(self.path)}"

    def overlays_in_it(self) -> list[str]:
        """Return the names in a plain directory that are those of overlays. Raises OSError."""
        return []

    @property
    def is_clean(self) -> bool:
        """Whether its last session left it as it should."""
        return True

    @property
    def stamp(self) -> str:
        """What changes whenever anything in it does."""
        return f"{self.status.st_mtime_ns}.{self.status.st_size}"

    @property
    def free(self) -> tuple[int, int] | None:
        """The bytes and the files that it can still take; None without limits of its own."""
        return None

    def has_changed(self) -> bool | None:
        """Return whether it is not what was made, by its checksum; None where it has none.

        All of it is read. Raises OSError.
        """
        return None

    def is_short(self, low: int) -> tuple[bool, bool]:
        """Return whether less than some percent of its room, and of its files, are free."""
        del low
        return False, False

    def why_not_replaced(self) -> str | None:
        """Return why no other file may take its place, in words; None when one may."""
        return None

    def as_ext3(
        self, why: str = "this works on ext3 images only", hint: str | None = None
    ) -> Ext3Image:
        """Return itself when it is an ext3 image.

        why, hint  what to say when it is not; raises OverlayError (DAMAGED) then.
        """
        path = quote(self.path)
        raise OverlayError(
            f"{path} is a {self.kind}{' file' if self.is_file else ''}, and {why}",
            status=DAMAGED,
            hint=hint or f"make an ext3 overlay of it: create-overlay --from {path} -o NAME",
        )

    # ------------------------------------------------------------ what is inside --

    def holds(self, path: str) -> bool:
        """Return whether it has something at an absolute path inside, as far as that is known."""
        raise NotImplementedError

    def names_in(self, path: str) -> list[str]:
        """Return the names in a directory inside, the last first; none where not known at once.

        Of more than MOST_NAMES only so many are looked at: it may be made to cost time. Nothing is
        raised, no program started, and no link followed.
        """
        raise NotImplementedError

    def content_of(self, path: str, most: int) -> bytes | None:
        """Return the content of a file inside of at most so many bytes, as names_in() does; or None."""
        raise NotImplementedError

    def those_inside(self, paths: Iterable[bytes], environ: Mapping[str, str]) -> set[bytes]:
        """Return those of some paths below upper/ that it has, and those that may be.

        Raises OSError, FormatError when it is gone, or damaged.
        """
        raise NotImplementedError

    def has_markers(self, environ: Mapping[str, str]) -> bool:
        """Return whether it has deletion markers, or may have; all of its names are looked at.

        Raises OSError, FormatError.
        """
        raise NotImplementedError

    def layout(self) -> Iterator[tuple[str, int, object]]:
        """Yield (name, mode, identity) of what is there, of all that the engine opens by name.

        Raises OSError, FormatError.
        """
        raise NotImplementedError

    def walk(self, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
        """Yield the Entries below a path, see contents.walk(). Raises FormatError, OSError."""
        raise NotImplementedError

    def fill(self, survey: Survey) -> None:
        """Write the figures of this kind into a Survey. Raises OverlayError, OSError."""
        raise NotImplementedError

    # -------------------------------------------------------------------- locks --

    def lock(self, write: bool) -> None:
        """Take our lock, and see that the engine's is free. Raises lock.Busy."""
        raise NotImplementedError

    def unlock(self) -> None:
        """Let go of what lock() took. Raises OSError."""
        raise NotImplementedError

    def lock_whole(self) -> None:
        """Lock it against all sessions, until it is closed. Raises lock.Busy."""
        raise NotImplementedError

    def lock_against_writers(self) -> None:
        """Lock it as those who read it do, until it is closed. Raises lock.Busy."""
        self.lock_whole()

    def read_again(self) -> None:
        """Read what it says of its state, once it is locked. Raises FormatError, OSError."""
