"""Overlays that somebody has made to reach what is not in them: nothing of the host is touched."""

import os
import shutil

import pytest
from e2e.safety.trees import debugfs
from overlay.host import namespace, process
from overlay.image import ext3, ext3_size
from overlay.image.ext3_read import Reader
from overlay.launch import shield
from support import BASE, PATH, ROOT, digests, execute, tool

MIB = 1 << 20
PLACES = ("upper", "work", "work/work")


@pytest.fixture
def private(tmp_path):
    """Return a directory of the user's with what is not for others, and laid out to be taken."""
    path = tmp_path / "private"
    for name in ("key", "upper/key", "work/key", "work/work/key"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("precious\n")
    (path / "key").chmod(0o600)
    return path


@pytest.fixture
def craft(tmp_path, scratch, private):
    """Return a function that makes an overlay in which some places are not as they should be.

    name   of the image, or of a directory when it does not end in .ext3
    odd    place -> where a link leads; None for a file
    lines  for debugfs
    """

    def craft(name, odd, *lines):
        path = scratch / name
        tree = tmp_path / f"tree of {name}" if name.endswith(".ext3") else path
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        for place in PLACES:
            if (tree / place).parent.is_symlink() or (tree / place).parent.is_file():
                continue
            if place not in odd:
                (tree / place).mkdir()
            elif odd[place] is None:
                (tree / place).write_text("no directory\n")
            else:
                (tree / place).symlink_to(odd[place])
        if tree == path:
            return path
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(16 * MIB)
        words = ext3_size.mke2fs_options(16 * MIB, 500)
        done = tool("mke2fs", *words, "-d", tree, path)
        assert done.returncode == 0, done
        if lines:
            debugfs(path, *lines)
        return path

    return craft


def told(result, words):
    """See that a command refuses an overlay as damaged and says why, in an error and a hint."""
    assert (result.status, result.stdout) == (65, ""), result
    error, hint = result.stderr.splitlines()
    assert ": error: " in error
    assert words in error
    assert ": hint: " in hint


@pytest.mark.parametrize("name", ["a.ext3", "a"])
@pytest.mark.parametrize("place", PLACES)
def test_link(run, scratch, craft, private, name, place):
    """No session, and no other command, follows a link in the place of a directory."""
    craft(name, {place: private})
    before, mine = digests(private), digests(scratch)
    words = f"{place} in {name} is a symbolic link"
    for mode in ("", ":rw", ":ro"):
        told(run("run-overlay", "-o", name + mode, "--", "true"), words)
    for option in ("--stage", "--per-task"):
        told(run("run-overlay", option, "-o", f"{name}:ro", "--", "true"), words)
    told(run("check-overlay", name), words)
    told(run("check-overlay", "--own", name), words)
    told(run("check-overlay", "--repair", name), words)
    told(run("show-overlay", name), words)
    told(run("show-overlay", name, "--files", "/"), words)
    told(run("resize-overlay", name, "-n", "2"), words)
    told(run("resize-overlay", name, "-s", "+16"), words)
    told(run("pack-overlay", name, "-o", "packed"), words)
    listed = run("list-overlays", scratch)
    assert "damaged" in listed.stdout + listed.stderr or name not in listed.stdout
    assert digests(private) == before
    assert digests(scratch) == mine


def test_below(run, craft, overlay, private):
    """The same for an overlay that lies below another."""
    craft("a.ext3", {"work/work": private})
    craft("b", {"upper": private})
    overlay("top.ext3")
    for name in ("a.ext3", "b"):
        result = run("run-overlay", "-o", "top.ext3", "-o", name, "--", "true")
        told(result, "is a symbolic link")
    assert digests(private)[str(private / "key")][1] is not None


@pytest.mark.parametrize("name", ["a.ext3", "a"])
@pytest.mark.parametrize("place", PLACES)
def test_no_directory(run, craft, name, place):
    """Nor is a file taken for a directory."""
    craft(name, {place: None})
    words = f"{place} in {name} is not a directory"
    told(run("run-overlay", "-o", f"{name}:ro", "--", "true"), words)
    told(run("check-overlay", name), words)


@pytest.mark.parametrize("name", ["a.ext3", "a"])
def test_absent(ok, run, scratch, craft, name):
    """What is absent is made by the engine, and no danger."""
    path = craft(name, {})
    if name == "a":
        shutil.rmtree(path / "work")
    else:
        debugfs(
            path,
            "rmdir /work/work",
            f"sif /work uid {os.getuid()}",
            f"sif /upper uid {os.getuid()}",
        )
    ok("run-overlay", "-o", name, "--", "sh", "-c", "echo hello >/hello")
    assert ok("run-overlay", "-o", f"{name}:ro", "--", "cat", "/hello") == "hello\n"
    assert run("check-overlay", name).status == 0


def test_data_with_a_link(ok, scratch, private):
    """A directory of data that is only read may have links of these names."""
    (scratch / "data").mkdir()
    (scratch / "data" / "hello").write_text("hello\n")
    (scratch / "data" / "work").symlink_to(private)
    assert ok("run-overlay", "-o", "data:ro", "--", "cat", "/hello") == "hello\n"


def test_directory_of_a_colleague(run, small, colleague):
    """What somebody else has made is refused as one's own is, and reaches nothing."""
    (small / "mine").write_text("precious\n")
    path = colleague / "hostile.d"
    for mode in (":ro", ""):
        result = run("run-overlay", "-o", f"{path}{mode}", "--", "true")
        told(result, f"work/work in {path} is a symbolic link")
    assert (small / "mine").read_text() == "precious\n"


def test_own(run, craft, private, colleague):
    """A copy of a colleague's does not become usable by --own."""
    uid = os.stat(colleague).st_uid
    lines = [f"sif /{place} uid {uid}" for place in PLACES]
    path = craft("a.ext3", {"work/work": private}, *lines)
    before = path.read_bytes()
    told(run("check-overlay", "--own", "a.ext3"), "work/work in a.ext3 is a symbolic link")
    assert path.read_bytes() == before
    told(run("run-overlay", "--fakeroot", "-o", "a.ext3", "--", "true"), "symbolic link")
    assert digests(private)[str(private / "key")][1] is not None


@pytest.mark.parametrize("place", ["/upper", "<2>"])
def test_two_names(run, craft, place):
    """One directory under two names would be emptied by the next session."""
    craft(
        "a.ext3",
        {},
        "rmdir /work/work",
        "write /etc/hostname /upper/mine",
        f"ln {place} /work/work",
    )
    told(run("run-overlay", "-o", "a.ext3", "--", "true"), "work/work in a.ext3 is another name")
    told(run("check-overlay", "a.ext3"), "work/work in a.ext3 is another name")


def test_hidden_behind_the_end(run, craft, private):
    """A link in a block behind the end of a directory is seen by fuse2fs, and refused."""
    before = digests(private)
    path = craft("a.ext3", {"work/work": private}, "sif /work size 0")
    for command in ("run-overlay", "mount-overlay"):
        more = ["--", "true"] if command == "run-overlay" else []
        told(run(command, "-o", "a.ext3", *more), "has more blocks than its size says")
    told(run("show-overlay", "a.ext3"), "has more blocks than its size says")
    # Repaired, it would be a link for all to see: it is not repaired.
    content = path.read_bytes()
    told(run("check-overlay", "a.ext3"), "work/work in a.ext3 is a symbolic link")
    assert path.read_bytes() == content
    assert digests(private) == before


def test_seen_by_a_repair(run, craft, private):
    """What only a repair before a session brings to light is looked at, too."""
    before = digests(private)
    craft("a.ext3", {"work/work": private}, "sif /work size 0", "ssv state 0")
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert (result.status, result.stdout) == (65, "")
    assert "checking it" in result.stderr
    assert "work/work in a.ext3 is a symbolic link" in result.stderr
    assert digests(private) == before


def test_second_entry(run, craft, private):
    """Of two entries of one name nobody knows which is taken."""
    path = craft("a.ext3", {}, f"symlink /work/kwor {private}")
    data = path.read_bytes()
    assert data.count(b"\4\7kwor") == 1
    path.write_bytes(data.replace(b"\4\7kwor", b"\4\2work"))
    told(run("run-overlay", "-o", "a.ext3", "--", "true"), "two files of one name")
    assert digests(private)[str(private / "key")][1] is not None


def test_other_storage(run, craft):
    """What e2fsprogs would read in another way than ext3 has it is refused."""
    for flags in ("0x80000", "0x10000000"):
        craft("a.ext3", {}, f"sif /work flags {flags}")
        told(run("run-overlay", "-o", "a.ext3:ro", "--", "true"), "as ext3 stores files")


@pytest.fixture
def image_of_two(craft, engine, private, scratch):
    """Return an ext3 image that the engine takes for a SIF, with another ext3 image in it."""
    inner = craft("inner.ext3", {"work/work": private})
    outer = craft("a.ext3", {}).read_bytes()
    words = ["--datatype", "4", "--parttype", "4", "--partfs", "2", "--partarch", "2"]
    for line in (["new", "x.sif"], ["add", *words, "x.sif", inner]):
        done = engine("sif", *line)
        assert done.status == 0, done
    sif = (scratch / "x.sif").read_bytes()
    # The global header ends with the places and lengths of descriptors and of data; the first
    # descriptor has the place of its data at byte 17.
    numbers = memoryview(bytearray(sif[96:128])).cast("q")
    descriptors = bytearray(sif[numbers[0] : numbers[0] + numbers[1]])
    data = sif[numbers[2] :]
    start = int.from_bytes(descriptors[17:25], "little") - numbers[2] + len(outer) + 65536
    descriptors[17:25] = start.to_bytes(8, "little")
    numbers[0], numbers[2] = len(outer), len(outer) + 65536
    head = sif[:96] + bytes(numbers)
    path = scratch / "a.ext3"
    path.write_bytes(head + outer[128:] + bytes(descriptors).ljust(65536, b"\0") + data)
    for name in ("x.sif", "inner.ext3"):
        (scratch / name).unlink()
    return path


def test_image_in_an_image(run, engine, image_of_two):
    """What the engine takes for another kind than it seems to be is refused."""
    listed = engine("sif", "list", image_of_two.name)
    assert "Overlay" in listed.stdout, listed  # so it is a SIF for the engine
    for command in (["run-overlay", "-o", "a.ext3:ro", "--", "true"], ["check-overlay", "a.ext3"]):
        told(run(*command), "a.ext3 is an image in another")


def test_launch_line(run, engine, overlay):
    """Behind a line that starts an image the engine looks for the file system elsewhere."""
    path = overlay()
    assert engine("exec", "--overlay", "a.ext3", BASE, "true").status == 0
    with path.open("r+b") as file:
        file.write(b"#!/usr/bin/env run-singularity\n")
    assert engine("exec", "--overlay", "a.ext3", BASE, "true").status != 0
    told(run("run-overlay", "-o", "a.ext3", "--", "true"), "a.ext3 is an image in another")


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_exchanged_before_the_mount(run, site, craft, overlay, scratch, private, mode):
    """An image that is exchanged between our look and the engine's mount does no harm either."""
    before = digests(private)
    overlay("b.ext3")
    craft(
        "evil.ext3",
        {"work/work": private, "upper": private} if mode == "ro" else {"work/work": private},
    )
    debugfs(scratch / "b.ext3", "write /etc/hostname /upper/.wh.x")  # through fuse-overlayfs
    commands = site.parent / "apptainer"
    commands.write_text(
        '#!/bin/sh\ncase "$*" in *--overlay*) mv evil.ext3 b.ext3 ;; esac\nexec /usr/bin/env'
        ' apptainer "$@"\n'
    )
    commands.chmod(0o755)
    site.write_text(site.read_text() + f"[engine]\ncommands = {commands}\n")
    result = run("run-overlay", "-o", f"b.ext3:{mode}", "--", "cat", "/key")
    assert result.status == 255
    assert "is a symbolic link" in result.stderr
    assert not (scratch / "evil.ext3").exists()
    assert digests(private) == before


# ------------------------------------------------------------- what costs more than it is --


@pytest.fixture
def shared(scratch, ok):
    """Return the path of an overlay whose 300 directories have the blocks of one with markers."""
    for number in range(300):
        (scratch / "tree" / str(number)).mkdir(parents=True)
    for number in range(1000):
        (scratch / "tree" / "0" / f".wh.{number:0100}").write_text("")
    ok("create-overlay", "-q", "--sparse", "-s", 64, "-n", 4, "--from", "tree:/opt/tree", "-o", "a")
    shutil.rmtree(scratch / "tree")
    with (scratch / "a.ext3").open("r+b") as file:
        superblock = ext3.read_superblock(file.fileno())
        reader = Reader(file.fileno(), superblock)
        where = {}
        for first, offset, data in reader.tables():
            for place in range(0, len(data), superblock.inode_size):
                where[first + place // superblock.inode_size] = offset + place
        top = reader.lookup(b"upper/opt/tree")[1]
        numbers = {name: number for name, number, _kind in reader.entries(top)}
        model = os.pread(file.fileno(), superblock.inode_size, where[numbers[b"0"]])
        for name, number in numbers.items():
            if name not in (b".", b".."):
                os.pwrite(file.fileno(), model, where[number])
    os.removexattr(scratch / "a.ext3", "user.overlay.session")
    return scratch / "a.ext3"


def test_shared_blocks(run, shared):
    """Directories that share their blocks are not read again and again."""
    before = shared.read_bytes()
    told(run("run-overlay", "-o", "a.ext3:ro", "--", "true"), "a block in it is used twice")
    told(run("pack-overlay", "--open", "a.ext3"), "a block in it is used twice")
    told(run("show-overlay", "a.ext3", "--du", "/"), "a block in it is used twice")
    assert shared.read_bytes() == before


def test_loop(run, make):
    """A directory that is in itself has no end, and is not looked for one."""
    path = make()
    debugfs(path, "mkdir /upper/d", "mkdir /upper/d/e", "ln /upper/d /upper/d/e/loop")
    told(run("pack-overlay", "--open", "a.ext3"), "a block in it is used twice")
    told(run("show-overlay", "a.ext3", "--files", "/d/e"), "a.ext3 is damaged")


# ------------------------------------------------------- what commands read of an image --


@pytest.fixture
def at_the_mount(environ, tmp_path):
    """Return a function that has a line of shell done just before an image is mounted by us."""

    def at_the_mount(line):
        tools = tmp_path / "tools"
        tools.mkdir()
        real = shutil.which("unshare", path=PATH)
        script = f'#!/bin/sh\ncase "$*" in */fuse2fs*) {line} ;; esac\nexec {real} "$@"\n'
        (tools / "unshare").write_text(script)
        (tools / "unshare").chmod(0o755)
        environ["PATH"] = f"{tools}:{PATH}"

    return at_the_mount


@pytest.fixture
def filled(overlay, tmp_path):
    """Return a function that makes an overlay with a file /hello and a link to another place."""
    (tmp_path / "hello").write_text("hello\n")

    def filled(name, link):
        lines = [f"write {tmp_path}/hello /upper/hello", f"symlink /upper/link {link}"]
        owners = [f"sif /upper/{one} uid {os.getuid()}" for one in ("hello", "link")]
        path = overlay(name)
        debugfs(path, *lines, *owners)
        return path

    return filled


def _listed(path):
    """Return the names in a squashfs file."""
    return set(tool("unsquashfs", "-l", "-d", "", path).stdout.split())


@pytest.mark.parametrize("names", [["a.ext3"], ["a.ext3", "b.ext3"]])
def test_pack_exchanged(ok, scratch, craft, filled, private, at_the_mount, names):
    """What is packed is the image that was looked at, not what has its name when it is mounted."""
    for name in names:
        filled(name, private / "key")
    craft("evil.ext3", {"upper": private})
    at_the_mount(f"cp evil.ext3 new; mv new {names[-1]}")
    ok("pack-overlay", "-q", *names, "-o", "packed.sqsh")
    found = _listed(scratch / "packed.sqsh")
    assert {"/hello", "/link"} <= found
    assert "/key" not in found
    assert (
        ok("run-overlay", "-o", "packed.sqsh:ro", "--", "readlink", "/link") == f"{private}/key\n"
    )


LIVE = "echo 'unlink /upper\nsymlink /upper {0}\n' | /usr/sbin/debugfs -w -f - a.ext3 >&2"


@pytest.mark.parametrize("more", [[], ["b.ext3"]])
def test_pack_changed(run, scratch, filled, private, at_the_mount, more):
    """Nor is a link followed that its owner puts into the image meanwhile."""
    for name in ["a.ext3", *more]:
        filled(name, private)
    at_the_mount(LIVE.format(private))
    result = run("pack-overlay", "-q", "a.ext3", *more, "-o", "packed.sqsh")
    assert (result.status, result.stdout) == (73, "")
    assert "its upper is not a directory of its own" in result.stderr
    assert sorted(path.name for path in scratch.iterdir()) == ["a.ext3", *more]


def test_resize_changed(run, scratch, filled, private, at_the_mount):
    """A new image from the old one takes nothing of where a link in its place leads."""
    path = filled("a.ext3", private)
    at_the_mount(LIVE.format(private))
    result = run("resize-overlay", "a.ext3", "-n", "2")
    assert (result.status, result.stdout) == (73, "")
    assert "its upper is not a directory of its own" in result.stderr
    assert [one.name for one in scratch.iterdir()] == ["a.ext3"]
    assert b"precious" not in path.read_bytes()


def test_links_stay(ok, filled, private):
    """Links in an overlay stay what they are, in what is made of it."""
    filled("a.ext3", private / "key")
    ok("resize-overlay", "-q", "a.ext3", "-n", "2")
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "readlink", "/link") == f"{private}/key\n"


def test_not_followed_by_the_kernel(environ, filled, private, tmp_path):
    """Whatever a tool would do, the kernel follows no link of a mounted image."""
    path = filled("a.ext3", private / "key")
    places = [tmp_path / name for name in ("image", "upper")]
    for place in places:
        place.mkdir()
    descriptor = os.open(path, os.O_RDONLY)
    images = [(descriptor, *map(str, places))]
    for name, status in (("hello", 0), ("link", 1)):
        words = namespace.wrap(["/bin/cat", f"{places[1]}/{name}"], environ, images=images)
        result = process.run(words, environ)
        assert (result.status, result.output) == (status, "" if status else "hello\n")
    assert "Too many levels of symbolic links" in result.errors
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["writable", "stack"])
def test_made_a_link_after_the_look(environ, scratch, tmp_path, private, kind):
    """What becomes a link when the launcher has looked at it leads fuse-overlayfs nowhere."""
    launchers, image = tmp_path / "launchers", scratch / "image"
    shutil.copytree(ROOT / "lib" / "overlay" / "helpers" / kind, launchers)
    for path in (launchers / "engine", image / "upper", image / "work" / "work"):
        path.mkdir(parents=True)
    real = launchers / "engine" / "fuse-overlayfs"
    real.write_text(
        f"#!/bin/sh\ncd '{image}/work' && rmdir work && ln -s '{private}' work\nls work/\n"
        f"cat '{image}/upper/../work/work/key'\necho started\n"
    )
    real.chmod(0o755)
    mounts = f"lowerdir=/none,upperdir={image}/upper,workdir={image}/work"
    script = f'mount --bind "$1" "$1" && exec "$2" -o "$3" "$4" {shield.DESCRIPTOR}</dev/null'
    words = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "sh"]
    words += [image, launchers / "fuse-overlayfs", mounts, tmp_path / "target"]
    result = execute(list(map(str, words)), environ=environ, cwd=scratch)
    assert result[:2] == (0, "started\n"), result
    assert result.stderr.count("Too many levels of symbolic links") == 2, result


# ------------------------------------------------------------- what overlays are filled with --


@pytest.mark.parametrize(
    ("name", "source", "place"), [("mke2fs", ":/data", "data/"), ("cp", ":/", "")]
)
def test_source_exchanged(ok, environ, scratch, tmp_path, private, name, source, place):
    """A file of a source that becomes a link while it is read leads nowhere."""
    tree, tools = scratch / "tree", tmp_path / "tools"
    for path in (tree, tools):
        path.mkdir()
    (tree / "file").write_text("hello\n")
    (tree / "kept").symlink_to(private / "key")
    # Between the look of the tool at a file and its opening it, which the stand-in does.
    real = shutil.which(name, path=f"{PATH}:/usr/sbin")
    (tools / name).write_text(
        f"#!/bin/sh\nln -sf {private}/key '{tree}/late'\n"
        'for word; do cat "$word/late" "$word/upper/data/late"; done'
        f" >>{tmp_path}/read 2>>{tmp_path}/errors\nrm -f '{tree}/late'\nexec {real} \"$@\"\n"
    )
    (tools / name).chmod(0o755)
    environ["PATH"] = f"{tools}:{PATH}"
    ok("create-overlay", "-q", "--from", f"tree{source}", "-o", "a")
    assert (tmp_path / "read").read_text() == ""
    assert "Too many levels of symbolic links" in (tmp_path / "errors").read_text()
    line = f"cat /{place}file; readlink /{place}kept"
    environ["PATH"] = PATH
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line) == f"hello\n{private}/key\n"


# ------------------------------------------------------------------- lines that are told --


@pytest.fixture
def lost(craft, private, scratch):
    """Return a function that makes an image whose upper e2fsck takes the name from.

    In it is a link, and when that is wanted a file of the same name, which is written to
    what the link leads to.
    """

    def lost(hostile):
        theirs = scratch / "theirs"
        theirs.write_text("theirs\n")
        lines = [f"symlink /upper/x {private / 'key'}", "mkdir /upper/d"]
        lines.append(f'write "{theirs}" /upper/d/y')
        lines += ["ln /upper/d/y /upper/z", "sif /upper links_count 0", "ssv state 0"]
        path = craft("a.ext3", {}, *lines)
        entry = b"\x01\x01z\0"  # the length of the name, a file, the name
        data = path.read_bytes()
        assert data.count(entry) == 1
        path.write_bytes(data.replace(entry, b"\x01\x01x\0") if hostile else data)
        return path

    return lost


@pytest.mark.parametrize("hostile", [False, True])
def test_line_to_save_what_can_be_read(run, lost, private, scratch, hostile):
    """The line that is told for an image beyond repair writes nothing but what it says."""
    path = lost(hostile)
    result = run("check-overlay", "--repair", "a.ext3")
    assert result.status == 65 and "cannot be repaired" in result.stderr
    line = result.stderr.partition("save what can be read: ")[2]
    assert line.startswith("file by file: ") == hostile
    line = line.removeprefix("file by file: ").replace("DIRECTORY", "saved")
    line = line.replace("NAME", "d/y").replace("COPY", "saved/y")
    (scratch / "saved").mkdir()
    assert tool("sh", "-c", f"cd '{scratch}' && {line}").returncode == 0
    assert [file.read_text() for file in (scratch / "saved").rglob("y")] == ["theirs\n"]
    assert (private / "key").read_text() == "precious\n"
    # What the other line would have done.
    (scratch / "all").mkdir()
    tool("sh", "-c", f"cd '{scratch}' && /sbin/debugfs -R 'rdump /upper all' {path.name}")
    assert ((private / "key").read_text() == "theirs\n") == hostile
