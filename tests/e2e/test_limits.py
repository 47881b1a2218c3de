"""Limits of the shell: they are for the commands, and not for the engine's servers."""

import os
import re

import pytest
from e2e.safety.trees import debugfs
from support import ROOT, is_clean, shell

WRITE = "mkdir /data && head -c 3000000 /dev/zero | split -b 100000 - /data/ && ls /data | wc -l"


@pytest.fixture
def limited(environ, scratch):
    """Return a function that runs a line in a shell after some limits are set."""
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    return lambda limits, line: shell(f"{limits}; {line}", environ, scratch)


@pytest.mark.parametrize("limits", ["ulimit -S -f 200", "ulimit -S -t 20", "ulimit -S -v 4000000"])
def test_soft_limits_are_for_the_commands(limited, overlay, limits):
    """A soft limit ends no server: what the commands write is there, and the limit is theirs."""
    path = overlay()
    option = limits.split()[2]
    line = f"run-overlay -o a.ext3 -- sh -c '{WRITE}; ulimit -S {option}'"
    result = limited(limits, line)
    lines = result.stdout.split()
    assert (result.status, result.stderr, lines[0]) == (0, "", "30")
    assert lines[1] in (limits.split()[3], str(2 * int(limits.split()[3])))  # sh counts in 512
    assert is_clean(path)
    assert limited("true", "run-overlay -o a.ext3:ro -- ls /data | wc -l").stdout == "30\n"


def test_soft_limits_are_for_no_repair(limited, overlay):
    """An overlay that a killed session left is repaired under a soft limit, too."""
    path = overlay()
    debugfs(path, "ssv state 0")
    result = limited("ulimit -S -f 200", "run-overlay -o a.ext3 -- sh -c 'ulimit -S -f'")
    assert (result.status, result.stdout in ("200\n", "400\n")) == (0, True), result
    assert is_clean(path)


def test_file_that_is_too_large_for_the_commands(limited, overlay):
    """A command that writes too large a file ends by the limit; the overlay is clean."""
    path = overlay()
    line = (
        "run-overlay -o a.ext3 -- sh -c 'head -c 3000000 /dev/zero > /large; echo $?; echo x > /x'"
    )
    result = limited("ulimit -S -f 1000", line)
    assert (result.status, result.stdout) == (0, "153\n")
    assert is_clean(path)


@pytest.mark.parametrize("blocks", [4096, 16000])
def test_hard_limit_on_files(limited, overlay, blocks):
    """Under a hard limit below the overlay's size a writable session does not start."""
    path = overlay()
    before = path.read_bytes()
    result = limited(f"ulimit -f {blocks}", f"run-overlay -o a.ext3 -- sh -c '{WRITE}'")
    assert (result.status, result.stdout) == (77, "")
    assert "a.ext3 cannot be written here: files may have " in result.stderr
    assert "run-overlay: hint: in a shell without that limit, or read-only: -o a.ext3:ro\n" in (
        result.stderr
    )
    assert path.read_bytes() == before
    assert (
        limited(f"ulimit -f {blocks}", "run-overlay -o a.ext3:ro -- echo word").stdout == "word\n"
    )


def test_hard_limit_on_a_repair(limited, overlay):
    """A repair, whose note lies behind the end of an overlay, says which limit is in its way."""
    path = overlay()
    debugfs(path, "ssv state 0", "ssv free_blocks_count 5")
    blocks = path.stat().st_size // 1024
    result = limited(f"ulimit -f {blocks}", "check-overlay a.ext3")
    assert result.status == 73 and " could not be repaired: files may have " in result.stderr, (
        result
    )
    assert "hint: in a shell without that limit: the same command\n" in result.stderr
    assert limited("true", "check-overlay a.ext3").stdout == "a.ext3: repaired\n"


def test_hard_limit_on_a_growth(limited, overlay):
    """One that may not become larger is as it was, and clean."""
    path = overlay()
    before, blocks = path.read_bytes(), path.stat().st_size // 1024
    result = limited(f"ulimit -f {blocks}", "resize-overlay -q a.ext3 -s +10")
    assert result.status == 73 and ": files may have " in result.stderr, result
    assert is_clean(path) and path.stat().st_size == 1024 * blocks
    assert path.read_bytes()[4096:] == before[4096:]  # all but the times in the superblock


def test_hard_limit_on_time(limited, overlay):
    """A hard limit on processor time, as on login nodes, is warned of."""
    overlay()
    result = limited("ulimit -t 1000", "run-overlay -o a.ext3 -- echo word")
    assert (result.status, result.stdout) == (0, "word\n")
    assert result.stderr == (
        "run-overlay: the limit of 1000 s of processor time (ulimit -t) holds for the overlay's"
        " server, too; what is being written when it ends is lost\n"
    )


@pytest.mark.parametrize("limits", ["ulimit -v 300000", "ulimit -S -v 1500000"])
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_too_little_memory_for_the_engine(limited, overlay, scratch, limits, mode):
    """Where no engine can start the limit is named, and no overlay is touched."""
    path = overlay()
    before = path.read_bytes()
    said = "the engine cannot start here: a program may have "
    result = limited(limits, f"run-overlay -o a.ext3{mode} -- true")
    assert (result.status, result.stdout) == (77, "")
    assert result.stderr.startswith(f"run-overlay: error: {said}"), result
    assert " of memory (ulimit -v), and it needs 2 GiB\nrun-overlay: hint: " in result.stderr
    assert path.read_bytes() == before
    (scratch / "build.txt").write_text("true\n")
    result = limited(limits, "create-overlay -s 16 -n 1 -f build.txt -o b")
    assert (result.status, said in result.stderr) == (77, True), result
    assert sorted(file.name for file in scratch.iterdir()) == ["a.ext3", "build.txt"]


def test_little_memory_for_the_engine(limited, overlay):
    """Where it starts at times only, it is warned of before."""
    overlay()
    result = limited("ulimit -v 1900000", "run-overlay -o a.ext3:ro -- true")
    assert result.stderr.startswith(
        "run-overlay: the engine may fail here: a program may have 1.8 GiB of memory (ulimit -v),"
        " and it wants 2 GiB\n"
    )


@pytest.mark.parametrize("limit", ["-f 100", "-v 100000"])
def test_soft_limits_are_for_no_tool(limited, overlay, scratch, limit):
    """What is made, checked, changed and packed is so under a soft limit, too; commands have it."""
    path = overlay()
    debugfs(path, "ssv state 0")
    (scratch / "d").mkdir()
    (scratch / "d" / "file").write_bytes(os.urandom(1_000_000))
    (scratch / "j").write_text(f"ulimit -S {limit.split()[0]}\n")
    lines = [
        "check-overlay a.ext3",
        "resize-overlay -q a.ext3 -n +1",
        "resize-overlay -q a.ext3 -s +1",
    ]
    lines += ["create-overlay -q --from d:/d -o b", "create-overlay -q --from b.ext3 -o c"]
    lines += ["pack-overlay -q c.ext3"]
    if limit.startswith("-f"):
        lines += ["update-overlay -q a.ext3 -f j", "create-overlay -q -f j -s 16 -n 1 -o e"]
    for line in lines:
        result = limited(f"ulimit -S {limit}", line)
        assert result.status == 0, (line, result)
        assert line[0] not in "cu" or "-f j" not in line or "100\n" in result.stdout + result.stderr
    assert limited("true", "run-overlay -o c.sqsh -- wc -c /d/file").stdout == "1000000 /d/file\n"


@pytest.mark.parametrize(
    "line",
    ["check-overlay a.ext3", "resize-overlay -q a.ext3 -n +1", "create-overlay -q --from d:/d -o b"]
    + ["pack-overlay -q a.ext3", "pack-overlay -q c.ext3", "update-overlay -q a.ext3 -- true"],
)
def test_hard_limits_are_named(limited, overlay, scratch, line):
    """Where a hard limit ends a tool it is named, and not taken for a full disk."""
    debugfs(overlay(), "ssv state 0")
    (scratch / "d").mkdir()
    (scratch / "d" / "file").write_bytes(os.urandom(1_000_000))
    limited("true", "create-overlay -q --from d:/d -o c")
    result = limited("ulimit -f 100", line)
    assert result.status in (69, 73, 77), result
    first, hint = result.stderr.splitlines()[-2:]
    assert "files may have 100 KiB" in first and first.count("(ulimit -f)") == 1, result
    assert hint == f"{line.split()[0]}: hint: in a shell without that limit: the same command"


def test_memory_for_packing(limited, overlay):
    """Where mksquashfs has too little memory the limit is named."""
    overlay()
    result = limited("ulimit -v 60000", "pack-overlay -q a.ext3")
    assert result.status == 73, result
    assert re.search(r"a program may have 58\S* MiB of memory here \(ulimit -v\)", result.stderr)
    assert result.stderr.endswith(
        "pack-overlay: hint: in a shell without that limit: the same command\n"
    )


def test_copy_under_a_limit(overlay, limited):
    """A copy that is ended by the limit of a file's size: that is said, not the tool's version."""
    overlay("a.ext3")
    result = limited("ulimit -f 1000", "resize-overlay a.ext3 -s 10")
    assert result.status == 73, result
    assert result.stderr.endswith("a.ext3': File size limit exceeded\n"), result
