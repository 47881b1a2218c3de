"""The command lines that look into overlays without root."""

import os
import subprocess

import pytest
from overlay.errors import UNAVAILABLE, OverlayError
from overlay.host import namespace

ENVIRON = {"PATH": "/usr/bin:/bin"}


def run(words):
    """Run a command line and return (status, output)."""
    done = subprocess.run(words, env=ENVIRON, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture
def tools(tmp_path):
    """Return an environment whose PATH has stand-ins of some tools alone."""

    def tools(**scripts):
        place = tmp_path / "tools"
        place.mkdir(exist_ok=True)
        for name, script in scripts.items():
            path = place / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        return {"PATH": str(place)}

    return tools


def test_available(tools):
    """It is found out by trying, and said with what to do."""
    assert namespace.available(tools(unshare="exit 0"))
    environ = tools(unshare="exit 1")
    assert not namespace.available(environ)
    with pytest.raises(OverlayError) as error:
        namespace.need(environ)
    assert (error.value.status, error.value.hint) == (
        UNAVAILABLE,
        "try it on another node, or ask the site's admin: overlay-admin doctor",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"binds": [("/a b", "/c")]}, ["bind", "/a b", "/c"]),
        ({"images": [(5, "/m", "/u")]}, ["{}/fuse2fs", 5, "/m", "upper", "/m", "/u"]),
        (
            {"images": [(5, "/m", "/u")], "layers": (["/u", "/v"], "/n"), "binds": [("/n", "/o")]},
            [
                *("{}/fuse2fs", 5, "/m", "upper", "/m", "/u"),
                *("{}/fuse-overlayfs", "/u:/v", "/n", "bind", "/n", "/o"),
            ],
        ),
    ],
)
def test_wrap(tools, tmp_path, options, words):
    """Images come before what lies over them, and binds last."""
    environ = tools(unshare="", fuse2fs="", fuse_overlayfs="")
    wrapped = namespace.wrap(["true", "--", "x y"], environ, **options)
    start = wrapped.index("/bin/sh") + 2
    place = tmp_path / "tools"
    expected = [word if isinstance(word, int) else word.format(place) for word in words]
    assert wrapped[start:] == [*expected, "--", "true", "--", "x y"]
    assert wrapped[0] == str(tmp_path / "tools" / "unshare")
    assert "--kill-child" in wrapped


def test_runs(tmp_path):
    """What is bound is seen in its place, there alone; arguments and status arrive."""
    source, place = tmp_path / "it's $HOME", tmp_path / "place"
    source.mkdir()
    place.mkdir()
    (source / "file").write_text("text")
    (source / "closed").write_text("mine")
    (source / "closed").chmod(0)
    words = ["/bin/sh", "-c", 'cat "$1"/*; echo " $2"; id -u; exit 3', "sh", str(place), "a  b"]
    wrapped = namespace.wrap(words, ENVIRON, binds=[(str(source), str(place))])
    assert run(wrapped) == (3, f"minetext a  b\n{os.getuid()}\n")
    assert os.listdir(place) == []


def test_mount_fails(tmp_path):
    """When something cannot be mounted, the command does not run."""
    words = namespace.wrap(["/bin/echo", "ran"], ENVIRON, binds=[("/nonexistent", str(tmp_path))])
    assert run(words) == (125, "")


def test_not_an_image(tmp_path):
    """Garbage instead of an image: the command does not run."""
    (tmp_path / "garbage").write_bytes(bytes(100000))
    (tmp_path / "place").mkdir()
    images = [(str(tmp_path / "garbage"), str(tmp_path / "place"), str(tmp_path / "place"))]
    status, output = run(namespace.wrap(["/bin/echo", "ran"], ENVIRON, images=images))
    assert (status, "ran" in output.split("\n")) == (125, False)
