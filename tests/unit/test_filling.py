"""Filling a new overlay: which sources are read where they are, limits, the base image."""

import os
import time
import types

import pytest
from overlay.create import fill
from overlay.create.build import unpacked_name, unpacking
from overlay.create.source import Directory
from overlay.create.tar import Tar
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, MISSING, USAGE, OverlayError
from overlay.host import private, process

MIB = 1 << 20
ENVIRON = {"PATH": "/usr/bin:/bin"}


def refused(function, *arguments, **options):
    """Return the OverlayError that a call raises."""
    with pytest.raises(OverlayError) as error:
        function(*arguments, **options)
    return error.value


def unpacked(base, workplace, config, output):
    """Have a base image unpacked, and return where it is."""
    base = base if os.path.isdir(base) else os.path.realpath(base)
    place = unpacked_name(base, workplace)
    for step in () if place == base else unpacking(base, workplace, config, output):
        step.do()
    return place


@pytest.fixture
def output():
    """Return what takes notices; they are in its list."""
    told = []
    return types.SimpleNamespace(notice=lambda words, _kind=None: told.append(words), told=told)


@pytest.fixture
def workplace(scratch):
    """Return the Workplace of a new overlay in the scratch directory."""
    return Workplace(str(scratch))


@pytest.mark.parametrize(
    ("pairs", "bound"),
    [
        ([("a", "/a")], [0]),
        ([("a", "/")], []),
        ([("a", "/a"), ("b", "/b")], [0, 1]),
        ([("a", "/x"), ("b", "/x")], []),
        ([("a", "/x"), ("b", "/x/y")], []),
        ([("a", "/x/y"), ("b", "/x"), ("c", "/z")], [2]),
        ([("a", "/x"), ("b", "/xy")], [0, 1]),
        ([("a", "/x"), ("a", "/y")], []),
        ([("a", "/x"), ("a/sub", "/y")], []),
        ([("link", "/x"), ("a", "/y")], []),
        ([("a", "/x"), ("t.tar", "/")], []),
        ([("a", "/x"), ("t.tar", "/y")], [0]),
        ([("t.tar", "/")], []),
    ],
)
def test_bindable(scratch, monkeypatch, pairs, bound):
    """Only what has a place and a tree for itself is read where it is."""
    monkeypatch.chdir(scratch)
    for name in ("a/sub", "b", "c"):
        os.makedirs(name)
    os.symlink("a", "link")
    parsed = [(Tar if path.endswith("tar") else Directory)(path, dest) for path, dest in pairs]
    assert fill._bindable(parsed, "/elsewhere", ENVIRON) == [parsed[number] for number in bound]


def test_overlay_in_its_own_source(scratch):
    """A source in which the new overlay will lie is copied: else that would be copied too."""
    source = Directory(str(scratch), "/x")
    assert fill._bindable([source], str(scratch.parent), ENVIRON) == [source]
    for place in (scratch, scratch / "below"):
        assert fill._bindable([source], str(place), ENVIRON) == []


@pytest.mark.parametrize(
    ("one", "other", "nested"),
    [
        ("/a", "/a", True),
        ("/a", "/a/b", True),
        ("/a/b", "/a", True),
        ("/a", "/ab", False),
        ("/", "/a", True),
        ("/a/", "/a", True),
    ],
)
def test_nested(one, other, nested):
    """Whether one path lies in another goes by whole names."""
    assert fill._nested(one, other) is nested


def test_parse(settings, scratch, site, site_text, monkeypatch):
    """The sources of a template come first; what there is not is refused."""
    monkeypatch.chdir(scratch)
    for name in ("one", "two"):
        (scratch / name).mkdir()
    site.write_text(f"{site_text}[templates]\nt = '{scratch}/one:/x' '{scratch}/one'\n")
    parsed = fill.parse(settings(), template="t", sources=["two"]).sources
    assert [source.dest for source in parsed] == ["/x", "/one", "/two"]
    error = refused(fill.parse, settings(), template="u")
    assert (error.status, error.hint) == (MISSING, "templates of this site: t")
    site.write_text(site_text)
    error = refused(fill.parse, settings(), template="u")
    assert (error.status, error.hint.startswith("this site has none")) == (MISSING, True)
    for wrong in ({"container": "base"}, {"binds": ["/x"]}):
        assert refused(fill.parse, settings(), **wrong).status == USAGE


@pytest.fixture
def engine(scratch, settings, tmp_path):
    """Return a function that configures a stand-in for the engine: a script."""

    def engine(script):
        path = tmp_path / "stand-in" / "apptainer"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n[ "$1" = build ] || exit 0\n{script}\n')
        path.chmod(0o755)
        return settings(engine_commands=str(path))

    return engine


def test_unpacked_once(engine, workplace, base, output, scratch):
    """The base image is unpacked once, and anew when it has changed."""
    config = engine(f'mkdir "$3"; echo >>"{scratch}/calls"')
    place = unpacked(str(base), workplace, config, output)
    assert unpacked(str(base), workplace, config, output) == place
    own = os.path.dirname(os.path.dirname(place))
    assert os.stat(own).st_mode & 0o777 == 0o700
    os.utime(base, (1, 1))
    assert unpacked(str(base), workplace, config, output) != place
    assert (scratch / "calls").read_text() == "\n\n"
    assert unpacked(str(scratch), workplace, config, output) == str(scratch)


def test_unpacked_long_ago(engine, workplace, base, output, scratch):
    """An unpacked image that nobody has used for a week goes; one that is used stays."""
    config = engine('mkdir "$3"')
    old = unpacked(str(base), workplace, config, output)
    for days, left in ((6, True), (8, False)):
        os.utime(old, (time.time() - days * 86400,) * 2)
        base.write_bytes(base.read_bytes() + b"x")
        new = unpacked(str(base), workplace, config, output)
        assert (os.path.exists(old), os.path.exists(new)) == (left, True)


def test_unpacked_by_another(engine, workplace, base, output, scratch):
    """Another build was quicker: its directory is taken, ours removed."""
    parent = scratch / f"overlay-{os.getuid()}" / "base"
    theirs = parent / f"{private.identity(base.stat())}.{os.getegid()}"
    config = engine(f'mkdir "$3" "{theirs}"; touch "{theirs}/theirs"')
    place = unpacked(str(base), workplace, config, output)
    assert os.listdir(place) == ["theirs"]
    assert os.listdir(parent) == [theirs.name]


def test_unpacked_from_another(engine, workplace, base, output, scratch):
    """What a link leads to is unpacked, whatever it leads to meanwhile, and a changed image never."""
    link, other = scratch / "link", scratch / "other"
    link.symlink_to(base)
    other.write_text("other")
    exchange = f'ln -sfn "{other}" "{link}"'
    config = engine(f'{exchange}; mkdir "$3"; cp "$4" "$3/seen"')
    place = unpacked(str(link), workplace, config, output)
    with open(os.path.join(place, "seen"), "rb") as file:
        assert file.read() == base.read_bytes()
    config = engine(f'mkdir "$3"; cp "{base}" "{base}.new"; mv "{base}.new" "{base}"')
    os.utime(base, (1, 1))
    error = refused(unpacked, str(base), workplace, config, output)
    assert (error.status, "was changed while" in error.what) == (CANNOT_CREATE, True)
    assert os.listdir(scratch / f"overlay-{os.getuid()}" / "base") == [os.path.basename(place)]


def test_unpacking_fails(engine, workplace, base, output, scratch):
    """A failure is told in the engine's words, and leaves nothing."""
    config = engine('mkdir "$3"; touch "$3/half"; echo first; echo FATAL: no >&2; exit 255')
    error = refused(unpacked, str(base), workplace, config, output)
    assert (error.status, error.what.endswith("FATAL: no")) == (CANNOT_CREATE, True)
    assert os.listdir(scratch / f"overlay-{os.getuid()}" / "base") == []


def test_unpacking_interrupted(engine, workplace, base, output, scratch, monkeypatch):
    """Ctrl-C while the base image is unpacked leaves nothing."""
    config = engine("exit 0")

    def interrupted(arguments, *_rest, **_more):
        assert "build" in arguments
        os.makedirs(os.path.join(arguments[-2], "half"))
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpacked(str(base), workplace, config, output)
    assert os.listdir(scratch / f"overlay-{os.getuid()}" / "base") == []
