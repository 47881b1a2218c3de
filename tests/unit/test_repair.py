"""Repairs through a note at the end of the image, and notes that are cut short or do not fit."""

import os
import subprocess

import pytest
from overlay.errors import DAMAGED, OverlayError
from overlay.image import ext3
from overlay.safety import e2fsck, repair, salvage
from support import tool

MIB = 1 << 20
ENVIRON = {"PATH": "/usr/bin:/bin"}
SMALL_BLOCKS = ["-t", "ext3", "-b", "1024", "-I", "256", "-N", "1000", "-J", "size=4"]


def debugfs(path, *lines):
    """Change an image with debugfs."""
    words = ["/usr/sbin/debugfs", "-w", "-f", "-", str(path)]
    subprocess.run(words, input="\n".join(lines) + "\n", text=True, check=True, capture_output=True)


def check(path, **options):
    """Check an image as one does who has it locked; return what was done."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return repair.make_sound(str(path), descriptor, ENVIRON, **options)
    finally:
        os.close(descriptor)


def go_on(path):
    """Complete what was interrupted."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return repair.go_on(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture(params=[None, SMALL_BLOCKS], ids=["4096", "1024"])
def sound(make_image, request):
    """Return the path of an image with a large directory that has no index, and a file."""
    path = make_image(options=request.param)
    content = path.with_suffix(".content-of-file")
    content.write_bytes(b"content" * 10000)
    lines = [f"symlink /upper/{'n' * 200}{number} {number}" for number in range(100)]
    debugfs(path, *lines, f"write {content} /upper/file", "mkdir /upper/d", "mkdir /upper/d/d")
    assert tool("e2fsck", "-fn", path).returncode == 0
    return path


@pytest.fixture
def image(sound):
    """Return the path of an image with damage that e2fsck -p mends."""
    debugfs(sound, "setb 3500 9", "set_inode_field /upper links_count 7", "ssv state 0")
    return sound


@pytest.fixture
def noted(image, monkeypatch):
    """Return an image's path, its bytes before a repair, with the note of it, and after it."""
    before = image.read_bytes()
    with monkeypatch.context() as context:
        context.setattr(repair, "go_on", lambda descriptor: False)
        check(image)
    with_note = image.read_bytes()
    assert len(with_note) > len(before) == 16 * MIB and with_note.startswith(before)
    assert go_on(image)
    return image, before, with_note, image.read_bytes()


def test_repaired(image):
    """What is repaired is sound, no longer than it was, and repaired once only."""
    assert check(image).startswith("repaired")
    assert tool("e2fsck", "-fn", image).returncode == 0
    assert image.stat().st_size == 16 * MIB
    before = image.read_bytes()
    assert check(image, full=True) == "no damage found"
    assert image.read_bytes() == before
    assert tool("debugfs", "-R", "cat /upper/file", image).stdout == "content" * 10000


def test_a_sound_one_is_left_as_it_is(sound):
    """Nothing is written into a sound image, though e2fsck -p would index its directory."""
    before = sound.read_bytes()
    assert check(sound, full=True) == "no damage found"
    assert sound.read_bytes() == before
    assert tool("e2fsck", "-fp", sound).returncode in (0, 1)
    assert sound.read_bytes()[4096:] != before[4096:]


def test_damage_marked_as_clean(image):
    """Damage in an image that is marked as clean is repaired, too, when all of it is looked at."""
    debugfs(image, "ssv state 1")
    assert check(image) == "no damage found"
    assert check(image, full=True).startswith("repaired")
    assert tool("e2fsck", "-fn", image).returncode == 0


def test_wrong_sums_only(image):
    """Sums that are wrong are damage, although e2fsck's status does not say so."""
    check(image)
    debugfs(image, "ssv free_blocks_count 77")
    assert tool("e2fsck", "-fn", image).returncode == 0
    assert check(image, full=True).startswith("repaired")
    assert ext3.read_superblock(os.open(image, os.O_RDONLY)).free_blocks_count > 77


def test_a_decision_is_needed(image):
    """What e2fsck -p does not dare is not begun with."""
    debugfs(image, "clri /upper/d")
    before = image.read_bytes()
    with pytest.raises(OverlayError) as error:
        check(image)
    assert error.value.status == DAMAGED and "needs a decision" in error.value.what
    assert image.read_bytes() == before


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_gone_on_with(noted, written):
    """Whatever of a note has been written, all of it is there afterwards."""
    path, before, with_note, after = noted
    half = bytearray(with_note)
    places = range(0, len(after), 1024)
    places = [at for at in places if after[at : at + 1024] != before[at : at + 1024]]
    assert len(places) > 2
    for place in places[len(places) * written // 3 :] if written < 3 else places:
        if place != ext3.SUPERBLOCK_OFFSET:
            half[place : place + 1024] = after[place : place + 1024]
    path.write_bytes(half)
    assert check(path) == "repaired (what was interrupted is done)"
    assert path.read_bytes() == after


def test_all_written(noted):
    """A note that was left although all of it was written is only cut off."""
    path, before, with_note, after = noted
    path.write_bytes(after + with_note[len(before) :])
    assert not go_on(path)
    assert path.read_bytes() == after


@pytest.mark.parametrize("left", [1, 16, 68, 100, 5000, -1])
def test_cut_short(noted, left):
    """A note that is not whole was not begun with, and is cut off."""
    path, before, with_note, _after = noted
    path.write_bytes(with_note[: len(before) + left] if left > 0 else with_note[:left])
    assert not go_on(path)
    assert path.read_bytes()[: len(before)] == before
    assert path.stat().st_size == len(before) or left < 16


def test_changed(noted):
    """A note in which a byte has changed counts as cut short."""
    path, before, with_note, _after = noted
    path.write_bytes(with_note[:-200] + bytes([with_note[-200] ^ 1]) + with_note[-199:])
    assert not go_on(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["ssv mtime 1700000000", "ssv mnt_count 7", "ssv uuid random"])
def test_another_state(noted, line):
    """A note is not written into an image that was mounted since, or that is another one."""
    path, before, with_note, _after = noted
    path.write_bytes(with_note)
    debugfs(path, line, "ssv state 0")
    now = path.read_bytes()[: len(before)]
    assert not go_on(path)
    assert path.read_bytes() == now


def test_beyond_the_image(noted):
    """A note that would write behind the file system, which none of ours does, is refused."""
    path, before, with_note, _after = noted
    start = len(before)
    head = bytearray(with_note)
    head[start + 68 : start + 76] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(head)
    assert not go_on(path)
    assert path.read_bytes() == before


def test_in_a_file(sound):
    """What ends as a note does is content of a file, when it does not begin behind them all."""
    superblock = ext3.read_superblock(os.open(sound, os.O_RDONLY))
    block, last = superblock.block_size, superblock.blocks_count - 1
    start = last // 2 * block
    one = repair._NOTE.ljust(block - 24, b"x") + repair._END.pack(start, repair._NOTE)
    content = sound.with_suffix(".of-somebody")
    content.write_bytes(one * (superblock.free_blocks_count - 100))
    debugfs(sound, f"write {content} /upper/theirs", f"setb {last}")
    with open(sound, "r+b") as file:
        file.seek(last * block)
        file.write(one)
        file.seek(start)
        assert file.read(16) == repair._NOTE
    before = sound.read_bytes()
    assert not go_on(sound)
    assert sound.read_bytes() == before


def test_long(noted):
    """A note with more in it than ours have is cut off, and not read to its end."""
    path, before, with_note, _after = noted
    head, end = with_note[len(before) :][:68], repair._END.pack(len(before), repair._NOTE)
    record = (0).to_bytes(8, "little") + (1 << 20).to_bytes(8, "little")
    with open(path, "wb") as file:
        file.write(before + head)
        for _number in range(1000):
            file.write(record)
            file.seek(1 << 20, os.SEEK_CUR)
        file.write(end)
    assert _read_by(path) < 40 * MIB
    assert path.read_bytes() == before


def _read_by(path):
    """Return how many bytes are read while what was interrupted is completed; nothing is."""

    def count():
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    start = count()
    assert not go_on(path)
    return count() - start


def test_journal(image):
    """A journal that waits is played back; what it holds is there, and the rest is repaired."""
    number = tool("debugfs", "-R", "bmap /upper/file 2", image).stdout.strip()
    size = ext3.read_superblock(os.open(image, os.O_RDONLY)).block_size
    new = image.with_suffix(".new")
    new.write_bytes(b"J" * size)
    debugfs(image, "jo", f"jw -b {number} {new}", "jc", "ssv state 0")
    assert ext3.read_superblock(os.open(image, os.O_RDONLY)).incompatible & ext3.RECOVER
    assert check(image) == "repaired (its journal was played back)"
    assert tool("e2fsck", "-fn", image).returncode == 0
    content = tool("debugfs", "-R", "cat /upper/file", image).stdout
    assert content[2 * size : 3 * size] == "J" * size and content.startswith("content")


def test_large_tables_on_a_disk(image, tmp_path, monkeypatch):
    """A copy that is larger than memory is meant for lies in TMPDIR, and leaves nothing there."""
    monkeypatch.setattr(repair, "_IN_MEMORY", 0)
    place = tmp_path / "scratch"
    place.mkdir()
    descriptor = os.open(image, os.O_RDWR)
    superblock = ext3.read_superblock(descriptor)
    copy = repair._empty_file(superblock, {**ENVIRON, "TMPDIR": str(place)})
    assert os.fstat(copy).st_dev == place.stat().st_dev and not os.listdir(place)
    known = repair._copy_tables("a", descriptor, copy, superblock, ENVIRON)
    assert known and repair._changed(descriptor, copy, known, 1024) == []


def test_file_that_poses_as_a_directory(make_image, tmp_path, monkeypatch):
    """Tables that take more than the counts say are not copied to their end: into memory, all of it."""
    monkeypatch.setattr(repair, "_IN_MEMORY", 0)
    path, content = make_image(mib=120), tmp_path / "content"
    content.write_bytes(b"x" * (80 << 20))
    debugfs(path, f"write {content} upper/d", "sif upper/d mode 040755", "ssv state 0")
    descriptor = os.open(path, os.O_RDWR)
    superblock = ext3.read_superblock(descriptor)
    copy = os.memfd_create("tables")
    with pytest.raises(OverlayError, match="needs a decision") as error:
        repair._copy_tables("a", descriptor, copy, superblock, ENVIRON)
    assert error.value.status == DAMAGED
    os.close(copy)
    os.close(descriptor)


@pytest.mark.parametrize("ended", [False, True], ids=["whole", "killed"])
def test_other_changes(sound, tmp_path, monkeypatch, ended):
    """What is changed by way of a note is there whole, also when that is written only later."""
    content = tmp_path / "content"
    content.write_bytes(b"new" * 5000)

    def work(copy):
        name = f"/proc/{os.getpid()}/fd/{copy}"
        debugfs(name, "rm /upper/file", f"write {content} /upper/other", "mkdir /upper/e")

    descriptor = os.open(sound, os.O_RDWR)
    try:
        if ended:
            with monkeypatch.context() as patch:
                patch.setattr(repair, "go_on", lambda _descriptor: None)
                repair.change(str(sound), descriptor, ENVIRON, work)
            assert not ext3.read_superblock(descriptor).is_clean
            check(sound)
        else:
            repair.change(str(sound), descriptor, ENVIRON, work)
        assert ext3.read_superblock(descriptor).is_clean
    finally:
        os.close(descriptor)
    assert tool("e2fsck", "-fn", sound).returncode == 0
    assert tool("debugfs", "-R", "cat /upper/other", sound).stdout == "new" * 5000
    assert tool("debugfs", "-R", "stat /upper/file", sound).stdout == ""


def test_other_changes_that_fail(sound):
    """What is not sound, or raises, leaves the image as it was."""
    before = sound.read_bytes()

    def damage(copy):
        debugfs(f"/proc/{os.getpid()}/fd/{copy}", "clri /upper/d")

    def fail(_copy):
        raise OverlayError("no", status=DAMAGED)

    descriptor = os.open(sound, os.O_RDWR)
    try:
        for work in (damage, fail):
            with pytest.raises(OverlayError):
                repair.change(str(sound), descriptor, ENVIRON, work)
    finally:
        os.close(descriptor)
    assert sound.read_bytes() == before


def endings(image):
    """Return what check() says of an image, and what is in lost+found then."""
    said = check(image)
    assert tool("e2fsck", "-fn", image).returncode == 0
    with open(image, "rb") as file:
        return said, salvage.lost_and_found(file.fileno())


def test_directory_with_two_names(sound):
    """A kill in the midst of a rename of a directory: no decision, nothing is lost."""
    debugfs(sound, "mkdir /upper/e", "ln /upper/e /upper/second", "ssv state 0")
    said, found = endings(sound)
    assert said.startswith("repaired") and not found
    names = tool("debugfs", "-R", "ls -p /upper", sound).stdout
    assert names.count("/e/") + names.count("/second/") == 1


def test_directory_with_two_names_holds_something(sound):
    """It is not lost when that directory holds other files."""
    debugfs(sound, "ln /upper/d /upper/second", "ssv state 0")
    said, _found = endings(sound)
    assert said.startswith("repaired")
    listed = [
        tool("debugfs", "-R", f"ls -p /upper/{name}", sound).stdout for name in ("d", "second")
    ]
    assert sum("/d/" in one for one in listed) == 1


def test_directory_without_a_name(sound):
    """A directory that lost its name is in lost+found, and the repair says so."""
    debugfs(sound, "unlink /upper/d", "setb 3500 9", "ssv state 0")
    said, found = endings(sound)
    assert len(found) == 1 and "a directory" in said


def test_pointers_behind_the_end(sound):
    """A kill in the midst of an append: what the file had is there, without a decision."""
    junk = os.urandom(4096)
    with open(sound, "r+b") as file:
        superblock = ext3.read_superblock(file.fileno())
        block = superblock.blocks_count - 10
        os.pwrite(file.fileno(), junk, block * superblock.block_size)
    content = sound.with_suffix(".short")
    content.write_bytes(b"short" * 100)
    debugfs(
        sound,
        f"write {content} /upper/short",
        f"set_inode_field /upper/short block[IND] {block}",
        "ssv state 0",
    )
    assert "Too many illegal blocks" in tool("e2fsck", "-fn", sound).stdout
    said, found = endings(sound)
    assert said.startswith("repaired") and not found
    assert tool("debugfs", "-R", "cat /upper/short", sound).stdout == "short" * 100


def test_directory_without_its_inode(sound):
    """What was in it would lose its names: that is for --repair."""
    debugfs(sound, "clri /upper/d", "ssv state 0")
    with pytest.raises(OverlayError) as caught:
        check(sound)
    assert caught.value.status == DAMAGED


@pytest.mark.parametrize("line", ["clri /upper/d", "set_inode_field /upper/file block[0] 0"])
def test_more_than_that(sound, line):
    """What loses something is still for --repair."""
    debugfs(sound, "unlink /upper/d/d", line, "set_inode_field /upper/file block[3] 4000000000")
    debugfs(sound, "ssv state 0")
    before = sound.read_bytes()
    with pytest.raises(OverlayError) as caught:
        check(sound)
    assert caught.value.status == DAMAGED
    assert sound.read_bytes() == before


def test_a_time_limit(sound, monkeypatch):
    """e2fsck that does not come to an end is ended, and a decision is asked for."""
    endless = sound.with_suffix(".endless")
    endless.write_text("#!/bin/sh\nwhile :; do :; done\n")
    endless.chmod(0o755)
    real = repair.process.need

    def need(name, environ):
        return str(endless) if name == "e2fsck" else real(name, environ)

    monkeypatch.setattr(repair.process, "need", need)
    monkeypatch.setattr(e2fsck, "_SECONDS", 1)
    before = sound.read_bytes()
    with pytest.raises(OverlayError) as caught:
        check(sound, full=True)
    assert caught.value.status == DAMAGED
    assert sound.read_bytes() == before
