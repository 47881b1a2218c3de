"""Files of settings that belong to somebody else, or that everybody may write, start nothing."""

import json
import os
import re
import shlex
import stat

import pytest
from support import PATH, ROOT, digests, execute, shell

HIS = "a program of the colleague"


def whose(path, owners):
    """Return the line about a file of the colleague."""
    return (
        f"the settings in {shlex.quote(str(path))} are left out:"
        f" it belongs to overlay-colleague, and not to {owners}\n"
    )


def test_user_file_of_another(run, overlay, colleague):
    """HOME of somebody else brings none of his settings."""
    overlay()
    home = colleague / "settings/home"
    words = ["run-overlay", "-q", "-o", "a.ext3:ro", "--", "echo", "mine"]
    result = run(*words, variables={"HOME": home})
    file = home / ".config/overlay/overlay.ini"
    said = f"run-overlay: {whose(file, 'overlay-tester or root')}"
    assert result == (0, "mine\n", said)


def test_file_of_another_named(run, overlay, colleague):
    """OVERLAY_CONFIG that names a file of somebody else's is said to be left out."""
    overlay()
    file = colleague / "settings/overlay.ini"
    words = ["run-overlay", "-o", "a.ext3:ro", "-c", "/none", "--", "true"]
    result = run(*words, variables={"OVERLAY_CONFIG": file})
    assert whose(file, "overlay-tester or root") in result.stderr
    assert HIS not in result.stdout and result.status == 66  # for /none


def test_drop_in_of_another(run, site, overlay, colleague):
    """A file in overlay.d that belongs to somebody else is left out, the others hold."""
    overlay()
    directory = site.parent / "overlay.d"
    directory.mkdir()
    (directory / "a.ini").symlink_to(colleague / "settings/overlay.d/site.ini")
    (directory / "b.ini").write_text("[create]\nsize = 7\n")
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "echo", "mine")
    assert (result.status, result.stdout) == (0, "mine\n")
    assert result.stderr == f"run-overlay: {whose(directory / 'a.ini', 'overlay-tester or root')}"
    shown = run("overlay-admin", "config", "--origin")
    assert shown.status == 0 and "/b.ini, line 2" in shown.stdout
    assert "engine.commands = apptainer singularity" in shown.stdout
    assert whose(directory / "a.ini", "overlay-tester or root") in shown.stderr


def test_whole_directory_of_another(run, site, overlay, colleague):
    """So are all of overlay.d that is a link to a directory of somebody else's."""
    overlay()
    (site.parent / "overlay.d").symlink_to(colleague / "settings/overlay.d")
    result = run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "echo", "mine")
    file = site.parent / "overlay.d/site.ini"
    said = f"run-overlay: {whose(file, 'overlay-tester or root')}"
    assert result == (0, "mine\n", said)


def test_as_root(environ, scratch, colleague):
    """Root, as whom nothing is out of reach, does not obey the HOME that was left to him."""
    home = colleague / "settings/home"
    words = ["unshare", "--user", "--map-root-user", ROOT / "bin/overlay-admin", "config"]
    result = execute(words, environ={**environ, "HOME": str(home)}, cwd=scratch)
    assert result.status == 0 and "engine.commands = apptainer singularity\n" in result.stdout
    # In this namespace the colleague has no name of his own.
    assert f"the settings in {home}/.config/overlay/overlay.ini are left out: it" in result.stderr


def test_surveys_as_root(environ, scratch, tmp_path, overlay):
    """Root looks over a user's directory: nothing is followed, opened, run or written there.

    In a user namespace, because the tests run as an ordinary user: what the commands do
    depends on getuid(2) alone.
    """
    private = tmp_path / "private"
    (private / "upper").mkdir(parents=True)
    overlay("private.ext3").rename(private / "hidden.ext3")
    place = scratch / "theirs"
    place.mkdir()
    overlay("sound.ext3").rename(place / "\x1b[2Jsound.ext3")
    (place / "link.ext3").symlink_to(private / "hidden.ext3")
    (place / "below").symlink_to(private)
    (place / "round").symlink_to(place)
    os.mkfifo(place / "pipe.ext3")
    os.mknod(place / "device.ext3", stat.S_IFCHR | 0o600, 0)
    (place / "d.d").mkdir()
    (place / "d.d" / "upper").symlink_to(private / "upper")
    (place / "d.d" / "work").mkdir()
    (place / "overlay.ini").write_text("[engine]\ncommands = ./engine\n")
    (place / "engine").write_text(f"#!/bin/sh\ntouch '{private}/ran'\n")
    (place / "engine").chmod(0o755)
    before = digests(private), digests(place)
    for words in (["overlay-admin", "report"], ["list-overlays"], ["overlay-admin", "doctor"]):
        program = [str(ROOT / "bin" / words[0]), *words[1:], "."]
        root = ["unshare", "--user", "--map-root-user", *program]
        result = execute(root, environ={**environ, "PATH": f".:{PATH}"}, cwd=place)
        assert "hidden" not in result.stdout + result.stderr
        assert "\x1b" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr and result.status != 70, result
        if words[-1] == "report":
            assert result.status == 0 and re.search("^total +1 +16 MiB", result.stdout, re.M)
        elif words[-1] == "list-overlays":
            assert result.status == 0 and "sound.ext3" in result.stdout
            assert "link.ext3" not in result.stdout
        assert (digests(private), digests(place)) == before, words


@pytest.mark.parametrize("place", ["file", "directory"])
def test_for_everybody_to_write(run, site, place):
    """What everybody may write, or put in its place, is left out, with the way to mend it."""
    file = site.parent / "overlay.d" / "site.ini"
    file.parent.mkdir()
    file.write_text("[create]\nsize = 7\n")
    path, what = {
        "file": (file, "everybody may write it"),
        "directory": (file.parent, f"everybody may write in {file.parent}"),
    }[place]
    path.chmod(path.stat().st_mode | 0o002)
    result = run("overlay-admin", "config", "--origin")
    assert result.status == 0 and str(file) not in result.stdout
    assert result.stderr == (
        f"overlay-admin: the settings in {file} are left out: {what}; to mend that: chmod o-w {path}\n"
    )
    assert shell(f"chmod o-w {path}", {"PATH": PATH}, path.parent).status == 0
    assert str(file) in run("overlay-admin", "config", "--origin").stdout
    if place == "directory":  # as /tmp is
        path.chmod(0o1777)
        assert str(file) in run("overlay-admin", "config", "--origin").stdout


@pytest.mark.parametrize("parts", [".:{}", ":{}", "{}:bin/..", "."])
def test_relative_path(run, overlay, scratch, parts):
    """Nothing is started from the current directory, whatever PATH says."""
    overlay()
    (scratch / "bin").mkdir()
    (scratch / "data").mkdir()
    (scratch / "data" / "file").write_text("x")
    for name in ("mount", "umount", "fusermount3", "fuse2fs", "mke2fs", "unshare", "apptainer", "ls",
                 "setpriv", "cp", "sh", "bash", "cat", "mksquashfs", "fuse-overlayfs"):  # fmt: skip
        (scratch / name).write_text(
            f"#!/bin/sh\necho {name} >>'{scratch}/pwned'\nexec /usr/bin/{name} \"$@\"\n"
        )
        (scratch / name).chmod(0o755)
    (scratch / "commands").write_text("touch /opt/x\n")
    made = ["create-overlay", "-q", "-s", "16", "-n", "1"]
    for words in (
        [*made, "--from", "data:/data", "-o", "b"],
        [*made, "-f", "commands", "-o", "c"],
        ["run-overlay", "-o", "a.ext3", "--", "sh", "-c", "touch /x; rm -rf /opt"],
        ["resize-overlay", "-q", "a.ext3", "-n", "2"],
        ["pack-overlay", "-q", "a.ext3", "-o", "a.sqsh"],
        ["run-overlay", "-o", "a.ext3:ro", "-o", "a.sqsh", "--", "true"],
    ):
        result = run(*words, variables={"PATH": parts.format(PATH)})
        assert (result.status, result.stdout) == (0, ""), (words, result)
        assert not (scratch / "pwned").exists(), ((scratch / "pwned").read_text(), words)


def test_own_link(run, site, scratch):
    """An admin's link to a file of his own is followed."""
    (scratch / "kept.ini").write_text("[create]\nsize = 7\n")
    (site.parent / "overlay.d").mkdir()
    (site.parent / "overlay.d/site.ini").symlink_to(scratch / "kept.ini")
    result = run("overlay-admin", "config")
    assert "create.size = 7\n" in result.stdout and result.stderr == ""


def test_pipe_in_the_place_of_a_file(run, site, scratch):
    """Nothing waits for the writer of a pipe."""
    (site.parent / "overlay.d").mkdir()
    pipe = site.parent / "overlay.d/site.ini"
    os.mkfifo(pipe)
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert (result.status, result.stdout) == (78, "")
    said = f"error: cannot read {pipe}: it is not a regular file\n"
    assert result.stderr == f"run-overlay: {said}"
    assert run("overlay-admin", "config", "--check", pipe).stderr == f"overlay-admin: {said}"


def test_doctor(run, site, colleague):
    """The doctor names what is left out, and what a group may write."""

    def settings():
        found = json.loads(run("overlay-admin", "doctor", "--json", "/tmp").stdout)
        return next(check for check in found["checks"] if check["name"] == "settings")

    assert settings()["state"] == "ok"
    site.chmod(0o664)
    check = settings()
    assert check["state"] == "warning" and check["found"] == f"the group may write {site}"
    assert check["advice"] == f"if that is not meant: chmod g-w {site}"
    (site.parent / "overlay.d").symlink_to(colleague / "settings/overlay.d")
    check = settings()
    assert check["state"] == "warning" and "belongs to overlay-colleague" in check["found"]
