"""create-overlay on real file systems: size, blocks, interruption, a full disk."""

import json
import os
import re
import signal
import subprocess

import pytest
from support import ROOT, digests, is_clean, shell, wait_until

MIB = 1 << 20


@pytest.mark.parametrize(
    ("arguments", "name", "size", "files"),
    [
        (["-s", "16", "-n", "1"], "overlay-16M-1K.ext3", 16, 1000),
        (["-s", "16M", "-n", "1K"], "overlay-16M-1K.ext3", 16, 1000),
        (
            ["-s", "0.5G", "-n", "0.02M", "--sparse"],
            "overlay-512M-20K.ext3",
            512,
            20000,
        ),
        (
            ["-s", "20G", "-n", "2M", "--sparse"],
            "overlay-20480M-2000K.ext3",
            20480,
            2000000,
        ),
        (["-s", "16", "-n", "1", "-o", "env-v1.2"], "env-v1.2.ext3", 16, 1000),
        (["-s", "16", "-n", "1", "-o", "my env.img"], "my env.img", 16, 1000),
    ],
)
def test_sizes(ok, scratch, arguments, name, size, files):
    """The file has the size to the byte, and room for all the files."""
    told = json.loads(ok("create-overlay", "--json", *arguments))
    assert os.listdir(scratch) == [name]
    assert os.stat(scratch / name).st_size == told["size"] == size * MIB
    assert told["path"] == str(scratch / name)
    assert told["files_available"] >= files
    assert is_clean(scratch / name)


def test_reserved_and_sparse(ok, scratch):
    """Blocks are reserved, unless --sparse or the site leaves them as holes."""
    ok("create-overlay", "-s", "64", "-n", "1", "-o", "reserved")
    ok("create-overlay", "-s", "64", "-n", "1", "-o", "sparse", "--sparse")
    site = {"OVERLAY_CREATE_ALLOCATION": "sparse"}
    ok("create-overlay", "-s", "64", "-n", "1", "-o", "site", variables=site)
    ok(
        "create-overlay",
        "-s",
        "64",
        "-n",
        "1",
        "-o",
        "against",
        "--reserve",
        variables=site,
    )
    blocks = {path.stem: path.stat().st_blocks * 512 for path in scratch.iterdir()}
    assert blocks["reserved"] >= 64 * MIB and blocks["against"] >= 64 * MIB
    assert blocks["sparse"] < 16 * MIB and blocks["site"] < 16 * MIB


def test_site_defaults(ok, environ, scratch):
    """The site's size and number of files stand where -s and -n are not given."""
    environ.update(OVERLAY_CREATE_SIZE="16", OVERLAY_CREATE_FILES="1")
    ok("create-overlay")
    assert os.listdir(scratch) == ["overlay-16M-1K.ext3"]


def test_summary(ok, scratch):
    """At the end stands what a person wants to know, and the next command, which works."""
    lines = ok("create-overlay", "-s", "16", "-n", "1", "-o", "my env").splitlines()
    assert lines[0] == f"created '{scratch}/my env.ext3'"
    assert lines[1] == "  size   16 MiB, reserved"
    assert lines[2].startswith("  room   ") and lines[2].endswith(" files")
    assert all(line.startswith("  left   ") for line in lines[3:-1]) and len(lines) > 4
    assert lines[-1] == "next: mount-overlay -o 'my env.ext3'"
    assert ok("create-overlay", "-q", "-s", "16", "-n", "1") == ""


def test_never_overwrites(run, ok, scratch):
    """An existing file is left alone; --force replaces an overlay."""
    ok("create-overlay", "-s", "16", "-n", "1", "-o", "a")
    ok("run-overlay", "-o", "a.ext3", "--", "touch", "/mine")
    before = digests(scratch)
    path = f"'{scratch}/a.ext3'"
    assert run("create-overlay", "-s", "16", "-n", "1", "-o", "a") == (
        73,
        "",
        f"create-overlay: error: {path} exists already\n"
        + "create-overlay: hint: choose another name with -o; --force replaces it, and all that"
        + " is in it\n",
    )
    assert digests(scratch) == before
    ok("create-overlay", "-s", "16", "-n", "1", "-o", "a", "--force")
    assert run("run-overlay", "-o", "a.ext3", "--", "ls", "/mine").status == 2


def test_parallel(environ, scratch):
    """Of several at once with one name exactly one makes it, the others say so."""
    words = [ROOT / "bin" / "create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a"]
    runs = [
        subprocess.Popen(words, env=environ, cwd=scratch, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    told = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 73, 73, 73, 73, 73], told
    assert os.listdir(scratch) == ["a.ext3"]
    assert is_clean(scratch / "a.ext3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_interrupted(ok, environ, scratch, number):
    """A signal in the midst leaves nothing under the name; the next run clears the rest."""
    temporary = scratch.parent / "temporary"
    temporary.mkdir()
    environ["OVERLAY_SCRATCH_LOCAL"] = str(temporary)
    environ["OVERLAY_QUOTA_CHECK"] = "off"
    words = [
        ROOT / "bin" / "create-overlay",
        "-s",
        "200G",
        "-n",
        "50M",
        "--sparse",
        "-o",
        "a",
    ]
    run = subprocess.Popen(
        words,
        env=environ,
        cwd=scratch,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: any(path.stat().st_size for path in scratch.iterdir()))
    # As a terminal and a batch system do: to all of the process group.
    os.killpg(run.pid, number)
    stdout, stderr = run.communicate()
    assert stdout == ""
    assert run.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGKILL:
        assert len(os.listdir(scratch)) == 1
    else:
        assert os.listdir(scratch) == os.listdir(temporary) == []
    expected = "create-overlay: interrupted\n" if number == signal.SIGINT else ""
    assert stderr == expected
    assert not (scratch / "a.ext3").exists()
    ok("create-overlay", "-s", "16", "-n", "1", "-o", "a")
    assert os.listdir(scratch) == ["a.ext3"]
    assert os.listdir(temporary) == []


def test_full_disk(run, small):
    """Where the blocks cannot be had it is refused, and nothing is left."""
    result = run("create-overlay", "-s", "80", "-n", "1", "-o", "a", cwd=small)
    sentence, hint = result.stderr.splitlines()
    assert (result.status, result.stdout) == (73, "")
    assert re.fullmatch(
        rf"create-overlay: error: there is no room for the overlay in '{small}': the file system"
        rf" \S+ is short by 1[67](\.\d)? MiB \(free (63\.\d|64) MiB, needed 80 MiB\)",
        sentence,
    )
    assert hint.startswith("create-overlay: hint: choose a smaller size (-s 6")
    assert os.listdir(small) == []
    assert os.statvfs(small).f_bavail == os.statvfs(small).f_blocks


def test_small_disk(run, ok, small):
    """On a small disk a sparse overlay larger than it is made, and works."""
    ok("create-overlay", "-s", "32", "-n", "1", "-o", "a", cwd=small)
    ok("create-overlay", "-s", "200", "-n", "1", "-o", "b", "--sparse", cwd=small)
    result = run(
        "run-overlay",
        "-o",
        "b.ext3",
        "--",
        "sh",
        "-c",
        "echo x > /x; cat /x",
        cwd=small,
    )
    assert (result.status, result.stdout) == (0, "x\n")
    assert result.stderr.startswith("run-overlay: b.ext3 is sparse and may still grow by ")


@pytest.mark.parametrize(
    "text",
    [
        "[defaults]\nbase_features = extents,64bit,metadata_csum\nblocksize = 1024\n",
        "[options]\nno_such = 1\n[fs_types]\n ext3 = {\n features = extents,^has_journal\n }\n",
        "this is no configuration\n{{{\n",
    ],
)
def test_hostile_mke2fs_conf(ok, environ, scratch, text):
    """Whatever mke2fs.conf says, the overlay is the same."""
    (scratch / "mke2fs.conf").write_text(text)
    environ["MKE2FS_CONFIG"] = str(scratch / "mke2fs.conf")
    environ["MKE2FS_DEVICE_SECTSIZE"] = "512"
    ok("create-overlay", "-s", "16", "-n", "1", "-o", "a")
    found = subprocess.run(
        ["/usr/sbin/dumpe2fs", "-h", scratch / "a.ext3"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Block size:               4096\n" in found
    assert "has_journal" in found and "extent" not in found and "64bit" not in found
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "touch /x && echo x") == "x\n"


def test_dry_run(ok, run, environ, scratch):
    """--dry-run does nothing; its lines, pasted, make an overlay that works."""
    printed = ok("create-overlay", "--dry-run", "-s", "16", "-n", "1", "-o", "it's")
    assert os.listdir(scratch) == []
    # Pasted line by line, while other commands of the same user tidy up there and here.
    lines = printed.splitlines()
    for line in lines:
        assert shell(line, environ, scratch) == (0, "", "")
        if ".overlay-partial" in line and line.startswith("truncate"):
            ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "other")
            (scratch / "other.ext3").unlink()
    assert os.listdir(scratch) == ["it's.ext3"]
    line = "mkdir /data /opt/envs && echo x"
    assert ok("run-overlay", "-o", "it's.ext3", "--", "sh", "-c", line) == "x\n"


def listing(directory):
    """Return names, sizes and times in a directory whose files may not be read."""
    return sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()
    )


def test_no_place(run, scratch, colleague):
    """A directory that is not there, or is another's, is refused."""
    words = ["create-overlay", "-s", "16", "-n", "1", "-o"]
    assert run(*words, "no/a") == (
        73,
        "",
        f"create-overlay: error: there is no directory '{scratch}/no'\n"
        + f"create-overlay: hint: mkdir -p '{scratch}/no'\n",
    )
    before = listing(colleague)
    assert run(*words, colleague / "a") == (
        73,
        "",
        f"create-overlay: error: you may not create files in {colleague}\n"
        + "create-overlay: hint: change to a directory of your own first, or name one with -o\n",
    )
    assert run(*words, colleague / "0644", "--force") == (
        73,
        "",
        f"create-overlay: error: you may not create files in {colleague}\n"
        + "create-overlay: hint: change to a directory of your own first, or name one with -o\n",
    )
    assert listing(colleague) == before
