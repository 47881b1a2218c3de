"""Real quotas of ext4, user, group and project, in the virtual machine of quota-guest."""

import os
import subprocess

import pytest
from overlay.errors import CANNOT_CREATE
from support import ROOT

WORK = os.environ.get("OVERLAY_WORK", "/opt/overlay-work")
KIB, MIB = 1 << 10, 1 << 20
SOFT, HARD, FILES = 60 * MIB, 80 * MIB, 30  # of the user
MINE, POINT = "/mnt/quota/mine", "/mnt/quota"


@pytest.fixture(scope="module")
def steps():
    """Return a dictionary from the name of a step in the guest to (status, lines)."""
    if not os.path.exists(os.path.join(WORK, "quota-guest", "initrd.gz")):
        pytest.fail("there is no guest; let root run: tests/soak/quota-guest prepare")
    words = [ROOT / "tests" / "soak" / "quota-guest", "run"]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, check=False, encoding="utf-8", errors="replace"
    )
    steps, lines = {}, []
    for line in done.stdout.splitlines():
        if line.startswith("@@@"):
            _mark, name, *end = line.split()
            if end:
                steps[name] = (int(end[-1]) if end[0] == "ended" else 0, lines)
            lines = []
        else:
            lines.append(line)
    assert "all" in steps, done.stdout
    return steps


def refusal(steps, name):
    """Return (what, hint) of a step that was refused before anything was written."""
    status, lines = steps[name]
    assert (status, len(lines)) == (CANNOT_CREATE, 2)
    return lines[0].partition("create-overlay: error: ")[2], lines[1]


def numbers(steps, name, source):
    """Return what a source says: a dictionary from user, group and so on to six numbers."""
    rows = (line.split() for line in steps[name][1])
    return {
        row[1]: tuple(None if word == "None" else int(word) for word in row[2:])
        for row in rows
        if row[0] == source
    }


@pytest.mark.parametrize("name", ["empty", "over-soft", "group", "full"])
def test_sources_agree(steps, name):
    """quotactl by descriptor, as before Linux 5.14, and quota(1) tell the same numbers."""
    kernel = numbers(steps, name, "kernel")
    assert kernel["user"][1:3] == (SOFT, HARD)
    assert kernel["user"][4:] == (None, FILES)
    assert numbers(steps, name, "old-kernel") == kernel
    limited = {kind: row for kind, row in kernel.items() if any(row[1:3] + row[4:])}
    found = numbers(steps, name, "quota")
    assert {kind: found[kind] for kind in limited} == limited


def test_refused(steps):
    """Too large for the user's quota: refused with the numbers, nothing made."""
    what, hint = refusal(steps, "refused")
    assert what == (
        f"there is no room for the overlay in {MINE}: your quota on {POINT} is short by 20 MiB"
        " (used 3 KiB, limit 80 MiB, needed 100 MiB)"
    )
    assert "choose a smaller size (-s 78 fits)" in hint
    assert steps["left"] == (0, [])


def test_real_refusal(steps):
    """Without the check the kernel says no: the same status, nothing left."""
    what, _hint = refusal(steps, "real")
    assert "Disk quota exceeded" in what
    assert steps["left-real"] == (0, [])


def test_hint_holds(steps):
    """The size that the refusal names can be made, all of it reserved."""
    assert steps["hint"][0] == 0
    assert int(steps["hint-size"][1][0]) * 512 >= 78 * MIB


def test_soft(steps):
    """Beyond the soft limit is a warning; what is used then is what was made."""
    status, lines = steps["soft"]
    assert status == 0
    assert any(
        f"with the overlay, your quota on {POINT} is over its soft limit"
        " (used 3 KiB, limit 60 MiB, needed 70 MiB)" in line
        for line in lines
    )
    used = numbers(steps, "over-soft", "kernel")["user"][0]
    assert 70 * MIB <= used < 71 * MIB


def test_sparse(steps):
    """A sparse overlay that will not fit when it fills is made with a warning."""
    status, lines = steps["sparse"]
    assert status == 0
    assert any(
        f"when the overlay fills, your quota on {POINT} has not enough room for all of it" in line
        for line in lines
    )


def test_group(steps):
    """The quota of the group that a set-group-ID directory hands on counts."""
    assert numbers(steps, "group", "kernel")["group"][2] == 20 * MIB
    what, _hint = refusal(steps, "group-refused")
    assert f"the quota of group games on {POINT} is short by 20 MiB" in what


def test_project(steps):
    """The quota of a project shows in the size of its directory."""
    assert steps["project"][1][-1] == "project 7"
    assert numbers(steps, "project", "statvfs")["project"] == (KIB, None, 30 * MIB, 1, None, 10)
    what, hint = refusal(steps, "project-refused")
    assert what.endswith(
        "the quota of /mnt/quota/project is short by 10 MiB"
        " (used 1 KiB, limit 30 MiB, needed 40 MiB)"
    )
    assert "(-s 28 fits)" in hint
    assert steps["project-fits"][0] == 0


def test_files(steps):
    """When no file is left, that is said."""
    what, _hint = refusal(steps, "no-files")
    assert what == (
        f"there is no room for the overlay in {MINE}: your quota on {POINT} is short by 1 file"
        " (used 30, limit 30, needed 1)"
    )
