"""The first session of README.md is what the commands show today."""

import os
import re
import subprocess
import zipfile

import pytest
from support import ROOT


@pytest.fixture
def wheels(tmp_path):
    """Return a directory with a wheel that poses as Django: the test needs no network."""
    place = tmp_path / "wheels"
    place.mkdir()
    about = "django-5.2.19.dist-info"
    with zipfile.ZipFile(place / "django-5.2.19-py3-none-any.whl", "w") as wheel:
        wheel.writestr("django/__init__.py", "__version__ = '5.2.19'\n")
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: django\nVersion: 5.2.19\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return place


def without_numbers(text):
    """Return the lines of a record; numbers and units of sizes are those of a machine."""
    return re.sub(r"\d[\d,.]*", "0", re.sub(r"\b[KMGT]iB", "bytes", text)).splitlines()


def test_recorded(tmp_path, wheels):
    """What tools/record types is answered as docs/first-session.txt says."""
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    words = [ROOT / "tools" / "record", tmp_path / "now.txt"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before = (ROOT / "docs" / "first-session.txt").read_text()
    now = (tmp_path / "now.txt").read_text()
    assert without_numbers(now) == without_numbers(before)
    assert int(re.search(r"wc -l\n(\d+)", now)[1]) > 500  # something was counted
