"""An overlay in use: one writer or many readers, who it is, and how one waits."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from e2e.safety.trees import CLEAN, Session, debugfs, descendants, e2fsck, holders, kill_tree, state
from overlay.errors import DAMAGED, IN_USE, OverlayError
from overlay.host import holders as processes
from overlay.host import mounts
from overlay.image import image as images
from overlay.image import record
from overlay.safety import guard
from support import BASE, execute, wait_until

CLOCK = r"(\d\d\d\d-\d\d-\d\d )?\d\d:\d\d"
STAY = "echo inside; read answer"


# ------------------------------------------------------------- at one instant --


@pytest.mark.parametrize("modes", [("", ""), ("", ":ro"), (":ro", "")])
def test_two_at_once(start, make, rounds, count, modes):
    """A writer and another at the same instant: exactly one works, the other gets 75."""
    path = make()
    number = rounds(4 if modes == ("", "") else 2, 20)
    won = [0, 0]
    for _turn in range(number):
        both = [
            start("run-overlay", "-o", f"a.ext3{mode}", "--", "sh", "-c", STAY) for mode in modes
        ]
        wait_until(lambda: any(one.poll() is not None for one in both))  # noqa: B023
        loser = next(one for one in both if one.poll() is not None)
        winner = both[1 - both.index(loser)]
        winner.says("inside")
        status, errors = loser.end()
        assert status == 75, errors
        assert errors.startswith("run-overlay: error: a.ext3 is in use: ")
        assert winner.end() == (0, "")
        won[both.index(winner)] += 1
    assert state(path) == CLEAN
    first, second = (mode or ":rw" for mode in modes)
    count(f"two at once: {number} rounds, {first} won {won[0]}, {second} won {won[1]}")


def leave_unclean(start, path):
    """Leave an overlay as a killed session does, a synced file /data in it."""
    line = "echo content >/data; sync -f /data; echo there; while :; do echo >>/x; done"
    session = start("run-overlay", "-o", path.name, "--", "sh", "-c", line)
    session.says("there")
    kill_tree(session, path)
    assert state(path)[1] != "clean"


def test_readers_of_an_unclean_one(start, make, rounds, count):
    """Many read-only sessions at once where one was killed: all work, one repairs."""
    path = make()
    number = rounds(6, 16)
    leave_unclean(start, path)
    sessions = [
        start("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data") for _turn in range(number)
    ]
    repairs = []
    for session in sessions:
        output, errors = session.communicate(timeout=60)
        assert (session.returncode, output) == (0, "content\n"), errors
        repairs += errors.splitlines()
    assert repairs[0] == ("run-overlay: a.ext3 was left unclean by the session before: checking it")
    assert re.fullmatch("run-overlay: a.ext3: (repaired.*|no damage found)", repairs[1])
    assert len(repairs) == 2
    assert state(path) == CLEAN
    count(f"readers of an unclean overlay: {number} at once, all work, 1 repair")


def test_writers_of_an_unclean_one(start, make):
    """Two writers at once where a session was killed: one repairs and works."""
    path = make()
    leave_unclean(start, path)
    both = [start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", STAY) for _ in "12"]
    wait_until(lambda: any(one.poll() is not None for one in both))
    loser = next(one for one in both if one.poll() is not None)
    winner = both[1 - both.index(loser)]
    assert loser.end()[0] == 75
    winner.says("inside")
    assert winner.end()[0] == 0
    assert state(path) == CLEAN


# ------------------------------------------------------------------ who it is --


@pytest.mark.parametrize(
    ("held", "asked", "what", "hint"),
    [
        (
            "",
            "",
            "a session is writing to it",
            "end that session, or wait for its end: --wait; to write into it together: all with"
            " --share, the same overlays, base image and binds",
        ),
        ("", ":ro", "a session is writing to it", "end that session, or wait for its end: --wait"),
        (
            ":ro",
            "",
            "sessions are reading it",
            "to read it as well: -o a.ext3:ro; to write beside its readers, into an overlay of your"
            " own above it: -o NEW -o a.ext3; to wait until it is free: --wait",
        ),
    ],
)
def test_message(run, hold, make, held, asked, what, hint):
    """The error says how it is in use, and by which process, since when."""
    make()
    session = hold(f"a.ext3{held}")
    result = run("run-overlay", "-o", f"a.ext3{asked}", "--", "true")
    who = rf"\(process (\d+) on this host, since {CLOCK}: (.*)\)"
    found = re.fullmatch(
        rf"run-overlay: error: a.ext3 is in use: {what} {who}\nrun-overlay: hint: {hint}\n",
        result.stderr,
    )
    assert result.status == 75 and found, result
    if held:
        assert int(found.group(1)) in {session.pid, *descendants(session.pid)}
    else:
        assert int(found.group(1)) == session.pid
        assert found.group(3).startswith(f"'run-overlay -o a.ext3{held} -- sh -c ")
    assert session.end() == (0, "")


def test_message_to_make(run, environ, hold, make):
    """Two recipes of make at once: that they can, when they only read, is said."""
    make()
    session = hold("a.ext3")
    environ["MAKELEVEL"] = "1"
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 75
    assert result.stderr.endswith(
        "run-overlay: hint: recipes of make that only read run at once: -o a.ext3:ro; those that"
        " write, with --share; else: --wait\n"
    )
    assert session.end() == (0, "")


def test_readers_share(run, hold, make):
    """A reader beside a reader works."""
    make()
    session = hold("a.ext3:ro")
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "true") == (0, "", "")
    assert session.end() == (0, "")


def test_below_another(run, hold, make):
    """An overlay that is read below another cannot be written meanwhile."""
    make()
    make("b.ext3")
    session = hold("b.ext3", "-o", "a.ext3")
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert (result.status, result.stdout) == (75, "")
    assert "a.ext3 is in use: sessions are reading it" in result.stderr
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "true") == (0, "", "")
    assert session.end() == (0, "")


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_plain_engine_holds_it(run, environ, scratch, make, mode):
    """A session of the plain engine is seen as well."""
    make()
    words = ["apptainer", "-q", "exec", "--overlay", f"a.ext3{mode}", BASE, "sh", "-c", STAY]
    with Session(words, env=environ, cwd=scratch) as session:
        session.says("inside")
        result = run("run-overlay", "-o", "a.ext3", "--", "true")
        assert result.status == 75
        how = "sessions are reading it" if mode else "a session is writing to it"
        assert result.stderr.startswith(f"run-overlay: error: a.ext3 is in use: {how} (process ")
        checked = run("check-overlay", "a.ext3")
        assert checked.status == 75
        assert session.end()[0] == 0
    assert run("run-overlay", "-o", "a.ext3", "--", "true") == (0, "", "")


def test_plain_engine_is_kept_out(engine, hold, make):
    """The plain engine cannot get in beside a session of ours."""
    make()
    session = hold()
    result = engine("exec", "--overlay", "a.ext3", BASE, "true")
    assert result.status == 255
    assert "currently in use by another process" in result.stderr
    assert session.end() == (0, "")


def test_holder_that_cannot_be_seen(words, environ, scratch, hold, make):
    """Where the process cannot be seen, what its session wrote on the image is told."""
    environ.update(USER="somebody", SLURM_JOB_ID="4711")
    make()
    session = hold()
    # A process namespace of its own: as on another host, nobody else's processes show.
    apart = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc"]
    result = execute(
        [*apart, *words("run-overlay"), "-o", "a.ext3", "--", "true"], environ=environ, cwd=scratch
    )
    assert result.status == 75
    host = re.escape(os.uname().nodename)
    assert re.fullmatch(
        "run-overlay: error: a.ext3 is in use: a session is writing to it"
        rf" \(somebody on {host}, job 4711, since {CLOCK}\)",
        result.stderr.splitlines()[0],
    ), result.stderr
    assert session.end() == (0, "")


# -------------------------------------------------------------------- waiting --


@pytest.mark.parametrize(("held", "asked"), [("", ""), ("", ":ro"), (":ro", "")])
def test_wait(start, hold, make, held, asked):
    """--wait says so, and gets in when the other leaves."""
    make()
    session = hold(f"a.ext3{held}")
    waiting = start("run-overlay", "-o", f"a.ext3{asked}", "--wait", "--", "sh", "-c", STAY)
    assert waiting.complains("wait") == "run-overlay: waiting for a.ext3: it is in use\n"
    assert waiting.poll() is None
    assert session.end() == (0, "")
    waiting.says("inside")
    assert waiting.end() == (0, "")


def test_wait_ends(run, hold, make):
    """--wait SECONDS gives up in the end, with 75 and the same error."""
    make()
    session = hold()
    before = time.monotonic()
    result = run("run-overlay", "-o", "a.ext3", "--wait", "1", "--", "true")
    assert 1 <= time.monotonic() - before < 60
    assert result.status == 75
    first, second, _hint = result.stderr.splitlines()
    assert first == "run-overlay: waiting for a.ext3: it is in use"
    assert f"process {session.pid} on this host" in second
    assert session.end() == (0, "")


def test_wait_for_each_other(start, hold, make):
    """Two that wait for what the other wants too both get in: none keeps a lock meanwhile."""
    make("a.ext3")
    make("b.ext3")
    session = hold("a.ext3")
    words = ["--wait", "30", "--", "true"]
    one = start("run-overlay", "-o", "a.ext3", "-o", "b.ext3", *words)
    other = start("run-overlay", "-o", "b.ext3", "-o", "a.ext3", *words)
    one.complains("waiting")
    other.complains("waiting")
    assert session.end() == (0, "")
    assert (one.end()[0], other.end()[0]) == (0, 0)


def test_ctrl_c_ends_waiting(start, hold, make):
    """An interrupted wait ends at once, with 130 or by the signal."""
    make()
    session = hold()
    waiting = start("run-overlay", "-o", "a.ext3", "--wait", "--", "true")
    waiting.complains("waiting")
    waiting.send_signal(signal.SIGINT)
    assert waiting.end()[0] in (130, -signal.SIGINT)
    assert session.end() == (0, "")


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_replaced_while_waiting(run, start, hold, make, scratch, mode):
    """When another file takes the place while one waits, that is the one used."""
    make()
    make("new.ext3")
    assert run("run-overlay", "-o", "new.ext3", "--", "sh", "-c", "echo new >/which").status == 0
    session = hold()
    words = ["--", "cat", "/which"]
    waiting = start("run-overlay", "-o", f"a.ext3{mode}", "--wait", *words)
    waiting.complains("waiting")
    os.replace(scratch / "new.ext3", scratch / "a.ext3")
    assert session.end()[0] == 74  # what it has written is lost
    waiting.says("new")
    assert waiting.end() == (0, "")


# ------------------------------------------------ whose repair may be dangerous --


@pytest.fixture
def unclean(make, settings, environ):
    """Return a function that acquires an image which a session on some host left unclean."""

    def unclean(host, local, monkeypatch, **variables):
        path = make()
        debugfs(path, "ssv state 0")
        with open(path, "r+b") as file:
            fields = {"user": "somebody", "host": host, "started": "1700000000", "job": "12"}
            assert record.write(file.fileno(), fields)
        mount = mounts.Mount("ext4" if local else "nfs4", "/", "source")
        monkeypatch.setattr(mounts, "find", lambda descriptor: mount)
        found, said = images.look(str(path), write=True), []
        try:
            chosen = settings(**variables)
            guard.acquire([found], True, config=chosen, notice=said.append)
        finally:
            found.close()
        return path, said

    return unclean


HERE = os.uname().nodename


@pytest.mark.parametrize(
    ("host", "local", "trust"),
    [(HERE, False, "no"), ("another", True, "no"), ("another", False, "yes"), (HERE, True, "no")],
)
def test_repaired(unclean, monkeypatch, host, local, trust):
    """Repaired where nobody elsewhere can be at work unseen."""
    path, said = unclean(host, local, monkeypatch, safety_trust_locks=trust)
    assert said[0] == f"'{path}' was left unclean by the session before: checking it"
    assert len(said) == 2
    assert state(path) == CLEAN


def test_not_repaired(unclean, monkeypatch):
    """Not repaired where a session on another host may still write; said by whom, and how."""
    with pytest.raises(OverlayError) as caught:
        unclean("another", False, monkeypatch)
    error = caught.value
    assert error.status == IN_USE
    assert "left unclean by the session before (somebody on another, job 12, since" in error.what
    assert "whether one on another host still uses it cannot be seen from here" in error.what
    assert "check-overlay --repair" in error.hint


def test_not_repaired_on_a_network(words, environ, scratch, make):
    """The same from outside, on a file system that is not known to be this machine's own."""
    outer, inner = make("outer.img", 64), make("a.ext3", 16, 1)
    debugfs(inner, "ssv state 0")
    os.setxattr(inner, "user.overlay.session", b"user=somebody\nhost=another\nstarted=1700000000\n")
    (scratch / "mount").mkdir()
    place = os.path.dirname(words("run-overlay")[-1])
    line = f"""
        fuse2fs -o rw outer.img mount && cp --preserve=xattr a.ext3 mount/upper/ || exit 9
        cd mount/upper
        {place}/resize-overlay a.ext3 -s 30 2>/dev/null; echo "status $?"
        {place}/check-overlay a.ext3 2>/dev/null; echo "status $?"
        {place}/run-overlay -o a.ext3 -- true; echo "status $?"
        cmp a.ext3 ../../a.ext3 && echo same
        cd ../.. && umount mount
    """
    apart = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", line]
    result = execute(apart, environ={**environ, "PATH": "/usr/sbin:/usr/bin:/bin"}, cwd=scratch)
    assert result.stdout == "status 75\n" * 3 + "same\n", result
    assert (
        "error: a.ext3 was left unclean by the session before (somebody on another, since"
        " 2023-11-14 " in result.stderr
    )
    wait_until(lambda: not holders(outer))


def test_not_mounted_when_damaged(run, make):
    """What e2fsck -p cannot mend is not mounted, writable or not; the way out is named."""
    path = make()
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /d; echo >/d/f").status == 0
    debugfs(path, "clri /upper/d", "ssv state 0")
    assert e2fsck(path)[0] != 0
    for mode in ("", ":ro"):
        before = path.read_bytes()
        result = run("run-overlay", "-o", f"a.ext3{mode}", "--", "true")
        assert (result.status, result.stdout) == (DAMAGED, "")
        assert result.stderr.splitlines()[-2:] == [
            "run-overlay: error: a.ext3 is damaged, and repairing it needs a decision of yours",
            "run-overlay: hint: check-overlay --repair a.ext3",
        ]
        assert e2fsck(path)[0] != 0
        assert len(before) == path.stat().st_size


def test_others_unclean_image(run, make):
    """An unclean image that is not ours to write: read only when there is no damage."""
    path = make()
    line = "mkdir /d; echo content >/d/f"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    debugfs(path, "ssv state 0")
    path.chmod(0o444)
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/d/f")
    assert (result.status, result.stdout) == (0, "content\n")
    assert result.stderr.startswith(
        "run-overlay: a.ext3 was left unclean by its last session, but no damage was found\n"
    )
    path.chmod(0o644)
    debugfs(path, "clri /upper/d", "ssv state 0")
    path.chmod(0o444)
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/d/f")
    assert (result.status, result.stdout) == (77, "")
    assert result.stderr == (
        "run-overlay: error: a.ext3 was left unclean by its last session, and it is not yours to"
        " repair\nrun-overlay: hint: ask its owner to type: check-overlay a.ext3\n"
    )
    assert not holders(path)


# ------------------------------------------------------- what others only pretend --

PRETEND = """
import fcntl, struct, sys
open("/proc/self/comm", "w").write(sys.argv[2])
file = open(sys.argv[1], "r+b")
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pretend(make):
    """Return an overlay that a process of a name has locked, all that can be locked of it."""

    @contextlib.contextmanager
    def pretend(name):
        path = make()
        words = [sys.executable, "-c", PRETEND, str(path), name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, **pipes) as other:
            assert other.stdout.readline() == b"locked\n"
            found = images.look(str(path), write=True)
            yield found
            found.close()
            other.stdin.close()

    return pretend


def test_repair_that_does_not_end(pretend, settings, environ, monkeypatch):
    """Who pretends to repair an overlay makes others wait, who are told; and not for ever."""
    monkeypatch.setattr(guard, "_TOLD_AFTER", 0)
    monkeypatch.setattr(guard, "_REPAIR_WAIT", 1)
    said = []
    with pretend("other") as found, pytest.raises(OverlayError, match="is in use"):
        guard.acquire([found], True, config=settings(), notice=said.append)
    assert len(said) == 1 and said[0].endswith(": somebody repairs it")


def test_keeper_by_name_only(pretend, settings, environ, monkeypatch):
    """A process that only calls itself the end of a killed session is not waited for for ever.

    That of another user, which root would see, not at all.
    """
    monkeypatch.setattr(guard, "_REPAIR_WAIT", 0)
    monkeypatch.setattr(guard, "_ENDING_WAIT", 1)
    with pretend(processes.KEEPER) as found:
        assert processes.being_ended(found.identity)
        with pytest.raises(OverlayError, match="is in use"):
            guard.acquire([found], True, config=settings())
    assert processes._is_mine(os.getpid()) and not processes._is_mine(1)


@pytest.mark.parametrize(
    ("done", "told"),
    [
        ("os.unlink('a.ext3')", "was removed during the session"),
        ("os.truncate('a.ext3', 9 << 20)", "was cut off during the session"),
        ("os.rename('a.ext3', 'b.ext3')", "has another name since the session began"),
        ("os.replace('c.ext3', 'a.ext3')", "was removed during the session"),
        ("os.stat('a.ext3')", None),
    ],
)
def test_taken_away_during_a_session(start, make, scratch, done, told):
    """What others do to an overlay while a session writes it is told, and is no success."""
    make(size=16)
    make("c.ext3", size=16)
    line = "echo inside; read answer; echo data >/f"
    session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    session.says("inside")
    subprocess.run([sys.executable, "-c", f"import os; {done}"], cwd=scratch, check=True)
    status, said = session.end()
    if told is None:
        assert (status, said) == (0, "")
    else:
        assert status == 74 and f"run-overlay: a.ext3 {told}" in said
