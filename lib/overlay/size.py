"""Sizes and counts as people write them: 500, 500M, 20G, 1.5T; 700, 700K, 2M files."""

from __future__ import annotations

MIB = 1 << 20

_SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_COUNT_UNITS = {"K": 1000, "M": 1000000, "G": 1000000000}


def parse_size(text: str) -> int:
    """Return the bytes that a size such as 500, 500M, 20GB or 1.5TiB stands for.

    A number alone is MiB; K, M, G, T are powers of 1024. The result is a whole number of
    MiB, rounded up. Raises ValueError with a sentence when text is not such a size.
    """
    number, unit = _split(text, "a size", "500, 500M, 20G or 1.5T")
    letter = unit[:-2] if unit.endswith("IB") else unit[:-1] if unit.endswith("B") else unit
    unit = letter or unit
    if unit and unit not in _SIZE_UNITS:
        raise ValueError(f"{text!r} has an unknown unit; sizes look like 500M, 20G or 1.5T")
    numerator, denominator = number
    size = numerator * _SIZE_UNITS.get(unit, MIB)
    return -(-size // (denominator * MIB)) * MIB


def parse_count(text: str) -> int:
    """Return the number of files that a count such as 700, 700K or 2M stands for.

    A number alone is thousands; K and M are powers of 1000. Rounded up to a whole file.
    Raises ValueError with a sentence when text is not such a count.
    """
    number, unit = _split(text, "a number of files", "700, 700K or 2M")
    if unit and unit not in _COUNT_UNITS:
        raise ValueError(f"{text!r} has an unknown unit; numbers of files look like 700K or 2M")
    numerator, denominator = number
    return -(-numerator * _COUNT_UNITS.get(unit, 1000) // denominator)


def _split(text: str, what: str, examples: str) -> tuple[tuple[int, int], str]:
    """Return ((numerator, denominator), unit) of a positive decimal number with a unit.

    Exact integers, because 0.1 of a terabyte is not a binary fraction.
    """
    text = text.strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().upper()
    whole, _point, fraction = digits.partition(".")
    if not (whole + fraction).isdecimal() or not (whole + fraction).isascii() or len(digits) > 24:
        raise ValueError(f"{text!r} is not {what}; it looks like {examples}")
    number = int(whole + fraction)
    if number == 0:
        raise ValueError(f"{text!r} is zero; {what} looks like {examples}")
    return (number, 10 ** len(fraction)), unit


def mebibytes(size: int) -> int:
    """Return bytes as the plain number of MiB, rounded up: 524288000 is 500."""
    return -(-size // MIB)


def thousands(count: int) -> str:
    """Return a count of files in thousands, as short as it is exact: 700, 0.5, 12.345."""
    return f"{count // 1000}.{count % 1000:03d}".rstrip("0").rstrip(".")


def format_size(size: float) -> str:
    """Return bytes for a person: 312 MiB, 1.5 GiB, 20 GiB."""
    value, unit = size, "bytes"
    for unit_next in ("KiB", "MiB", "GiB", "TiB"):
        # What people typed in MiB comes back in MiB: 2000 MiB, not 1.9 GiB.
        if value < 1024 or (unit == "MiB" and value < 10000 and value % 1 == 0 and value % 1024):
            break
        value, unit = value / 1024, unit_next
    # Rounded down: a promise of room that is not there would be worse than a modest one.
    text = f"{int(value)}" if value >= 100 or value == int(value) else f"{int(value * 10) / 10:g}"
    return f"{text} {unit}"


def format_count(count: int) -> str:
    """Return a count for a person: 700,003."""
    return f"{count:,}"


def format_files(count: int) -> str:
    """Return a count of files with its noun: 1 file, 700,003 files."""
    return f"{count:,} file{'' if count == 1 else 's'}"
