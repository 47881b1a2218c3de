"""Sizes and counts: what is read, what is refused, how they are shown."""

import random

import pytest
from overlay import size

M = 1 << 20
SIZES = "it looks like 500, 500M, 20G or 1.5T"
COUNTS = "it looks like 700, 700K or 2M"


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("500", 500),
        ("500M", 500),
        ("500m", 500),
        ("500MB", 500),
        ("500MiB", 500),
        (" 500 M ", 500),
        ("20G", 20480),
        ("20 gib", 20480),
        ("1.5T", 1572864),
        ("1P", 1 << 30),
        (".5G", 512),
        ("5.", 5),
        ("007", 7),
        ("0.1G", 103),
        ("1.1T", 1153434),
        ("1K", 1),
        ("1024K", 1),
        ("1025K", 2),
        ("0.0000001", 1),
        ("9" * 24, int("9" * 24)),
    ],
)
def test_parse_size(text, mebibytes):
    """A number alone is MiB; units are powers of 1024; parts of a MiB are rounded up."""
    assert size.parse_size(text) == mebibytes * M


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("700", 700000),
        ("700K", 700000),
        ("700k", 700000),
        ("2M", 2000000),
        ("0.5", 500),
        ("1.5 M", 1500000),
        ("1G", 1000000000),
        ("0.0001", 1),
        ("12.3456", 12346),
    ],
)
def test_parse_count(text, count):
    """A number alone is thousands; units are powers of 1000; parts of a file are rounded up."""
    assert size.parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' is not a size; {SIZES}"),
        ("abc", f"'abc' is not a size; {SIZES}"),
        ("M", f"'M' is not a size; {SIZES}"),
        (".", f"'.' is not a size; {SIZES}"),
        ("-5", f"'-5' is not a size; {SIZES}"),
        ("+5", f"'+5' is not a size; {SIZES}"),
        ("1e3", f"'1e3' is not a size; {SIZES}"),
        ("0x10", f"'0x10' is not a size; {SIZES}"),
        ("1_000", f"'1_000' is not a size; {SIZES}"),
        ("1,5G", f"'1,5G' is not a size; {SIZES}"),
        ("1.2.3", f"'1.2.3' is not a size; {SIZES}"),
        ("5 0", f"'5 0' is not a size; {SIZES}"),
        ("nan", f"'nan' is not a size; {SIZES}"),
        ("١٢", f"'١٢' is not a size; {SIZES}"),
        ("²", f"'²' is not a size; {SIZES}"),
        ("9" * 25, f"'{'9' * 25}' is not a size; {SIZES}"),
        ("0", "'0' is zero; a size looks like 500, 500M, 20G or 1.5T"),
        ("0.00G", "'0.00G' is zero; a size looks like 500, 500M, 20G or 1.5T"),
        ("5X", "'5X' has an unknown unit; sizes look like 500M, 20G or 1.5T"),
        ("5MM", "'5MM' has an unknown unit; sizes look like 500M, 20G or 1.5T"),
        ("5B", "'5B' has an unknown unit; sizes look like 500M, 20G or 1.5T"),
        ("5iB", "'5iB' has an unknown unit; sizes look like 500M, 20G or 1.5T"),
    ],
)
def test_parse_size_refuses(text, message):
    """What is no size is refused with what one looks like."""
    with pytest.raises(ValueError) as caught:
        size.parse_size(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' is not a number of files; {COUNTS}"),
        ("-700", f"'-700' is not a number of files; {COUNTS}"),
        ("lots", f"'lots' is not a number of files; {COUNTS}"),
        ("0", "'0' is zero; a number of files looks like 700, 700K or 2M"),
        ("0K", "'0K' is zero; a number of files looks like 700, 700K or 2M"),
        ("7T", "'7T' has an unknown unit; numbers of files look like 700K or 2M"),
        ("7KB", "'7KB' has an unknown unit; numbers of files look like 700K or 2M"),
    ],
)
def test_parse_count_refuses(text, message):
    """What is no number of files is refused with what one looks like."""
    with pytest.raises(ValueError) as caught:
        size.parse_count(text)
    assert str(caught.value) == message


def test_parse_random():
    """Of random texts every one gives a positive number or ValueError, nothing else."""
    chance = random.Random(1)
    for _round in range(5000):
        text = "".join(chance.choices("0123456789.KMGTPibB -+e,_\0²", k=chance.randrange(12)))
        for parse, unit in ((size.parse_size, M), (size.parse_count, 1)):
            try:
                found = parse(text)
            except ValueError:
                continue
            assert found > 0 and found % unit == 0, text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (312 * M, "312 MiB"),
        (312 * M + M - 1, "312 MiB"),
        (99 * M + M - 1, "99.9 MiB"),
        (1024 * M - 1, "1023 MiB"),
        (1536 * M, "1536 MiB"),
        (20480 * M, "20 GiB"),
        (3 << 40, "3 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_format_size(amount, text):
    """A size is shown in its largest unit, never more than it is."""
    assert size.format_size(amount) == text


@pytest.mark.parametrize(
    ("function", "amount", "text"),
    [
        (size.mebibytes, 500 * M, 500),
        (size.mebibytes, 500 * M + 1, 501),
        (size.thousands, 700000, "700"),
        (size.thousands, 500, "0.5"),
        (size.thousands, 12345, "12.345"),
        (size.thousands, 2000000, "2000"),
        (size.thousands, 1, "0.001"),
        (size.format_count, 700003, "700,003"),
        (size.format_files, 1, "1 file"),
        (size.format_files, 0, "0 files"),
        (size.format_files, 700003, "700,003 files"),
    ],
)
def test_other_forms(function, amount, text):
    """Sizes and counts as they stand in names, options and sentences."""
    assert function(amount) == text


def test_thousands_round_trip():
    """What thousands() writes is what parse_count() reads."""
    for count in [1, 9, 10, 99, 100, 999, 1000, 1001, 12340, 700000, 123456789]:
        assert size.parse_count(size.thousands(count)) == count
