"""Directories reached through symbolic links, as most sites have them.

Each test runs in a mount namespace in which the user's home, as the password database has
it, is a link to another file system, and ~/scratch is one, too.
"""

import getpass
import os

import pytest
from support import BASE, ROOT, execute, shell, tool

USER = getpass.getuser()
HOME = f"/home/{USER}"
DISK = "/mnt/gpfs"
REAL = {"~": f"{DISK}/home/{USER}", "~/scratch": f"{DISK}/scratch/{USER}"}

# In a user namespace of his own a user may mount; the shell after it has no such rights.
LAYOUT = f"""
set -e
mount -t tmpfs -o mode=755 disk /mnt
mkdir -p {DISK}/home/{USER} {DISK}/scratch/{USER} {DISK}/project
mount -t tmpfs -o mode=755 links /home
ln -s {DISK}/home/{USER} {HOME}
ln -s {DISK}/scratch/{USER} {HOME}/scratch
ln -s {DISK}/project /mnt/project
exec setpriv --inh-caps=-all --ambient-caps=-all bash --norc --noprofile -c "$1"
"""
ENTER = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", LAYOUT]


@pytest.fixture
def at_site(environ, scratch):
    """Return a function that runs a line in a shell at such a site; returns its Result."""
    environ.update(HOME=HOME, PATH=f"{ROOT}/bin:{environ['PATH']}")

    def at_site(line, stdin=None):
        return execute([*ENTER, "sh", line], environ=environ, cwd=scratch, stdin=stdin)

    return at_site


def entries(path, directory="/upper"):
    """Return the names in a directory of an overlay."""
    found = tool("debugfs", "-R", f"ls -p {directory}", path).stdout
    names = {line.split("/")[5] for line in found.splitlines() if line.count("/") > 5}
    return names - {".", ".."}


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize(
    "place",
    [
        "~",
        "~/scratch",
        "/mnt/project",
        "~/scratch/deep/er",
        f"{DISK}/home/{USER}",
        f"{DISK}/project",
    ],
)
def test_working_directory(at_site, scratch, overlay, place, mode):
    """Input is found and results are on the host, under the shell's name and the real one."""
    path = overlay()
    line = f"""mkdir -p {place}; cd {place}; echo input > in; logical=$PWD; real=$(pwd -P)
    echo "cat in $logical/in $real/in; echo 1 > out; echo 2 > $logical/2; echo 3 > $real/3; pwd" > j
    run-overlay -o '{path}{mode}' -f j && cat out 2 3; ls -A ~/ {DISK}/*"""
    result = at_site(line)
    words = result.stdout.split()
    assert (result.status, result.stderr) == (0, "")
    assert words[:3] == ["input"] * 3 and words[4:7] == ["1", "2", "3"]
    assert words[3] == os.path.join(
        REAL.get("/".join(place.split("/")[:2]), place.replace("/mnt/project", f"{DISK}/project")),
        *place.split("/")[2:] if place.startswith("~") else (),
    )
    assert entries(path) == {"opt"}


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize("name", ["TMPDIR", "SLURM_TMPDIR", "HOME"])
@pytest.mark.parametrize("place", ["~/scratch/t", "/mnt/project/t", f"{DISK}/project/t"])
def test_directories_of_variables(at_site, overlay, name, place, mode):
    """TMPDIR, SLURM_TMPDIR and a HOME that is not the password database's lead to the host's."""
    path = overlay()
    line = f"""mkdir -p {place}; place=$(echo {place}); echo word > {place}/in
    {name}=$place run-overlay -o '{path}{mode}' -- sh -c 'cat $1/in $2/in; echo new > $1/out' \
        sh $place $(realpath {place}) && cat {place}/out"""
    assert at_site(line) == (0, "word\nword\nnew\n", "")
    assert entries(path) == {"opt"}


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize("content", ["echo word; echo $0\\n", "echo word\\r\\necho $0\\r\\n"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, name) for name in ("~/scratch/j", "~/j", "/mnt/project/j", "~/link", "../j")),
        ("~/scratch/../j", f"{DISK}/scratch/j"),
    ],
)
def test_command_file(at_site, overlay, name, shown, content, mode):
    """A command file is found through links, wherever one stands; $0 is its name."""
    path = overlay()
    line = f"""mkdir {DISK}/project/here; cd {DISK}/project/here; ln -s ~/scratch/other ~/link
    printf '{content}' > ~/scratch/other; [ -e {name} ] || printf '{content}' > {name}
    run-overlay -q -o '{path}{mode}' -f {name}"""
    assert at_site(line) == (0, f"word\n{shown.replace('~', HOME)}\n", "")
    assert entries(path) == {"opt"}


def test_windows_line_ends_in_the_working_directory(at_site, overlay):
    """The copy without them is what runs, not the file in the current directory."""
    path = overlay()
    line = rf"cd {DISK}/project; printf 'echo a\r\necho b\r\n' > j; run-overlay -q -o '{path}' -f j"
    assert at_site(line) == (0, "a\nb\n", "")


@pytest.mark.parametrize("where", ["~/scratch/data", "/mnt/project/data"])
def test_binds(at_site, overlay, where):
    """What is bound by a name with links in it is seen under its real name, too."""
    path = overlay()
    line = f"""mkdir {where}; echo word > {where}/in; cd /tmp
    run-overlay -o '{path}' -b {where} -- cat {where}/in $(realpath {where})/in"""
    assert at_site(line) == (0, "word\nword\n", "")
    assert entries(path) == {"opt"}


def test_binds_of_the_site(at_site, environ, overlay):
    """A directory of the site's that is a link is seen under both names."""
    path = overlay()
    environ["OVERLAY_BINDS_PATHS"] = "/mnt/project"
    line = f"""echo word > /mnt/project/in; cd /tmp
    run-overlay -o '{path}' -- cat /mnt/project/in {DISK}/project/in"""
    assert at_site(line) == (0, "word\nword\n", "")


def test_directory_for_overlays(at_site, environ, overlay):
    """The user's place in [scratch] locations is seen though it is a link out of the binds."""
    path = overlay()
    environ.update(OVERLAY_SCRATCH_LOCATIONS=f"{HOME}/scratch")
    line = (
        f"cd /tmp; run-overlay -o '{path}' -- sh -c 'echo word > ~/scratch/out'; cat ~/scratch/out"
    )
    assert at_site(line) == (0, "word\n", "")


def test_shell(at_site, overlay):
    """A shell begins in the directory on the host."""
    path = overlay()
    result = at_site(f"cd ~/scratch; mount-overlay -q -o '{path}'; cat out", "echo word > out\n")
    assert (result.status, result.stdout) == (0, "word\n")


@pytest.mark.parametrize("options", ["--per-task -s 16 -n 1", "--discard-writes", "--stage"])
def test_jobs(at_site, overlay, options):
    """With a layer of the task's own, and with copies, results are on the host as well."""
    path = overlay()
    mode = ":ro" if options == "--stage" else ""
    line = f"""cd ~/scratch; echo 'echo word > out; echo word > ~/out' > j
    run-overlay -q -o '{path}{mode}' {options} -f j; cat out ~/out"""
    assert at_site(line) == (0, "word\nword\n", "")


def test_creation(at_site, scratch, ok):
    """The commands of create-overlay find their input; nothing of the host is in the overlay."""
    line = f"""cd ~/scratch; echo word > in; mkdir t
    echo 'cat in ~/scratch/in > /opt/copy; echo word > out' > j
    TMPDIR=~/scratch/t create-overlay -q -f j -s 32 -n 1 -o '{scratch}/made'; cat out"""
    result = at_site(line)
    assert (result.status, result.stdout) == (0, "word\n"), result
    assert ok("run-overlay", "-o", "made.ext3:ro", "--", "cat", "/opt/copy") == "word\nword\n"
    assert entries(scratch / "made.ext3") == {"opt", ".singularity.d"}


def test_results_of_older_sessions(at_site, scratch, ok):
    """A directory of this name in an overlay does not stand in the way of the host's."""
    place = f"{DISK}/scratch/{USER}"
    (scratch / "d").mkdir()
    (scratch / "d" / "out").write_text("lost\n")
    ok("create-overlay", "-q", "--from", f"d:{place}", "-s", "16", "-n", "1", "-o", "old")
    run = f"run-overlay -o '{scratch}/old.ext3' -- sh -c 'echo word > out'"
    notice = f"run-overlay: {place} is the host's inside; an overlay has a directory of this name,"
    for there in ("~/scratch", place):
        result = at_site(f"cd {there}; {run}; cat out")
        assert (result.status, result.stdout) == (0, "word\n")
        assert result.stderr == f"{notice} which is not seen from here\n"
    # It is still to be had from elsewhere.
    assert ok("run-overlay", "-o", "old.ext3", "--", "cat", f"{place}/out") == "lost\n"


def test_contained(at_site, overlay):
    """With --containall nothing of the host is seen but the commands, which are found."""
    path = overlay()
    line = f"""cd ~/scratch; touch ~/secret; echo 'ls -A ~ /mnt/*; echo end' > j
    run-overlay -o '{path}' --engine-option=--containall -f j"""
    result = at_site(line)
    assert (result.status, result.stdout.split()[-1]) == (0, "end")
    assert "secret" not in result.stdout


def test_dry_run(at_site, overlay):
    """What --dry-run prints does the same from a directory reached through a link."""
    path = overlay()
    line = f"""cd ~/scratch; echo 'echo word > out' > j
    run-overlay --dry-run -o '{path}' -f j > pasted && . ./pasted && cat out"""
    assert at_site(line) == (0, "word\n", "")


EVERY = [
    "check-overlay {path}",
    "create-overlay -s 16 -n 1 -o {new}",
    "create-overlay --from /etc/apt -o {new}",
    "list-overlays {directory}",
    "mount-overlay -o {path}",
    "overlay-admin config",
    "overlay-admin doctor",
    "pack-overlay {path} -o {new}",
    "resize-overlay {path} -s 20",
    "run-overlay -o {path} -- true",
    "run-overlay -o {path} --per-task -- true",
    "show-overlay {path}",
]


@pytest.mark.parametrize("line", EVERY)
def test_directory_that_is_gone(environ, scratch, overlay, line):
    """In a directory that has been removed every command says so, and does nothing."""
    path = overlay()
    before = path.read_bytes()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    line = line.format(path=f"'{path}'", new=f"'{scratch}/new'", directory=f"'{scratch}'")
    program = line.split()[0]
    result = shell(f'd=$(mktemp -d) && cd "$d" && rmdir "$d" && {line}', environ, scratch)
    assert result == (
        66,
        "",
        f"{program}: error: the current directory is gone: No such file or directory\n"
        f"{program}: hint: cd\n",
    )
    assert os.listdir(scratch) == ["a.ext3"] and path.read_bytes() == before
    help_ = shell(f'd=$(mktemp -d) && cd "$d" && rmdir "$d" && {program} --help', environ, scratch)
    assert help_.status == 0


@pytest.mark.parametrize("mode", ["0", "311"])
@pytest.mark.parametrize("line", [*EVERY, "list-overlays"])
def test_directory_that_is_closed(environ, scratch, overlay, line, mode):
    """In one that cannot be read sessions say so; what does not need it works, by whole names."""
    path = overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    environ["OVERLAY_SCRATCH_LOCATIONS"] = str(scratch)
    line = line.format(path=f"'{path}'", new=f"'{scratch}/new'", directory=f"'{scratch}'")
    program = line.split()[0]
    closed = scratch.parent / "closed"
    closed.mkdir()
    result = shell(f"cd {closed} && chmod {mode} . && {line}", environ, scratch)
    closed.chmod(0o700)
    if program in ("run-overlay", "mount-overlay") or line == "list-overlays":
        assert result == (
            66,
            "",
            f"{program}: error: the current directory {closed} cannot be read: Permission denied\n"
            f"{program}: hint: cd\n",
        )
    else:
        assert "bug" not in result.stderr
        assert result.status == 0 or program == "overlay-admin", result


def test_functions_of_the_host(environ, scratch, overlay):
    """Functions that bash exports, and what it runs at its prompt, stay outside."""
    overlay()
    environ["PATH"] = f"{ROOT}/bin:{environ['PATH']}"
    (scratch / "j").write_text("type -t module which; env | grep -ac -e BASH_FUNC -e MAMBA\n")
    line = """module() { echo host; }; which() { echo host; }; export -f module which
    export PROMPT_COMMAND='echo host' PS0='host ' MAMBA_EXE=/host/mamba
    run-overlay -o a.ext3:ro -f j; echo 'which sh' | mount-overlay -q -o a.ext3:ro"""
    result = shell(line, environ, scratch)
    assert (result.status, result.stdout) == (0, "file\n0\n/usr/bin/sh\n")


def test_variables_that_name_files(ok, environ, scratch, overlay):
    """One whose file is not seen inside is left out; one that is seen, or meant for inside, is not."""
    overlay()
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /data; touch /data/ca.pem")
    (scratch / "ca.pem").touch()
    environ.update(
        SSL_CERT_DIR="/etc",
        REQUESTS_CA_BUNDLE=BASE,
        CURL_CA_BUNDLE=str(scratch / "ca.pem"),
        PIP_CERT="/data/ca.pem",
        JAVA_HOME="/no/such",
        XDG_RUNTIME_DIR="/usr/lib",
        APPTAINERENV_VIRTUAL_ENV="/usr",
        VIRTUAL_ENV="/usr",
    )
    line = "env | grep -E '^(SSL|REQ|CURL|PIP|JAVA|XDG_R|VIRT)' | cut -d= -f1 | sort"
    found = ok("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line)
    assert found.split() == ["CURL_CA_BUNDLE", "JAVA_HOME", "PIP_CERT", "VIRTUAL_ENV"]
