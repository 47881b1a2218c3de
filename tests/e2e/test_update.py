"""update-overlay: all or nothing, while others read."""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from e2e.safety.trees import CLEAN, Session, descendants, kill_tree, named, state
from support import BASE, ROOT, shell, tool

CHANGE = ("--", "touch", "/opt/x")


@pytest.fixture
def env(ok, scratch):
    """Return the path of an overlay whose history says how it was made."""
    (scratch / "install").write_text("mkdir -p /opt/x; echo one >/opt/x/f\n")
    ok("create-overlay", "-q", "-s", "24", "-n", "2", "-f", "install", "-o", "env.ext3")
    return scratch / "env.ext3"


@pytest.fixture
def read(ok):
    """Return a function that says what is in the file of an overlay."""
    return lambda name="env.ext3": ok(
        "run-overlay", "-q", "-o", f"{name}:ro", "--", "cat", "/opt/x/f"
    )


def names(scratch):
    """Return what lies in the directory, without what a test has put there."""
    return sorted(set(os.listdir(scratch)) - {"install", "more"})


def test_updated(ok, run, scratch, env, read):
    """The commands' work is in the new one, the old one keeps a name, and goes back by --undo."""
    before = env.stat()
    env.chmod(0o640)
    said = ok("update-overlay", "env.ext3", "--", "sh", "-c", "echo two >/opt/x/f")
    assert "update-overlay --undo env.ext3" in said
    assert (read(), read("env.ext3.~1~")) == ("two\n", "one\n")
    assert (env.stat().st_mode & 0o777, env.stat().st_uid) == (0o640, before.st_uid)
    assert state(env) == CLEAN
    (scratch / "more").write_text("set -e\necho three >/opt/x/f\n")
    ok("update-overlay", "-q", "env.ext3", "-f", "more")
    assert (read(), read("env.ext3.~2~")) == ("three\n", "two\n")
    assert names(scratch) == ["env.ext3", "env.ext3.~2~"]
    for expected in ("two\n", "three\n", "two\n"):
        ok("update-overlay", "-q", "--undo", "env.ext3")
        assert read() == expected
    ok("update-overlay", "-q", "--versions", "3", "env.ext3", *CHANGE)
    assert names(scratch) == ["env.ext3", "env.ext3.~2~", "env.ext3.~3~"]


def test_versions_by_setting(ok, environ, scratch, env):
    """How many are kept is the site's to say, or the user's: not to be told at each update."""
    environ["OVERLAY_UPDATE_VERSIONS"] = "2"
    for _number in range(3):
        ok("update-overlay", "-q", "env.ext3", *CHANGE)
    assert names(scratch) == ["env.ext3", "env.ext3.~2~", "env.ext3.~3~"]
    ok("update-overlay", "-q", "--versions", "1", "env.ext3", *CHANGE)
    assert names(scratch) == ["env.ext3", "env.ext3.~4~"]


def test_versions_are_shown_and_forgotten(ok, run, scratch, env):
    """What is kept is listed, and goes by --forget."""
    assert run("update-overlay", "--forget", "env.ext3").status == 73
    ok("update-overlay", "-q", "env.ext3", *CHANGE)
    assert "'env.ext3.~1~', " in ok("show-overlay", "env.ext3")
    listed = ok("list-overlays", ".")
    assert "before an update" in listed
    assert "1 of them is kept from before an update, 24 MiB on disk" in listed
    assert "update-overlay --forget env.ext3" in listed
    assert ok("update-overlay", "--forget", "env.ext3") == "removed 'env.ext3.~1~'\n"
    assert names(scratch) == ["env.ext3"]
    assert "~1~" not in ok("show-overlay", "env.ext3")


def test_name_of_an_unfinished_update(ok, scratch, env, read):
    """A name that a killed update gave to what it did not replace is not in the way."""
    os.link(env, scratch / "env.ext3.~1~")
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", "echo two >/opt/x/f")
    assert (read(), read("env.ext3.~1~")) == ("two\n", "one\n")
    os.link(env, scratch / "env.ext3.~2~")
    ok("update-overlay", "-q", "--undo", "env.ext3")
    assert read() == "one\n"
    assert names(scratch) == ["env.ext3", "env.ext3.~1~"]


def test_users_own_versions(ok, scratch, env):
    """Files of such names that somebody else has made are theirs, and stay."""
    (scratch / "env.ext3.~1~").write_text("of cp --backup=numbered")
    for _number in range(3):
        ok("update-overlay", "-q", "env.ext3", *CHANGE)
    assert names(scratch) == ["env.ext3", "env.ext3.~1~", "env.ext3.~4~"]
    (scratch / "env.ext3.~9~").write_text("of cp --backup=numbered")
    ok("update-overlay", "-q", "--undo", "env.ext3")
    for number in (1, 9):
        assert (scratch / f"env.ext3.~{number}~").read_text() == "of cp --backup=numbered"


def test_history(ok, scratch, env):
    """Each update is an entry, and the recipe of all steps runs again."""
    (scratch / "more").write_text("cd /; echo two >>opt/x/f; exit 0\n")
    ok("update-overlay", "-q", "env.ext3", "-f", "more")
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", "echo 'three  3' >>/opt/x/f")
    (history,) = json.loads(ok("show-overlay", "--json", "env.ext3"))[0]["history"]
    assert [one["action"] for one in history["entries"]] == ["create", "update", "update"]
    (scratch / "install").write_text(ok("show-overlay", "--recipe", "env.ext3"))
    ok("create-overlay", "-q", "-f", "install", "-o", "again")
    shown = ok("run-overlay", "-q", "-o", "again.ext3:ro", "--", "cat", "/opt/x/f")
    assert shown == "one\ntwo\nthree  3\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("echo two >/opt/x/f; echo said; exit 3", 73),
        ("dd if=/dev/zero of=/opt/x/big bs=1M count=99; echo two >/opt/x/f", 73),
    ],
    ids=["fails", "full"],
)
def test_failed(run, scratch, env, read, line, status):
    """Commands that fail change nothing, and what they have printed is named."""
    before = env.read_bytes()
    (scratch / "more").write_text("set -e\n" + line + "\n")
    said = run("update-overlay", "env.ext3", "-f", "more")
    assert said.status == status, said
    assert "resize-overlay" not in said.stderr  # another size and the same update are one line
    assert "it is as it was" in said.stderr
    assert "less" in said.stderr and "env.ext3.log" in said.stderr
    assert f"overlay-{os.getuid()}/" not in said.stderr  # the overlay is named, not its copy
    assert env.read_bytes() == before
    assert names(scratch) == ["env.ext3", "env.ext3.log"]


def test_larger(ok, env, read):
    """Another size and number of files in the same step."""
    ok("update-overlay", "-q", "env.ext3", "-s", "+20", "-n", "+3", "--", "true")
    found = json.loads(ok("show-overlay", "--json", "env.ext3"))[0]
    assert found["size"] == 44 << 20
    assert found["files_total"] >= 5000
    assert read() == "one\n"


@pytest.mark.parametrize("kind", ["env", "packed"])
def test_nothing_changed(request, ok, run, scratch, kind):
    """What changes nothing replaces nothing, and does not take the place of the version before."""
    path = request.getfixturevalue(kind)
    ok("update-overlay", "-q", path.name, "--", "sh", "-c", "echo two >/opt/x/f")
    before, there = (path.read_bytes(), path.stat()), names(scratch)
    (scratch / "more").write_text("cat /opt/x/f /usr/bin/env; ls -lR /opt\n")
    for words, stdin in (
        ([], ""),
        (["--", "cat", "/opt/x/f"], None),
        (["-f", "more"], None),
    ):
        said = run("update-overlay", path.name, *words, stdin=stdin)
        assert said.status == 0, said
        assert said.stdout == f"nothing was changed in {path.name}: it stays as it is\n"
        assert (path.read_bytes(), path.stat()) == before
        assert names(scratch) == there
    assert ok("update-overlay", "-q", path.name, "--", "true") == ""
    for line in ("echo tvo >/opt/x/f", "chmod 700 /opt/x/f", "mv /opt/x/f /opt/x/g"):
        assert "updated" in ok("update-overlay", path.name, "--", "sh", "-c", line)
    assert (path.read_bytes(), path.stat()) != before


def start(words, environ, scratch, *arguments):
    """Start a command in the background."""
    return Session([*words(arguments[0]), *arguments[1:]], env=environ, cwd=scratch)


def test_readers_and_writers(ok, run, engine, words, environ, scratch, env, read):
    """Who reads goes on with the old one; who would write waits, and so does a second update."""
    line = "cat /opt/x/f; read x; cat /opt/x/f"
    reader = start(
        words, environ, scratch, "run-overlay", "-q", "-o", "env.ext3:ro", "--", "sh", "-c", line
    )
    reader.says("one")
    line = "echo begun; read x; echo two >/opt/x/f"
    update = start(words, environ, scratch, "update-overlay", "env.ext3", "--", "sh", "-c", line)
    update.complains("begun")
    assert run("update-overlay", "--undo", "env.ext3").status == 73  # there is none yet
    for other in (
        ["run-overlay", "-o", "env.ext3", "--", "true"],
        ["update-overlay", "env.ext3", "--", "true"],
    ):
        said = run(*other)
        assert (said.status, "an update of it is running" in said.stderr) == (75, True), said
    plain = engine("exec", "--overlay", "env.ext3", BASE, "true")
    assert plain.status != 0 and "in use" in plain.stderr, plain
    assert read() == "one\n"
    assert update.end()[0] == 0
    assert read() == "two\n"
    output, _errors = reader.communicate("\n", timeout=60)
    assert (reader.returncode, output) == (0, "one\n")


def without_syncs(session):
    """Return whether the server of a session's image has a filter of system calls: proc(5)."""
    (server,) = named(descendants(session.pid), "fuse2fs")
    status = Path(f"/proc/{server}/status").read_text()
    return "Seccomp:\t2\n" in status


def test_synced_once(ok, words, environ, scratch, env):
    """What the server of the copy would sync at each file is synced at the end, and no other is."""
    inside = ("--", "sh", "-c", "echo begun; read x; echo two >/opt/x/f")
    update = start(words, environ, scratch, "update-overlay", "env.ext3", *inside)
    update.complains("begun")
    assert without_syncs(update)
    assert update.end()[0] == 0
    trace = ["strace", "-f", "-y", "-e", "trace=fsync,renameat2,linkat", "-o", "more"]
    line = [*words("update-overlay"), "env.ext3", *inside]
    subprocess.run(
        [*trace, *line], env=environ, cwd=scratch, check=True, capture_output=True, input=b"\n"
    )
    calls = (scratch / "more").read_text().splitlines()
    done = next(number for number, call in enumerate(calls) if "renameat2(" in call)
    assert any("fsync(" in call and ".overlay-partial" in call for call in calls[:done])
    session = start(words, environ, scratch, "run-overlay", "-o", "env.ext3", *inside)
    session.says("begun")
    assert not without_syncs(session)
    assert session.end()[0] == 0


def test_without_syncs():
    """Only the two calls do nothing, where the caller may let them; all else is as it was."""
    program = str(ROOT / "lib/overlay/helpers/unsynced/without-syncs")
    line = "import os; print([f(0) for f in (os.fsync, os.fdatasync)], os.getpid() > 0)"
    words = [program, "/usr/bin/python3", "-IS", "-c", line]
    namespace = ["unshare", "--user", "--map-current-user", "--keep-caps"]
    for before, expected in ((namespace, "[None, None] True\n"), ([], "")):
        # A pipe cannot be synced.
        done = subprocess.run([*before, *words], input="", capture_output=True, text=True)
        assert done.stdout == expected, done
        assert bool(done.returncode) == (not expected), done


def test_writer_in_the_way(run, words, environ, scratch, env):
    """A session that writes is not updated away; --wait waits for its end."""
    line = "echo begun; read x"
    writer = start(
        words, environ, scratch, "run-overlay", "-q", "-o", "env.ext3", "--", "sh", "-c", line
    )
    writer.says("begun")
    assert run("update-overlay", "env.ext3", "--", "true").status == 75
    waiting = start(
        words, environ, scratch, "update-overlay", "--wait", "60", "env.ext3", "--", "true"
    )
    waiting.complains("waiting")
    assert writer.end()[0] == 0
    assert waiting.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended(run, words, environ, scratch, env, read, number):
    """Ended in its midst, by whatever: the old one, whole, and the next command tidies."""
    before = env.read_bytes()
    line = "echo begun; echo two >/opt/x/f; exec sleep 60"
    update = start(words, environ, scratch, "update-overlay", "env.ext3", "--", "sh", "-c", line)
    update.complains("begun")
    if number == signal.SIGKILL:
        kill_tree(update, env)
    else:
        update.send_signal(number)
        assert update.end()[0] not in (0, 70)
    assert env.read_bytes() == before
    said = run("update-overlay", "-q", "env.ext3", "--", "sh", "-c", "echo new >/opt/x/f")
    assert said.status == 0, said
    assert read() == "new\n"


def test_undo_during_an_update(ok, run, words, environ, scratch, env, read):
    """What an update is going to replace is not exchanged under its feet; modes stay as they are."""
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", "echo two >/opt/x/f")
    line = "echo begun; read x"
    update = start(words, environ, scratch, "update-overlay", "env.ext3", "--", "sh", "-c", line)
    update.complains("begun")
    said = run("update-overlay", "--undo", "env.ext3")
    assert (said.status, "an update of it is running" in said.stderr) == (75, True), said
    assert update.end()[0] == 0
    env.chmod(0o600)
    ok("update-overlay", "-q", "--undo", "env.ext3")
    assert env.stat().st_mode & 0o777 == 0o600


def test_private_in_the_place_of_a_version(ok, overlay, scratch, env):
    """What somebody who may write in the directory gives that name is not opened to them."""
    ok("update-overlay", "-q", "env.ext3", *CHANGE)
    (scratch / "env.ext3.~1~").rename(scratch / "gone")
    private = overlay("private.ext3")
    private.chmod(0o600)
    env.chmod(0o644)
    private.rename(scratch / "env.ext3.~9~")
    ok("update-overlay", "-q", "--undo", "env.ext3")
    assert [path.stat().st_mode & 0o777 for path in (env, scratch / "env.ext3.~9~")] == [
        0o600,
        0o644,
    ]


def test_not_to_be_written(run, scratch, env):
    """What may not be written, itself or its directory, is refused before anything is done."""
    env.chmod(0o444)
    assert run("update-overlay", "env.ext3", "--", "true").status == 77
    env.chmod(0o644)
    scratch.chmod(0o555)
    said = run("update-overlay", "env.ext3", "--", "true")
    scratch.chmod(0o755)
    assert (said.status, "you may not create files" in said.stderr) == (77, True), said


def test_of_a_colleague(run, colleague, scratch):
    """Somebody else's is refused before anything is done."""
    path = next(path for path in colleague.iterdir() if path.name.endswith(".ext3"))
    said = run("update-overlay", path, "--", "true")
    assert said.status in (77, 78), said


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("update-overlay", 2),
        ("update-overlay env.ext3 -f more -- true", 2),
        ("update-overlay --undo env.ext3", 73),
        ("update-overlay --undo env.ext3 -- true", 2),
        ("update-overlay --undo --forget env.ext3", 2),
        ("update-overlay env.ext3 pip install numpy", 2),
        ("update-overlay env.ext3 install", 2),
        ("update-overlay env.ext3 -f nothing", 66),
        ("update-overlay nothing.ext3 -- true", 66),
        ("update-overlay env.ext3 --versions 0 -- true", 2),
        ("update-overlay --undo env.ext3 --versions 2", 2),
        ("update-overlay -o env.ext3 env.ext3 -- true", 2),
        ("update-overlay env.ext3 -c nope -- true", 66),
        ("update-overlay env.ext3 -b /nope -- true", 66),
        ("update-overlay env.ext3 --", 2),
    ],
)
def test_wrong(run, scratch, env, line, status):
    """Wrong lines are answered, and nothing is changed."""
    before = env.read_bytes()
    said = run(*line.split())
    assert said.status == status, said
    assert "hint" in said.stderr and "copying" not in said.stderr
    assert env.read_bytes() == before
    assert names(scratch) == ["env.ext3"]


def packing(path):
    """Return what unsquashfs says of how a file was packed."""
    lines = tool("unsquashfs", "-s", path).stdout.splitlines()
    return [
        line for line in lines if line.split()[0] in ("Compression", "compression-level", "Block")
    ]


@pytest.fixture
def packed(ok, scratch, env):
    """Return the path of a packed overlay that its owner may not write either."""
    ok("pack-overlay", "-q", "--open", "--compression", "gzip", "env.ext3")
    path = scratch / "env.sqsh"
    env.unlink()
    path.chmod(0o444)
    return path


def test_packed(ok, run, words, environ, scratch, packed, read):
    """A packed overlay is unpacked for it, and packed again as it was; readers go on."""
    before = packing(packed)
    inside = ("--", "sh", "-c", "cat /opt/x/f; read x; cat /opt/x/f")
    reader = start(words, environ, scratch, "run-overlay", "-q", "-o", "env.sqsh", *inside)
    reader.says("one")
    line = "set -e; echo two >/opt/x/f; umask 077; echo x >/opt/x/private"
    ok("update-overlay", "env.sqsh", "--", "sh", "-c", line)
    assert (read("env.sqsh"), read("env.sqsh.~1~")) == ("two\n", "one\n")
    assert reader.communicate("\n", timeout=60)[0] == "one\n"
    assert packing(packed) == before
    assert packed.stat().st_mode & 0o777 == 0o444
    listed = tool("unsquashfs", "-ll", packed).stdout
    assert [row.split()[0] for row in listed.splitlines() if "private" in row] == ["-rw-r--r--"]
    (history,) = json.loads(ok("show-overlay", "--json", "env.sqsh"))[0]["history"]
    assert [one["action"] for one in history["entries"]] == ["create", "pack", "update", "pack"]
    for expected in ("one\n", "two\n", "one\n"):
        ok("update-overlay", "-q", "--undo", "env.sqsh")
        assert read("env.sqsh") == expected
    whole = packed.read_bytes()
    said = run("update-overlay", "env.sqsh", "--", "sh", "-c", "echo three >/opt/x/f; exit 3")
    assert (said.status, "it is as it was" in said.stderr) == (73, True), said
    assert run("update-overlay", "env.sqsh", "-s", "+5G", "--", "true").status == 2
    assert packed.read_bytes() == whole
    ok("update-overlay", "-q", "env.sqsh", *CHANGE)
    assert "before an update" in ok("list-overlays", ".")
    ok("update-overlay", "--forget", "env.sqsh")
    assert names(scratch) == ["env.sqsh"]


def test_packed_by_two(run, words, environ, scratch, packed, read):
    """Of two updates of a file that its owner may not write the second is told of the first."""
    line = "echo begun; read x; echo two >/opt/x/f"
    update = start(words, environ, scratch, "update-overlay", "env.sqsh", "--", "sh", "-c", line)
    update.complains("begun")
    for other in (["env.sqsh", "--", "true"], ["--undo", "env.sqsh"]):
        said = run("update-overlay", *other)
        assert said.status == (75 if "--" in other else 73), said
    assert update.end()[0] == 0
    assert read("env.sqsh") == "two\n"


def test_soft_limits(run, words, environ, scratch, env, read):
    """Soft limits are for the commands, not for the copy."""
    line = "ulimit -S -f 1000; exec " + shlex.join(
        [*words("update-overlay"), "env.ext3", "--", "sh", "-c", "ulimit -f >/opt/x/f"]
    )
    done = subprocess.run(["bash", "-c", line], env=environ, cwd=scratch, capture_output=True)
    assert done.returncode == 0, done
    assert 0 < int(read()) <= 2000  # blocks of 512 bytes, or of 1024


def test_packed_stays_closed(ok, run, env):
    """What was not opened for all is not opened by an update, but it is said."""
    ok("pack-overlay", "-q", "env.ext3")
    line = "umask 077; echo x >/opt/x/mine"
    said = run("update-overlay", "env.sqsh", "--", "sh", "-c", line)
    assert (said.status, "cannot read, such as /opt/x/mine" in said.stderr) == (0, True), said
    listed = tool("unsquashfs", "-ll", env.with_suffix(".sqsh")).stdout
    assert [row.split()[0] for row in listed.splitlines() if "mine" in row] == ["-rw-------"]


def test_shell(run, env, read):
    """A shell says what it is in; its status decides."""
    said = run("update-overlay", "env.ext3", stdin="echo two >/opt/x/f; exit 1\n")
    assert (said.status, "env.ext3 (writable" in said.stderr) == (73, True), said
    assert f"overlay-{os.getuid()}/" not in said.stderr
    assert read() == "one\n"
    assert run("update-overlay", "env.ext3", stdin="echo two >/opt/x/f\n").status == 0
    assert read() == "two\n"


@pytest.mark.parametrize("kind", ["env", "packed"])
def test_beside(request, run, environ, scratch, small, read, kind):
    """Where the node has no room it is worked beside the overlay, in a directory of ours alone."""
    path = request.getfixturevalue(kind)
    environ["OVERLAY_SCRATCH_LOCAL"] = shlex.quote(str(small))
    line = "echo two >/opt/x/f; ls -ld overlay-*; ls -lR overlay-*"
    said = run("update-overlay", path.name, "--", "sh", "-c", f"cd '{scratch}'; {line}")
    assert (said.status, "working beside it" in said.stderr) == (0, True), said
    assert "drwx------" in said.stderr
    assert read(path.name) == "two\n"
    assert names(scratch) == [path.name, f"{path.name}.~1~"]
    assert os.listdir(small) == []
    scratch.chmod(0o777)
    said = run("update-overlay", path.name, "--", "true")
    scratch.chmod(0o755)
    assert (said.status, "not beside it" in said.stderr) == (73, True), said


def test_no_room(ok, run, environ, small):
    """Room is asked for first, on the node, and where the second one is to lie."""
    environ["OVERLAY_SCRATCH_LOCAL"] = shlex.quote(str(small))
    ok("create-overlay", "-q", "-s", "40", "-n", "1", "-o", small / "a.ext3")
    said = run("update-overlay", small / "a.ext3", "--", "echo", "begun")
    assert (said.status, "begun" in said.stderr) == (73, False), said
    assert "are needed in" in said.stderr and "there is no room for a second" in said.stderr
    del environ["OVERLAY_SCRATCH_LOCAL"]
    said = run("update-overlay", small / "a.ext3", "--", "echo", "begun")
    assert (said.status, "begun" in said.stderr) == (73, False), said
    assert os.listdir(small) == ["a.ext3"]


def test_quota(run, environ, env):
    """The second one counts as the user's."""
    environ["OVERLAY_QUOTA_COMMAND"] = "echo 90000000 100000000 - - the quota"
    said = run("update-overlay", "env.ext3", "--", "echo", "begun")
    assert (said.status, "begun" in said.stderr) == (73, False), said
    assert "there is no room for a second env.ext3" in said.stderr
    assert "the quota is short by" in said.stderr
    environ["OVERLAY_QUOTA_CHECK"] = "off"
    assert run("update-overlay", "env.ext3", "--", "true").status == 0


@pytest.mark.parametrize("kind", ["ext3", "sqsh"])
def test_not_written_back(ok, run, environ, scratch, small, kind):
    """Where the new one has no room in the end, what was made is kept, with the line for later."""
    ok("create-overlay", "-q", "-s", "20", "-n", "1", "-o", small / "a.ext3")
    if kind == "sqsh":
        ok("pack-overlay", "-q", "--remove", small / "a.ext3")
    path = small / f"a.{kind}"
    before = path.read_bytes()
    fill = shlex.quote(str(small / "fill"))
    line = f"head -c 30M /dev/urandom >/data; head -c 64M /dev/zero >{fill}; :"
    size = [] if kind == "sqsh" else ["-s", "+20"]
    words = ["-b", small, *size, "--", "sh", "-c", line]
    said = run("update-overlay", path, *words)
    assert said.status == 73, said
    assert "it is as it was; what the commands made is kept" in said.stderr
    assert path.read_bytes() == before
    assert sorted(os.listdir(small)) == [path.name, "fill"]
    (hint,) = (line for line in said.stderr.splitlines() if "hint: " in line)
    assert "no room" in said.stderr or "No space left" in said.stderr
    (small / "fill").unlink()
    later = hint.partition("when there is room: ")[2].partition("; when it")[0]
    programs = {"PATH": f"{ROOT}/bin:{environ['PATH']}"}
    assert shell(later, {**environ, **programs}, scratch).status == 0
    assert sorted(os.listdir(small)) == [path.name, f"{path.name}.~1~"]
    assert (small / f"{path.name}.~1~").read_bytes() == before
    assert ok("run-overlay", "-q", "-o", f"{path}:ro", "--", "wc", "-c", "/data").split()[0] == str(
        30 << 20
    )
    (kept,) = re.findall(r"when it is not needed: (rm -r .*)", hint)
    assert shell(kept, environ, scratch).status == 0


@pytest.mark.parametrize("how", ["replaced", "renamed", "written"])
def test_changed_meanwhile(run, words, environ, scratch, env, read, how):
    """What others have done to it meanwhile stays; the updated copy is kept, and named."""
    line = "echo begun; read x; echo two >/opt/x/f"
    update = start(words, environ, scratch, "update-overlay", "env.ext3", "--", "sh", "-c", line)
    update.complains("begun")
    if how == "written":
        os.utime(env)
    else:
        env.rename(scratch / "other.ext3")
        if how == "replaced":
            env.write_text("of somebody else")
    status, errors = update.end()
    assert (status, "since the update began" in errors) == (73, True), errors
    assert read("env.updated.ext3") == "two\n"
    assert "mv env.updated.ext3 env.ext3" in errors
    there = {
        "replaced": ["env.ext3", "env.updated.ext3", "other.ext3"],
        "renamed": ["env.updated.ext3", "other.ext3"],
        "written": ["env.ext3", "env.updated.ext3"],
    }
    assert names(scratch) == there[how]
    assert state(scratch / there[how][-1]) == CLEAN
