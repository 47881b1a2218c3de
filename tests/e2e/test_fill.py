"""create-overlay --from, -t and -f: the same as if the user had made the files inside."""

import getpass
import gzip
import io
import json
import os
import re
import signal
import subprocess
import tarfile

import pytest
from e2e.listing import listed, listing, plant, unlock
from e2e.safety.conftest import start  # noqa: F401
from e2e.safety.trees import descendants, named
from overlay.image import ext3, markers
from overlay.image.ext3_read import Reader
from overlay.image.paths import Paths
from support import ROOT, base_of, execute, is_clean, shell, tool, wait_until

MIB = 1 << 20


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Return a tree with one of everything, and its list."""
    tree = plant(tmp_path_factory.mktemp("planted") / "tree")
    yield tree, listing(tree)
    unlock(tree)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """Return a directory where the base image is unpacked once for all tests."""
    return tmp_path_factory.mktemp("unpacked")


@pytest.fixture
def local(tmp_path, environ, unpacked):
    """Return the directory for temporary files, to see that nothing is left there."""
    path = tmp_path / "local"
    own = path / f"overlay-{os.getuid()}"
    own.mkdir(0o700, parents=True)
    (own / "base").symlink_to(unpacked)
    environ["OVERLAY_SCRATCH_LOCAL"] = str(path)
    yield path
    assert (os.listdir(path), os.listdir(own)) == ([own.name], ["base"])


@pytest.fixture(autouse=True)
def _use_local(local):
    """See in every test that nothing is left."""


def tar(tree, path, *options):
    """Make a tar archive of a tree, all but what its owner himself cannot read."""
    words = ["tar", "--xattrs", "-S", *options, "-C", tree, "-cf", path, "."]
    subprocess.run(words, check=False, stderr=subprocess.DEVNULL)
    return path


def inside(ok, layer, line):
    """Return what a line of shell prints in a session."""
    return ok("run-overlay", "-o", layer, "--", "sh", "-c", line)


def readable(found):
    """Return a list without what its owner cannot read."""
    closed = ("b'/mode 0'", "b'/directory 0'")
    return {name: row for name, row in found.items() if name not in closed}


def without_links(found):
    """Return a list without the numbers of names, which fuse-overlayfs finds out one by one."""
    return {name: [*row[:4], *row[5:]] for name, row in found.items()}


# -------------------------------------------------------------------- overlays --

# What the upper overlay deletes and changes of the lower one.
LOWER_MADE = "mkdir -p /data/d /data/e; cd /data; echo a >a; echo b >b; echo c >d/c; echo x >e/x"
UPPER_MADE = "cd /data; rm a; rm -r e; mkdir e; echo n >e/n; echo new >b; ln b hard; chmod 0 b"
IN_BOTH = "cd /data; chmod 700 b; find . | sort; cat b d/c; stat -c '%h %a' hard"


@pytest.fixture
def layers(ok, scratch):
    """Return what is seen of two overlays, up.ext3 over lo.ext3, in which some is deleted."""
    for name in ("lo", "up"):
        ok("create-overlay", "-q", "--sparse", "-s", "32", "-n", "1", "-o", name)
    ok("run-overlay", "-o", "lo.ext3", "--", "sh", "-c", LOWER_MADE)
    ok("run-overlay", "-o", "up.ext3", "-o", "lo.ext3", "--", "sh", "-c", UPPER_MADE)
    seen = ok("run-overlay", "-o", "up.ext3", "-o", "lo.ext3", "--", "sh", "-c", IN_BOTH)
    assert seen == ".\n./b\n./d\n./d/c\n./e\n./e/n\n./hard\nnew\nc\n2 700\n"
    return seen


@pytest.mark.parametrize("name", ["up.ext3", "up.sqsh", "up.d"])
def test_overlay_as_source(ok, scratch, layers, name):
    """An overlay of each kind is a source; its deletions go along, over others too."""
    (scratch / "up.d").mkdir()
    line = f"{UPPER_MADE}; chmod 700 b"
    ok("run-overlay", "-q", "-o", "up.d", "-o", "lo.ext3", "--", "sh", "-c", line)
    ok("pack-overlay", "-q", "up.ext3")
    ok("create-overlay", "-q", "--from", name, "-o", "copy")
    ok("create-overlay", "-q", "--from", name, "-o", "copy", "--force")
    for copy in ("copy.ext3", "copy.ext3:ro"):
        line = IN_BOTH if copy == "copy.ext3" else IN_BOTH.replace("chmod 700 b; ", "")
        words = ["-o", copy, "-o", "lo.ext3"]
        assert ok("run-overlay", *words, "--", "sh", "-c", line) == layers
    ok("create-overlay", "-q", "--from", f"{name}:/some/place", "-o", "moved")
    line = "cat /some/place/data/e/n; ls /data"
    result = ok("run-overlay", "-o", "moved.ext3:ro", "--", "sh", "-c", f"{line} 2>&1 || true")
    assert result.startswith("n\nls: cannot access '/data'")


def test_overlay_as_source_refused(run, start, scratch, overlay, colleague):  # noqa: F811
    """One that is being written, somebody's private one, and one that is not an overlay."""
    overlay()
    session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "echo inside; read _")
    session.says("inside")
    words = ["create-overlay", "-q", "-o", "b", "--from"]
    result = run(*words, "a.ext3")
    assert (result.status, "a session is writing to it" in result.stderr) == (75, True), result
    assert session.end() == (0, "")
    assert run(*words, colleague / "0600.ext3").status == 66
    with open(scratch / "ext4", "wb") as file:
        file.truncate(16 << 20)
    assert tool("mke2fs", "-q", "-t", "ext4", scratch / "ext4").returncode == 0
    result = run(*words, "ext4")
    assert (result.status, "is an ext4 image" in result.stderr) == (65, True), result
    os.chmod(scratch / "a.ext3", 0o600)  # the new one is not for more people
    assert run(*words, "a.ext3") == (0, "", "")
    assert os.stat(scratch / "b.ext3").st_mode & 0o777 == 0o600


# --------------------------------------------------------- moved environments --


def environment(path, kind, *, names):
    """Make a small environment of some kind at a path, whose scripts name a place."""
    (path / "bin").mkdir(parents=True)
    (path / {"venv": "pyvenv.cfg", "conda": "conda-meta"}[kind]).touch()
    (path / "bin" / "python").symlink_to("/usr/bin/python3")
    for name in ("a", "b c"):
        (path / "bin" / name).write_text(f"#!{names}/bin/python3\nprint('old')\n")
    (path / "bin" / "pip").write_text(f"#!/bin/sh\n'''exec' {names}/bin/python3 \"$0\"\n")
    (path / "bin" / "activate").write_text(f"VIRTUAL_ENV={names}\n")
    (path / "bin" / "other").write_text("#!/usr/bin/python3\n")
    return path


@pytest.mark.parametrize("kind", ["venv", "conda"])
@pytest.mark.parametrize("how", ["directory", "below", "archive"])
def test_moved_environment(run, scratch, kind, how):
    """What still names the place where it was made is told, with the number of files and a way."""
    env = environment(scratch / "envs" / "foo", kind, names=scratch / "envs/foo")
    inside, source = "/opt/foo", "envs/foo:/opt/foo"
    if how == "below":
        inside, source = "/opt/envs/foo", "envs:/opt/envs"
    elif how == "archive":
        tar(env, scratch / "foo.tar")
        source = "foo.tar:/opt/foo"
    result = run("create-overlay", "-q", "--from", source, "-o", "a")
    assert result.status == 0
    ways = {
        "venv": f"make it anew there: create-overlay -f FILE, with python3 -m venv {inside}",
        "conda": f"pack it first: conda-pack -p '{env}' -o env.tar.gz; then --from"
        f" env.tar.gz:{inside}, and inside {inside}/bin/conda-unpack",
    }
    assert result.stderr == (
        f"create-overlay: 4 files of {inside}/bin name the place where the environment was made,"
        f" '{env}', and will not run what is in the overlay; {ways[kind]}\n"
    )


@pytest.mark.parametrize("how", ["directory", "archive"])
def test_python_elsewhere(run, ok, scratch, how):
    """A venv of a python that is not in the overlay, nor in the base image: it is told, once."""
    (scratch / "py" / "bin").mkdir(parents=True)
    (scratch / "py" / "bin" / "python3.1").write_text("#!/bin/sh\necho python\n")
    (scratch / "py" / "bin" / "python3.1").chmod(0o755)
    env = environment(scratch / "env", "venv", names="/opt/foo")
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to("python3")
    (env / "bin" / "python3").symlink_to(scratch / "py" / "bin" / "python3.1")
    tar(env, scratch / "env.tar")
    source = "env:/opt/foo" if how == "directory" else "env.tar:/opt/foo"
    result = run("create-overlay", "-q", "--no-activate", "--from", source, "-o", "a")
    assert result.status == 0
    assert result.stderr == (
        f"create-overlay: the python of /opt/foo is '{scratch}/py/bin/python3.1', which is not in the"
        " overlay: it runs only where that is seen, on this machine or another; make it anew there:"
        " create-overlay -f FILE, with python3 -m venv /opt/foo\n"
    )
    # Where it comes with it, nothing is said, and it runs.
    (env / "bin" / "python3").unlink()
    (env / "bin" / "python3").symlink_to("/opt/py/bin/python3.1")
    words = ["--from", "env:/opt/foo", "--from", "py:/opt/py", "--no-activate"]
    assert run("create-overlay", "-q", *words, "-o", "b") == (0, "", "")
    assert ok("run-overlay", "-o", "b.ext3:ro", "--", "/opt/foo/bin/python") == "python\n"


def test_environment_in_its_place(run, scratch):
    """Nothing is said of one that names the place that it gets, nor of others' interpreters."""
    environment(scratch / "a", "venv", names="/opt/a")
    environment(scratch / "b", "conda", names="/usr")
    words = ["--from", "a:/opt/a", "--from", "b:/opt/b"]
    assert run("create-overlay", "-q", *words, "-o", "c") == (0, "", "")


# ---------------------------------------------------------------- directories --


def test_directory(ok, scratch, planted):
    """All that a directory holds is there, the user's own, and he can change and delete it."""
    tree, expected = planted
    told = json.loads(ok("create-overlay", "--json", "--from", tree, "-o", "a"))
    assert is_clean(scratch / "a.ext3")
    assert told["size"] == os.stat(scratch / "a.ext3").st_size
    assert listed(ok, ["a.ext3:ro"], "/tree") == expected
    assert without_links(listed(ok, ["a.ext3"], "/tree")) == without_links(expected)
    # What its owner could not read has come along all the same, and holes are holes.
    line = "cd /tree && chmod 700 'mode 0' 'directory 0' && cat 'mode 0' 'directory 0/inner'"
    assert inside(ok, "a.ext3", f"{line} && du -k sparse") == "textinner12\tsparse\n"
    line = f"find /tree ! -user $(id -u); {REMOVE}; echo x >/opt/new"
    assert inside(ok, "a.ext3", line) == ""


def test_places(ok, run, scratch, planted):
    """Several sources, one in another, the same twice, at the top, and over one another."""
    tree, expected = planted
    (scratch / "over").mkdir()
    (scratch / "over" / "empty").write_text("no more")
    words = []
    for source in (tree, f"{tree}:/opt/x y", f"{tree}/deep:/tree2/deep", "over:/opt/x y", "over:/"):
        words += ["--from", source]
    ok("create-overlay", "-q", *words, "-o", "a")
    assert listed(ok, ["a.ext3:ro"], "/tree") == expected
    below = {name: row for name, row in listed(ok, ["a.ext3:ro"], "/opt/x y").items()}
    differing = {name for name in expected if below[name] != expected[name]}
    # The place itself takes after the last that came to it, as with cp -a.
    assert differing == {"b''", "b'/empty'"}
    deep = listed(ok, ["a.ext3:ro"], "/tree2/deep")
    alone = listing(tree / "deep")
    assert alone["b'/er/random'"][4] == 2
    alone["b'/er/random'"][4] = 1  # its other name is not below deep
    assert deep == alone
    line = "cat /empty '/opt/x y/empty'; echo >'/opt/x y/same'; cmp /tree/same /tree2/deep/er/*"
    assert inside(ok, "a.ext3", line) == "no moreno more"


@pytest.mark.parametrize(
    ("dest", "covers"),
    [("/bound", "/bound"), ("/bound/x", "/bound"), ("/tmp/x", "/tmp"), ("/proc", "/proc")],
)
def test_covered(run, scratch, site, site_text, dest, covers):
    """A place below what the host covers is refused."""
    site.write_text(f"{site_text}[binds]\npaths = {scratch}:/bound\n")
    (scratch / "tree").mkdir()
    assert run("create-overlay", "--from", f"tree:{dest}") == (
        2,
        "",
        f"create-overlay: error: {dest} would not be seen inside: the host's {covers} covers it\n"
        "create-overlay: hint: choose another place: --from tree:/opt/NAME\n",
    )


def test_foreign(ok, run, scratch, colleague):
    """What another user lets one read becomes one's own; what he does not is named."""
    ok("create-overlay", "-q", "--from", f"{colleague}/0755.d/upper/data:/data", "-o", "a")
    line = "cat /data/hello; echo mine >/data/hello; rm -r /data; ls -d /data 2>&1 | wc -l"
    assert inside(ok, "a.ext3", line) == "hello from a colleague\n1\n"
    result = run("create-overlay", "--from", f"{colleague}:/data", "-o", "b")
    assert (result.status, result.stdout) == (66, "")
    assert "0600.ext3" in result.stderr and "ermission denied" in result.stderr
    assert os.listdir(scratch) == ["a.ext3"]
    # So it is where it is copied first.
    result = run("create-overlay", "--from", f"{colleague}:/", "-o", "b")
    assert (result.status, result.stdout) == (66, "")
    place = f"'{colleague}/0600.ext3' for reading: Permission denied\n"
    assert result.stderr.endswith(f"cannot copy {colleague}: cannot open {place}")


def test_foreign_beside_a_mount(words, environ, scratch, colleague):
    """A file system that is mounted somewhere below /tmp does not make a copy of a source needed."""
    (scratch / "mounted").mkdir()
    script = 'mount -t tmpfs none mounted\nexec "$@"'
    namespace = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps"]
    plain = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all"]
    create = [*words("create-overlay"), "--dry-run", "--from", f"{colleague}/0755.d/upper:/d"]
    through = [*namespace, "sh", "-e", "-c", script, "sh", *plain, *create]
    result = execute(through, environ=environ, cwd=scratch)
    assert (result.status, result.stderr) == (0, "")
    assert "cp -a" not in result.stdout


# ------------------------------------------------------------------- archives --

REMOVE = "chmod -R u+rwx /tree; rm -r /tree; ls / | grep -x tree; touch /new"


@pytest.mark.parametrize("option", ["", "-z", "-j", "-J", "--zstd"])
def test_tar(ok, scratch, planted, option):
    """A tar archive comes out the same, however it is compressed."""
    tree, expected = planted
    tar(tree, scratch / "a.tar", *([option] if option else []))
    ok("create-overlay", "-q", "--from", "a.tar:/tree", "-o", "a")
    found = readable(listed(ok, ["a.ext3:ro"], "/tree"))
    assert found == readable(expected)
    line = f"du -k /tree/sparse; {REMOVE}"
    assert inside(ok, "a.ext3", line) == "12\t/tree/sparse\n"


def test_squashfs(ok, scratch, planted):
    """A squashfs file comes out the same, but for bits that unsquashfs gives root only."""
    tree, expected = planted
    words = ["mksquashfs", tree, "s.sqsh", "-quiet", "-no-progress"]
    subprocess.run(words, cwd=scratch, check=True, capture_output=True)
    ok("create-overlay", "-q", "--from", "s.sqsh:/tree", "-o", "a")
    found = listed(ok, ["a.ext3:ro"], "/tree")
    expected = {name: [row[0], row[1] & 0o1777, *row[2:]] for name, row in expected.items()}
    assert {name: row for name, row in readable(found).items() if row[7]} == {
        name: row for name, row in readable(expected).items() if row[7]
    }
    assert inside(ok, "a.ext3", REMOVE) == ""


def test_unknown_compression(run, scratch):
    """Why unsquashfs cannot read a file is said, and not the last compressor that it lists."""
    (scratch / "d").mkdir()
    tool("mksquashfs", scratch / "d", scratch / "s.sqsh", "-quiet", "-no-progress")
    with open(scratch / "s.sqsh", "r+b") as file:
        file.seek(20)
        file.write(bytes([9]))  # no compressor has this number
    result = run("create-overlay", "--from", "s.sqsh:/d", "-o", "a")
    assert result.status == 65
    assert "compression, this is unsupported by this version" in result.stderr, result


def test_archive_at_the_top(ok, scratch):
    """An archive without a place is unpacked at /, beside what the site puts there."""
    (scratch / "root" / "opt").mkdir(parents=True)
    (scratch / "root" / "opt" / "f").write_text("text")
    tar(scratch / "root", scratch / "a.tar")
    ok("create-overlay", "-q", "--from", "a.tar", "-o", "a")
    assert inside(ok, "a.ext3", "cat /opt/f; touch /opt/new; ls /opt") == "textf\nnew\n"


ARCHIVES = {
    "named twice": ["d", "d/f", "d/f"],
    "label": ["-V", "LABEL", "d"],
    "label of GNU": ["--format=gnu", "-V", "LABEL", "d"],
    "incremental": ["--format=gnu", "--listed-incremental=list", "d"],
    "incremental, POSIX": ["--format=posix", "--listed-incremental=list", "d"],
    "times of GNU": ["--format=gnu", "--incremental", "d"],
    "v7": ["--format=v7", "d"],
    "oldgnu": ["--format=oldgnu", "d"],
    "ustar": ["--format=ustar", "d"],
}


@pytest.mark.parametrize("written", ARCHIVES.values(), ids=ARCHIVES)
def test_tar_as_written(ok, scratch, written):
    """What tar(1) writes with other options has the names that were given, and nothing more."""
    (scratch / "d" / "d2").mkdir(parents=True)
    (scratch / "d" / "f").write_text("text")
    (scratch / "d" / "d2" / "up").symlink_to("../../../opt")
    os.link(scratch / "d" / "f", scratch / "d" / "d2" / "same")
    subprocess.run(["tar", "-cf", "a.tar", *written], cwd=scratch, check=True)
    ok("create-overlay", "-q", "--from", "a.tar:/data", "-o", "a")
    expected = "d\nd/d2\nd/d2/same\nd/d2/up\nd/f\n"
    assert inside(ok, "a.ext3:ro", "cd /data; find * | sort") == expected
    line = "cd /data/d; readlink d2/up; cat f d2/same; stat -c ' %h' f"
    assert inside(ok, "a.ext3:ro", line) == "../../../opt\ntexttext 2\n"


def test_absolute_names(ok, scratch):
    """Absolute names of an archive of tar -P are taken as below the place, as tar(1) does."""
    (scratch / "d").mkdir()
    (scratch / "d" / "f").write_text("text")
    os.link(scratch / "d" / "f", scratch / "d" / "same")
    subprocess.run(["tar", "-cPf", "a.tar", scratch / "d"], cwd=scratch, check=True)
    ok("create-overlay", "-q", "--from", "a.tar:/data", "-o", "a")
    assert (
        inside(ok, "a.ext3:ro", f"cat '/data{scratch}/d/f' '/data{scratch}/d/same'") == "texttext"
    )


@pytest.mark.parametrize("option", ["", "-z"])
def test_empty_archive(ok, scratch, option):
    """An archive of nothing is one."""
    words = ["tar", *([option] if option else []), "-cf", "a.tar", "-T", "/dev/null"]
    subprocess.run(words, cwd=scratch, check=True)
    ok("create-overlay", "-q", "--from", "a.tar:/data", "-o", "a")
    assert inside(ok, "a.ext3:ro", "ls -A /data") == ""


def test_zstd_with_a_large_window(ok, scratch):
    """zstd --long=31 writes what zstd reads only when it is told so."""
    (scratch / "d").mkdir()
    (scratch / "d" / "f").write_text("content")
    line = "tar -c d | zstd -q --long=31 -o a.tar.zst"
    subprocess.run(["bash", "-c", line], cwd=scratch, check=True)
    ok("create-overlay", "-q", "--from", "a.tar.zst:/data", "-o", "a")
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data/d/f") == "content"


def test_archives_in_a_row(run, scratch):
    """Archives behind one another, and parts of one, are named, with what unpacks them."""
    (scratch / "d").mkdir()
    (scratch / "d" / "f").write_bytes(os.urandom(30000))
    subprocess.run(["tar", "-cf", "a.tar", "d"], cwd=scratch, check=True)
    line = "cat a.tar a.tar >two.tar; tar -c -M -L 20 -f 1.tar -f 2.tar --format=gnu d"
    subprocess.run(["bash", "-c", line], cwd=scratch, check=True)
    for name, word, way in (
        ("two.tar", "holds several tar archives", "mkdir DIR && tar -C DIR -ixf two.tar"),
        ("1.tar", "is damaged", "where it is one of several volumes, unpack them first: mkdir"),
        ("2.tar", "is one of the volumes", "mkdir DIR && tar -C DIR -xMf FIRST -f SECOND"),
    ):
        result = run("create-overlay", "--from", name, "-o", "a")
        assert result.status == 65, result
        assert f"{name} {word}" in result.stderr and way in result.stderr, result
    assert not (scratch / "a.ext3").exists()


OTHERS = [
    (b"PK\x03\x04", "a zip archive", "unzip -q file -d DIR"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -oDIR file"),
    (b"\x5d\0\0\x80", "compressed by lzma", "xz -dc file | tar -C DIR -x"),
    (b"070701", "a cpio archive", "cpio -D DIR -idm --no-absolute-filenames <file"),
]


@pytest.mark.parametrize(("mark", "what", "way"), OTHERS, ids=["zip", "7z", "lzma", "cpio"])
def test_other_archives(run, scratch, mark, what, way):
    """An archive that is not read is named, with the command that unpacks it."""
    (scratch / "file").write_bytes(mark + bytes(2000))
    assert run("create-overlay", "--from", "file", "-o", "a") == (
        65,
        "",
        f"create-overlay: error: file is {what}, which is not unpacked here\n"
        f"create-overlay: hint: unpack it first: mkdir DIR && {way}; then: --from DIR:/opt/file\n",
    )


def hostile(path, *members):
    """Make a compressed tar archive of members: (name, fields of its header)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(bytes(info.size)) if info.size else None)


LINK = {"type": tarfile.SYMTYPE}
HOSTILE = {
    "traversal": [("../../evil", {})],
    "through a link": [("l", {**LINK, "linkname": "{}"}), ("l/evil", {})],
    "hard link out": [("h", {"type": tarfile.LNKTYPE, "linkname": "{}/secret"})],
    "device": [("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "bomb": [("zeros", {"size": 40 * MIB})],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile(run, scratch, members):
    """A malicious archive ends with an error; nothing outside, nothing left."""
    outside = scratch / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    filled = [
        (
            name.format(outside),
            {
                key: str(value).format(outside) if key == "linkname" else value
                for key, value in fields.items()
            },
        )
        for name, fields in members
    ]
    hostile(scratch / "a.tgz", ("fine", {}), *filled)
    result = run("create-overlay", "-s", "32", "-n", "1", "--from", "a.tgz", "-o", "a")
    assert (result.status, result.stdout) in ((65, ""), (73, "")), result
    assert "a.tgz" in result.stderr
    assert sorted(os.listdir(scratch)) == ["a.tgz", "outside"]
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1


def test_huge_sparse(run, scratch):
    """A sparse member of an absurd size ends with an error, and soon."""
    with open(scratch / "huge", "wb") as file:
        file.truncate(8 << 40)
    subprocess.run(["tar", "-Sczf", "a.tgz", "huge"], cwd=scratch, check=True)
    (scratch / "huge").unlink()
    for words in (["-s", "32", "-n", "1"], []):
        result = run("create-overlay", *words, "--from", "a.tgz", "-o", "a")
        assert result.status == 73 and "more than the" in result.stderr, result
        assert os.listdir(scratch) == ["a.tgz"]


def test_many_members(run, scratch):
    """An archive of more files than were asked for ends with the number that would do."""
    data = b"".join(tarfile.TarInfo(f"{number // 500}/{number}").tobuf() for number in range(20000))
    with gzip.open(scratch / "a.tgz", "wb", compresslevel=1) as file:
        file.write(data + bytes(1024))
    result = run("create-overlay", "-s", "32", "-n", "1", "--from", "a.tgz", "-o", "a")
    assert result.status == 73 and "1,0" in result.stderr, result
    assert os.listdir(scratch) == ["a.tgz"]


# ----------------------------------------------------------------------- sizes --


@pytest.fixture
def data(scratch):
    """Return a directory of 40 MiB in 1500 files."""
    tree = scratch / "data"
    for number in range(1500):
        path = tree / str(number % 7)
        path.mkdir(parents=True, exist_ok=True)
        (path / str(number)).write_bytes(os.urandom(1000) * 28)
    return tree


def test_margin(ok, run, scratch, data):
    """Without -s and -n there is room for so much more as the site says."""
    for margin in ("20%", "100%"):
        environ = {"OVERLAY_CREATE_MARGIN": margin}
        words = ["--json", "--from", "data", "-o", margin[:-1]]
        told = json.loads(ok("create-overlay", *words, variables=environ))
        share = int(margin[:-1]) / 100
        assert told["data_available"] > 1500 * 28672 * share
        assert told["files_available"] > 1500 * share
        assert told["size"] < 1500 * 28672 * (1 + share) + 40 * MIB


def test_smallest(ok, run, scratch, data):
    """Too small is refused with the smallest that would do; that one works."""
    for words, rest in (
        (["-s", "20", "-n", "2"], ["-n", "2"]),
        (["-s", "20"], []),
        (["-n", "0.7"], []),
        (["-n", "1", "-s", "200"], ["-s", "200"]),
    ):
        result = run("create-overlay", "--from", "data", *words, "-o", "a")
        assert (result.status, result.stdout) == (2, ""), result
        assert os.listdir(scratch) == ["data"]
        option, amount = re.search(r"the smallest .*: (-[sn]) (\S+)\n", result.stderr).groups()
        ok("create-overlay", "-q", "--from", "data", option, amount, *rest, "-o", "a")
        assert is_clean(scratch / "a.ext3")
        assert inside(ok, "a.ext3:ro", "find /data -type f | wc -l") == "1500\n"
        (scratch / "a.ext3").unlink()


def test_usable(ok, scratch, data):
    """--usable: the size is the room for data, whatever the tables need beside it."""
    for size, files in ((20, 1), (500, 200), (3000, 20)):
        words = ["--sparse", "--json", "--usable", "-s", size, "-n", files, "-o", size]
        told = json.loads(ok("create-overlay", *words))
        assert size * MIB <= told["data_available"] < size * MIB * 1.1 + 20 * MIB
        assert told["files_available"] >= files * 1000
    words = ["--json", "--usable", "-s", "100", "--from", "data", "-o", "b"]
    told = json.loads(ok("create-overlay", *words))
    assert told["data_available"] >= (100 - 42) * MIB


def test_covered_part(run, scratch):
    """A part of an archive that the host's directories cover is taken, and a line says so."""
    for name in ("tmp/f", "data/f"):
        (scratch / "tree" / name).parent.mkdir(parents=True)
        (scratch / "tree" / name).touch()
    tar(scratch / "tree", scratch / "a.tar")
    result = run("create-overlay", "-q", "--from", "a.tar", "-o", "a")
    said = "create-overlay: what is put in /tmp is not seen in sessions: the host's covers it\n"
    assert (result.status, result.stderr) == (0, said)


def test_late_times(ok, scratch):
    """Times after 2038 stay, which mke2fs by itself cuts off: filled, and with more files."""
    for tree in ("bound", "copied"):
        (scratch / tree / "d").mkdir(parents=True)
        for name, seconds in (("a", 1 << 31), ("d/b", 4_000_000_000), ("c", 5), ("d", 1 << 33)):
            path = scratch / tree / name
            path.touch()
            os.utime(path, (seconds, seconds))
    ok("create-overlay", "--from", "bound:/x", "--from", "copied:/", "-o", "a")
    ok("resize-overlay", "a.ext3", "-n", "5")
    line = "cd /x; stat -c '%Y %n' a c d d/b; cd /; stat -c '%Y %n' a c d d/b"
    expected = "2147483648 a\n5 c\n8589934592 d\n4000000000 d/b\n" * 2
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line) == expected


def test_room_before_the_work(run, small):
    """A size that has no room is told before the commands run."""
    (small / "commands").write_text("touch built\n")
    result = run("create-overlay", "-f", "commands", "-s", "80", "-n", "1", "-o", "a", cwd=small)
    assert (result.status, os.listdir(small)) == (73, ["commands"]), result
    assert "there is no room" in result.stderr


@pytest.mark.parametrize("mode", [0o700, 0o555])
@pytest.mark.parametrize("kind", ["directory", "squashfs"])
def test_top_stays_open(ok, scratch, mode, kind):
    """At / the mode of a source's top closes the overlay to nobody, its owner neither."""
    (scratch / "before").mkdir()
    (scratch / "before" / "f").write_text("1")
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "g").write_text("2")
    (tree / "d").mkdir()
    tree.chmod(mode)
    name = "tree"
    if kind == "squashfs":
        name = "tree.sqsh"
        assert tool("mksquashfs", tree, scratch / name, "-quiet").returncode == 0
    ok("create-overlay", "--no-history", "--from", "before:/", "--from", f"{name}:/", "-o", "a")
    tree.chmod(0o700)
    with open(scratch / "a.ext3", "rb") as file:
        superblock = ext3.read_superblock(file.fileno())
        reader = Reader(file.fileno(), superblock)
        _number, upper = reader.lookup(b"upper")
        assert upper.mode & 0o7777 == 0o755
        names = {entry for entry, _number, _kind in reader.entries(upper)}
    assert names - {b".", b".."} == {b"f", b"g", b"d", b"opt"}


def test_name_that_would_not_be_taken(ok, scratch, site, site_text, data):
    """The site's size is not that of what is filled, and a name that follows not in the way."""
    site.write_text(f"{site_text}[create]\nsize = 20M\nfiles = 1K\n")
    ok("create-overlay", "-q")
    ok("create-overlay", "-q", "--from", f"{data}:/data")
    assert len(list(scratch.glob("overlay-*.ext3"))) == 2


def test_dry_run_of_a_build(ok, scratch):
    """The binds of the commands are in the printed line."""
    (scratch / "commands").write_text("true\n")
    words = ["-f", "commands", "-b", "/var/tmp:/x", "-s", "20", "-n", "1", "-o", "a"]
    assert " -b /var/tmp:/x -f commands" in ok("create-overlay", "--dry-run", *words)


def test_dry_run(ok, run, environ, scratch, planted):
    """--dry-run does nothing; its lines, pasted, make the same overlay."""
    tree, expected = planted
    words = ["-s", "100", "-n", "2", "--from", tree, "-o", "it's"]
    printed = ok("create-overlay", "--dry-run", *words)
    assert os.listdir(scratch) == []
    result = shell(printed, environ, scratch)
    assert result.status == 0, result
    assert os.listdir(scratch) == ["it's.ext3"]
    assert listed(ok, ["it's.ext3:ro"], "/tree") == expected


# ------------------------------------------------------------------ templates --


@pytest.fixture
def conda(scratch, site, site_text):
    """Configure a template conda: what stands for Miniforge, and a script beside it."""
    tree = scratch.parent / "miniforge"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "conda").write_text("#!/bin/sh\necho conda at work\n")
    (tree / "bin" / "conda").chmod(0o755)
    (tree / "env.sh").write_text("PATH=/ext3/bin:$PATH\n")
    archive = tar(tree, scratch.parent / "mini forge.tar.gz", "-z")
    more = "[templates]\nconda = '" + str(archive) + ":/ext3'\nempty = " + str(tree / "bin") + "\n"
    site.write_text(site_text + more)
    return archive


def test_template(ok, conda):
    """-t, and create-overlay-conda beside it: the program in it runs and is the user's."""
    line = ". /ext3/env.sh; conda; touch /ext3/new; rm /ext3/bin/conda"
    for program, options in (("create-overlay", ["-t", "conda"]), ("create-overlay-conda", [])):
        words = ["-s", "50", "-n", "2", "-o", program, *options]
        ok(program, "-q", *words)
        assert inside(ok, f"{program}.ext3", line) == "conda at work\n"
    (conda.parent / "more").mkdir()
    ok("create-overlay-conda", "-q", "--from", conda.parent / "more", "-o", "no-size")
    assert inside(ok, "no-size.ext3:ro", "ls -d /ext3/bin /more") == "/ext3/bin\n/more\n"


def test_list_templates(ok, run, conda, site, site_text):
    """The templates of the site, a line each; without any, that is said."""
    lines = ok("create-overlay", "--list-templates").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["conda", "empty"]
    assert str(conda) in lines[0]
    result = run("create-overlay", "-t", "no", "-s", "16", "-n", "1")
    assert (result.status, "there is no template no" in result.stderr) == (66, True)
    assert "conda, empty" in result.stderr
    conda.unlink()
    assert run("create-overlay-conda", "-s", "16", "-n", "1").status == 66
    site.write_text(site_text)
    assert run("create-overlay", "--list-templates") == (
        0,
        "",
        "create-overlay: the site has no templates\n",
    )
    assert run("create-overlay-conda", "-s", "16", "-n", "1").status == 66


# ----------------------------------------------------------------------- build --


def found_markers(path):
    """Return the markers in an image, with their directories."""
    with open(path, "rb") as file:
        reader = Reader(file.fileno(), ext3.read_superblock(file.fileno()))
        paths = Paths(reader, reader.lookup(b"upper")[0])
        return sorted(
            (paths.of(marker.directory) if marker.directory else b"", marker.name)
            for marker in markers.scan(reader)
        )


BUILD = """#!/bin/bash
set -e
mkdir -p /data/deep
echo made >/data/deep/made; echo gone >/data/deep/gone; rm /data/deep/gone
python3 -m venv --without-pip /opt/env
ln -s /data /opt/data
rm /usr/share/base-files/motd
echo built here; echo complaint >&2
"""
SEEN = """
/opt/env/bin/python -c 'print(6 * 7)'; cat /opt/data/deep/made; ls /data/deep
ls -d /usr/share/base-files/motd 2>/dev/null
find / -xdev -name '.wh.*' 2>/dev/null; test -e /usr/share/base-files/profile && echo still
"""


def test_build(ok, run, scratch):
    """What commands have made is there, and right, writable and read-only; nothing needless."""
    (scratch / "build.txt").write_text(BUILD)
    result = run("create-overlay", "-f", "build.txt", "-o", "a")
    assert result.status == 0, result
    assert "built here\n" in result.stderr and "complaint" in result.stderr
    assert result.stdout.startswith("created ")
    assert sorted(os.listdir(scratch)) == ["a.ext3", "build.txt"]
    assert is_clean(scratch / "a.ext3")
    for mode in (":ro", ""):
        assert inside(ok, f"a.ext3{mode}", SEEN) == "42\nmade\nmade\nstill\n", mode
    # The deletion of the one file of the base, as the kernel writes it: in no directory that
    # the scan tells.
    assert found_markers(scratch / "a.ext3") == [(b"", b"")]
    line = "rm -r /data /opt/env && touch /opt/new; ls /opt"
    assert inside(ok, "a.ext3", line) == "data\nnew\n"


def test_build_without_a_directory_of_the_base(run, scratch):
    """The kernel cannot remove a directory of the base image here: it fails, and is told."""
    (scratch / "build.txt").write_text("rm -r /usr/share/debconf")
    result = run("create-overlay", "-f", "build.txt", "-o", "a")
    assert result.status == 73
    assert "Input/output error" in (scratch / "a.log").read_text()
    assert sorted(os.listdir(scratch)) == ["a.log", "build.txt"]


def test_build_over_a_padded_base(ok, scratch):
    """An image with name, size and time of another does not become what that is unpacked to."""
    tree = base_of(scratch / "tree", "/bin/bash", "/bin/sh", "/bin/cp", "/bin/cat")
    images = []
    for words in ("the site's", "poisoned, poisoned"):
        (tree / "etc" / "said").write_text(words)
        path = scratch / words[:3] / "b.sqsh"
        path.parent.mkdir()
        assert tool("mksquashfs", tree, path, "-quiet", "-no-progress").returncode == 0
        images.append(path)
    size = max(path.stat().st_size for path in images)
    for path in images:
        os.truncate(path, size)
        os.utime(path, (10**9, 10**9))
    (scratch / "build.txt").write_text("cp /etc/said /opt/said")
    words = ("create-overlay", "-q", "-s", "16", "-n", "1", "-f", "build.txt", "-c")
    ok(*words, images[1], "-o", "poisoned")
    ok(*words, images[0], "-o", "sound")
    assert inside(ok, "poisoned.ext3:ro", "cat /opt/said") == "poisoned, poisoned"
    assert inside(ok, "sound.ext3:ro", "cat /opt/said") == "the site's"


def test_build_on_sources(ok, scratch):
    """Commands see what the overlay is filled with beside them, and can change it."""
    (scratch / "tree").mkdir()
    (scratch / "tree" / "one").write_text("one")
    (scratch / "build.txt").write_text("cp /tree/one /tree/two; rm /tree/one; echo $PWD >/tree/pwd")
    ok("create-overlay", "-q", "-f", "build.txt", "--from", "tree", "-o", "a", "-s", "30")
    assert inside(ok, "a.ext3:ro", "cd /tree; ls; cat two").startswith("pwd\ntwo\none")
    assert found_markers(scratch / "a.ext3") == []


@pytest.mark.parametrize(
    ("commands", "ended"),
    [
        ("echo out; echo err >&2; exit 4", "status 4"),
        ("echo out; echo err >&2; set -e; false; echo not", "status 1"),
        ("echo out; echo err >&2; kill -9 $$", "9"),
    ],
)
def test_build_fails(run, scratch, commands, ended):
    """A failing command makes no overlay and leaves what was printed."""
    (scratch / "build.txt").write_text(commands)
    result = run("create-overlay", "-f", "build.txt", "-o", "a")
    assert result.status == 73, result
    assert ended in result.stderr and "no overlay was made" in result.stderr
    (log,) = set(os.listdir(scratch)) - {"build.txt"}
    assert f"less {scratch / log}" in result.stderr.replace("'", "")
    assert (scratch / log).read_text().split()[:2] == ["out", "err"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["-s", "20", "-n", "1"], 2, "do not fit into 20 MiB"),
        (["-n", "0.01"], 2, "the overlay is to hold 10 files"),
        (["-n", "1"], 77, "are not allowed here"),
    ],
)
def test_build_is_kept(ok, run, scratch, local, environ, options, status, said):
    """What does not fit in the end is kept, and the printed line makes an overlay of it."""
    line = "mkdir /data; cd /data; touch {1..30}; head -c 30M /dev/urandom >f; chmod 0 f"
    (scratch / "build.txt").write_text(line)
    variables = {"OVERLAY_CREATE_MAX_SIZE": "32" if status == 77 else "1G"}
    result = run("create-overlay", *options, "-f", "build.txt", "-o", "a b", variables=variables)
    assert result.status == status and said in result.stderr, result
    assert sorted(os.listdir(scratch)) == ["build.txt"]
    (kept,) = local.glob("*/kept.*")
    assert f"; what the commands made is kept in {kept}\n" in result.stderr
    _hint, _colon, line = result.stderr.partition("create-overlay --from ")
    line, remove = re.fullmatch("(.*); when it is not needed: (rm -rf .*)\n", line).groups()
    made = shell(f"{ROOT}/bin/create-overlay -q --from {line}", environ, scratch)
    assert made.status == 0, made
    line = "stat -c '%a %s' /data/f; ls /data | wc -l"
    assert inside(ok, "a b.ext3:ro", line) == "0 31457280\n31\n"
    assert shell(remove, environ, scratch).status == 0


def test_size_is_open(ok, run, scratch):
    """What turns out too small is made larger, where nobody has said how large it is to be."""
    (scratch / "d").mkdir()
    with open(scratch / "d" / "f", "wb") as file:
        for place in range(8000):  # each of these blocks needs one more, which tells where it is
            os.pwrite(file.fileno(), b"x", place << 22)
    ok("create-overlay", "-q", "--from", "d:/d", "-o", "a")
    assert is_clean(scratch / "a.ext3")
    assert inside(ok, "a.ext3:ro", "stat -c %s /d/f; tail -c 1 /d/f") == f"{(7999 << 22) + 1}\nx"
    result = run("create-overlay", "--from", "d:/d", "-s", "48", "-n", "1", "-o", "b")
    assert (result.status, "hint: choose a larger size with -s" in result.stderr) == (73, True)
    assert sorted(os.listdir(scratch)) == ["a.ext3", "d"]


def test_build_keeps_a_log_of_the_user(ok, run, scratch):
    """A file that is called as the log would be is not touched."""
    (scratch / "a.log").write_text("mine")
    (scratch / "build.txt").write_text("true")
    ok("create-overlay", "-q", "-f", "build.txt", "-o", "a", "-s", "20", "-n", "1")
    assert (scratch / "a.log").read_text() == "mine"
    (scratch / "build.txt").write_text("echo out; false")
    assert run("create-overlay", "-f", "build.txt", "-o", "b").status == 73
    assert (scratch / "a.log").read_text() == "mine"


def test_build_takes_its_log_anew(ok, run, start, scratch):  # noqa: F811
    """One log stays, of the last build that failed; one that is being written is left alone."""
    build = scratch / "build.txt"
    words = ["create-overlay", "-q", "-s", "20", "-n", "1", "-f", "build.txt", "-o"]
    for said in ("a long first line", "second"):
        build.write_text(f"echo {said}; false")
        assert run(*words, "a").status == 73
        assert (scratch / "a.log").stat().st_mode & 0o777 == 0o600
        (scratch / "a.log").chmod(0o644)  # as those of the first version are
    assert (scratch / "a.log").read_text() == "second\n"
    assert sorted(os.listdir(scratch)) == ["a.log", "build.txt"]
    os.mkfifo(scratch / "go")
    build.write_text("echo running; read _ <go; false")
    session = start(*words, "a")
    wait_until(lambda: (scratch / "a.log").read_text() == "running\n")
    build.write_text("echo other; false")
    assert run(*words, "a").status == 73
    (scratch / "go").write_text("\n")
    assert session.end()[0] == 73
    assert (scratch / "a.log").read_text() == "running\n"
    assert (scratch / "a.log.2").read_text() == "other\n"
    build.write_text("true")
    ok(*words, "a")
    assert sorted(os.listdir(scratch)) == ["a.ext3", "a.log.2", "build.txt", "go"]


def test_build_refused(run, scratch):
    """What belongs to -f is refused without it; a file of commands that is not there."""
    assert run("create-overlay", "-s", "16", "-n", "1", "-c", "base").status == 2
    assert run("create-overlay", "-s", "16", "-n", "1", "-f", "no").status == 66
    assert run("create-overlay", "-s", "16", "-n", "1", "-f", ".").status == 66
    assert os.listdir(scratch) == []


# ----------------------------------------------------------------- interrupted --


def unpacking(local, session):
    """Whether the archive is being unpacked."""
    return list(local.glob(f"*/work.*.{session.pid}/upper/*/*0"))


def writing(_local, session):
    """Whether the image is being written."""
    return named(descendants(session.pid), "mke2fs")


def building(_local, session):
    """Whether the commands are being run."""
    return session.complains("inside")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [unpacking, writing, building])
def test_interrupted(run, start, scratch, local, moment, number):  # noqa: F811
    """Ctrl-C and TERM while it works: nothing is left, here or in scratch."""
    words = ["--from", "a.tgz:/data"]
    if moment is building:
        words = ["-f", "build.txt"]
        (scratch / "build.txt").write_text("mkdir -p /data; echo x >/data/x; echo inside; sleep 60")
    else:
        with tarfile.open(scratch / "a.tgz", "w:gz", compresslevel=1) as archive:
            for count in range(8000):
                info = tarfile.TarInfo(f"{count // 100}/{count}")
                info.size = 5000
                archive.addfile(info, io.BytesIO(bytes(5000)))
    before = sorted(os.listdir(scratch))
    session = start("create-overlay", *words, "-o", "a")
    wait_until(lambda: moment(local, session))
    os.killpg(session.pid, number)
    status, _errors = session.end()
    assert (
        status in (130, -signal.SIGINT)
        if number == signal.SIGINT
        else status in (143, -signal.SIGTERM)
    )
    assert sorted(set(os.listdir(scratch)) - {"a.log"}) == before


BUILDS = {
    "waits": "echo inside; sleep 60; echo >/data",  # bash goes on when sleep has ended
    "heeds": "trap 'exit 0' INT TERM HUP QUIT; echo inside; while :; do sleep 0.1; done",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("line", BUILDS)
def test_interrupted_alone(start, scratch, local, line, number):  # noqa: F811
    """What asks create-overlay to end, and only it, ends the commands; no overlay is made."""
    (scratch / "build.txt").write_text(BUILDS[line])
    session = start("create-overlay", "-f", "build.txt", "-o", "a")
    session.complains("inside")
    # The shell itself ignores QUIT, so what it waits for must be there.
    wait_until(lambda: named(descendants(session.pid), "sleep"))
    pids = descendants(session.pid)
    session.send_signal(number)
    status, _errors = session.end()
    assert status == (130 if number in (signal.SIGINT, signal.SIGQUIT) else -number)
    assert sorted(set(os.listdir(scratch)) - {"a.log"}) == ["build.txt"]
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


# ---------------------------------------------------------------------- policy --

POLICY = "[site]\nlock = create.{0}\n[create]\n{0} = {1}\n"


@pytest.mark.parametrize(
    ("key", "value", "loose", "options", "hint"),
    [
        ("max_size", "100M", "1T", ["-s", "101", "-n", "1"], "-s 100"),
        ("min_size", "50M", "1M", ["-s", "49", "-n", "1"], "-s 50"),
        ("max_files", "2K", "1M", ["-s", "50", "-n", "2.1"], "-n 2"),
        ("min_files", "2K", "1", ["-s", "50", "-n", "1"], "-n 2"),
    ],
)
def test_policy(run, home, scratch, site, site_text, key, value, loose, options, hint):
    """A locked limit holds against the environment and the user's own file; the hint works."""
    site.write_text(site_text + POLICY.format(key, value))
    own = home / ".config" / "overlay" / "overlay.ini"
    own.parent.mkdir(parents=True)
    own.write_text(f"[create]\n{key} = {loose}\n")
    variables = {f"OVERLAY_CREATE_{key.upper()}": loose}
    result = run("create-overlay", *options, "-o", "a", variables=variables)
    assert (result.status, result.stdout) == (77, ""), result
    assert f"hint: {hint}\n" in result.stderr
    assert os.listdir(scratch) == []
    option, amount = hint.split()
    options[options.index(option) + 1] = amount
    assert run("create-overlay", "-q", *options, "-o", "a").status == 0


def test_policy_of_what_is_filled(run, scratch, site, site_text, data):
    """The limits hold for what was worked out from the sources too."""
    site.write_text(site_text + POLICY.format("max_size", "30M"))
    assert run("create-overlay", "--from", "data", "-o", "a").status == 77
    assert os.listdir(scratch) == ["data"]


def test_permissions(ok, scratch, site, site_text, data):
    """The permission bits that the site sets hold, locked too."""
    site.write_text(site_text + POLICY.format("permissions", "0640"))
    variables = {"OVERLAY_CREATE_PERMISSIONS": "0666"}
    ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a", variables=variables)
    ok("create-overlay", "-q", "--from", "data", "-o", "b", variables=variables)
    assert [(scratch / name).stat().st_mode & 0o777 for name in ("a.ext3", "b.ext3")] == [0o640] * 2


@pytest.mark.parametrize(("rule", "status"), [("allow", 0), ("warn", 0), ("refuse", 77)])
def test_outside(run, scratch, site, site_text, rule, status):
    """An overlay that is not where overlays belong: as the site says."""
    place = scratch / "place"
    place.mkdir()
    scratch_text = f"[scratch]\nlocations = '{place}'\noutside = {rule}\n"
    site.write_text(f"{site_text}[site]\nlock = scratch.outside scratch.locations\n{scratch_text}")
    variables = {"OVERLAY_SCRATCH_OUTSIDE": "allow", "OVERLAY_SCRATCH_LOCATIONS": "/"}
    words = ["create-overlay", "-q", "-s", "16", "-n", "1", "-o"]
    result = run(*words, "a", variables=variables)
    assert result.status == status, result
    assert ("is not where overlays belong here" in result.stderr) == (rule != "allow")
    assert (scratch / "a.ext3").exists() == (status == 0)
    assert run(*words, "a", cwd=place, variables=variables) == (0, "", "")


@pytest.mark.parametrize("place", ["{user}", "{home}", "$USER"])
def test_outside_by_another_name(run, scratch, site, site_text, place):
    """Whoever the caller says that he is: the rule is for the one that he is."""
    own = {"{home}": os.path.expanduser("~")}.get(place, f"{scratch}/{getpass.getuser()}")
    text = place if place == "{home}" else f"'{scratch}/{place}'"
    site.write_text(
        f"{site_text}[site]\nlock = scratch\n[scratch]\nlocations = {text}\noutside = refuse\n"
    )
    words = ["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a"]
    for user in (".", "..", "../../.."):
        result = run(*words, variables={"USER": user, "HOME": f"{scratch}/{user}"})
        assert result.status == 77 and result.stderr.startswith("create-overlay: error: "), result
        assert f"is not where overlays belong here: {own}" in result.stderr.replace("'", "")


def test_json(ok, scratch):
    """--json tells all that the closing summary tells."""
    told = json.loads(ok("create-overlay", "--json", "-s", "16", "-n", "1", "-o", "a"))
    status = os.stat(scratch / "a.ext3")
    assert told["path"] == str(scratch / "a.ext3")
    assert told["size"] == status.st_size
    assert told["allocated"] == status.st_blocks * 512
    assert told["data_available"] > 5 * MIB and told["files_available"] >= 1000
    kinds = {limit["kind"]: limit for limit in told["limits"]}
    free = os.statvfs(scratch)
    assert abs(kinds["space"]["bytes_left"] - free.f_bavail * free.f_frsize) < 1 << 33


def test_into_its_own_source(ok, scratch):
    """From the current directory, where the overlay will lie too: that is not in itself."""
    (scratch / "file").write_text("text")
    ok("create-overlay", "-q", "--from", ".:/data", "-o", "a")
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "ls", "-A", "/data") == "file\n"


def test_refused_before_the_work(run, scratch, planted):
    """A name that exists, or an amount that is none, is told before anything is built."""
    (scratch / "commands").write_text(f"touch {scratch}/built\n")
    (scratch / "a.ext3").write_text("mine")
    for status, *words in (
        (73, "-o", "a"),
        (2, "-o", "b", "-s", "abc"),
        (73, "-o", "none/b"),
        (2, "-s", "1", "-n", "x"),
    ):
        result = run("create-overlay", "-f", "commands", *words)
        assert result.status == status, result
        assert result.stderr.startswith("create-overlay: error: "), result
    assert sorted(os.listdir(scratch)) == ["a.ext3", "commands"]


# ------------------------------------------------------------------- at the door --


@pytest.mark.parametrize(
    ("options", "what"),
    [(["--from", "d", "-s", "x"], "-s"), (["-f", "build.txt", "-n", "x"], "-n")],
)
def test_wrong_amount(run, scratch, options, what):
    """An amount that is none is refused before anything is looked at or made."""
    (scratch / "d").mkdir()
    (scratch / "build.txt").write_text("true\n")
    before = sorted(os.listdir(scratch))
    result = run("create-overlay", *options)
    assert result.status == 2
    assert result.stderr.startswith(f"create-overlay: error: {what}: 'x' is not a ")
    assert sorted(os.listdir(scratch)) == before


def test_dry_run_names_the_same(run, ok, scratch):
    """The name that follows from the content is the same in a dry run and in a real one."""
    (scratch / "d").mkdir()
    for number in range(20):
        (scratch / "d" / str(number)).write_text("x")
    lines = ok("create-overlay", "--from", "d", "--dry-run")
    assert sorted(os.listdir(scratch)) == ["d"]
    ok("create-overlay", "--from", "d")
    (made,) = set(os.listdir(scratch)) - {"d"}
    (move,) = [line for line in lines.splitlines() if line.startswith("mv -n ")]
    assert move.rstrip("'").endswith(f"/{made}")
