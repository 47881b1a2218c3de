"""Which base image a session goes on with: that which its environment was made for."""

import os
import subprocess

import pytest
from e2e.test_ready import venv
from support import BASE

LINE = "tool; echo $APPTAINER_CONTAINER"


@pytest.fixture
def own(scratch):
    """Return the path of a base image that is not the site's."""
    path = scratch / "own.sif"
    subprocess.run(["cp", "--reflink=auto", BASE, path], check=True)
    return path


@pytest.fixture
def env(scratch, ok, own):
    """Return the path of an overlay with a venv that is made for that image."""
    tree = venv(scratch / "tree")
    ok("create-overlay", "-q", "--from", f"{tree}:/opt/env", "-c", own, "-o", "env.ext3")
    return scratch / "env.ext3"


@pytest.fixture
def moved(scratch, ok, site, own):
    """Return the path of an environment made when the site's default was the other image."""
    site.write_text(f"[images]\ndefault = base\nbase = {own}\n")
    tree = venv(scratch / "tree")
    ok("create-overlay", "-q", "--from", f"{tree}:/opt/env", "-o", "env.ext3")
    site.write_text(f"[images]\ndefault = base\nbase = {BASE}\n")
    return scratch / "env.ext3"


WAYS = {
    "env": ["-o", "env.ext3:ro"],
    "written": ["-o", "env.ext3"],
    "results over it": ["-o", "results.ext3", "-o", "env.ext3"],
    "one a task": ["-o", "env.ext3", "--per-task", "-s", "16", "-n", "1"],
    "a copy": ["-o", "env.ext3:ro", "--stage"],
    "a copy and one a task": ["-o", "env.ext3", "--stage", "--per-task", "-s", "16", "-n", "1"],
    "discarded": ["-o", "env.ext3", "--discard-writes", "-s", "16", "-n", "1"],
}


def test_site_moves_its_default(run, ok, moved, own):
    """An environment made before goes on with its own image, in every kind of session; one line."""
    ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "results.ext3")
    for way, words in WAYS.items():
        said = run("run-overlay", *words, "--", "sh", "-c", LINE)
        assert (said.status, said.stdout) == (0, f"venv\n{own}\n"), (way, said)
        told = f"run-overlay: env.ext3 was made for '{own}', which is taken\n"
        assert said.stderr.count("was made for") == said.stderr.count(told) == 1, (way, said)


def test_image_is_gone(run, ok, env, own):
    """What an environment was made for and is gone is told before anything begins, with a way out."""
    ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "results.ext3")
    own.unlink()
    for way, words in WAYS.items():
        said = run("run-overlay", *words, "--", "sh", "-c", LINE)
        assert (said.status, said.stdout) == (66, ""), (way, said)
        error = f"env.ext3 was made for the base image '{own}', which cannot be used: No such file"
        assert error in said.stderr and "-c NAME-or-PATH" in said.stderr, (way, said)
        assert "show-overlay --recipe env.ext3" in said.stderr, (way, said)
    said = run("run-overlay", "-c", BASE, "-o", "env.ext3:ro", "--", "tool")
    assert (said.status, said.stdout) == (0, "venv\n"), said
    ok("update-overlay", "-q", "env.ext3", "-c", BASE, "--", "true")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", LINE)
    assert said == (0, f"venv\n{BASE}\n", ""), said


@pytest.mark.parametrize("kind", ["fifo", "directory", "closed"])
def test_image_is_something_else(run, env, own, kind):
    """What lies in its place is looked at without hanging, and told."""
    own.unlink()
    if kind == "fifo":
        subprocess.run(["mkfifo", own], check=True)
    elif kind == "closed":
        own.touch(0)
    else:
        own.mkdir()
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "true")
    assert said.status != 0, said
    assert str(own) in said.stderr and "bug" not in said.stderr, said


def test_image_of_another_architecture(run, env, own):
    """An image that another architecture's has taken the place of is told as that."""
    with open(own, "r+b") as file:
        file.seek(45)
        file.write(b"04")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "true")
    assert f"'{own}' is an image for aarch64, and this node is not" in said.stderr, said


def test_filled_on_another_architecture(run, ok, env, scratch):
    """An environment that was filled on another architecture is told as that."""
    (note,) = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "ls -p /upper/.singularity.d/overlay", env],
        capture_output=True,
        text=True,
    ).stdout.split("/")[5:-1:7][2:]
    inside = f"upper/.singularity.d/overlay/{note}/note"
    copy = scratch / "note"
    subprocess.run(["/usr/sbin/debugfs", "-R", f'dump {inside} "{copy}"', env], check=True)
    copy.write_text(copy.read_text().replace(f"machine {os.uname().machine}", "machine riscv64"))
    lines = f'rm {inside}\nwrite "{copy}" {inside}\n'
    words = ["/usr/sbin/debugfs", "-w", "-f", "-", env]
    subprocess.run(words, input=lines, text=True, check=True, capture_output=True)
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "tool")
    assert (said.status, said.stdout) == (0, "venv\n"), said
    assert "env.ext3 was filled on a node of another architecture: riscv64" in said.stderr, said


def test_locked_default(run, env, site, own):
    """Where the site's image is locked an environment follows its own only if the site names it."""
    head = "[site]\nlock = images.default\n[images]\ndefault = base\n"
    site.write_text(f"{head}base = {BASE}\n")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", LINE)
    assert (said.status, said.stdout) == (0, f"venv\n{BASE}\n"), said
    assert f"was made for '{own}', which is not an image of this site" in said.stderr
    site.write_text(f"{head}base = {BASE}\nolder = {own}\n")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", LINE)
    assert (said.status, said.stdout) == (0, f"venv\n{own}\n"), said


def test_two_that_disagree(run, ok, env, own, scratch):
    """Of two environments for two images the first one's is taken, and a warning names the other."""
    tree = venv(scratch / "other", "/opt/other", "other")
    ok("create-overlay", "-q", "--from", f"{tree}:/opt/other", "-o", "other.ext3")
    said = run("run-overlay", "-o", "env.ext3:ro", "-o", "other.ext3:ro", "--", "sh", "-c", LINE)
    assert (said.status, said.stdout) == (0, f"venv\n{own}\n"), said
    assert f"other.ext3 was made for another one: {BASE}" in said.stderr
    said = run("run-overlay", "-o", "other.ext3:ro", "-o", "env.ext3:ro", "--", "sh", "-c", LINE)
    assert (said.status, said.stdout) == (0, f"other\n{BASE}\n"), said


def test_machine_in_names(ok, overlay, site, scratch, own):
    """{machine} in [images] is the architecture of the node that a session runs on."""
    overlay("a.ext3")
    link = scratch / f"base-{os.uname().machine}.sif"
    link.symlink_to(own)
    site.write_text(f"[images]\ndefault = base\nbase = {scratch}/base-{{machine}}.sif\n")
    said = ok("run-overlay", "-q", "-o", "a.ext3:ro", "--", "sh", "-c", "echo $APPTAINER_CONTAINER")
    assert said == f"{link}\n"
