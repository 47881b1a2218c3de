"""Names and permissions of what is written, in a directory where others may write as well.

What another user could do at the worst moment is done here by a tool that the command starts
(a script of its name that stands before it in PATH), or by a process that exchanges names all
the time.
"""

import os
import shutil
import stat
import subprocess

import pytest
from support import PATH

HOST = os.uname().nodename
SECRET = "what is in a private key\n"


@pytest.fixture
def before(tmp_path):
    """Return a function that has lines of sh(1) done before a tool; it gives a PATH with that."""

    def before(program, lines):
        place = tmp_path / "tools"
        place.mkdir(exist_ok=True)
        real = shutil.which(program, path=PATH + ":/usr/sbin:/sbin")
        script = place / program
        script.write_text(f'#!/bin/sh\n(\n{lines}\n) </dev/null\nexec {real} "$@"\n')
        script.chmod(0o755)
        return {"PATH": f"{place}:{PATH}"}

    return before


@pytest.fixture
def modes(before, tmp_path):
    """Return a function that notes the modes of unfinished files when a tool starts.

    It returns the variables for that, and a function that returns what was noted.
    """

    def modes(program, pattern=".overlay-partial.*"):
        seen = tmp_path / "seen"
        variables = before(program, f"stat -c %a {pattern} >>'{seen}' 2>/dev/null")
        return variables, lambda: set(seen.read_text().split())

    return modes


@pytest.fixture
def secret(tmp_path):
    """Return the path of a private file that lies elsewhere."""
    path = tmp_path / "key"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


def mode(path):
    """Return the permissions of a file."""
    return stat.S_IMODE(os.lstat(path).st_mode)


# ------------------------------------------------------------------ names of new files --


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(
    "line",
    [
        ["create-overlay", "-q", "--sparse", "-s", "16", "-n", "1", "-o", "planted.ext3"],
        ["create-overlay", "-q", "--from", "x.tar", "-o", "planted.ext3"],
        ["pack-overlay", "a.ext3", "-o", "planted.sqsh"],
    ],
    ids=lambda line: line[0],
)
def test_dangling_link(run, make, scratch, tmp_path, line, force):
    """A link that leads nowhere does not say where a new file goes."""
    make()
    (scratch / "x").write_text("x")
    subprocess.run(["tar", "-cf", "x.tar", "x"], cwd=scratch, check=True)
    name = line[-1]
    target = tmp_path / "elsewhere"
    (scratch / name).symlink_to(target)
    before = sorted(os.listdir(scratch))
    result = run(*line, *force)
    assert result.status == 73, result
    assert f"{name} exists already: it is a link to {target}" in result.stderr
    assert not os.path.lexists(target)
    assert sorted(os.listdir(scratch)) == before


def test_dangling_link_in_the_place_of_a_layer(ok, make, scratch, tmp_path):
    """A layer is kept beside a link of its name."""
    make()
    (scratch / "kept").mkdir()
    variables = {
        "SLURM_JOB_ID": "7",
        "OVERLAY_SCRATCH_LOCAL": str(scratch),
        "TMPDIR": str(scratch),
    }
    (scratch / "kept" / "job7.ext3").symlink_to(tmp_path / "elsewhere")
    words = ["-o", "a.ext3", "--per-task", "-s", 16, "-n", 1, "--keep", "kept", "--", "true"]
    ok("run-overlay", *words, variables=variables)
    assert not os.path.lexists(tmp_path / "elsewhere")
    assert sorted(os.listdir(scratch / "kept")) == ["job7-2.ext3", "job7.ext3"]
