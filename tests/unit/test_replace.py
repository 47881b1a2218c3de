"""New files and the names that they get, also where the file system knows few ways."""

import errno
import os

import pytest
from overlay.errors import CANNOT_CREATE, OverlayError
from overlay.host import mounts, permissions
from overlay.safety import replace, stripes


def refuse(number):
    """Return a function that fails as a file system does which does not know a call."""

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=["links, exchanges", "neither"])
def file_system(request, monkeypatch):
    """Have the calls of a file system of either kind."""
    if request.param == "neither":
        monkeypatch.setattr(replace, "link", refuse(errno.EPERM))
        monkeypatch.setattr(replace.Unfinished, "_exchange", refuse(errno.EINVAL))


@pytest.fixture
def path(tmp_path):
    """Return the path of a file."""
    return str(tmp_path / "a")


def write(path, text):
    """Write a file."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def read(path):
    """Return the text of a file."""
    with open(path, encoding="ascii") as file:
        return file.read()


def test_new(file_system, path, tmp_path):
    """A new file gets its name; something of that name stays as it is."""
    with replace.unfinished(path) as new:
        os.write(new.descriptor, b"new")
        new.into_place()
    assert (read(path), os.listdir(tmp_path)) == ("new", ["a"])
    with pytest.raises(OverlayError) as caught, replace.unfinished(path) as new:
        new.into_place()
    assert caught.value.what == f"{path} exists already"
    assert (read(path), os.listdir(tmp_path)) == ("new", ["a"])


def test_over(file_system, path, tmp_path):
    """A file takes the place of another."""
    write(path, "old")
    with open(path, "rb") as old, replace.unfinished(path) as new:
        os.write(new.descriptor, b"new")
        new.over(old.fileno())
    assert (read(path), os.listdir(tmp_path)) == ("new", ["a"])


@pytest.mark.parametrize("what", ["old", "new"])
def test_exchanged(file_system, path, what):
    """When one of both is another file by now, nothing takes a place."""
    write(path, "old")
    with pytest.raises(OverlayError) as caught, open(path, "rb") as old:
        with replace.unfinished(path) as new:
            name = path if what == "old" else new.name
            os.rename(name, name + ".away")
            write(name, "another's")
            new.over(old.fileno())
    assert caught.value.status == CANNOT_CREATE
    assert "somebody has changed names" in caught.value.what
    assert read(path) == ("another's" if what == "old" else "old")
    assert read(name) == "another's"  # nor is it removed


@pytest.mark.parametrize("at", ["exchange", "rename"])
def test_exchanged_at_the_last_moment(monkeypatch, path, at):
    """What is exchanged between the look and the call is seen; an exchange is undone."""
    write(path, "old")
    real = {"exchange": replace.Unfinished._exchange, "rename": os.rename}[at]
    done = []

    def late(*arguments, **options):
        if not done:
            done.append(True)
            os.replace(new.name, new.name + ".away")
            write(new.name, "another's")
        return real(*arguments, **options)

    if at == "exchange":
        monkeypatch.setattr(replace.Unfinished, "_exchange", late)
    else:
        monkeypatch.setattr(replace.Unfinished, "_exchange", refuse(errno.EINVAL))
        monkeypatch.setattr(os, "rename", late)
    with pytest.raises(OverlayError) as caught, open(path, "rb") as old:
        with replace.unfinished(path) as new:
            new.over(old.fileno())
    assert "somebody has changed names" in caught.value.what
    assert read(path) == ("old" if at == "exchange" else "another's")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o644, 0o744), (0o640, 0o740), (0o604, 0o704), (0o600, 0o700), (0o666, 0o766)],
    ids=oct,
)
def test_most(path, tmp_path, mode, expected):
    """Of the same owner and group the bits of the source are the limit."""
    write(path, "old")
    os.chmod(path, mode)
    with open(tmp_path / "b", "wb") as new:
        assert permissions.most([permissions.Access(path)], new.fileno()) == expected
        assert permissions.most([], new.fileno()) == 0o777


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o644, 0o744), (0o640, 0o700), (0o604, 0o700), (0o664, 0o744)],
    ids=oct,
)
def test_most_of_another_group(path, tmp_path, mode, expected):
    """Where the group is another, both get what both had: its members may be anybody."""
    write(path, "old")
    os.chmod(path, mode)
    access = permissions.Access(path)
    access.named["group", 54321] = access.named.pop(("group", os.stat(path).st_gid))
    with open(tmp_path / "b", "wb") as new:
        assert permissions.most([access], new.fileno()) == expected


@pytest.fixture
def lustre(tmp_path, monkeypatch):
    """Let all be on Lustre, with an lfs that does what its text says; return a function to set that.

    No Lustre can be had here: what is seen is what lfs is told, and what is done with its file.
    """
    program = tmp_path / "bin" / "lfs"
    program.parent.mkdir()
    monkeypatch.setattr(mounts, "find", lambda _descriptor: mounts.Mount("lustre", "/", "x"))

    def lustre(text):
        program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/told\nfor file; do :; done\n{text}\n')
        program.chmod(0o755)
        return {"PATH": f"{program.parent}:/usr/bin:/bin"}

    return lustre


def test_stripes(lustre, path, tmp_path):
    """lfs is told to make the new file with the layout of the old one; that file is taken."""
    write(path, "old")
    environ = lustre('umask; umask >"$file.mask"; : >"$file"')
    with open(path, "rb") as old, replace.unfinished(path, 5, stripes.like(path, environ)) as new:
        told = (tmp_path / "told").read_text().split(" ", 2)
        assert told == ["setstripe", f"--copy={path}", f"{new.name}\n"]
        assert os.stat(new.name).st_ino == os.fstat(new.descriptor).st_ino
        assert os.fstat(new.descriptor).st_mode & 0o777 == 0o600
        assert os.stat(new.name).st_size == 5
        with open(f"{new.name}.mask") as mask:
            assert mask.read() == "0177\n"
        new.over(old.fileno())
    assert read(path) == "\0" * 5


@pytest.mark.parametrize("text", ["exit 1", ': >"$file"; exit 1'])
def test_stripes_not_to_be_had(lustre, path, text):
    """Where lfs cannot, the file gets the layout of its directory."""
    write(path, "old")
    with replace.unfinished(path, 0, stripes.like(path, lustre(text))) as new:
        assert os.fstat(new.descriptor).st_mode & 0o777 == 0o600


def test_stripes_planted(lustre, path, tmp_path):
    """What is not a new file of ours under that name is not written."""
    write(path, "old")
    write(tmp_path / "other", "of somebody")
    environ = lustre(f'ln {tmp_path}/other "$file"')
    with pytest.raises(OverlayError, match="somebody has changed names"):
        with replace.unfinished(path, 5, stripes.like(path, environ)):
            pass
    assert read(tmp_path / "other") == "of somebody"
