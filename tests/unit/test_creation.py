"""A new overlay: its name, what is refused, its steps, and that nothing is left behind."""

import os
import stat
import subprocess

import pytest
from overlay.create.make import gather, plan
from overlay.create.request import Creation, check_request, file_name
from overlay.errors import CANNOT_CREATE, DAMAGED, IN_USE, USAGE, OverlayError
from overlay.image import ext3_size
from overlay.image import image as images
from support import create, tool

MIB = 1 << 20
ENVIRON = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def make(settings, scratch, monkeypatch):
    """Return a function that makes an overlay in the scratch directory."""
    monkeypatch.chdir(scratch)
    temporary = scratch.parent / "temporary"
    temporary.mkdir()

    def make(size=16 * MIB, files=1000, notices=None, config=(), **options):
        request = Creation(size, files, **options)
        loaded = settings(scratch_local=str(temporary), **dict(config))
        check_request(request)
        facts = gather(request, loaded)
        told = [] if notices is None else notices
        return create(request, loaded, facts, told.append)

    make.temporary = temporary
    return make


def refused(function, *arguments, **options):
    """Return the OverlayError that a call raises."""
    with pytest.raises(OverlayError) as error:
        function(*arguments, **options)
    return error.value


@pytest.mark.parametrize(
    ("size", "files", "path", "name"),
    [
        (500 * MIB, 700000, None, "overlay-500M-700K.ext3"),
        (20480 * MIB, 2000000, None, "overlay-20480M-2000K.ext3"),
        (16 * MIB, 500, None, "overlay-16M-0.5K.ext3"),
        (16 * MIB, 12345, None, "overlay-16M-12.345K.ext3"),
        (1, 1, "env", "env.ext3"),
        (1, 1, "env-v1.2", "env-v1.2.ext3"),
        (1, 1, "env.ext3", "env.ext3"),
        (1, 1, "env.img", "env.img"),
        (1, 1, "/x y/-env,'a'", "/x y/-env,'a'.ext3"),
        (1, 1, ".hidden", ".hidden.ext3"),
    ],
)
def test_file_name(size, files, path, name):
    """The name follows from size and files; a given one gets .ext3 unless it has an ending."""
    assert file_name(Creation(size, files, path=path)) == name


@pytest.mark.parametrize(
    ("path", "sentence", "hint"),
    [
        ("", "'' names a directory, not a file", "-o NAME"),
        (".", ". names a directory, not a file", "-o ./NAME"),
        ("..", ".. names a directory, not a file", "-o ../NAME"),
        ("a/", "a/ names a directory, not a file", "-o a/NAME"),
        (
            "e.ext4",
            "e.ext4: an overlay is an ext3 image, and its name ends with .ext3",
            "-o e.ext3",
        ),
        (
            "a.tar.gz",
            "a.tar.gz: an overlay is an ext3 image, and its name ends with .ext3",
            "-o a.ext3",
        ),
        (
            "a:b",
            "a:b.ext3: colons, control characters and bytes that are not UTF-8 in"
            + " the name of an overlay would be misread by the engine",
            "choose another name: -o a_b.ext3",
        ),
        (
            "a\nb",
            "$'a\\x0ab.ext3': colons, control characters and bytes that are not UTF-8 in"
            + " the name of an overlay would be misread by the engine",
            "choose another name: -o a_b.ext3",
        ),
    ],
)
def test_file_name_refuses(path, sentence, hint):
    """A name that leads nowhere or would be misread is refused."""
    error = refused(file_name, Creation(1, 1, path=path))
    assert (error.what, error.hint, error.status) == (sentence, hint, USAGE)


@pytest.mark.parametrize(
    ("size", "files", "plain", "sentence", "hint"),
    [
        (
            8 * MIB,
            1000,
            False,
            "1,000 files do not fit into 8 MiB",
            "the smallest size for so many files: -s {}",
        ),
        (
            100 * MIB,
            700000,
            True,
            "700,000 files do not fit into 100 MiB",
            "the smallest size for so many files: -s {}",
        ),
        (
            500 * MIB,
            700000000,
            True,
            "700,000,000 files do not fit into 500 MiB",
            "-n counts thousands of files; for 700,000 files: -n 700",
        ),
        (
            500 * MIB,
            700000000,
            False,
            "700,000,000 files do not fit into 500 MiB",
            "the smallest size for so many files: -s {}",
        ),
        (
            17 << 40,
            1000,
            False,
            "17 TiB is more than an ext3 image can be (15.9 TiB)",
            "make several overlays, each for a part of the data",
        ),
    ],
)
def test_check_request_refuses(size, files, plain, sentence, hint):
    """What no image can be is refused with the smallest that can, or the unit that was meant."""
    error = refused(check_request, Creation(size, files), plain_count=plain)
    smallest = ext3_size.smallest_size(files)
    assert error.what == sentence
    assert error.hint == hint.format(smallest // MIB)
    assert error.status == USAGE


def test_check_request_too_many_files():
    """More files than any image can hold: the most for this size is named."""
    error = refused(check_request, Creation(500 * MIB, 1 << 40))
    most = ext3_size.most_files(500 * MIB) // 1000
    assert error.what == "1,099,511,627,776 files are more than an ext3 image can hold"
    assert error.hint == f"the most for 500 MiB: -n {most}K"
    check_request(Creation(500 * MIB, most * 1000))


def test_made(make, scratch):
    """The image is exact, reserved, whole, and belongs to its maker inside."""
    created = make(files=1000)
    path = scratch / "overlay-16M-1K.ext3"
    assert created.path == str(path)
    assert os.listdir(scratch) == [path.name]
    assert os.stat(path).st_size == created.size == 16 * MIB
    assert os.stat(path).st_blocks * 512 >= 16 * MIB
    made = created.as_dictionary()
    assert made.pop("limits") == []  # the command adds them
    assert made == {
        "path": str(path),
        "size": 16 * MIB,
        "data_available": created.superblock.available_bytes,
        "files_available": created.superblock.free_inodes_count,
        "allocated": os.stat(path).st_blocks * 512,
    }
    assert created.superblock.free_inodes_count >= 1000
    assert tool("e2fsck", "-fn", path).returncode == 0
    for name in ("/upper", "/work", "/upper/opt"):
        told = tool("debugfs", "-R", f"stat {name}", path).stdout
        assert f"User: {os.getuid():5d} " in told and "Mode:  0755" in told, told
    assert list(make.temporary.glob("*/*")) == []


def test_sparse(make):
    """--sparse takes hardly any block."""
    created = make(size=512 * MIB, sparse=True)
    assert created.allocated < 24 * MIB  # the journal's blocks are real
    assert os.stat(created.path).st_size == 512 * MIB


def test_sparse_by_the_site(make, settings):
    """The site's directories are made, whatever they are called."""
    created = make(config={"create_directories": "/opt '/my dir/x' srv/data"})
    for name in ("/upper/opt", "/upper/my dir/x", "/upper/srv/data"):
        assert "Type: directory" in tool("debugfs", "-R", f'stat "{name}"', created.path).stdout


@pytest.mark.parametrize("name", ["-x", "a,b", "it's", 'a"b', "größe", "$HOME", "a b", "x" * 240])
def test_names(make, scratch, name):
    """An overlay may have any name that the engine can be told."""
    assert make(path=name).path == str(scratch / f"{name}.ext3")


def test_umask(make):
    """The file's permissions are those that the user's umask gives to every new file."""
    old = os.umask(0o027)
    try:
        created = make()
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(created.path).st_mode) == 0o640
    told = tool("debugfs", "-R", "stat /upper", created.path).stdout
    assert "Mode:  0755" in told


def content(path):
    """Return the bytes of a file, or what else stands there."""
    if os.path.islink(path):
        return os.readlink(path)
    if os.path.isdir(path):
        return sorted(os.listdir(path))
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("kind", ["file", "empty", "directory", "broken link", "overlay"])
def test_never_overwrites(make, scratch, kind):
    """What stands at the name stays as it is."""
    path = scratch / "x.ext3"
    if kind == "directory":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to("gone.ext3")
    elif kind == "overlay":
        make(path="x")
    else:
        path.write_text("text" if kind == "file" else "")
    before = content(path)
    error = refused(make, path="x")
    if kind == "broken link":
        assert error.what == (
            "x.ext3 exists already: it is a link to gone.ext3, which does not exist"
        )
        assert refused(make, path="x", force=True).what == error.what
    else:
        assert error.what == f"'{path}' exists already"
        assert error.hint.startswith("choose another name with -o; --force replaces it, and all")
    assert os.listdir(scratch) == ["x.ext3"]
    assert error.status == CANNOT_CREATE
    assert content(path) == before


def test_force(make, scratch):
    """--force replaces an overlay, and keeps its permissions and attributes."""
    old = make(path="x")
    os.chmod(old.path, 0o640)
    os.setxattr(old.path, "user.note", b"mine")
    os.setxattr(old.path, "user.overlay.x", b"ours")
    new = make(path="x", size=32 * MIB, files=2000, force=True)
    assert (new.path, os.stat(new.path).st_size) == (old.path, 32 * MIB)
    assert stat.S_IMODE(os.stat(new.path).st_mode) == 0o640
    assert os.listxattr(new.path) == ["user.note"]
    assert os.listdir(scratch) == ["x.ext3"]


def test_force_without_an_old_one(make):
    """--force where nothing stands is no error."""
    assert os.path.exists(make(path="x", force=True).path)


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        ("text", DAMAGED, "{} is not an overlay; --force replaces overlays only"),
        ("directory", CANNOT_CREATE, "{} cannot be replaced: it is a directory"),
    ],
)
def test_force_refuses(make, scratch, kind, status, sentence):
    """--force replaces overlays, nothing else."""
    path = scratch / "x.ext3"
    if kind == "text":
        path.write_text("text\n" * 1000)
    else:
        path.mkdir()
    before = content(path)
    error = refused(make, path="x", force=True)
    assert (error.what, error.status) == (sentence.format(f"'{path}'"), status)
    assert content(path) == before


def test_force_in_use(make):
    """An overlay that a session writes is not replaced; readers keep the one that they have."""
    from overlay.image import lock

    path = make(path="x").path
    descriptor = os.open(path, os.O_RDWR)
    lock.take(descriptor, write=True)
    error = refused(make, path="x", force=True)
    lock.take(descriptor, write=False)
    make(path="x", force=True)
    os.close(descriptor)
    assert error.what.startswith(f"'{path}' is in use: a session is writing to it")
    assert error.status == IN_USE


@pytest.mark.parametrize(
    ("path", "sentence", "hint"),
    [
        ("no dir/x", "there is no directory '{}/no dir'", "mkdir -p '{}/no dir'"),
        ("y" * 251, f"the name '{{}}/{'y' * 251}.ext3' is too long", None),
    ],
)
def test_gather_refuses(make, scratch, path, sentence, hint):
    """A place that cannot take the file is refused before anything is made."""
    error = refused(make, path=path)
    assert error.what == sentence.format(scratch)
    assert error.hint == (hint and hint.format(scratch))
    assert error.status == CANNOT_CREATE
    assert os.listdir(scratch) == list(make.temporary.glob("*/*")) == []


def test_file_too_large(environ, scratch, words):
    """Where no file may be so large it is said, and nothing is left."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            'ulimit -f 8192; exec "$@"',
            "sh",
            *words("create-overlay"),
            "-s",
            "16",
            "-n",
            "1",
        ],
        env=environ,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (CANNOT_CREATE, "")
    path = scratch / "overlay-16M-1K.ext3"
    assert done.stderr == (
        "create-overlay: error: files may have 4 MiB here (ulimit -f), and"
        f" {str(path)!r} is to have 16 MiB\n"
        "create-overlay: hint: in a shell without that limit: the same command\n"
    )
    assert os.listdir(scratch) == []


def ended_process():
    """Return the number of a process that is no more."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_remove_stale(make, scratch):
    """What a killed run left is removed by the next; what may be alive stays."""
    import socket

    from overlay.image import lock

    host, gone = socket.gethostname(), ended_process()
    stale = scratch / f".overlay-partial.{host}.{gone}"
    alive = scratch / f".overlay-partial.{host}.{os.getpid()}1"
    elsewhere = scratch / f".overlay-partial.other.{gone}"
    old = scratch / ".overlay-partial.other.1"
    held = scratch / f".overlay-partial.{host}.{gone}0"
    alive = scratch / f".overlay-partial.{host}.1"
    for path in (stale, elsewhere, old, held, alive):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    descriptor = os.open(held, os.O_RDWR)
    lock.take(descriptor, write=True)
    own = make.temporary / f"overlay-{os.getuid()}"
    (own / f"work.{host}.{gone}" / "upper").mkdir(parents=True)
    kept = {f"work.{host}.1", f"work.other.{gone}", "job1.ext3"}
    for name in kept:
        (own / name).mkdir()
    make(path="x")
    os.close(descriptor)
    left = {alive.name, elsewhere.name, held.name, "x.ext3"}
    assert set(os.listdir(scratch)) == left
    assert set(os.listdir(own)) == kept


def test_printed_plan_does_the_same(make, settings, scratch):
    """The lines of --dry-run, pasted, make the same image."""
    for name, sparse in (("reserved", False), ("sparse", True)):
        made = make(path=f"direct-{name}", sparse=sparse)
        request = Creation(16 * MIB, 1000, path=name, sparse=sparse)
        loaded = settings(scratch_local=str(make.temporary))
        facts = gather(request, loaded)
        lines = plan(request, loaded, facts).shell()
        done = subprocess.run(
            ["sh", "-e"],
            input=lines,
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRON,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pasted = images.look(f"{name}.ext3", write=True)
        direct = images.look(made.path)
        for field in (
            "blocks_count",
            "inodes_count",
            "free_inodes_count",
            "free_blocks_count",
            "reserved_blocks_count",
            "compatible",
            "incompatible",
        ):
            assert getattr(pasted.superblock, field) == getattr(direct.superblock, field), field
        assert pasted.upper == os.getuid()
        assert pasted.status.st_blocks == direct.status.st_blocks
        pasted.close()
        direct.close()
    assert list(make.temporary.glob("*/*")) == []


def test_mke2fs_fails(make, settings, scratch):
    """When mke2fs fails its last words are told, and nothing is left."""
    failing = scratch.parent / "mke2fs"
    failing.write_text("#!/bin/sh\necho one >&2\necho 'mke2fs: no luck' >&2\nexit 3\n")
    failing.chmod(0o755)
    request = Creation(16 * MIB, 1000, path="x")
    loaded = settings(scratch_local=str(make.temporary))
    facts = gather(request, loaded)
    facts.tools["mke2fs"] = str(failing)
    error = refused(create, request, loaded, facts, print)
    assert error.what == f"cannot create '{scratch}/x.ext3': mke2fs: no luck; nothing was changed"
    assert error.status == CANNOT_CREATE
    assert os.listdir(scratch) == list(make.temporary.glob("*/*")) == []


def test_appears_meanwhile(make, settings, scratch):
    """A file that appears while the image is made is not overwritten."""
    request = Creation(16 * MIB, 1000, path="x")
    loaded = settings(scratch_local=str(make.temporary))
    facts = gather(request, loaded)
    (scratch / "x.ext3").write_text("first")
    error = refused(create, request, loaded, facts, print)
    assert (error.what, error.status) == (
        f"'{scratch}/x.ext3' exists already",
        CANNOT_CREATE,
    )
    assert (scratch / "x.ext3").read_text() == "first"
    assert os.listdir(scratch) == ["x.ext3"]
