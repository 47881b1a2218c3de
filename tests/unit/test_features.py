"""Which engine does what: the doctor's row, and the admin's table."""

import os

import pytest
from overlay.doctor import features
from support import ROOT


def test_page_has_the_table():
    """The table of the admin's guide is that of the doctor."""
    with open(os.path.join(ROOT, "docs", "admin.md"), encoding="utf-8") as file:
        text = file.read()
    rows = [f"| | {' | '.join(features.TABLE)} |"]
    rows.append("|---" * (len(features.TABLE) + 1) + "|")
    for feature in features.TABLE[features.TRIED]:
        ways = [column[feature] for column in features.TABLE.values()]
        rows.append(f"| {feature} | {' | '.join(ways)} |")
    assert "\n".join(rows) in text


@pytest.mark.parametrize(
    ("name", "numbers", "setuid", "own", "expected"),
    [
        ("apptainer", (1, 4, 5), False, False, features.TRIED),
        ("apptainer", (1, 4, 5), False, True, features.LIBEXEC),
        ("apptainer", (1, 3, 6), False, True, features.OTHERS),
        ("apptainer", (1, 4, 5), True, False, features.SETUID),
        ("singularity", (4, 1), False, False, features.SINGULARITY),
    ],
)
def test_kind(name, numbers, setuid, own, expected):
    """What an engine is follows from what was found of it."""
    assert features.kind(name, numbers, setuid=setuid, own_helpers=own) == expected


def test_words():
    """A row says what works, and what is not tried, in one line."""
    assert features.words(features.TRIED) == "Apptainer 1.4: all is tried with it"
    assert features.words(features.OTHERS).endswith(": nothing is tried with it")
    assert "falls back, not tried: a full" in features.words(features.SETUID)
