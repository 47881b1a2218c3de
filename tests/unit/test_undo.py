"""The way back after an interrupted change of an image, and undo files that do not fit."""

import hashlib
import os
import shutil
import subprocess

import pytest
from overlay.errors import DAMAGED, OverlayError
from overlay.image import ext3, ext3_size, ext3_write
from overlay.image import image as images
from overlay.safety import undo
from support import tool

MIB = 1 << 20
ENVIRON = {"PATH": "/usr/bin:/bin"}


def superblock(path):
    """Return the Superblock of an image."""
    with open(path, "rb") as file:
        return ext3.read_superblock(file.fileno())


def set_fields(path, *pairs):
    """Set fields of the superblock, as debugfs names them."""
    for name, value in pairs:
        words = ["/usr/sbin/debugfs", "-w", "-R", f"ssv {name} {value}", path]
        subprocess.run(words, check=True, capture_output=True)


def grow(path, size, ours):
    """Make an image larger, as far as the end; return the path of its undo file."""
    found = superblock(path)
    back = undo.name(path, os.stat(path), found)
    with open(path, "r+b") as file:
        ext3_write.write_state(file.fileno(), 0)
        os.truncate(path, size)
        if ours:
            undo.note(back, file.fileno(), found, size)
    options = [] if ours else ["-z", back]
    done = tool("resize2fs", "-f", *options, path)
    assert done.returncode == 0, done
    set_fields(path, ("state", 0))
    return back


@pytest.fixture(params=["ours", "ours, nothing reserved", "of resize2fs"])
def half_grown(make_image, request):
    """Return a function that makes an image in the midst of growing, and its undo file."""

    def half_grown(name="a.ext3"):
        path = str(make_image(name))
        if "nothing" in request.param:
            for words in (["tune2fs", "-O", "^resize_inode"], ["e2fsck", "-fy"]):
                assert tool(*words, path).returncode in (0, 1)
        before = open(path, "rb").read()
        return path, grow(path, 150 * MIB, request.param.startswith("ours")), before

    return half_grown


def digest(path):
    """Return a checksum of an image without its state and the time when it was written."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        first = bytearray(file.read(4096))
        first[1024 + 0x30 : 1024 + 0x34] = bytes(4)
        first[1024 + 0x3A : 1024 + 0x3C] = bytes(2)
        found.update(first)
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def recover(path):
    """Put back what an undo file holds, as one does who has the image locked."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return undo.take_back(path, descriptor, ENVIRON)
    finally:
        os.close(descriptor)


def is_sound(path):
    """Return whether e2fsck finds no damage, the state left aside."""
    return tool("e2fsck", "-fp", path).returncode in (0, 1)


def test_played_back(half_grown):
    """What is half done is undone: length and all content as before, the undo file gone."""
    path, back, before = half_grown()
    assert recover(path)
    assert not os.path.exists(back)
    assert os.stat(path).st_size == len(before)
    after = open(path, "rb").read()
    # The superblock has another state and time; all else is as it was.
    assert (after[:1024], after[4096:]) == (before[:1024], before[4096:])
    assert is_sound(path)
    assert not recover(path)


def test_through_a_link(half_grown, tmp_path):
    """The undo file lies beside the image itself, not beside a link to it."""
    path, _back, before = half_grown()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.ext3"
    link.symlink_to(path)
    assert recover(str(link))
    assert os.stat(path).st_size == len(before)


@pytest.mark.parametrize("there", [True, False], ids=["extended", "created"])
def test_planted_link(make_image, tmp_path, there):
    """What somebody has put where an undo file is to be made is not written through."""
    target, back = tmp_path / "target", tmp_path / ".overlay-undo.1"
    if there:
        target.write_text("precious\n")
    back.symlink_to(target)
    with open(make_image("b.ext3"), "rb") as image:
        superblock = ext3.read_superblock(image.fileno())
        for make in (undo.make, lambda *words: undo.note(*words, superblock, superblock.size)):
            with pytest.raises(FileExistsError):
                make(str(back), image.fileno())
            if there:
                assert target.read_text() == "precious\n"
            else:
                assert not target.exists()
            back.unlink(missing_ok=True)
            back.symlink_to(target)


def mounted_since(path):
    """As if it had been mounted in the meantime."""
    set_fields(path, ("mnt_count", 7), ("mtime", 1700000000))


def made_clean(path):
    """As if e2fsck had been run by hand."""
    set_fields(path, ("state", 1))


def another(path):
    """Another image has come into its place, with its inode number, never mounted, unclean."""
    other = path + ".other"
    words = ["/usr/sbin/mke2fs", "-q", "-t", "ext3", "-b", "4096", other, "16M"]
    subprocess.run(words, check=True, capture_output=True)
    set_fields(other, ("state", 0))
    with open(other, "rb") as source, open(path, "r+b") as target:
        target.truncate(0)
        shutil.copyfileobj(source, target)
    os.unlink(other)


@pytest.mark.parametrize("change", [mounted_since, made_clean, another])
def test_stale(half_grown, change):
    """An undo file that does not fit the image any more is not played back, but removed."""
    path, back, _before = half_grown()
    change(path)
    now = open(path, "rb").read()
    assert not recover(path)
    assert open(path, "rb").read() == now
    assert not os.path.exists(back)


def test_of_others(half_grown, make_image):
    """The undo file of another image is left alone."""
    _path, back, _before = half_grown()
    other = make_image("b.ext3")
    assert not recover(str(other))
    assert os.path.exists(back)


def test_empty(half_grown):
    """A kill before anything was noted leaves an undo file without content: no harm."""
    path, back, before = half_grown()
    with open(path, "r+b") as file:
        file.write(before)
        file.truncate(150 * MIB)
    set_fields(path, ("state", 0))
    open(back, "wb").close()
    recover(path)
    assert not os.path.exists(back)
    assert is_sound(path)


def test_shorter_than_the_file_system(half_grown):
    """A file that says a length that cannot be, renamed by somebody, cuts nothing off."""
    path, back, before = half_grown()
    with open(path, "r+b") as file:
        file.write(before)
        file.truncate(150 * MIB)
    set_fields(path, ("state", 0))
    os.unlink(back)
    words = os.path.basename(back).split(".")
    words[3] = "4096"
    with open(os.path.join(os.path.dirname(back), ".".join(words)), "wb") as file:
        file.write(b"a letter of mine")
    recover(path)
    assert os.path.getsize(path) >= len(before)
    assert is_sound(path)


def test_cannot_be_played_back(half_grown):
    """Garbage in an undo file: damaged is said, and which file; it stays."""
    path, back, _before = half_grown()
    with open(back, "r+b") as file:
        if file.read(8) == b"E2UNDO02":
            file.truncate(8)
            file.write(b"garbage" * 1000)
        else:
            file.seek(5000)
            file.write(b"garbage")
    now = open(path, "rb").read()
    with pytest.raises(OverlayError) as error:
        recover(path)
    assert error.value.status == DAMAGED
    assert "cannot be undone" in error.value.what
    assert back in error.value.hint
    assert os.path.exists(back)
    assert open(path, "rb").read() == now


@pytest.mark.parametrize("how", ["a link", "written by everybody", "written by a group", "a fifo"])
def test_not_to_be_trusted(half_grown, how):
    """What others could have made, or changed, is not played into an image."""
    path, back, _before = half_grown()
    os.chmod(path, 0o600)
    if how == "a link":
        os.rename(back, f"{path}.undo")
        os.symlink(f"{path}.undo", back)
    elif how == "a fifo":
        os.unlink(back)
        os.mkfifo(back)
    else:
        os.chmod(back, 0o666 if how == "written by everybody" else 0o660)
    now = digest(path)
    assert not recover(path)
    assert digest(path) == now
    if how == "written by a group":  # which may write the image as well
        os.chmod(path, 0o660)
        assert recover(path)


@pytest.mark.parametrize("same", [False, True], ids=["another", "a copy"])
def test_renamed_for_another(half_grown, same):
    """The undo file of one image, renamed to fit another of its owner's, is not played back there."""
    path, back, _before = half_grown()
    ours = open(back, "rb").read(12) == b"overlay-undo"
    other, other_back, other_before = half_grown("b.ext3")
    if same:
        shutil.copy(path, other)
    os.rename(other_back, f"{other}.undo")
    forged = undo.name(other, os.stat(other), superblock(other))
    os.rename(back, forged)
    now = digest(other)
    # A copy differs by its inode only, of which resize2fs says nothing.
    assert recover(other) == (same and not ours)
    if not same or ours:
        assert digest(other) == now and os.path.exists(forged)
    os.rename(f"{other}.undo", other_back)
    if not same:
        assert recover(other) and os.stat(other).st_size == len(other_before)


def test_of_the_first_version(half_grown):
    """A file that the first version left says nothing of itself, and is played back."""
    path, back, before = half_grown()
    data = open(back, "rb").read()
    if data.startswith(b"overlay-undo-2"):
        with open(back, "wb") as file:
            file.write(b"overlay-undo-1" + data[14:16] + data[16:].partition(b"\n")[2])
    assert recover(path) and os.stat(path).st_size == len(before)


@pytest.mark.parametrize(
    "name", [".overlay-undo.{}", ".overlay-undo.{}.x.0.0", ".overlay-undo.{}.1"]
)
def test_odd_names(half_grown, name):
    """Names that nobody of ours gave do no harm."""
    path, back, _before = half_grown()
    os.rename(back, os.path.join(os.path.dirname(path), name.format(os.stat(path).st_ino)))
    now = open(path, "rb").read()
    assert not recover(path)
    assert open(path, "rb").read() == now


@pytest.mark.parametrize(
    ("options", "size", "grown"),
    [
        (None, 64, 900),
        (None, 64, 65),
        (None, 300, 6000),
        (["-t", "ext3", "-b", "1024"], 40, 600),
        (["-t", "ext3", "-b", "4096", "-I", "128"], 100, 4000),
        (["-t", "ext3", "-b", "2048", "-N", "200000"], 300, 2000),
    ],
)
def test_all_that_growth_changes(tmp_path, options, size, grown):
    """Put back, an image is what it was to the last byte, but for state and time of writing."""
    path = str(tmp_path / "a.ext3")
    with open(path, "wb") as file:
        file.truncate(size * MIB)
    options = options or ext3_size.mke2fs_options(size * MIB, 20_000)
    (tmp_path / "tree").mkdir()
    for number in range(200):
        (tmp_path / "tree" / f"f{number}").write_bytes(b"%d" % number * 3000)
    done = tool("mke2fs", "-q", "-F", *options, "-d", tmp_path / "tree", path)
    assert done.returncode == 0, done
    before = digest(path)
    grow(path, grown * MIB, ours=True)
    assert superblock(path).size > size * MIB
    assert recover(path)
    assert digest(path) == before and os.stat(path).st_size == size * MIB
    assert is_sound(path)


def test_between_the_counts(half_grown):
    """A superblock of which a part is new: its undo file tells that it is to be undone."""
    path, back, before = half_grown()
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(before[1024:1032])  # numbers of inodes and blocks; those of free ones are new
    with pytest.raises(ext3.FormatError):
        superblock(path)
    found = images.look(path)
    assert found.kind == "ext3" and not found.superblock.is_clean
    found.close()
    assert recover(path)
    assert not os.path.exists(back) and os.stat(path).st_size == len(before)
    assert is_sound(path)
    with open(path, "r+b") as file:
        file.seek(1024 + 12)
        file.write(b"\xff\xff\xff")
    with pytest.raises(OverlayError, match="contradicts itself"):  # and without one it is damage
        images.look(path)


def test_page_missing_of_it(half_grown):
    """An undo file of which a part never came to the disk, with an image that is as it was."""
    path, back, before = half_grown()
    with open(back, "r+b") as file:
        if file.read(8) == b"E2UNDO02":
            return
        file.seek(5000)
        file.write(bytes(4096))
    with open(path, "r+b") as file:
        file.write(before)
        file.truncate(150 * MIB)
    set_fields(path, ("state", 0))
    assert recover(path)
    assert not os.path.exists(back) and os.stat(path).st_size == len(before) and is_sound(path)


def test_descriptors_not_reserved(tmp_path):
    """Where blocks have to move for descriptors it is not known what is overwritten."""
    path = tmp_path / "a.ext3"
    for options in (["-O", "^resize_inode"], ["-E", "resize=40000"]):
        words = ["mke2fs", "-q", "-F", "-t", "ext3", "-b", "4096", *options, path, "64M"]
        assert tool(*words).returncode == 0
        with open(path, "rb") as file:
            with pytest.raises(ext3.FormatError, match="no descriptors reserved"):
                undo.note(str(tmp_path / "back"), file.fileno(), superblock(path), 1 << 40)
    assert not os.path.exists(tmp_path / "back")


def test_not_begun(half_grown):
    """Our file cut off: nothing had been overwritten when it was written, so it changes nothing."""
    path, back, before = half_grown()
    with open(back, "r+b") as file:
        if file.read(8) == b"E2UNDO02":
            return
        file.truncate(os.path.getsize(back) - 20)
    with open(path, "r+b") as file:
        file.write(before)
        file.truncate(150 * MIB)
    set_fields(path, ("state", 0))
    assert recover(path)
    assert os.stat(path).st_size == len(before) and is_sound(path)
