"""What a site's own scripts call does what the documentation says."""

import os

from overlay import api, extfs


def test_create(scratch, environ, monkeypatch):
    """An overlay is made without a command line, and nothing is left on scratch."""
    monkeypatch.chdir(scratch)
    (scratch / "tmp").mkdir()
    config = api.load_config({**environ, "OVERLAY_SCRATCH_LOCAL": str(scratch / "tmp")})
    made = api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    assert made.path == str(scratch / "env.ext3")
    assert os.stat(made.path).st_size == made.size == 16 << 20
    with open(made.path, "rb") as file:
        assert extfs.read_superblock(file.fileno()).free_inodes_count >= 1000
    assert list(scratch.glob("tmp/*/*")) == []


def test_plan_session(scratch, environ, monkeypatch):
    """A plan names the engine's line, and starts nothing."""
    monkeypatch.chdir(scratch)
    config = api.load_config(environ)
    api.create("env", size=16 << 20, files=1000, config=config, sparse=True)
    plan = api.plan_session([("env.ext3", "ro")], command=["python3", "x.py"], config=config)
    assert "--overlay env.ext3:ro" in plan.shell() and "python3 x.py" in plan.shell()
