"""What a launch costs when all is well: no program besides the engine's own."""

import collections
import re

import pytest
from overlay.launch.inside import command_line
from support import BASE, ROOT, execute

LAUNCHERS = ROOT / "lib" / "overlay" / "helpers"


@pytest.fixture
def started(environ, scratch):
    """Return a function from words to their programs that start, counted, and the log's lines."""

    def started(*words):
        log = scratch / "strace.log"
        trace = ["strace", "-f", "-s", "300", "-o", log, "-e", "trace=execve,clone,clone3,vfork"]
        result = execute([*trace, *words], environ=environ, cwd=scratch)
        assert result.status == 0, result
        lines = log.read_text().splitlines()
        # A call that another process interrupts, or of a thread that is not its process's
        # first, is written in two lines.
        call = re.compile(r' execve\("([^"]*)".* (?:= 0|<unfinished \.{3}>|<pid changed .*)$')
        matches = (call.search(line) for line in lines)
        return collections.Counter(match.group(1) for match in matches if match), lines

    return started


INSIDE = command_line(["true"], "run-overlay")


@pytest.mark.parametrize(
    ("mode", "helpers"),
    [(":ro", ["read-only/fuse2fs"]), ("", ["writable/fuse2fs", "writable/fuse-overlayfs"])],
)
def test_no_process_besides_the_engine(started, words, run, make, mode, helpers):
    """The engine, what it starts, and our launchers before its helpers; nothing else."""
    make()
    assert run("run-overlay", "-o", "a.ext3", "--", "mkdir", "/data").status == 0
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "true") == (0, "", "")
    bare, _lines = started("apptainer", "exec", "--overlay", f"a.ext3{mode}", BASE, *INSIDE)
    ours, lines = started(*words("run-overlay"), "-o", f"a.ext3{mode}", "--", "true")
    engines = {name for name in ours if name.endswith("/apptainer")}
    assert len(engines) == 1
    # The engine starts squashfuse_ll a few times only to see which options it has.
    base = [str(LAUNCHERS / "base" / "squashfuse_ll")] * bare["/usr/bin/squashfuse_ll"]
    assert base
    assert ours - bare == collections.Counter(
        [*words("run-overlay"), *(str(LAUNCHERS / helper) for helper in helpers), *base]
    )
    assert bare - ours == collections.Counter()
    if mode == ":ro":
        # The engine takes the place of our program, which has started no program before, and
        # only forked the process that ends the servers when the engine is killed.
        first = next(number for number, line in enumerate(lines) if "/apptainer" in line)
        assert len([line for line in lines[:first] if "execve" not in line]) == 1
        assert lines[0].split()[0] == lines[first].split()[0]


@pytest.mark.parametrize(("mode", "shielded"), [(0o600, 0), (0o644, 0), (0o664, 1), (0o606, 1)])
@pytest.mark.parametrize("kind", ["image", "directory"])
def test_others_may_write(started, words, make, scratch, kind, mode, shielded):
    """Only what others may write needs a process, by which no link in it is followed."""
    make()
    if kind == "directory":
        for name in ("d", "d/upper", "d/work"):
            (scratch / name).mkdir()
        (scratch / "d" / "work").chmod(mode | 0o711)
    else:
        (scratch / "a.ext3").chmod(mode)
    ours, _lines = started(
        *words("run-overlay"), "-o", "d" if kind == "directory" else "a.ext3", "--", "true"
    )
    assert ours["/usr/bin/mount"] == shielded, ours


def test_markers_are_looked_for_once(started, words, run, make):
    """What a first read-only session of a strange image found out is remembered on it."""
    make()
    counts = [
        started(*words("run-overlay"), "-o", "a.ext3:ro", "--", "true")[0] for _turn in range(2)
    ]
    assert counts[0] == counts[1]
