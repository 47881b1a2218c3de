"""Real quotas: the groups of btrfs, as an ordinary user meets them.

OVERLAY_QUOTA names what tests/prepare-quota has made.
"""

import os
import subprocess
from pathlib import Path

import pytest
from overlay.errors import CANNOT_CREATE
from overlay.quota.check import find_limits
from overlay.quota.limits import Place
from overlay.settings import config as configuration
from support import BASE, ROOT

# There is one file system with a quota.
TOGETHER = True

LIMIT = 100  # MiB, of the subvolume limited/


@pytest.fixture
def site_text():
    """Return the site's overlay.ini: one image, called base."""
    return f"[images]\ndefault = base\nbase = {BASE}\n"


@pytest.fixture(scope="module")
def prepared():
    """Return the directory of the btrfs with quotas."""
    assert os.getuid() != 0, "these tests are for an ordinary user: tools/as-user overlay-tester"
    path = os.environ.get("OVERLAY_QUOTA")
    if not path:
        pytest.fail("OVERLAY_QUOTA is not set: see tests/prepare-quota --help")
    return Path(path)


def empty(directory):
    """Remove all files of a directory, and let btrfs count that."""
    for path in directory.iterdir():
        path.unlink()
    subprocess.run(["sync", "-f", directory], check=True)


@pytest.fixture
def limited(prepared):
    """Return an empty directory with a limit of 100 MiB."""
    empty(prepared / "limited")
    yield prepared / "limited"
    empty(prepared / "limited")


@pytest.fixture
def look(environ):
    """Return a function that returns the limit of the subvolume of a directory, or None."""

    def look(directory):
        found, failures = find_limits(directory, configuration.load(environ, str(ROOT)))
        assert not failures
        assert [limits.kind for limits in found][-1] == "space"
        return found[0] if len(found) == 2 else None

    return look


@pytest.fixture
def create(run, limited):
    """Return a function that runs create-overlay in the limited directory."""

    def create(mib, *options, **settings):
        variables = {f"OVERLAY_QUOTA_{name.upper()}": text for name, text in settings.items()}
        words = ["-s", mib, "-n", 1, "-o", "a.ext3", *options]
        return run("create-overlay", *words, cwd=limited, variables=variables)

    return create


def fill(path, mib):
    """Take room for good, and let btrfs count it."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, mib << 20)
    subprocess.run(["sync", "-f", path], check=True)


def test_filesystem(prepared, limited):
    """The type, mount point and source are those of the mount, seen from a subvolume."""
    mount = Place(limited, {}, 0).mount
    assert (mount.type, mount.point) == ("btrfs", str(prepared))
    assert mount.source.startswith("/dev/loop")


def test_numbers(limited, prepared, look):
    """The limit and what is used are those that the file system goes by."""
    before = look(limited)
    assert (before.hard_bytes, before.used_files, before.hard_files) == (LIMIT << 20, None, None)
    fill(limited / "taken", 60)
    assert 60 << 20 <= look(limited).used_bytes - before.used_bytes < 61 << 20
    assert look(prepared / "free") is None


def test_refused_before_writing(create, limited, tmp_path):
    """What does not fit is refused with the numbers; nothing has been written."""
    fill(limited / "taken", 60)
    times = os.stat(limited).st_mtime_ns
    result = create(50)
    assert result.status == CANNOT_CREATE
    first, hint = result.stderr.splitlines()
    assert first.startswith(
        f"create-overlay: error: there is no room for the overlay in {limited}: the quota of the"
        f" subvolume of {limited} is short by 1"
    )
    assert "(used 60" in first
    assert first.endswith("limit 100 MiB, needed 50 MiB)")
    assert "choose a smaller size (-s 3" in hint
    assert "--sparse" in hint
    assert os.listdir(limited) == ["taken"]
    assert os.stat(limited).st_mtime_ns == times


def test_hint_holds(create, limited):
    """The size that the refusal names can be made."""
    fill(limited / "taken", 60)
    hint = create(50).stderr.splitlines()[1]
    proposed = hint.partition("(-s ")[2].partition(" ")[0]
    result = create(proposed)
    assert (result.status, result.stderr) == (0, "")
    assert os.stat(limited / "a.ext3").st_blocks * 512 >= int(proposed) << 20


def test_removed_is_room(create, limited):
    """What has just been removed counts as free, although btrfs counts it late."""
    fill(limited / "taken", 60)
    (limited / "taken").unlink()
    assert create(90).status == 0


def test_real_refusal(create, limited):
    """Without the check the file system itself says no: the same status, nothing left."""
    fill(limited / "taken", 60)
    result = create(50, check="off")
    assert result.status == CANNOT_CREATE
    assert "Disk quota exceeded" in result.stderr
    assert " MiB are needed, " in result.stderr
    assert "nothing was changed" in result.stderr
    assert os.listdir(limited) == ["taken"]


def test_real_refusal_of_the_tables(create, limited):
    """A sparse overlay whose tables do not fit ends the same way."""
    fill(limited / "taken", 99)
    for check in ("off", "warn", "refuse"):
        result = create(50, "--sparse", check=check)
        assert result.status == CANNOT_CREATE
        assert os.listdir(limited) == ["taken"]


def test_sparse(create, limited):
    """A sparse overlay that fits now, and will not when it fills, is made with a warning."""
    fill(limited / "taken", 60)
    result = create(50, "--sparse")
    assert result.status == 0
    assert f"when the overlay fills, the quota of the subvolume of {limited}" in result.stderr
    assert "limit 100 MiB, needed 50 MiB)" in result.stderr


def test_site_command(create, limited, tmp_path):
    """The command that the site names is believed rather than the file system."""
    program = tmp_path / "quota-line"
    program.write_text('#!/bin/sh\necho "$1" "$2" >"$0.asked"\necho 0 10485760 - - group x\n')
    program.chmod(0o755)
    result = create(50, command=f"'{program}' {{user}} {{path}}")
    assert result.status == CANNOT_CREATE
    assert "the quota of group x is short by 40 MiB (used 0 bytes, limit 10 MiB" in result.stderr
    asked = (tmp_path / "quota-line.asked").read_text()
    assert asked == f"overlay-tester {limited}\n"
    assert os.listdir(limited) == []
