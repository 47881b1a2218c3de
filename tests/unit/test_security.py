"""SECURITY.md: each test that it names is there."""

import re

import pytest
from support import ROOT


def named():
    """Return (file, function) of every test that stands in the table, in order."""
    found, file = [], None
    for name, function in re.findall(
        r"`([\w/.]*)::(test_\w+)`", (ROOT / "SECURITY.md").read_text()
    ):
        file = name or file
        found.append((file, function))
    return found


def test_some():
    """They are found at all, none twice, and no row is without one."""
    found = named()
    assert len(found) > 60
    assert len(set(found)) == len(found)
    table = (ROOT / "SECURITY.md").read_text().partition("| attack | test |\n|---|---|\n")[2]
    assert all("::test_" in row for row in table.splitlines())


@pytest.mark.parametrize(("file", "function"), named())
def test_named(file, function):
    """A test that was renamed or removed is noticed."""
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.M)
