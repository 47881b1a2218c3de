"""-v and OVERLAY_DEBUG show each program that is started, as it was started."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from support import PATH, digests

TOOLS = [
    "apptainer",
    "e2fsck",
    "fallocate",
    "mke2fs",
    "mksquashfs",
    "resize2fs",
    "unshare",
    "unsquashfs",
    "zstd",
]


@pytest.fixture
def started(environ, scratch):
    """Return a function that tells which tools have been started since it was called last."""
    directory, record = scratch / "tools", scratch / "record"
    directory.mkdir()
    where = f"{PATH}:/usr/sbin:/sbin"
    for name in TOOLS:
        real, path = shutil.which(name, path=where), directory / name
        assert real, name
        line = f'echo "$0" >> {shlex.quote(str(record))}; exec {real} "$@"'
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    environ["PATH"] = f"{directory}:{environ['PATH']}"

    def started():
        text = record.read_text() if record.exists() else ""
        record.unlink(missing_ok=True)
        return text.splitlines()

    return started


def shown(errors, scratch):
    """Return the tools in the lines that show programs, in their order."""
    lines = [line[2:] for line in errors.splitlines() if line.startswith("+ ")]
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    return [word for word in words if word.startswith(f"{scratch}/tools/")]


COMMANDS = [
    ("create-overlay", "--from", "d.tar.zst", "-o", "b"),
    ("run-overlay", "-o", "a.ext3", "--", "true"),
    ("run-overlay", "-o", "a.ext3:ro", "--", "true"),
    ("mount-overlay", "-o", "a.ext3:ro"),
    ("show-overlay", "a.ext3"),
    ("list-overlays", "."),
    ("check-overlay", "a.ext3"),
    ("resize-overlay", "a.ext3", "-s", "+16M"),
    ("pack-overlay", "a.ext3"),
    ("check-overlay", "a.sqsh"),
    ("show-overlay", "--files", "a.sqsh"),
    ("resize-overlay", "a.ext3", "-n", "2"),
]


def test_shown(run, scratch, environ, overlay, started):
    """What has run is what was shown, in this order: for every command, with -v and without."""
    overlay()
    (scratch / "d").mkdir()
    (scratch / "d" / "f").write_text("x")
    line = "tar cf - d | zstd -q > d.tar.zst"
    subprocess.run(["sh", "-c", line], cwd=scratch, check=True)
    seen = set()
    for words in COMMANDS:
        result = run(words[0], "-v", *words[1:], stdin="exit\n")
        assert result.status == 0, result
        ran = started()
        assert (words, shown(result.stderr, scratch)) == (words, ran)
        seen |= set(ran)
    assert {os.path.basename(path) for path in seen} == set(TOOLS)
    assert run("check-overlay", "a.ext3") == (0, "a.ext3: clean\n", "")
    assert started() != []
    environ["OVERLAY_DEBUG"] = "1"
    result = run("check-overlay", "-q", "a.ext3")
    line = f"+ '{scratch}/tools/e2fsck' -fn /proc/self/fd/3  # 3 is '{scratch}/a.ext3'\n"
    assert (result.status, result.stderr) == (0, line)


def test_one_line(run, scratch, overlay, started):
    """Whatever is in its words, a program is one line that a shell reads as it was."""
    overlay()
    words = ["sh", "-c", "printf '%s' \"$1\"\n: + x", "sh", "\t'x'"]
    result = run("run-overlay", "-v", "-o", "a.ext3:ro", "--", *words)
    assert (result.status, result.stdout) == (0, "\t'x'")
    lines = [line for line in result.stderr.splitlines() if line.startswith("+ ")]
    assert len(lines) == len(started())
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {lines[-1][2:]}"], capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[-6:-1] == words


OF_OURS = ("mkdir", "truncate", "mv", "rm", "rmdir")
QUESTIONS = ("true", "-version", "-help")


def programs(text):
    """Return the programs of a plan or of what -v showed, open files and passing names alike.

    Not what stands for a call of ours, nor questions: what is there, and what it can do.
    """
    found = []
    for line in text.splitlines():
        line, _mark, comment = line.removeprefix("+ ").partition("  # ")
        words = shlex.split(line, comments=True)
        files = re.findall(r"(\d+) is ('[^']*'|[^,]*)", comment)
        names = {f"/proc/self/fd/{number}": shlex.split(path)[0] for number, path in files}
        words = [names.get(word, word) for word in words]
        words = [re.sub(r"\.overlay-partial\S*|work\.[^/]*", "NEW", word) for word in words]
        if words and words[0] not in OF_OURS and words[-1] not in QUESTIONS:
            found.append(words)
    return found


PLANNED = [
    ("resize-overlay", "a.ext3", "-s", "+16M"),
    ("resize-overlay", "a.ext3", "-s", "14"),
    ("resize-overlay", "a.ext3", "-n", "2"),
    ("pack-overlay", "a.ext3", "--remove"),
    ("pack-overlay", "a.ext3", "b.ext3", "--no-verify", "--open"),
]


@pytest.mark.parametrize("command", PLANNED, ids=" ".join)
def test_plan(run, scratch, command):
    """--dry-run changes nothing, and prints the programs that then run, in their order."""
    for name in ("a", "b"):
        run("create-overlay", "-q", "-s", "20", "-n", "1", "-o", name)
    before = digests(scratch)
    planned = run(*command, "--dry-run")
    assert (planned.status, planned.stderr) == (0, "")
    assert digests(scratch) == before
    result = run(*command, "-v")
    assert result.status == 0
    assert digests(scratch) != before
    ran = "\n".join(line for line in result.stderr.splitlines() if line.startswith("+ "))
    assert programs(planned.stdout) == programs(ran) != []


@pytest.mark.parametrize("command", PLANNED, ids=" ".join)
def test_pasted(ok, environ, scratch, command):
    """The lines of --dry-run, pasted, come to the same."""
    # Elsewhere the next command of this user would take what they make for a killed one's.
    environ["OVERLAY_SCRATCH_LOCAL"] = f"'{scratch / 'local'}'"
    (scratch / "local").mkdir()
    for name in ("a", "b"):
        ok("create-overlay", "-q", "-s", "20", "-n", "1", "-o", name)
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "echo x > /f")
    lines = ok(*command, "--dry-run")
    assert "/tmp/overlay-" not in lines
    done = subprocess.run(
        ["bash", "-ec", lines], cwd=scratch, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = "a.sqsh" if command[0] == "pack-overlay" else "a.ext3"
    assert os.path.exists(scratch / "a.ext3") == ("--remove" not in command)
    assert ok("run-overlay", "-o", f"{result}:ro", "--", "cat", "/f") == "x\n"
    (said,) = json.loads(ok("show-overlay", "--json", result))
    expected = {"+16M": 36 << 20, "14": 14 << 20}.get(command[-1])
    assert expected in (None, said["size"])
    assert [name for name in os.listdir(scratch) if name.startswith(".overlay")] == []
