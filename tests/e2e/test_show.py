"""show-overlay and list-overlays beside real sessions: the same figures, and who is inside."""

import json
import os
import re
import shlex
import subprocess
import time

import pexpect
import pytest
from support import BASE, tool, wait_until

FILL = (
    "mkdir -p /data/deep; head -c 3000000 /dev/urandom > /data/big; cd /data/deep;"
    " for i in $(seq 40); do echo $i > $i; done; ln 1 same; ln -s 1 link; sync"
)
FIGURES = (
    "df -B1 --output=size,used,avail / | tail -n 1; df --output=itotal,iused,iavail / | tail -n 1"
)


def shown(ok, *words):
    """Return what show-overlay --json says of an overlay."""
    return json.loads(ok("show-overlay", "--json", *words))[0]


@pytest.mark.parametrize("size", [["16", "1"], ["300", "50"]])
def test_figures(ok, scratch, size):
    """What df and df -i say inside, and dumpe2fs outside, is what is shown."""
    ok("create-overlay", "-q", "--sparse", "-s", size[0], "-n", size[1], "-o", "a")
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", FILL)
    inside = ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", FIGURES)
    text = tool("dumpe2fs", "-h", scratch / "a.ext3").stdout
    told = dict(re.findall(r"^([^:\n]+): +(.*)$", text, re.M))
    found = shown(ok, "a.ext3")
    assert list(map(int, inside.split())) == [
        found["data_total"],
        found["data_used"],
        found["data_available"],
        found["files_total"],
        found["files_used"],
        found["files_available"],
    ]
    assert found["files_available"] == int(told["Free inodes"])
    free = int(told["Free blocks"]) * int(told["Block size"])
    assert found["data_total"] - found["data_used"] == free
    row = json.loads(ok("list-overlays", "--json"))[0]
    assert (row.pop("purge_days"), row.pop("version_of")) == (None, None)
    assert row == {name: found[name] for name in row}


def test_forged_squashfs(run, ok, scratch):
    """Names that look like lines of a listing are no bug of ours, whatever they say."""
    top = scratch / "top" / "d\n-rw-r--r-- a"
    for name in ("b 5 2000-13-40 99:99 ", "b 5 99999-01-01 10:10 ", "b 1, 2 2000-01-01 10:10 "):
        (top / name / "no" / "such").mkdir(parents=True)
    for kind in "dlz":
        top = scratch / "top" / f"e\n{kind}rwxr-xr-x a" / "b 3, 4 2001-01-01 10:10 "
        (top / "none" / "there" / "x").mkdir(parents=True)
    assert tool("mksquashfs", scratch / "top", scratch / "a.sqsh", "-quiet").returncode == 0
    for words in (["--files"], ["--files=/no"], ["--du"], ["--json"], ["--json", "--files"]):
        result = run("show-overlay", "a.sqsh", *words)
        assert result.status in (0, 66) and "bug" not in result.stderr, result
    ok("list-overlays", "--json")
    assert run("overlay-admin", "report", ".").status == 0


ESCAPES = "\x1b]0;title\x07\x1b[2J"  # a terminal's title, and an empty screen


def test_escapes_of_others(run, scratch, site, site_text):
    """What others have a say in does not rule the terminal, and makes no line of its own."""
    top = scratch / "top" / f"d\n-rw-r--r-- {ESCAPES}"
    (top / f"b{ESCAPES} 5 2000-01-01 10:10 " / "seen").mkdir(parents=True)
    assert tool("mksquashfs", scratch / "top", scratch / "a.sqsh", "-quiet").returncode == 0
    told = run("show-overlay", "a.sqsh", "--files=/")
    assert told.status == 0 and "/seen" in told.stdout
    site.write_text(
        f"{site_text}[quota]\nhint = a{ESCAPES}b\n[templates]\na = $NONE{ESCAPES}\n"
        f"[site]\nmessage = one\n  two\n[create]\nmin_size = 1G\n"
    )
    shown = [
        told,
        run("show-overlay", "a.sqsh", "--du"),
        run("overlay-admin", "config", "--origin"),
        run("create-overlay", "--list-templates"),
        run("create-overlay", "-t", "a", "-o", "b"),
        run("create-overlay", "-s", "2G", "-n", f"1{ESCAPES}\nrun-overlay: hint: rm"),
        run("overlay-admin", "config", "--check", f"none{ESCAPES}\nx"),
    ]
    for result in shown:
        assert result.status < 70 or result.status == 78, result
        for text in result[1:]:
            assert not set(text) - {"\n", "\t"} & set(map(chr, [*range(32), 127])), result
            assert not any(line.startswith("run-overlay: hint") for line in text.splitlines())
    assert "\\x1b" in shown[0].stdout and "\\x1b" in shown[2].stdout


def test_recipe_of_somebody(ok, environ, words, scratch):
    """Half of a pair in a history is told as such, and a terminal obeys nothing of a recipe."""
    place = scratch / "d" / "upper" / ".singularity.d" / "overlay" / f"{1:020x}"
    place.mkdir(parents=True)
    recipe = r"echo \u001b[2J\ud800"
    entry = f'"when": "\\ud800", "recipe": "{recipe}", "sources": ["\\ud800"]'
    (place / "history.json").write_text(f'{{"format": 1, "entries": [{{{entry}}}]}}')
    assert "made  " in ok("show-overlay", "d")
    assert ok("show-overlay", "--recipe", "d").endswith("echo \x1b[2J?\n")
    line = [*words("show-overlay"), "--recipe", "d"]
    shown, status = pexpect.run(
        shlex.join(line), env=environ, cwd=str(scratch), withexitstatus=True, timeout=60
    )
    assert (status, b"\x1b" in shown, b"echo \\x1b[2J" in shown) == (0, False, True), shown


def test_message_of_several_lines(overlay, run, site, site_text):
    """What the site has to say keeps its lines."""
    overlay("a.ext3")
    site.write_text(f"{site_text}[site]\nmessage = one\n  two\n")
    assert "mount-overlay: one\ntwo\n" in run("mount-overlay", "-o", "a.ext3:ro").stderr


@pytest.mark.parametrize("noted", ["abc", "-1", "1e9", "9" * 3000, "\xb2", ""])
def test_forged_note(ok, overlay, noted):
    """What an image notes of its last session ends no session, whoever wrote it there."""
    path = overlay("a.ext3")
    ok("run-overlay", "-o", "a.ext3", "--", "true")
    before = os.getxattr(path, "user.overlay.session").decode()
    assert "tidy_from=" in before
    forged = re.sub("(?m)^tidy_from=.*$", f"tidy_from={noted}", before)
    forged = re.sub("(?m)^ended=.*\n", "", forged)
    os.setxattr(path, "user.overlay.session", forged.encode())
    for line in ("mkdir -p /data/x", "rm -r /data", "ls /"):
        ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    ok("show-overlay", "a.ext3")


def test_files(ok, overlay):
    """What ls shows inside is what is listed; a deletion is told in words."""
    overlay("a.ext3")
    overlay("b.ext3")
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", FILL)
    ok("run-overlay", "-o", "b.ext3", "-o", "a.ext3", "--", "rm", "/data/big", "/data/deep/7")
    inside = ok(
        "run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c",
        "find /data -printf '%p %M %n %s %Ts %l\\n' | sort",
    )  # fmt: skip
    found = [
        f"{one['path']} {one['mode']} {one['links']} {one['size']} {one['modified']}"
        f" {one['target'] or ''}"
        for one in shown(ok, "a.ext3", "--files")["entries"]
        if one["path"].startswith("/data")
    ]

    def plain(lines):
        # A directory's links and size are the layers' together.
        return sorted(re.sub(r"( d\S+) \d+ \d+", r"\1", line) for line in lines)

    assert plain(found) == plain(inside.splitlines())
    text = ok("show-overlay", "b.ext3", "--files")
    assert "/data/big (deleted)\n" in text and "/data/deep/7 (deleted)\n" in text


def test_marked_twice(ok, scratch):
    """A directory that is marked by two files, which mean the same, is told of once."""
    (scratch / "d" / "upper" / "data").mkdir(parents=True)
    (scratch / "d" / "work").mkdir()
    for name in (".wh..opq", ".wh..wh..opq"):
        (scratch / "d" / "upper" / "data" / name).touch()
    text = ok("show-overlay", "d", "--files")
    assert text.count(" /data/ (what lower layers have in it is hidden)\n") == 1


def test_in_use(run, ok, overlay, words, environ, scratch):
    """While a session writes, it is shown who; afterwards nobody, and by whom it was written."""
    overlay("a.ext3")
    session = subprocess.Popen(
        [*words("run-overlay"), "-o", "a.ext3", "--", "sh", "-c", "touch ready; read line"],
        env=environ,
        cwd=scratch,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until((scratch / "ready").exists)
        found = shown(ok, "a.ext3")
        assert (found["in_use"], found["left_behind"]) == ("writer", False)
        assert session.pid in [user["pid"] for user in found["users"]]
        text = ok("show-overlay", "a.ext3")
        assert "  in use   a session is writing to it\n" in text
        assert f"process {session.pid} since " in text and "not closed properly" not in text
        listed = ok("list-overlays").splitlines()[1]
        assert listed.endswith("  in use  a.ext3")
        assert ok("show-overlay", "a.ext3", "--files") is not None
    finally:
        session.communicate(b"\n", timeout=60)
    assert session.returncode == 0
    found = shown(ok, "a.ext3")
    assert found["in_use"] is None and found["clean"] and not found["users"]
    if found["session"]:  # a file system without extended attributes keeps none
        assert found["session"]["ended"] >= found["session"]["started"]
        assert time.time() - found["session"]["ended"] < 60
        assert found["session"]["image"] == BASE
        assert f", in {BASE}\n" in ok("show-overlay", "a.ext3")


def test_no_session(ok, overlay, scratch):
    """Looking changes nothing: neither the file nor its times."""
    path = overlay("a.ext3")
    before = path.read_bytes(), path.stat().st_mtime_ns
    for words in ([], ["--files"], ["--du"], ["--json"]):
        ok("show-overlay", "a.ext3", *words)
    ok("list-overlays")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_without_permission(run, overlay, scratch):
    """What may not be read is said; a directory that may not is counted."""
    overlay("a.ext3").chmod(0)
    result = run("show-overlay", "a.ext3")
    assert (result.status, result.stdout) == (66, "")
    (scratch / "closed").mkdir(mode=0)
    result = run("list-overlays")
    assert result.status == 0
    assert result.stderr.startswith(
        "list-overlays: 2 files or directories could not be read, such as "
    )
    assert run("list-overlays", "closed").stderr == (
        "list-overlays: error: cannot read closed: Permission denied\n"
    )
    assert run("list-overlays", "closed").status == 66
    (scratch / "closed").chmod(0o700)
