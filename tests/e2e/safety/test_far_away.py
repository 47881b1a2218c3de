"""Large overlays on a file system where each operation takes its time, however small it is."""

import signal

import pytest
from support import BASE, wait_until

ENGINE = ("fuse2fs", "starter", "apptainer")
GROUPS = 128  # of an overlay of 16 GiB: each has two bitmaps


def reads(there, *programs):
    """Return the reads on a slow file system, by the programs of some names."""
    return [one for one in there.operations("read") if one.program in programs]


@pytest.fixture
def large(slow, ok):
    """Return a function that makes an overlay of 16 GiB on a slow file system, and returns that."""

    def large(*options, size="16G"):
        there = slow("--delay", "5", *(options or ["--cached"]))
        ok(
            "create-overlay",
            *("-q", "--sparse", "-s", size, "-n", "4"),
            *("-o", there.behind / "a.ext3"),
        )
        return there

    return large


def test_server_finds_them_in_memory(large, run):
    """The server of the image reads 256 bitmaps; after our read-ahead, it asks for none of them."""
    there = large()
    done = run("run-overlay", "-v", "-o", there.path / "a.ext3", "--", "true")
    assert done.status == 0, done
    assert "a.ext3, 16 GiB: its bitmaps were read ahead in " in done.stderr
    assert len(reads(there, "fuse2fs")) < 16
    ours = [one for one in there.operations("read") if one.program not in ENGINE]
    assert GROUPS <= len(ours) < 2 * GROUPS
    assert max(one.others for one in ours) >= 1  # many at once
    # They are in memory now: nobody asks for one in the next session.
    there.forget()
    assert run("run-overlay", "-o", there.path / "a.ext3", "--", "true").status == 0
    assert len(there.operations("read")) < 16


def test_server_reads_each_of_them(large, engine):
    """What the test above counts is what the plain engine does: else that would show nothing."""
    there = large()
    engine("exec", "--overlay", there.path / "a.ext3", BASE, "true")
    assert len(reads(there, "fuse2fs")) > GROUPS


def test_sessions_that_only_read(large, run):
    """A server that only reads does without the bitmaps, and so do we."""
    there = large()
    assert run("run-overlay", "-o", f"{there.path}/a.ext3:ro", "--", "true") == (0, "", "")
    assert len(there.operations("read")) < 16


def test_nothing_is_kept(large, run):
    """Where the kernel keeps nothing of a file, it is not read in vain, and -v says so."""
    there = large("--direct", size="8G")
    done = run("run-overlay", "-v", "-o", there.path / "a.ext3", "--", "true")
    assert done.status == 0, done
    assert "a.ext3, 8 GiB: its bitmaps cannot be read ahead, because" in done.stderr
    # Two looks at some of them; and the look after the session reads no group by itself.
    assert len(there.operations("read")) - len(reads(there, *ENGINE)) < GROUPS


def test_tools_find_them_in_memory(large, run):
    """e2fsck reads the inode tables as well."""
    there = large()
    done = run("check-overlay", "-v", there.path / "a.ext3")
    assert (done.status, done.stdout) == (0, f"{there.path}/a.ext3: clean\n")
    assert len(reads(there, "e2fsck")) < 32
    there.forget()
    with open(there.path / "a.ext3", "r+b") as file:  # as a killed session leaves it
        file.seek(1024 + 0x3A)
        file.write(b"\0\0")
    done = run("run-overlay", "-o", there.path / "a.ext3", "--", "true")
    assert "left unclean" in done.stderr
    assert len(there.operations("read")) < 32


def test_ctrl_c(slow, ok, start, run):
    """Who does not want to wait gets the shell back, and the next session the overlay."""
    there = slow("--delay", "5", "--crowded", "1000")  # so that it takes a minute
    path = there.path / "a.ext3"
    ok("create-overlay", "-q", "--sparse", "-s", "256G", "-n", "4", "-o", there.behind / "a.ext3")
    session = start("run-overlay", "-o", path, "--", "true")
    wait_until(lambda: any(one.others >= 8 for one in there.operations("read")))
    session.send_signal(signal.SIGINT)
    assert session.wait(30) == 130
    assert reads(there, "fuse2fs") == []
    assert run("show-overlay", "--json", path).status == 0
