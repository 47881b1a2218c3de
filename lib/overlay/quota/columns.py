"""Numbers in what programs for quotas print."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlay.quota.limits import Side


def _amount(word: str, unit: int) -> int | None:
    """Return the number that a word such as 12291*, 2.644T, 0k or - stands for, or None.

    unit  what a number without a letter counts: 1024 for KiB, 1 for bytes or files
    A * marks what is over its limit, [ ] what a server that is down has not confirmed.
    Raises ValueError.
    """
    text = word.rstrip("*").strip("[]").rstrip("*")
    if text in ("-", ""):
        return None
    letter = text[-1].upper()
    if letter in "KMGTPE":
        # Files are counted in thousands, by quota(1); rounded up to be on the safe side.
        base = 1000 if unit == 1 else 1024
        return int(float(text[:-1]) * base ** ("KMGTPE".index(letter) + 1))
    return int(text) * unit


def row(words: Sequence[str], now: float) -> tuple[Side, Side]:
    """Return ((used, soft, hard) in bytes, the same for files) of eight columns.

    They are `blocks quota limit grace files quota limit grace`, in KiB or with a letter,
    as quota(1) and `lfs quota` print them. A soft limit whose time of grace is over is
    as good as a hard one. Raises ValueError.
    """
    return _side(words[:4], 1024, now), _side(words[4:], 1, now)


def _side(words: Sequence[str], unit: int, now: float) -> Side:
    """Return (used, soft, hard) of four columns. Raises ValueError."""
    *numbers, grace = words
    used, soft, hard = (_amount(word, unit) for word in numbers)
    # quota(1) prints when it ends, in seconds since 1970; lfs "none" when it is over, and
    # a dash while nothing is over its limit.
    over = grace in ("expired", "none") or grace.isdecimal() and 0 < int(grace) < now
    if over and soft and used is not None and used > soft:
        hard = min(soft, hard or soft)
    return used, soft, hard
