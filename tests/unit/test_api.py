"""What a site's own scripts call does what the documentation says."""

import os
import types

import pytest
from overlay import api
from overlay.errors import NOT_ALLOWED
from overlay.host import foreground
from overlay.image import ext3
from support import tool


def test_create(scratch, environ, monkeypatch):
    """An overlay is made without a command line, and nothing is left on scratch."""
    monkeypatch.chdir(scratch)
    (scratch / "tmp").mkdir()
    config = api.load_config({**environ, "OVERLAY_SCRATCH_LOCAL": str(scratch / "tmp")})
    made = api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    assert made.path == str(scratch / "env.ext3")
    assert os.stat(made.path).st_size == made.size == 16 << 20
    with open(made.path, "rb") as file:
        assert ext3.read_superblock(file.fileno()).free_inodes_count >= 1000
    assert list(scratch.glob("tmp/*/*")) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OVERLAY_CREATE_MAX_SIZE", "10M"), ("OVERLAY_SCRATCH_OUTSIDE", "refuse")],
)
def test_create_as_the_site_wants(scratch, environ, monkeypatch, variable, value):
    """The site's policy and places hold for scripts, too."""
    monkeypatch.chdir(scratch)
    variables = {variable: value, "OVERLAY_SCRATCH_LOCATIONS": "/usr"}
    config = api.load_config({**environ, **variables})
    with pytest.raises(api.OverlayError) as caught:
        api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    assert caught.value.status == NOT_ALLOWED
    assert not (scratch / "env.ext3").exists()


def test_plan_session(scratch, environ, monkeypatch):
    """A plan names the engine's line, and starts nothing."""
    monkeypatch.chdir(scratch)
    config = api.load_config(environ)
    api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    plan = api.plan_session([("env.ext3", "ro")], command=["python3", "x.py"], config=config)
    assert "--overlay env.ext3:ro" in plan.shell() and "python3 x.py" in plan.shell()


def test_launch(scratch, environ, recorder, monkeypatch):
    """A session returns the engine's status, and leaves its caller's signals as they were."""
    monkeypatch.chdir(scratch)
    config = api.load_config(environ)
    api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    said = []
    output = types.SimpleNamespace(
        notice=lambda text, level="notice": said.append(text), error=said.append
    )
    before = foreground.handlers(), os.listdir("/proc/self/fd")
    for status in (0, 3):
        recorder.write_text(f"#!/bin/sh\nexit {status}\n")
        overlays = [("env.ext3", "rw")]
        assert api.launch(overlays, command=["x"], config=config, output=output) == status
    assert (foreground.handlers(), os.listdir("/proc/self/fd")) == before


def test_plan_session_of_deleted(scratch, environ, monkeypatch, make_image, tmp_path):
    """What is deleted in a read-only overlay is so in what is planned, too."""
    monkeypatch.chdir(scratch)
    path = make_image(directories=("upper", "work", "upper/d"))
    marker = tmp_path / "marker"
    marker.touch()
    words = [f"write {marker} /upper/d/.wh.gone"]
    assert tool("debugfs", "-w", "-R", *words, path).returncode == 0
    config = api.load_config(environ)
    plan = api.plan_session([(str(path), "ro")], command=["x"], config=config)
    assert "--writable-tmpfs" in plan.shell()
