"""pack-overlay: one compressed file that shows what the overlays show, to everybody."""

import os
import random
import re
import shutil
import stat
import subprocess
import time

import pexpect
import pytest
from e2e.listing import listed, plant, unlock
from e2e.safety.conftest import count, full, hold, make, rounds, start, terminal  # noqa: F401
from e2e.safety.test_view import (
    BASE_FILES,
    IN_BASE,
    MAKE,
    delete,
    gone,
    in_overlay,
    plain,  # noqa: F401
)
from e2e.safety.trees import CLEAN, descendants, kill_tree, named, state
from support import BASE, PATH, ROOT, digests, shell, tool

MIB = 1 << 20
SEED = 6


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Return a tree with one of everything."""
    tree = plant(tmp_path_factory.mktemp("planted") / "tree")
    (tree / "directory 0").chmod(0o700)  # what the user himself cannot enter: test_fill
    yield tree
    unlock(tree)


@pytest.fixture
def rich(ok, scratch, planted):
    """Return an overlay with one of everything."""
    ok("create-overlay", "-q", "-s", "60", "-n", "3", "--from", planted, "-o", "a")
    return scratch / "a.ext3"


def test_checked(ok, run, scratch):
    """check-overlay sees damaged lists of a packed file, and with --deep damaged content."""
    (scratch / "d").mkdir()
    noise = random.Random(SEED)
    for number in range(20):
        text = "".join(f"{noise.random()}\n" for _line in range(20_000))
        (scratch / "d" / f"f{number}").write_text(text)
    ok("create-overlay", "-q", "--from", "d:/d", "-o", "a.ext3")
    ok("pack-overlay", "-q", "a.ext3")
    sound = "a.sqsh: its lists of files are sound; to read all that is in them: --deep\n"
    assert run("check-overlay", "a.sqsh") == (0, sound, "")
    deep = run("check-overlay", "--deep", "a.sqsh")
    assert deep == (0, "a.sqsh: sound: all of it was read, and is what was packed\n", "")
    packed = scratch / "a.sqsh"
    size = packed.stat().st_size
    with open(packed, "r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size // 2))
    assert run("check-overlay", "a.sqsh") == (0, sound, "")
    result = run("check-overlay", "--deep", "a.sqsh")
    assert (result.status, result.stdout) == (65, "")
    assert re.match(r"check-overlay: error: a\.sqsh is damaged: .*/d/f\d+: Input", result.stderr)
    with open(packed, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    result = run("check-overlay", "a.sqsh")
    assert (result.status, result.stdout) == (65, "")
    assert result.stderr.startswith("check-overlay: error: a.sqsh is damaged: ")
    assert "hint: pack it again" in result.stderr


@pytest.mark.parametrize(
    "how", ["pack-overlay -q a.ext3", "create-overlay -q --from d:/d -o a.sqsh"]
)
def test_checksum(ok, run, scratch, how):
    """What cannot be compressed is stored as it is: only a checksum tells that it is not that."""
    (scratch / "d").mkdir()
    (scratch / "d" / "noise").write_bytes(random.Random(SEED).randbytes(3_000_000))
    ok("create-overlay", "-q", "--from", "d:/d", "-o", "a.ext3")
    ok(*how.split())
    packed = scratch / "a.sqsh"
    before = packed.read_bytes()
    assert ok("check-overlay", "--deep", "a.sqsh").endswith("read, and is what was packed\n")
    with open(packed, "r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(1_000_000))
    result = run("check-overlay", "--deep", "a.sqsh")
    assert (result.status, result.stdout) == (65, "")
    assert (
        "a.sqsh is damaged: it is not what was packed: its checksum is another\n" in result.stderr
    )
    # One without: what is behind the end was cut off, as by a copy of another program's.
    used = int.from_bytes(before[40:48], "little")
    packed.write_bytes(before[: -(-used // 4096) * 4096])
    assert ok("check-overlay", "--deep", "a.sqsh") == "a.sqsh: sound: all of it was read\n"


@pytest.mark.parametrize("compression", [[], ["--compression", "gzip"]], ids=str)
def test_content(ok, scratch, rich, compression):
    """Content, modes, times, links, attributes are equal; no option is needed to use it."""
    expected = listed(ok, ["a.ext3:ro"], "/tree")
    before = rich.read_bytes()
    ok("pack-overlay", "a.ext3", *compression)
    assert rich.read_bytes() == before
    assert sorted(os.listdir(scratch)) == ["a.ext3", "a.sqsh"]
    assert (scratch / "a.sqsh").stat().st_size < 20 * MIB
    assert listed(ok, ["a.sqsh:ro"], "/tree") == expected
    ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "w")
    # fuse-overlayfs finds the numbers of names out one by one.
    found = listed(ok, ["w.ext3", "a.sqsh"], "/tree")
    assert {name: [*row[:4], *row[5:]] for name, row in found.items()} == {
        name: [*row[:4], *row[5:]] for name, row in expected.items()
    }


def test_onto_itself(run, scratch, rich):
    """What is to be packed is never the file that its pack replaces, by whatever name."""
    (scratch / "b.sqsh").symlink_to("a.ext3")
    before = digests(scratch)
    assert run("pack-overlay", "b.sqsh", "--force", "--remove").status == 2
    assert run("pack-overlay", "a.ext3", "-o", "b.sqsh", "--force", "--remove").status == 2
    assert digests(scratch) == before


def test_remove(ok, run, scratch, rich):
    """The original goes, and not a link to it; where it cannot go, that is said."""
    (scratch / "link.ext3").symlink_to("a.ext3")
    ok("pack-overlay", "link.ext3", "--no-verify", "--remove", "-o", "one")
    assert sorted(os.listdir(scratch)) == ["link.ext3", "one.sqsh"]
    (scratch / "closed").mkdir()
    ok("create-overlay", "-q", "--sparse", "-s", "16", "-n", "1", "-o", "closed/a")
    (scratch / "closed").chmod(0o500)
    result = run("pack-overlay", "closed/a.ext3", "--no-verify", "--remove", "-o", "two")
    (scratch / "closed").chmod(0o700)
    assert result.status == 73 and "is packed, but was not removed" in result.stderr
    assert (scratch / "two.sqsh").exists() and (scratch / "closed" / "a.ext3").exists()


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(environ, scratch, make, closed):  # noqa: F811
    """Without standard streams the servers of images do not get one of theirs for it."""
    make()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    result = shell(f"pack-overlay -q a.ext3 {closed}", environ, scratch)
    assert result.status == 0, result
    assert (scratch / "a.sqsh").exists()


def test_cut_off(ok, run, scratch, rich):
    """A packed file whose copy was not finished is told so by every command."""
    ok("pack-overlay", "-q", "--no-verify", "a.ext3")
    os.truncate(scratch / "a.sqsh", 100_000)
    for words in (["run-overlay", "-o", "a.sqsh", "--", "true"], ["check-overlay", "a.sqsh"]):
        result = run(*words)
        assert (result.status, "it is cut off" in result.stderr) == (65, True), result


def test_replaced(ok, scratch, make):  # noqa: F811
    """--force keeps the mode of what it replaces, and replaces nothing but overlays."""
    make()
    ok("pack-overlay", "a.ext3")
    (scratch / "a.sqsh").chmod(0o640)
    ok("pack-overlay", "a.ext3", "--force")
    assert stat.S_IMODE((scratch / "a.sqsh").stat().st_mode) == 0o640


@pytest.mark.parametrize("compression", ["zstd", "gzip", "lz4", "xz"])
def test_compression(ok, scratch, make, compression):  # noqa: F811
    """The file is compressed as was asked, or as the site says."""
    make("a.ext3", 30, 2)
    line = "mkdir /data; seq 100000 >/data/f"
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    ok("pack-overlay", "a.ext3", "--compression", compression, "-o", "one")
    ok("pack-overlay", "a.ext3", "-o", "two", variables={"OVERLAY_PACK_COMPRESSION": compression})
    for name in ("one.sqsh", "two.sqsh"):
        words = ["unsquashfs", "-s", scratch / name]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert f"Compression {compression}\n" in said
    # zstd and the like are for the engine's own squashfuse; all are read here.
    assert ok("run-overlay", "-o", "one.sqsh", "--", "tail", "-n1", "/data/f") == "100000\n"


def test_plain_engine(ok, engine, scratch, rich):
    """The plain engine uses it as it is."""
    ok("pack-overlay", "a.ext3")
    line = "cat '/tree/mode 400'; md5sum </tree/same; find /tree -name '.wh*'"
    words = ["-q", "exec", "--overlay", "a.sqsh:ro", BASE, "sh", "-c", line]
    found = engine(*words)
    assert (found.status, found.stdout.split("\n")[0][:4]) == (0, "text"), found
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line) == found.stdout


# ------------------------------------------------------------------- deletions --


def test_deleted_from_base(run, ok, make):  # noqa: F811
    """Deleted from the base image: gone in the packed one too, with others and alone."""
    make("a.ext3")
    in_overlay(run, "a.ext3", fakeroot=True, line=delete(BASE_FILES, IN_BASE))
    ok("pack-overlay", "a.ext3")
    make("w.ext3")
    for layers in (["a.sqsh:ro"], ["w.ext3", "a.sqsh"], ["w.ext3:ro", "a.sqsh"]):
        gone(run, BASE_FILES, *layers, what=IN_BASE)


def test_deleted_from_lower(run, ok, make):  # noqa: F811
    """Deleted from an overlay below: gone, whichever of the two is packed, or both."""
    make("a.ext3")
    make("b.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    in_overlay(run, "a.ext3", "b.ext3", line=delete("/data"))
    ok("pack-overlay", "a.ext3")
    ok("pack-overlay", "b.ext3")
    make("w.ext3")
    for layers in (
        ["a.sqsh:ro", "b.ext3"],
        ["a.sqsh:ro", "b.sqsh"],
        ["a.ext3", "b.sqsh"],
        ["a.ext3:ro", "b.sqsh"],
        ["w.ext3", "a.sqsh", "b.sqsh"],
    ):
        gone(run, "/data", *layers)
    ok("pack-overlay", "a.ext3", "b.ext3", "-o", "all")
    gone(run, "/data", "all.sqsh:ro")
    gone(run, "/data", "w.ext3", "all.sqsh")
    in_overlay(run, "b.sqsh:ro", line="cd /data && ls 1/a 1/b 2/a 3/a")


def test_deleted_own(run, ok, make):  # noqa: F811
    """Deleted from what the overlay itself has."""
    make("a.ext3")
    for line in (MAKE.format(at="/data"), delete("/data")):
        in_overlay(run, "a.ext3", line=line)
    ok("pack-overlay", "a.ext3")
    gone(run, "/data", "a.sqsh:ro")


def test_several(run, ok, make):  # noqa: F811
    """Of three in one: the top wins, deletions of each hold, in the base too."""
    for name in "abc":
        make(f"{name}.ext3")
    in_overlay(run, "c.ext3", line=MAKE.format(at="/data"))
    in_overlay(run, "c.ext3", fakeroot=True, line=delete(BASE_FILES, IN_BASE))
    line = "rm -r /data/1; mkdir /data/1; echo middle >/data/1/both; echo middle >/data/1/middle"
    in_overlay(run, "b.ext3", "c.ext3", line=line)
    line = "touch '/data/my odd; name' '/data/größe'"
    in_overlay(run, "c.ext3", line=line)
    line = "echo top >/data/1/both; rm /data/2/a /data/my* /data/gr*; ln -s /data/2 /data/link"
    in_overlay(run, "a.ext3", "b.ext3", "c.ext3", line=line)
    show = "cd /data && ls -R . && cat 1/* && readlink link"
    expected = in_overlay(run, "a.ext3:ro", "b.ext3", "c.ext3", line=show)
    ok("pack-overlay", "a.ext3", "b.ext3", "c.ext3", "-o", "all")
    assert in_overlay(run, "all.sqsh:ro", line=show) == expected
    gone(run, BASE_FILES, "all.sqsh:ro", what=IN_BASE)
    make("w.ext3")
    gone(run, BASE_FILES, "w.ext3", "all.sqsh", what=IN_BASE)
    # Two of them, over the third.
    ok("pack-overlay", "a.ext3", "b.ext3", "-o", "ab")
    assert in_overlay(run, "ab.sqsh:ro", "c.ext3", line=show) == expected


@pytest.mark.parametrize("verify", [[], ["--no-verify"]], ids=str)
def test_equal_numbers(run, ok, scratch, make, verify):  # noqa: F811
    """Files of several overlays with equal inode numbers, times, sizes, links keep their content.

    Each image counts its inodes from the same number, so that they are equal for certain.
    """
    names = "abc"
    for name in names:
        tree = scratch / name
        tree.mkdir()
        for number in range(30):
            (tree / f"f{number}").write_text(f"{name}{number:03}")
            os.link(tree / f"f{number}", tree / f"g{number}")
            os.utime(tree / f"f{number}", (10**9, 10**9))
        ok("create-overlay", "-q", "--from", f"{tree}:/data/{name}", "-o", f"{name}.ext3")
        shutil.rmtree(tree)
    numbers = [ext3_numbers(scratch / f"{name}.ext3", f"/upper/data/{name}") for name in names]
    assert numbers[0] == numbers[1] == numbers[2]
    result = run("pack-overlay", "a.ext3", "b.ext3", "c.ext3", "-o", "all", *verify)
    assert result.status == 0, result
    expected = "".join(
        f"{name}{number:03}" for name in names for number in range(30) for _link in "fg"
    )
    line = "cd /data; for d in a b c; do for n in $(seq 0 29); do cat $d/f$n $d/g$n; done; done"
    assert in_overlay(run, "all.sqsh:ro", line=line) == expected


def test_not_kept_apart(run, scratch, environ, make):  # noqa: F811
    """With a mksquashfs without that option a pack is compared, whatever was asked for."""
    make("a.ext3")
    make("b.ext3")
    script = '#!/bin/sh\n[ "$1" != -help ] || exit 0\nPATH=${PATH#*:} exec mksquashfs "$@"\n'
    (scratch / "bin").mkdir()
    (scratch / "bin" / "mksquashfs").write_text(script)
    (scratch / "bin" / "mksquashfs").chmod(0o755)
    environ["PATH"] = f"{scratch}/bin:{environ['PATH']}"
    result = run("pack-overlay", "a.ext3", "b.ext3", "-o", "all", "--no-verify")
    assert result == (0, result.stdout, "pack-overlay: comparing it with the original\n")


def ext3_numbers(path, directory):
    """Return the inode numbers of what is in a directory of an image, as debugfs(8) lists them."""
    listed = tool("debugfs", "-R", f"ls -p {directory}", path).stdout.splitlines()
    return sorted((line.split("/")[5], line.split("/")[1]) for line in listed if "/f" in line)


@pytest.mark.parametrize("by", ["ours", "the plain engine"])
def test_back_to_writable(run, ok, make, plain, by):  # noqa: F811
    """create-overlay --from the packed file: as it was, deletions included, and writable."""
    make("a.ext3")
    make("b.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    if by == "ours":
        in_overlay(run, "a.ext3", "b.ext3", line=delete("/data"))
        in_overlay(run, "a.ext3", fakeroot=True, line=delete(BASE_FILES, IN_BASE))
    else:
        plain("a.ext3", delete("/data"), "--overlay", "b.ext3:ro")
        plain("a.ext3", delete(BASE_FILES, IN_BASE), "--fakeroot")
    ok("pack-overlay", "a.ext3")
    ok("create-overlay", "-q", "--from", "a.sqsh", "-o", "back")
    for mode in (":ro", ""):
        gone(run, "/data", f"back.ext3{mode}", "b.ext3")
        gone(run, BASE_FILES, f"back.ext3{mode}", what=IN_BASE)
    in_overlay(run, "back.ext3", line="rm -r /data; touch /new")


# --------------------------------------------------------------------- sharing --


def test_private(ok, scratch, make):  # noqa: F811
    """Modes are kept as they are: a key stays private."""
    make("a.ext3", 30, 2)
    line = "mkdir /data; cd /data; mkdir -m 700 keys; echo k >keys/k; chmod 600 keys/k; touch f"
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    ok("pack-overlay", "a.ext3")
    line = "cd /data; stat -c '%a %n' . keys keys/k f"
    assert ok("run-overlay", "-o", "a.sqsh", "--", "sh", "-c", line).split() == (
        "755 . 700 keys 600 keys/k 644 f".split()
    )


def test_open(run, ok, scratch, make):  # noqa: F811
    """--open: readable for all, with a list of what was not; links and the original stay."""
    make("a.ext3", 30, 2)
    line = """
        umask 077; mkdir -p /data/d; cd /data; echo k >d/k; echo s >s; chmod 700 s; echo o >o
        chmod 644 o; ln -s s l; echo odd >"$(printf 'a\\nb')"; chmod 4711 d
        echo x >d/x; chmod 0 d/x
    """
    ok("run-overlay", "-o", "a.ext3", "--", "bash", "-c", line)
    before = (scratch / "a.ext3").read_bytes()
    result = run("pack-overlay", "a.ext3", "--open")
    assert result.status == 0, result
    told = re.findall(r"will be readable for everybody: (.*)", result.stderr)
    assert told == ["/data", "$'/data/a\\x0ab'", "/data/d", "/data/d/k", "/data/d/x", "/data/s"]
    assert (scratch / "a.ext3").read_bytes() == before
    line = (
        "cd /data; stat -c '%a %n' . d d/k d/x s o; readlink l; find /data ! -perm -004 ! -type l"
    )
    found = ok("run-overlay", "-o", "a.sqsh", "--", "sh", "-c", line)
    assert found.split() == "755 . 4755 d 644 d/k 444 d/x 755 s 644 o s".split()


def written(directory):
    """Return names, sizes and times of writing of what is in a directory."""
    found = ((path.name, path.stat()) for path in sorted(directory.iterdir()))
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]


def test_of_a_colleague(ok, run, scratch, colleague):
    """Another's overlay that may be read is packed, all but what may not, or refused whole."""
    before = written(colleague)
    result = run("pack-overlay", colleague / "0644.ext3", "-o", "mine")
    if result.status == 0:
        assert ok("run-overlay", "-o", "mine.sqsh", "--", "cat", "/data/hello") == (
            "hello from a colleague\n"
        )
    else:
        assert os.listdir(scratch) == []
    assert run("pack-overlay", colleague / "0600.ext3", "-o", "b").status == 66
    assert run("pack-overlay", colleague / "0644.ext3").status == 73
    assert run("pack-overlay", colleague / "0755.d", "-o", "b").status == 65
    assert written(colleague) == before


# ----------------------------------------------------------------- what is asked --


def test_names(ok, run, scratch, rich):
    """The name of the new file; one that is there is not replaced, but with --force."""
    ok("pack-overlay", "a.ext3", "-o", "it's")
    assert sorted(os.listdir(scratch)) == ["a.ext3", "it's.sqsh"]
    before = digests(scratch)
    result = run("pack-overlay", "a.ext3", "-o", "it's.sqsh")
    assert (result.status, "exists already" in result.stderr) == (73, True)
    assert digests(scratch) == before
    ok("pack-overlay", "a.ext3", "-o", "it's.sqsh", "--force", "--compression", "gzip")
    assert digests(scratch) != before
    assert run("pack-overlay", "a.ext3", "-o", "no/b").status == 73
    for name in ("a.ext3", "a.sqsh"):
        result = run("pack-overlay", "a.ext3", "-o", name, "--force")
        assert state(rich) == CLEAN, result


def test_refused(ok, run, scratch, rich):
    """What is not an ext3 overlay, or named twice, is refused."""
    (scratch / "d").mkdir()
    (scratch / "garbage").write_bytes(bytes(1024 + 56) + b"\x53\xef" + bytes(100000))
    shutil.copyfile(rich, scratch / "cut.ext3")
    os.truncate(scratch / "cut.ext3", MIB)
    ok("pack-overlay", "-q", "a.ext3", "-o", "packed.sqsh")
    before = digests(scratch)
    for names, status in (
        ([], 2),
        (["no"], 66),
        (["d"], 65),
        (["packed.sqsh"], 2),
        (["a.ext3", "new.sqsh"], 66),
        (["a.ext3", "-o", "d/"], 2),
        (["garbage"], 65),
        (["cut.ext3"], 65),
        (["a.ext3", "a.ext3"], 2),
        ([BASE], 65),
        (["a.ext3", "--compression", "rar"], 2),
    ):
        result = run("pack-overlay", *names)
        assert (result.status, result.stdout) == (status, ""), result
        assert digests(scratch) == before
    assert run("pack-overlay", "packed.sqsh").stderr == (
        "pack-overlay: error: packed.sqsh is packed already\n"
        "pack-overlay: hint: to change what is in it: update-overlay packed.sqsh -- COMMAND\n"
    )
    assert run("pack-overlay", "d").stderr == (
        "pack-overlay: error: d is a directory, and only ext3 overlays can be packed\n"
        "pack-overlay: hint: make an ext3 overlay of it: create-overlay --from d -o NAME\n"
    )
    assert run("pack-overlay", "a.ext3", "new.sqsh").stderr == (
        "pack-overlay: error: there is no overlay new.sqsh\n"
        "pack-overlay: hint: the new file stands behind -o: pack-overlay a.ext3 -o new.sqsh\n"
    )
    assert run("pack-overlay", "a.ext3", "-o", "d/").stderr == (
        "pack-overlay: error: d/ names a directory, not a file\npack-overlay: hint: -o d/NAME\n"
    )


def test_in_use(run, ok, scratch, rich, hold):  # noqa: F811
    """Beside readers it is packed; not while somebody writes."""
    session = hold("a.ext3:ro")
    ok("pack-overlay", "a.ext3", "-o", "b")
    result = run("pack-overlay", "a.ext3", "-o", "c", "--remove")
    assert (result.status, "is in use and was not removed" in result.stderr) == (75, True)
    assert rich.exists()
    assert session.end() == (0, "")
    session = hold("a.ext3")
    result = run("pack-overlay", "a.ext3", "-o", "d")
    assert (result.status, result.stdout) == (75, "")
    assert not (scratch / "d.sqsh").exists()
    assert session.end() == (0, "")


def test_remove(ok, run, scratch, rich, make):  # noqa: F811
    """--remove deletes the originals, after all went well and not before."""
    make("b.ext3")
    assert run("pack-overlay", "a.ext3", "b.ext3", "-o", "no/all", "--remove").status == 73
    assert sorted(os.listdir(scratch)) == ["a.ext3", "b.ext3"]
    ok("pack-overlay", "b.ext3", "a.ext3", "-o", "all", "--remove")
    assert os.listdir(scratch) == ["all.sqsh"]


# ------------------------------------------------------------------ verification --

DOCTORED = {
    "drops a file": 'shift 2; exec {real} "$tree" "$out" "$@" "... same"',
    "empties a file": 'cp -a "$tree" {copy}; : >{copy}/tree/same; shift 2;'
    ' exec {real} {copy} "$out" "$@"',
    "changes a byte": 'cp -a "$tree" {copy}; touch -r {copy}/tree/same {copy}.time;'
    " printf Y | dd of={copy}/tree/same bs=1 seek=5 conv=notrunc 2>/dev/null;"
    ' touch -r {copy}.time {copy}/tree/same; shift 2; exec {real} {copy} "$out" "$@"',
    "changes a mode": 'cp -a "$tree" {copy}; chmod 777 {copy}/tree/empty; shift 2;'
    ' exec {real} {copy} "$out" "$@"',
    "changes a time": 'cp -a "$tree" {copy}; touch {copy}/tree/empty; shift 2;'
    ' exec {real} {copy} "$out" "$@"',
    "adds a file": 'cp -a "$tree" {copy}; touch {copy}/tree/more; shift 2;'
    ' exec {real} {copy} "$out" "$@"',
    "cuts the file": 'shift 2; {real} "$tree" "$out" "$@" && truncate -s -2000000 "$out"',
    "does nothing": "exit 0",
    "fails": "echo no >&2; exit 1",
}


@pytest.mark.parametrize("script", DOCTORED.values(), ids=DOCTORED)
def test_verified(run, scratch, environ, rich, script):
    """What was packed otherwise than it is, is found and not called done."""
    tools = scratch.parent / "tools"
    tools.mkdir()
    real = shutil.which("mksquashfs", path=PATH)
    script = script.format(real=real, copy=tools / "copy")
    version = f'[ "$1" != -version ] || exec {real} "$@"'
    (tools / "mksquashfs").write_text(f"#!/bin/bash\n{version}\ntree=$1 out=$2\n{script}\n")
    (tools / "mksquashfs").chmod(0o755)
    environ["PATH"] = f"{tools}:{PATH}"
    result = run("pack-overlay", "a.ext3", "--remove")
    assert result.status in (73, 74), result
    assert os.listdir(scratch) == ["a.ext3"]
    assert state(rich) == CLEAN


@pytest.mark.parametrize("version", ["4.3", "4", ""])
def test_old_tools(run, scratch, environ, rich, version):
    """A mksquashfs that can take names for commands is not started on an overlay."""
    tools = scratch.parent / "tools"
    tools.mkdir()
    script = (
        f'case $1 in -version) echo "mksquashfs version {version} (2014/05/12)" ;; *) >ran ;; esac'
    )
    (tools / "mksquashfs").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "mksquashfs").chmod(0o755)
    environ["PATH"] = f"{tools}:{PATH}"
    result = run("pack-overlay", "a.ext3")
    assert (result.status, result.stdout) == (69, "")
    assert "before 4.4 it can take a name in an overlay for a command" in result.stderr
    assert os.listdir(scratch) == ["a.ext3"]
    assert rich.exists()


ODD_NAMES = [
    "a b",
    "x f 777 0 0 touch ran",
    "$(touch ran)",
    "`touch ran`",
    "a;touch ran",
    "#x",
    "it's",
]
CLOSED_NAMES = ['x" f 777 0 0 touch ran "', "back\\slash", 'a"b']


@pytest.mark.parametrize("names", [ODD_NAMES, *([name] for name in CLOSED_NAMES)])
def test_odd_names_of_deletions(ok, run, scratch, make, names):  # noqa: F811
    """The name of a deleted file is a name and nothing else in a pack of several overlays."""
    (scratch / "d").mkdir()
    for name in names:
        (scratch / "d" / f".wh.{name}").write_text("")
    ok("create-overlay", "-q", "--from", f"{scratch}/d:/d", "-o", "top.ext3")
    make("low.ext3")
    result = run("pack-overlay", "top.ext3", "low.ext3", "-o", "all")
    assert not list(scratch.rglob("ran"))
    if names != ODD_NAMES:
        assert (result.status, "cannot be put into a pack" in result.stderr) == (73, True)
        return
    assert result.status == 0, result
    listed = tool("unsquashfs", "-l", "-d", "", scratch / "all.sqsh").stdout.splitlines()
    assert sorted(line for line in listed if "/.wh." in line) == sorted(
        f"/d/.wh.{name}" for name in names
    )


def test_no_verify(ok, run, scratch, environ, rich):
    """--no-verify leaves the comparison out."""
    assert "comparing" in run("pack-overlay", "a.ext3", "-o", "b").stderr
    assert "comparing" not in run("pack-overlay", "a.ext3", "-o", "c", "--no-verify").stderr
    assert (scratch / "b.sqsh").stat().st_size == (scratch / "c.sqsh").stat().st_size


def test_full_disk(run, small, scratch, rich):
    """A disk without room: an error, nothing left."""
    with open(small / "filler", "wb") as file:
        free = os.statvfs(small)
        file.write(bytes(free.f_bavail * free.f_frsize - MIB))
    result = run("pack-overlay", rich, "-o", small / "a")
    assert result.status == 73, result
    assert os.listdir(small) == ["filler"]
    assert stat.S_ISREG(rich.stat().st_mode)


# ------------------------------------------------------------------ interrupted --


@pytest.fixture
def kills(ok, start, scratch, rich, count):  # noqa: F811
    """Return a function that kills so many packings at random moments."""

    def kills(number):
        expected = listed(ok, ["a.ext3:ro"], "/tree")
        moments, done = random.Random(SEED), 0
        for turn in range(number):
            session = start("pack-overlay", "a.ext3")
            if turn % 2:
                while session.poll() is None and not named(descendants(session.pid), "mksquashfs"):
                    time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.7))
            kill_tree(session)
            if (scratch / "a.sqsh").exists():
                done += 1
                assert listed(ok, ["a.sqsh:ro"], "/tree") == expected
                (scratch / "a.sqsh").unlink()
            assert state(rich) == CLEAN
        ok("pack-overlay", "a.ext3")
        assert sorted(os.listdir(scratch)) == ["a.ext3", "a.sqsh"]
        assert listed(ok, ["a.sqsh:ro"], "/tree") == expected
        count(f"pack killed: {number} rounds, {done} times whole, never a half file")

    return kills


def test_killed(kills, rounds):  # noqa: F811
    """Killed at a random moment: no half file under the final name; the next one clears up."""
    kills(rounds(4, 30))


@pytest.mark.parametrize("number", [2, 15])
def test_interrupted(start, scratch, rich, number):  # noqa: F811
    """Ctrl-C and TERM: nothing is left."""
    session = start("pack-overlay", "a.ext3", "--compression", "xz")
    while session.poll() is None and not named(descendants(session.pid), "mksquashfs"):
        time.sleep(0.001)
    os.killpg(session.pid, number)
    status, _errors = session.end()
    assert status in (128 + number, -number)
    assert os.listdir(scratch) == ["a.ext3"]
    assert state(rich) == CLEAN


@pytest.mark.parametrize("options", [[], ["-q"]], ids=["", "quiet"])
def test_on_a_terminal(terminal, overlay, scratch, options):  # noqa: F811
    """One line shows how far it is, and none of mksquashfs's figures follow; with -q nothing."""
    overlay()
    child = terminal("pack-overlay", *options, "a.ext3")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    lines = [line.rpartition("\r")[2] for line in child.before.split("\r\n")][:-1]
    assert (scratch / "a.sqsh").exists()
    if options:
        assert lines == []
        return
    bar, *said = lines
    assert re.fullmatch(r"\[=*. *\] +(\d+)/\1 100%", bar)
    assert said[0] == "pack-overlay: comparing it with the original"
    assert [line.partition(" ")[0] for line in said[1:]] == ["packed", "next:"]
