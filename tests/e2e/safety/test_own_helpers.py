"""An engine that has helpers of its own in libexec, where it looks before PATH.

Packages for Enterprise Linux are such. The engine of this machine is made one for the time
of a command: in a mount namespace real helpers lie beside its starter.
"""

import os
import re
from pathlib import Path

import pytest
from e2e.safety.trees import CLEAN, SERVERS, descendants, holders, kill, named, program, state
from support import ROOT, execute, wait_until

LIBEXEC = f"/usr/lib/{os.uname().machine}-linux-gnu/apptainer/bin"

# Moves into such a machine, gives up what let it do so, and becomes a command.
MACHINE = f"""
set -e
cd {LIBEXEC}
mount -t tmpfs -o mode=755 machine {LIBEXEC}
cp starter /usr/bin/fuse-overlayfs /usr/bin/fuse2fs {LIBEXEC}
cd "$OLDPWD"
exec setpriv --ambient-caps=-all --inh-caps=-all "$@"
"""
NAMESPACE = ["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--keep-caps"]

# Writes until it is told that there is no room, and makes some: so the end looks well.
FILL = """mkdir -p /data && cd /data && head -c 9000000 /dev/zero >big
for i in $(seq 100); do
    printf '%060000d' 1 >$i || break
done
truncate -s 0 $i big && rm $i big && echo $i"""
CUT = "cd /data; find . -type f ! -size 60000c"


@pytest.fixture
def words(words):
    """Return the words that start a program of ours on such a machine."""
    assert os.path.exists(f"{LIBEXEC}/starter"), "the engine of this machine is built otherwise"
    return lambda name: [*NAMESPACE, "/bin/sh", "-c", MACHINE, "sh", *words(name)]


@pytest.fixture
def outside(environ, scratch):
    """Return a function that runs a program of ours where it sees the user's processes.

    The namespaces of two such machines are closed to each other.
    """
    return lambda name, *arguments: execute(
        [str(ROOT / "bin" / name), *arguments], environ=environ, cwd=scratch
    )


@pytest.fixture
def alone(environ, scratch):
    """See that nobody can have a namespace: unshare says no."""
    (scratch / "bin").mkdir()
    (scratch / "bin" / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (scratch / "bin" / "unshare").chmod(0o755)
    environ["PATH"] = f"{scratch}/bin:{environ['PATH']}"


def inside(run, line, *options):
    """Run a line of shell in a.ext3, and return the Result."""
    return run("run-overlay", "-o", "a.ext3", *options, "--", "bash", "-c", line)


def test_full(run, make):
    """What finds no room is told so, and what was written before is there."""
    path = make("a.ext3", 16, 3)
    result = inside(run, FILL)
    assert result.status == 0 and 2 < int(result.stdout) < 100, result
    assert "No space left on device" in result.stderr
    assert state(path) == CLEAN
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", CUT) == (0, "", "")


def test_synced_once(make, start):
    """The server of what an update works on does without syncs there, too."""
    path = make("a.ext3")
    line = "echo begun; read x; echo one >/f"
    update = start("update-overlay", path, "--", "sh", "-c", line)
    update.complains("begun")
    (server,) = named(descendants(update.pid), "fuse2fs")
    assert "Seccomp:\t2\n" in Path(f"/proc/{server}/status").read_text()
    assert update.end()[0] == 0
    assert state(path) == CLEAN


def test_full_without_namespaces(run, make, alone):
    """Where users have no namespaces, the look after the session finds a full overlay."""
    path = make("a.ext3", 16, 3)
    result = inside(run, "for i in $(seq 400); do printf '%060000d' 1 >/$i 2>/dev/null; done; :")
    assert result.status == 74
    assert result.stderr.startswith("run-overlay: a.ext3 is full")
    assert state(path) == CLEAN


def test_view(run, make):
    """What was deleted stays so read-only, nothing can be written, and nothing says .wh."""
    path = make()
    make("b.ext3")
    run("run-overlay", "-o", "b.ext3", "--", "sh", "-c", "mkdir /data; touch /data/f /data/g")
    assert inside(run, "rm /data/f", "-o", "b.ext3").status == 0
    line = "find /data; touch /data/new"
    result = run("run-overlay", "-o", "a.ext3:ro", "-o", "b.ext3", "--", "sh", "-c", line)
    assert (result.status, result.stdout) == (1, "/data\n/data/g\n")
    assert result.stderr == "touch: cannot touch '/data/new': Read-only file system\n"
    assert state(path) == CLEAN


def test_ready(run, scratch):
    """An environment is ready, also below another overlay that is written."""
    program = scratch / "tree" / "bin" / "tool"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    words = ["--from", f"{scratch}/tree:/opt/env", "--activate", "/opt/env", "-o", "a.ext3"]
    assert run("create-overlay", "-q", *words).status == 0
    assert run("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "b.ext3").status == 0
    for stack in (["a.ext3:ro"], ["a.ext3"], ["b.ext3", "-o", "a.ext3"]):
        assert run("run-overlay", "-q", "-o", *stack, "--", "tool") == (0, "found\n", "")


def test_exit_status_and_input(run, make):
    """Standard input and the status pass through."""
    make()
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "cat; exit 3", stdin="word\n")
    assert result == (3, "word\n", "")


def test_dry_run(run, make, scratch, environ):
    """What --dry-run prints does the same; in it our launchers are in the engine's place."""
    make("a.ext3", 16, 3)
    printed = inside(run, FILL, "--dry-run").stdout
    assert f"namespace/enter {LIBEXEC} " in printed
    (scratch / "pasted").write_text(printed)
    pasted = ["/bin/sh", "-c", MACHINE, "sh", "/bin/sh", scratch / "pasted"]
    result = execute([*NAMESPACE, *map(str, pasted)], environ=environ, cwd=scratch)
    assert result.status == 0 and 2 < int(result.stdout) < 100, result


def test_two_sessions(run, outside, make, hold):
    """The lock is held by a session, the other is told by whom."""
    make()
    session = hold()
    assert run("run-overlay", "-o", "a.ext3", "--", "true").status == 75
    result = outside("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 75
    assert "a session is writing to it (process" in result.stderr
    assert session.end() == (0, "")
    assert run("run-overlay", "-o", "a.ext3", "--", "true") == (0, "", "")


def test_term(make, start):
    """TERM reaches the commands, and the overlay is whole."""
    path = make()
    line = "trap 'echo told; exit 9' TERM; echo inside; while :; do sleep 0.1; done"
    session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    session.says("inside")
    session.terminate()
    session.says("told")
    assert session.end()[0] == 9
    assert state(path) == CLEAN


def test_killed_and_recovered(run, outside, make, start):
    """What a killed session leaves behind is recognised, and ended so that nothing is lost."""
    path = make()
    line = "mkdir /data; echo kept >/data/f; sync /data/f; echo inside; read answer"
    session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    session.says("inside")
    pids = {session.pid, *descendants(session.pid)}
    servers = named(pids | holders(path), *SERVERS)
    kill(pids - set(servers))
    wait_until(lambda: not any(program(pid) for pid in pids - set(servers)))
    result = outside("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 75 and "check-overlay --recover a.ext3" in result.stderr
    assert outside("check-overlay", "--recover", "a.ext3").status == 0
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data/f").stdout == "kept\n"
    assert state(path) == CLEAN


@pytest.mark.parametrize("marked", [False, True])
def test_shared(run, words, make, environ, scratch, tmp_path, marked):
    """A session is shared there as well: in a namespace of its own where our launchers cover."""
    make("a.ext3", 16, 3)
    line = "mkdir /data; touch /data/f /data/g"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    overlays = ["-o", "a.ext3:ro"]
    if marked:
        make("b.ext3", 16, 3)
        under = ["-o", "b.ext3", "-o", "a.ext3:ro"]
        assert run("run-overlay", *under, "--", "rm", "/data/f").status == 0
        overlays = ["-o", "b.ext3:ro", "-o", "a.ext3"]
    environ["OVERLAY_SCRATCH_LOCAL"] = str(tmp_path)
    typed = ["-v", "--share", *overlays, "--", "sh", "-c", "ls /data | tr '\\n' ' '; exit 3"]
    # One machine for all: the namespaces of two are closed to each other.
    *machine, program = words("run-overlay")
    script = 'for n in 1 2 3; do "$@"; echo $?; done; overlay-admin sessions --end'
    environ["PATH"] = f"{os.path.dirname(program)}:{environ['PATH']}"
    line = [*machine, "bash", "-c", script, "bash", program, *typed]
    result = execute(line, environ=environ, cwd=scratch)
    assert result.stdout == ("g 3\n" if marked else "f g 3\n") * 3, result
    sessions = re.findall(r"joins a session \(process (\d+)\)", result.stderr)
    assert len(sessions) == 3 and len(set(sessions)) == 1, result.stderr
    assert "overlay-admin: ended: 1\n" in result.stderr


def test_written_together(run, words, make, environ, scratch, tmp_path):
    """A session that writes is shared there as well: all that several write is there."""
    path = make("a.ext3", 16, 3)
    environ["OVERLAY_SCRATCH_LOCAL"] = str(tmp_path)
    *machine, program = words("run-overlay")
    script = 'for n in 1 2 3; do "$@" "echo $n >/$n; exit $n" & done; wait -n; echo $?; wait'
    typed = ["-v", "--share", "-o", "a.ext3", "--", "sh", "-c"]
    line = [*machine, "bash", "-c", script, "bash", program, *typed]
    result = execute(line, environ=environ, cwd=scratch)
    assert result.stdout in ("1\n", "2\n", "3\n"), result
    assert "may be lost" not in result.stderr
    sessions = re.findall(r"joins a session \(process (\d+)\)", result.stderr)
    assert len(sessions) == 3, result.stderr
    assert state(path) == CLEAN
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", "cat /?").stdout == "1\n2\n3\n"
