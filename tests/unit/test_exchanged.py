"""What somebody who may write in a directory exchanges there between two steps of ours."""

import errno
import os
import shutil
import stat

import pytest
from overlay.create import measure
from overlay.errors import OverlayError
from overlay.image import image as images
from overlay.image.ext3_image import Ext3Image
from overlay.launch import upper
from overlay.safety import guard, replace, salvage


@pytest.fixture
def private(tmp_path):
    """Return a directory of the user's own that is closed to others."""
    path = tmp_path / "private"
    path.mkdir(mode=0o700)
    (path / "key").write_text("precious\n")
    return path


@pytest.fixture
def after(monkeypatch):
    """Return a function that has something done right after each call of one of os."""

    def after(function, do):
        real = getattr(os, function)

        def called(path, *arguments, **options):
            real(path, *arguments, **options)
            do(os.path.basename(path))

        monkeypatch.setattr(os, function, called)

    return after


@pytest.mark.parametrize("name", ["work", "upper"])
@pytest.mark.parametrize("kind", ["link", "directory"])
def test_directories_of_a_session(tmp_path, private, after, name, kind):
    """A private directory in the place of one that a session makes is not opened to all."""
    top = tmp_path / "overlay"
    top.mkdir()

    def exchange(made):
        if made == name:
            os.rmdir(top / name)
            if kind == "link":
                os.symlink(private, top / name)
            else:
                os.rename(private, top / name)

    after("mkdir", exchange)
    found = images.look(str(top), write=True)
    try:
        step = upper.make_upper(found, os.getgid())
        if kind == "link":
            with pytest.raises(OverlayError, match="cannot make"):
                step.action()
        else:
            step.action()  # another session's, for all we know
    finally:
        found.close()
    there = private if kind == "link" else top / name
    assert stat.S_IMODE(os.lstat(there).st_mode) == 0o700


def test_directories_of_a_session_otherwise(tmp_path):
    """They are made where the directory is by now, for all to read."""
    top = tmp_path / "overlay"
    top.mkdir()
    top.chmod(0o2775)
    found = images.look(str(top), write=True)
    before = os.umask(0o077)
    try:
        step = upper.make_upper(found, os.getgid())
        top.rename(tmp_path / "moved")
        top.mkdir()
        step.action()
    finally:
        os.umask(before)
        found.close()
    assert not os.listdir(top)
    for name in ("upper", "work"):
        assert stat.S_IMODE(os.lstat(tmp_path / "moved" / name).st_mode) == 0o755


@pytest.mark.parametrize("exchanged", ["file", "directory", None])
def test_removed_name(tmp_path, private, exchanged):
    """The name that is removed is that of the open file, in the directory that was there."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "key").write_text("packed\n")
    with open(place / "key") as file:
        path = os.path.realpath(place / "key")
        if exchanged == "file":
            os.replace(shutil.copy(private / "key", tmp_path / "copy"), path)
        elif exchanged == "directory":
            place.rename(tmp_path / "moved")
            place.symlink_to(private)
        if exchanged:
            with pytest.raises(OSError):
                replace.remove(path, file.fileno())
            assert (private / "key").exists() and os.path.lexists(path)
        else:
            replace.remove(path, file.fileno())
            assert not os.listdir(place)


@pytest.mark.parametrize("linked", [True, False], ids=["link", "copy"])
def test_kept_as_it_was(tmp_path, private, linked, monkeypatch):
    """What is kept of an image is what was locked, and no name that is there is taken."""
    path = tmp_path / "a.ext3"
    path.write_text("mine\n")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"mine")
    (tmp_path / "a.ext3.before-repair").symlink_to(private / "new")
    if not linked:

        def link(*_arguments, **_options):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    with open(path, "r+") as file:
        path.rename(tmp_path / "moved")
        path.symlink_to(private / "key")
        kept = salvage.keep(str(path), file.fileno(), {"PATH": "/usr/bin:/bin"})
        assert os.path.samefile(kept, tmp_path / "moved") == linked
    assert kept == f"{path}.before-repair.2"
    with open(kept) as file:
        assert file.read() == "mine\n"
    assert stat.S_IMODE(os.lstat(kept).st_mode) == 0o640
    assert os.getxattr(kept, "user.note") == b"mine"
    assert not (private / "new").exists()


def test_repaired_is_what_was_looked_at(make_image, private, settings):
    """The repair before a session is of the image that was opened, whatever has its name."""
    path = make_image()
    with open(path, "r+b") as file:
        file.seek(1024 + 0x3A)
        file.write(b"\0\0")
    found = images.look(str(path), write=True)
    assert isinstance(found, Ext3Image) and not found.is_clean
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(private / "key")
    try:
        said = []
        assert guard._repair(found, settings(), said.append)
        found.read_again()
        assert found.is_clean and "checking it" in said[0]
    finally:
        found.close()
    assert (private / "key").read_text() == "precious\n"


def test_measured_file_becomes_a_pipe(tmp_path, limit):
    """A file with holes in it that becomes a pipe while it is measured is not waited for."""
    path = tmp_path / "f"
    path.write_bytes(b"")
    os.truncate(path, 1 << 20)
    status = os.lstat(path)
    path.unlink()
    os.mkfifo(path)
    limit(5)
    assert measure._data(os.fsencode(path), status) in range((1 << 20) + 1)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_version_that_is_put_back(tmp_path, monkeypatch, when):
    """A file of somebody else's does not become the overlay; both names stay with their files."""
    overlay, version, other = (tmp_path / name for name in ("a.ext3", "a.ext3.~1~", "other"))
    for path in (overlay, version, other):
        path.write_text(path.name)
    real = replace.exchange

    def exchanged(one, two, directory):
        if os.path.exists(other):
            os.rename(other, version)
        real(one, two, directory)

    if when == "meanwhile":
        monkeypatch.setattr(replace, "exchange", exchanged)
    with open(overlay, "rb") as file, open(version, "rb") as before:
        if when == "before":
            os.rename(other, version)
        with pytest.raises(OverlayError, match="somebody has changed names"):
            replace.exchange_known(str(overlay), file.fileno(), str(version), before.fileno())
    assert (overlay.read_text(), version.read_text()) == ("a.ext3", "other")
