"""Base images that hold a program or two, and no shell."""

import pytest
from support import base_of, tool


@pytest.fixture(params=["directory", "squashfs"])
def bare(request, scratch):
    """Return a function that makes a base image of some programs, named with a slash."""

    def bare(*programs):
        tree = base_of(scratch / "bare", *programs)
        if request.param == "directory":
            return tree
        path = scratch / "bare.sqsh"
        assert tool("mksquashfs", tree, path, "-quiet").returncode == 0
        return path

    return bare


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_one_program(run, overlay, bare, mode):
    """A program runs as with the plain engine, by its path or its name, and gives its status."""
    overlay()
    base = bare("/bin/cat", "/bin/false")
    for words, status, output in (
        (["/bin/cat"], 0, "given"),
        (["cat"], 0, "given"),
        (["/bin/false"], 1, ""),
    ):
        result = run("run-overlay", "-o", f"a.ext3{mode}", "-c", base, "--", *words, stdin="given")
        assert (result.status, result.stdout) == (status, output), result


def test_no_commands(run, overlay, bare, scratch):
    """Commands in a file need a bash, a session a shell: it is said that there is none."""
    overlay()
    base = bare("/bin/cat")
    (scratch / "commands").write_text("echo never\n")
    result = run("run-overlay", "-o", "a.ext3", "-c", base, "-f", "commands")
    assert (result.status, result.stdout) == (255, "")
    assert "bare" in result.stderr
    assert "seems to have no bash, and without it no file of commands can run" in result.stderr
    result = run("mount-overlay", "-o", "a.ext3", "-c", base)
    assert (result.status, result.stdout) == (1, "")
    assert "seems to have no sh, and without it there is no shell" in result.stderr
    result = run("create-overlay", "-f", "commands", "-c", base, "-o", "b")
    assert result.status == 73
    assert "status 255: the base image seems to have no bash; no overlay was made" in result.stderr


def test_shell_of_an_overlay(ok, overlay, bare, scratch):
    """An overlay may hold the shell that the base image has not."""
    base_of(scratch / "more", "/bin/sh", "/bin/bash")
    ok("create-overlay", "-q", "--from", "more:/", "-o", "b")
    (scratch / "commands").write_text("echo $((6 * 7)) $0\n")
    words = ["run-overlay", "-q", "-o", "b.ext3:ro", "-c", bare("/bin/cat")]
    assert ok(*words, "-f", "commands") == "42 commands\n"
    assert ok(*words, "--", "/bin/sh", "-c", "echo $0", "there") == "there\n"


def test_nothing_is_staged_in_vain(run, overlay, scratch):
    """What cannot work is said before an overlay is copied, or a layer made, for a session."""
    overlay()
    (scratch / "local").mkdir()
    variables = {"OVERLAY_SCRATCH_LOCAL": f"'{scratch}/local'"}
    for wrong in (["-c", "/no/such.sif"], ["-c", "nobody"], ["-b", "/no/where"]):
        for way in (["--stage"], ["--per-task"], ["--discard-writes", "--stage"]):
            words = ["run-overlay", *way, "-o", "a.ext3:ro", *wrong, "--", "true"]
            result = run(*words, variables=variables)
            assert (result.status, "staged" in result.stderr) == (66, False), result
            assert list((scratch / "local").glob("*/[!.]*")) == []
