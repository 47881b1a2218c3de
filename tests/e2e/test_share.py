"""--share: a command that joins a session is like one alone, and who must not join does not."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from e2e.safety.trees import descendants, program
from support import ROOT, execute, wait_until

LEASE = re.compile(r"joins a session \(process (\d+)\)")


@pytest.fixture
def local(environ, tmp_path):
    """Give the shared sessions of a test a directory of their own, and see that all end."""
    path = tmp_path / "local"
    path.mkdir(mode=0o700)
    environ.update(OVERLAY_SCRATCH_LOCAL=str(path), OVERLAY_LAUNCH_LINGER="60")
    yield path
    end_sessions(path)


def keepers(path):
    """Return the numbers of the keepers of the sessions whose files lie in a directory."""
    found = []
    for lease in path.glob("overlay-*/shared-*.lease"):
        words = lease.read_bytes().split(b"\0") if lease.is_file() else []
        found += [int(word.split()[2]) for word in words if word.startswith(b"p")]
    return found


def end_sessions(path):
    """Ask all keepers to let go, and wait until they have."""
    for pid in keepers(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGRTMIN + 9)
            os.kill(pid, signal.SIGCONT)  # a test may have stopped it
    wait_until(lambda: not files(path))


def files(path, ending=""):
    """Return the names of what shared sessions have in a directory."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            name
            for directory in path.glob("overlay-*")
            for name in os.listdir(directory)
            if name.startswith("shared-") and name.endswith(ending)
        )
    return []


@pytest.fixture
def joined(run, overlay, local):
    """Return a function that runs words with --share in env.ext3, and which session that was."""
    overlay("env.ext3")

    def joined(*words, **options):
        result = run("run-overlay", "-v", "--share", "-o", "env.ext3:ro", "--", *words, **options)
        found = LEASE.search(result.stderr)
        return result.status, result.stdout, found and int(found[1])

    return joined


def test_joined(joined, local):
    """The first command starts a session, the others join it; when all are gone it ends."""
    first = joined("echo", "one")
    assert first[:2] == (0, "one\n")
    assert first[2]
    assert joined("echo", "two") == (0, "two\n", first[2])
    assert len(keepers(local)) == 1
    end_sessions(local)
    again = joined("true")
    assert again[0] == 0
    assert again[2] not in (None, first[2])


ENVIRONMENTS = [
    {
        **{"X": "host", "Y": "", "Z": "host", "W": "host", "USER": "me", "EMPTY2": "x", "A": "b"},
        **{"FOO": "a\nb", "EMPTY": "", "TMPDIR": "/tmp", "SHLVL": "7", "_": "x", "W-X": "1"},
        **{"PYTHONPATH": "/x", "CONDA_PREFIX": "/y", "SSL_CERT_FILE": "/opt"},
        **{"BASH_FUNC_f%%": "() { :; }", "LD_LIBRARY_PATH": "/x", "HOME": "/nowhere"},
    },
    {
        **{"APPTAINERENV_A": "1", "SINGULARITYENV_A": "2", "SINGULARITYENV_B": "", "A": "b"},
        **{"APPTAINER_FOO": "3", "APPTAINERENV_PS1": "p> ", "PS1": "q"},
        **{"APPTAINERENV_PREPEND_PATH": "/pre", "APPTAINERENV_APPEND_PATH": "/app"},
        **{"OVERLAY_LAUNCH_USER_SITE": "hide", "PYTHONNOUSERSITE": "0"},
    },
    {
        **{"APPTAINERENV_PATH": "/mine:/bin", "APPTAINERENV_LD_LIBRARY_PATH": "/lib/mine"},
        **{"OVERLAY_LAUNCH_CLEAR": "", "PROMPT_COMMAND": "true", "CONDA_PREFIX": "/y"},
    },
]

SCRIPT = """\
export X=${X:-1} Y=image Z= PATH=/opt/env/bin:$PATH
export W="${W-unset}" V="$USER.$EMPTY2"
a=(1 2); [[ ${#a[@]} = 2 ]] && export ARRAY=yes
"""


def test_environment(run, environ, scratch, local):
    """The environment is that of a session of its own, whatever the image's scripts say."""
    scripts = scratch / "env" / "upper" / ".singularity.d" / "env"
    scripts.mkdir(parents=True)
    (scratch / "env" / "work").mkdir()
    (scripts / "92-own.sh").write_text(SCRIPT)
    for variables in ENVIRONMENTS:
        found = {}
        for share in ("--share", "--no-share"):
            words = ["-v", share, "-o", "env:ro", "--", "cat", "/proc/self/environ"]
            result = run("run-overlay", *words, variables=variables)
            assert result.status == 0, result
            assert bool(LEASE.search(result.stderr)) == (share == "--share"), result.stderr
            found[share] = sorted(result.stdout.split("\0"))
        assert found["--share"] == found["--no-share"], variables


# Each ends with the status behind it, as alone.
STATUSES = {
    "exit 0": 0,
    "exit 3": 3,
    "exit 255": 255,
    "exec no-such-command": 127,
    "exec /etc": 126,
    "kill -TERM $$": -signal.SIGTERM,
    "kill -KILL $$": -signal.SIGKILL,
    "kill -SEGV $$": -signal.SIGSEGV,
}

# What it prints is the same.
SEEN = r"""
cat; echo to-stderr >&2
pwd; umask; ulimit -a; id; hostname; nice; cat /proc/self/oom_score_adj
grep -E 'Cap|NoNew|Seccomp|Uid|Gid|Groups|Umask|Sig|Cpus_allowed:' /proc/self/status |
    sed -E 's/^(Sig.*:.*)[0-9a-f]([0-9a-f]{8})$/\1\2/' # those of the C library's own may be ignored
cat /proc/self/cgroup; readlink /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/ipc
touch /new; echo $?
ps() { set -- /proc/$PPID; [ -d $1 ] && echo parent; }; ps
"""


def test_like_one_alone(run, overlay, scratch, local):
    """Status, output, limits and rights of a command are those of a session of its own."""
    overlay("env.ext3")
    words = ["-o", "env.ext3:ro", "--"]
    found = [
        run("run-overlay", share, *words, "bash", "-c", SEEN, stdin="some\ninput\n")
        for share in ("--share", "--no-share")
    ]
    assert found[0] == found[1]
    for line, status in STATUSES.items():
        assert run("run-overlay", "--share", *words, "bash", "-c", line).status == status, line
    plain, lost = scratch / "plain", scratch / "lost"
    plain.write_text("echo $0; exit 5\n")
    lost.write_text("#!/no/such/interpreter\n")
    for path in (plain, lost):
        path.chmod(0o755)
    commands = ("no-such-command", 127), ("/no/such/command", 127), ("/etc", 126), ("cd", 127)
    for word, status in (*commands, (str(plain), 5), (str(lost), 127)):
        result = run("run-overlay", "--share", *words, word)
        assert result == run("run-overlay", "--no-share", *words, word)
        assert result.status == status


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-o", "env.ext3"], "it writes an overlay, and --share was not typed"),
        (["--share", "--fakeroot", "-o", "env.ext3:ro"], "--fakeroot is for one session"),
        (["--share", "--engine-option=--cleanenv", "-o", "env.ext3:ro"], "words for the engine"),
    ],
)
def test_session_of_its_own(run, environ, overlay, local, options, why):
    """What cannot be shared has a session of its own, and -v says why."""
    overlay("env.ext3")
    environ["OVERLAY_LAUNCH_SHARE"] = "read"
    result = run("run-overlay", "-v", *options, "--", "echo", "done")
    assert result[:2] == (0, "done\n")
    assert f"run-overlay: a session of its own: {why}" in result.stderr
    assert not keepers(local)


def test_nowhere_to_meet(run, environ, overlay, local):
    """Where the files of shared sessions cannot lie, each command has a session of its own."""
    overlay("env.ext3")
    environ["OVERLAY_SCRATCH_LOCAL"] = f"{local}/not/there"
    result = run("run-overlay", "-v", "--share", "-o", "env.ext3:ro", "--", "echo", "done")
    assert result[:2] == (0, "done\n")
    assert "a session of its own: cannot make " in result.stderr


def test_substitution_returns(words, environ, scratch, overlay, local):
    """The keeper holds nothing of who has started it: a reader of its output is not kept waiting."""
    overlay("env.ext3")
    begun = time.monotonic()
    line = " ".join([*words("run-overlay"), "--share -o env.ext3:ro -- echo one"])
    result = execute(["sh", "-c", f'x=$({line}); echo "got $x"'], environ=environ, cwd=scratch)
    assert result == (0, "got one\n", "")
    assert time.monotonic() - begun < 50
    assert len(keepers(local)) == 1


@pytest.mark.parametrize("change", ["binds", "overlay", "variable", "group"])
def test_other_sessions(joined, run, environ, scratch, local, change):
    """Other binds, another overlay, another variable for the engine: another session."""
    first = joined("true")[2]
    before = []
    if change == "binds":
        environ["OVERLAY_BINDS_ADD"] = "/usr/share"
    elif change == "overlay":
        end_sessions(local)
        assert run("run-overlay", "-o", "env.ext3", "--", "mkdir", "/new").status == 0
    elif change == "variable":
        environ["APPTAINER_NO_HOME"] = "1"
    elif change == "group":
        before = ["sg", "overlay-project", "-c"]
    words = [str(ROOT / "bin" / "run-overlay"), "-v", "--share", "-o", "env.ext3:ro", "--", "true"]
    words = [*before, " ".join(words)] if before else words
    result = execute(words, environ=environ, cwd=scratch)
    assert result.status == 0, result
    assert int(LEASE.search(result.stderr)[1]) != first


OWN = """\
nice; ionice; taskset -p $$ | sed 's/.*: //'; ulimit -S -a; ulimit -H -a
cat /proc/self/limits /proc/self/oom_score_adj; chrt -p $$ | sed 's/.*: //'
"""


def test_precedence(words, run, environ, scratch, overlay, local):
    """A command keeps what its caller has; the session has nothing of that of its first one."""
    overlay("env.ext3")
    limits = "ulimit -S -n 321; ulimit -S -u 4321; ulimit -S -c 0; ulimit -S -s 4096"
    [cpu, *_others] = sorted(os.sched_getaffinity(0))
    found = []
    for share in ("--share", "--share", "--no-share"):
        ours = shlex.join(
            [*words("run-overlay"), share, "-o", "env.ext3:ro", "--", "sh", "-c", OWN]
        )
        line = f"{limits}; exec taskset -c {cpu} ionice -c 3 chrt -b 0 {ours}"
        found.append(execute(["bash", "-c", line], environ=environ, cwd=scratch))
    assert found[0].status == 0
    assert found[1:] == found[:1] * 2
    assert found[0].stdout.startswith("0\nidle\n1\n" if cpu == 0 else "0\nidle\n")
    [keeper] = keepers(local)
    server, *_more = [pid for pid in descendants(keeper) if program(pid) == "fuse2fs"]
    for pid in (keeper, server):
        ionice = subprocess.check_output(["ionice", "-p", str(pid)], text=True)
        assert ionice in ("none: prio 0\n", "none: prio 4\n")
        assert len(os.sched_getaffinity(pid)) == os.cpu_count()
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER


def test_nice(joined, words, environ, scratch, local):
    """Who is nice joins an ordinary session; only what cannot be but nice is one of its own."""
    line = [*words("run-overlay"), "-v", "--share", "-o", "env.ext3:ro", "--", "nice"]
    nice = ["nice", "-n", "5"]

    def start(before):
        result = execute([*before, *line], environ=environ, cwd=scratch)
        assert (result.status, result.stdout) == (0, "5\n" if before else "0\n")
        return int(LEASE.search(result.stderr)[1])

    first = start(nice)
    assert start(nice) == first
    ordinary = start([])
    # That cannot be had back by who has made themselves nicer.
    assert ordinary != first
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in (first, ordinary)] == [5, 0]
    end_sessions(local)
    ordinary = start([])
    assert start(nice) == ordinary
    assert len(keepers(local)) == 1


def test_current_directory(run, overlay, scratch, local, tmp_path):
    """Who stands in a directory that is another one inside has a session of its own."""
    overlay("env.ext3")
    here = tmp_path / "elsewhere"
    here.mkdir()
    for cwd, variables, why in (
        (here, {}, None),
        (here, {"APPTAINER_NO_MOUNT": "tmp"}, "the current directory is another one inside it"),
        ("/usr", {}, "the current directory is one of the container"),
    ):
        words = ["-v", "--share", "-o", scratch / "env.ext3:ro", "--", "pwd"]
        result = run("run-overlay", *words, cwd=cwd, variables=variables)
        assert (result.status, result.stdout) == (0, f"{cwd}\n")
        assert bool(LEASE.search(result.stderr)) == (why is None)
        assert why is None or f"a session of its own: {why}" in result.stderr


def test_eight_at_once(words, environ, scratch, overlay, local):
    """Many first commands at once start one session."""
    overlay("env.ext3")
    line = [*words("run-overlay"), "-v", "--share", "-o", "env.ext3:ro", "--", "true"]
    started = [
        subprocess.Popen(line, env=environ, cwd=scratch, stderr=subprocess.PIPE, text=True)
        for _number in range(8)
    ]
    errors = [one.communicate()[1] for one in started]
    assert [one.returncode for one in started] == [0] * 8, errors
    assert len({LEASE.search(text)[1] for text in errors}) == 1
    assert len(keepers(local)) == 1


SHORT = [
    ["--", "cat", "/proc/self/environ"],
    ["--", "/bin/sh", "-c", "exit 7"],
    ["--", "no-such-command"],
    ["-f", "commands.sh", "-q"],
    ["-f", "-"],
]


@pytest.mark.parametrize("arguments", SHORT)
def test_short_way(run, words, environ, scratch, overlay, local, arguments):
    """Who has joined once comes in by the short way, and finds the same."""
    overlay("env.ext3")
    (scratch / "commands.sh").write_text("echo $0 $LINENO\nfalse\necho $? $(wc -c)\n")
    typed = ["-o", "env.ext3:ro", *arguments]
    found = [
        run("run-overlay", share, *typed, stdin="echo input\n")
        for share in ("--no-share", "--share", "--share")
    ]
    lines = [(one.status, sorted(one.stdout.split("\0")), one.stderr) for one in found]
    assert lines[1:] == [lines[0]] * 2
    assert files(local, ".short")
    line = ["/usr/bin/python3", "-X", "importtime", "-IS"]
    line += [*words("run-overlay"), "--share", *typed]
    result = execute(line, environ=environ, cwd=scratch, stdin="echo input\n")
    assert result[:2] == found[2][:2]
    assert "overlay.shared.join" in result.stderr
    assert not re.search(
        r"\b(argparse|configparser|overlay\.settings|overlay\.host\.(?!path\b))", result.stderr
    )


def imports(words, environ, scratch):
    """Run a command of ours; return its output, and which modules it has imported."""
    line = ["/usr/bin/python3", "-X", "importtime", "-IS", *words]
    result = execute(line, environ=environ, cwd=scratch)
    return result.stdout, set(re.findall(r"\| +(\S+)$", result.stderr, re.M))


def test_short_way_by_a_setting(run, words, environ, scratch, overlay, site, local):
    """Where the site shares sessions nothing need be typed for the short way; --no-share leaves it."""
    overlay("env.ext3")
    text = site.read_text()
    site.write_text(f"{text}[launch]\nshare = read\n")
    typed = ["-o", "env.ext3:ro", "--", "echo", "done"]
    line = [*words("run-overlay"), *typed]
    assert "overlay.settings.config" in imports(line, environ, scratch)[1]
    assert files(local, "unasked") == ["shared-unasked"]
    output, modules = imports(line, environ, scratch)
    assert output == "done\n"
    assert "overlay.shared.join" in modules
    assert not modules & {"argparse", "overlay.settings.config", "overlay.settings"}
    line.insert(1, "--no-share")
    assert "overlay.shared.join" not in imports(line, environ, scratch)[1]
    site.write_text(text)
    result = run("run-overlay", "-v", *typed)
    assert result[:2] == (0, "done\n")
    assert not LEASE.search(result.stderr)
    assert len(keepers(local)) == 1
    end_sessions(local)
    assert "overlay.shared.join" not in imports(line[:1] + line[2:], environ, scratch)[1]


@pytest.mark.parametrize("change", ["settings", "added", "user", "variable", "bind"])
def test_short_way_is_left(run, environ, scratch, overlay, home, site, local, change):
    """A setting that changes is heeded by the next command."""
    overlay("env.ext3")
    words = ["--share", "-o", "env.ext3:ro", "--", "sh", "-c", "ls -d /data; echo $X"]
    site.write_text(site.read_text() + "[binds]\nadd = $PLACE\n")
    assert run("run-overlay", *words).stdout == "\n"
    assert run("run-overlay", *words).stdout == "\n"
    (scratch / "data").mkdir()
    line = f"[binds]\nadd = '{scratch}/data:/data'\n"
    if change == "settings":
        site.write_text(site.read_text().replace("$PLACE", f"'{scratch}/data:/data'"))
    elif change == "added":
        (site.parent / "overlay.d").mkdir()
        (site.parent / "overlay.d" / "more.ini").write_text(line)
    elif change == "user":
        (home / ".config" / "overlay").mkdir(parents=True)
        (home / ".config" / "overlay" / "overlay.ini").write_text(line)
    elif change == "variable":
        environ["OVERLAY_BINDS_ADD"] = f"'{scratch}/data:/data'"
    elif change == "bind":
        words[1:1] = ["-b", f"{scratch}/data:/data"]
    assert run("run-overlay", *words).stdout == "/data\n\n"


@pytest.fixture
def inside(words, environ, scratch, overlay, local):
    """Return a function that starts a command in the session of env.ext3, and waits until it runs."""
    overlay("env.ext3")
    started = []

    def inside(line, *before):
        line = f"echo ready; {line}"
        command = [*before, *words("run-overlay"), "--share", "-o", "env.ext3:ro", "--"]
        child = subprocess.Popen(
            [*command, "bash", "-c", line],
            env=environ,
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield inside
    for child in started:
        child.kill()
        child.communicate()


def test_lets_go(inside, run, local):
    """A session that nobody is in lets go when its overlay is to be written, or changed."""
    inside("true").communicate()
    assert len(keepers(local)) == 1
    result = run("run-overlay", "-o", "env.ext3", "--", "sh", "-c", "mkdir /data; echo written")
    assert result == (0, "written\n", "")
    inside("true").communicate()
    assert run("resize-overlay", "-q", "env.ext3", "-s", "20").status == 0
    inside("true").communicate()
    assert run("check-overlay", "-q", "env.ext3").status == 0
    assert not keepers(local)


def test_in_use(inside, run, words, environ, scratch, local):
    """Who wants to write what a shared session reads is told who is in it, or waits for them."""
    child = inside("read line; exit 3")
    result = run("run-overlay", "-o", "env.ext3", "--", "true")
    assert result.status == 75
    assert re.search(
        rf"'a shared session', in it .*bash -c .*\({child.pid}\)\)\n", result.stderr
    ), result.stderr
    shown = run("show-overlay", "env.ext3").stdout
    assert re.search(r"process \d+ since .*: 'a shared session'\n", shown), shown
    assert f"process {child.pid} since" in shown
    waiting = subprocess.Popen(
        [*words("run-overlay"), "--wait", "60", "-o", "env.ext3", "--", "echo", "written"],
        env=environ,
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "waiting for env.ext3" in waiting.stderr.readline()
    child.communicate("\n")
    assert child.returncode == 3
    assert waiting.communicate()[0] == "written\n"


# From there no process of the others is seen or reached, as from another host.
ELSEWHERE = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc"]


def test_in_use_elsewhere(inside, words, environ, scratch, local):
    """Another host is told how long it takes; a session that nobody is in lets go for it, too."""
    environ["OVERLAY_LAUNCH_LINGER"] = "600"
    child = inside("read line; exit 3")
    check = [*ELSEWHERE, *words("check-overlay"), "-q", "env.ext3"]
    write = [*words("run-overlay"), "--wait", "60", "-o", "env.ext3", "--", "echo", "written"]
    result = execute(check, environ=environ, cwd=scratch)
    assert result == (
        75,
        "",
        "check-overlay: error: env.ext3 is in use: sessions are reading it (one that several commands"
        " share, on another host or of another user; it ends with the last of them when somebody"
        " waits for it, else 600 seconds later)\n"
        "check-overlay: hint: again when its commands have ended\n",
    )
    waiting = subprocess.Popen(
        [*ELSEWHERE, *write],
        env=environ,
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "waiting for env.ext3" in waiting.stderr.readline()
    child.communicate("\n")
    assert child.returncode == 3
    assert waiting.communicate()[0] == "written\n"
    inside("true").communicate()
    assert len(keepers(local)) == 1
    assert execute(check, environ=environ, cwd=scratch) == (0, "env.ext3: clean\n", "")
    wait_until(lambda: not files(local))


def test_descriptors_closed(inside, run, scratch, local):
    """A program that closes all descriptors and goes on reading keeps its files, and is in it."""
    child = inside(
        'for f in /proc/self/fd/*; do f=${f##*/}; [ $f -lt 3 ] || eval "exec $f>&-"; done'
        "; read line; ls /usr >/dev/null && echo whole"
    )
    first = keepers(local)
    result = run("run-overlay", "-o", "env.ext3", "--", "true")
    assert result.status == 75, result
    assert keepers(local) == first
    assert child.communicate("\n")[0] == "whole\n"


def test_background(inside, run, local):
    """What a command leaves in the background is in the session as long as it runs."""
    child = inside("(read line; cat /etc/os-release | wc -l >&2; echo late) <&0 & exit 4")
    assert child.wait() == 4
    assert run("run-overlay", "-o", "env.ext3", "--", "true").status == 75
    assert child.communicate("\n")[0] == "late\n"


READ = """
start=$(sed -n '1s/-.*//p' /proc/$1/maps) &&
dd if=/proc/$1/mem bs=1 count=3 skip=$((0x$start + 1)) 2>/dev/null
"""


@pytest.mark.parametrize(("share", "found"), [("--share", "ELF"), ("--no-share", "")])
def test_memory(inside, run, share, found):
    """Commands in one session may read each other's memory, as MPI does; in two they may not.

    What /proc/PID/mem asks for is what process_vm_readv(2) does: PTRACE_MODE_ATTACH.
    """
    child = inside("read line")
    words = ["-o", "env.ext3:ro", "--", "sh", "-c", READ, "sh", child.pid]
    assert run("run-overlay", share, *words).stdout == found


def test_sessions(inside, run, scratch, local):
    """overlay-admin shows shared sessions and who is in them, and ends those that are left."""
    assert (
        run("overlay-admin", "sessions").stderr == "overlay-admin: there are no shared sessions\n"
    )
    child = inside("read line")
    shown = run("overlay-admin", "sessions").stdout
    assert shown.startswith(f"'{scratch}/env.ext3' over base.sif\n    process {keepers(local)[0]} ")
    assert f"    in it: {child.pid} 'bash -c echo ready; read line'\n" in shown
    [found] = json.loads(run("overlay-admin", "sessions", "--json").stdout)
    assert found["overlays"] == [f"{scratch}/env.ext3"]
    assert found["commands"][0]["process"] == child.pid
    result = run("overlay-admin", "sessions", "--end")
    assert result.status == 75
    assert f"commands are still in 1 of 1 shared sessions ({child.pid})" in result.stderr
    child.communicate("\n")
    wait_until(lambda: not files(local))  # it was asked
    inside("true").communicate()
    assert run("overlay-admin", "sessions", "--end") == (0, "", "overlay-admin: ended: 1\n")
    assert not files(local)


def program_of(pid):
    """Return what a process is called, None when it has ended."""
    with contextlib.suppress(OSError):
        name, _close, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        return None if rest.split()[0] == "Z" else name
    return None


def test_locked_binds(run, overlay, scratch, site, site_text, local):
    """Where the site has locked the binds, the engine's variables add none here either."""
    overlay("env.ext3")
    site.write_text(f"{site_text}[site]\nlock = binds.paths\n[binds]\npaths = /home\n")
    words = ["-v", "--share", "-o", "env.ext3:ro", "--", "ls", "-d", "/bound"]
    result = run("run-overlay", *words, variables={"APPTAINER_BIND": f"{scratch}:/bound"})
    assert LEASE.search(result.stderr)
    assert (result.status, result.stdout) == (2, "")


def test_staged(run, overlay, local):
    """With --stage the overlay is copied once, and the copy's session is joined."""
    overlay("env.ext3")
    typed = ["-v", "--share", "--stage", "-o", "env.ext3:ro", "--", "echo", "done"]
    results = [run("run-overlay", *typed) for _time in range(2)]
    assert [one[:2] for one in results] == [(0, "done\n")] * 2
    found = [LEASE.search(one.stderr)[1] for one in results]
    assert found[0] == found[1]
    shown = json.loads(run("overlay-admin", "sessions", "--json").stdout)
    assert "/staged-" in shown[0]["overlays"][0]


def test_private(inside, run, local, scratch):
    """The files are the user's alone; what somebody has planted is not followed."""
    inside("true").communicate()
    [directory] = local.glob("overlay-*")
    (directory / "kept").mkdir()
    (directory / "kept" / "file").write_text("of something else")
    assert directory.stat().st_mode & 0o777 == 0o700
    names, [keeper] = files(local), keepers(local)
    assert {name.rpartition(".")[2] for name in names} == {"lease", "gate", "short"}
    for name in names:
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    end_sessions(local)
    wait_until(lambda: not program_of(keeper))
    assert (directory / "kept" / "file").read_text() == "of something else"
    (scratch / "other").write_text("other\n")
    for name in names:
        (directory / name).symlink_to(scratch / "other")
    result = run("run-overlay", "-v", "--share", "-o", "env.ext3:ro", "--", "echo", "done")
    assert result[:2] == (0, "done\n")
    assert "a session of its own: " in result.stderr
    assert (scratch / "other").read_text() == "other\n"
    for name in names:
        (directory / name).unlink()
    directory.chmod(0o755)
    assert inside("true").wait() == 0
    assert directory.stat().st_mode & 0o777 == 0o700
