"""overlay-admin doctor on a node that is stripped of what it needs; report on 1,000 overlays.

OVERLAY_DOCTOR names what tests/prepare-doctor has made. What the doctor finds missing is
taken away in a user and mount namespace of the test's own.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time

import pexpect
import pytest
from support import BASE, PATH, ROOT, execute, version

ADMIN = str(ROOT / "bin" / "overlay-admin")
UNLOCKED = [sys.executable, str(ROOT / "tests" / "site" / "unlocked.py")]

# Take privileges away again: what is mounted stays.
PLAIN = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all"]


@pytest.fixture(autouse=True)
def ordinary_user():
    """See that the tests run as an ordinary user: root may do what users may not."""
    assert os.getuid() != 0, "these tests are for an ordinary user: tools/as-user overlay-tester"
    assert os.path.exists(BASE), f"{BASE} is missing: tools/setup image"


@pytest.fixture
def site_text(tmp_path):
    """Return the site's overlay.ini of a node that is ready."""
    return (
        f"[images]\ndefault = base\nbase = {BASE}\n[binds]\npaths = /home\n"
        f"[scratch]\nlocations = '{tmp_path}/my files'\nlocal = '{tmp_path}'\n"
    )


@pytest.fixture
def doctor(environ, scratch):
    """Return a function that runs the doctor and returns (status, {name: check}).

    before  lines for a shell that may mount, run first in a namespace
    """

    def doctor(*arguments, before=None, variables=(), through=()):
        words = [*through, ADMIN, "doctor", "--json", *map(str, arguments)]
        if before:
            script = f'{before}\nexec "$@"'
            namespace = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps"]
            words = [*namespace, "sh", "-e", "-c", script, "sh", *PLAIN, *words]
        result = execute(words, environ={**environ, **dict(variables)}, cwd=scratch)
        assert result.stderr == ""
        found = json.loads(result.stdout)
        assert found["ready"] == (result.status == 0)
        assert os.listdir(scratch) in ([], ["place"])  # nothing is left behind
        return result.status, {check["name"]: check for check in found["checks"]}

    return doctor


def states(checks, state):
    """Return the names of the checks that came out so."""
    return {name for name, check in checks.items() if check["state"] == state}


def test_ready(doctor, scratch):
    """On a node that has everything a whole session is tried, and all is well."""
    status, checks = doctor()
    assert (status, states(checks, "problem"), states(checks, "warning")) == (0, set(), set())
    assert checks["a session"]["found"] == "a command wrote a file in a new overlay"
    named = {
        "overlay",
        "kernel",
        "distribution",
        "engine",
        "fuse2fs",
        "mke2fs",
        "e2image",
        "find",
        "Python",
        "bind /home",
    }
    assert named <= set(checks)
    assert checks["stacks of overlays"]["found"] == "the kernel tells their files apart"
    assert checks["a packed overlay"]["found"] == "zstd: a command read it"
    assert checks["a shared session"]["found"].startswith("a command joined it; it ends with: you")
    assert checks["engine"]["found"].startswith("apptainer 1.")
    assert checks["kernel"]["found"].startswith(f"Linux {os.uname().release}")
    assert f"'{scratch}': locks" in checks
    assert all(check["why"] for check in checks.values())
    assert not any("unknown" in check["found"] for check in checks.values())


HIDE = "mount --bind /dev/null {}"
E2FSPROGS = ("mke2fs", "e2fsck", "debugfs", "resize2fs")

# What is taken away: lines for a shell, the problems, the warnings, words of the advice.
STRIPPED = {
    "fuse2fs": (HIDE.format("/usr/bin/fuse2fs"), {"fuse2fs"}, set(), "install fuse2fs"),
    "fuse-overlayfs": (
        HIDE.format("/usr/bin/fuse-overlayfs"),
        {"fuse-overlayfs"},
        set(),
        "install fuse-overlayfs",
    ),
    "squashfuse": (
        "\n".join(HIDE.format(f"/usr/bin/{name}") for name in ("squashfuse", "squashfuse_ll")),
        {"squashfuse_ll"},
        set(),
        "install squashfuse",
    ),
    "permission of /dev/fuse": (
        "mount --bind /dev/console /dev/fuse",
        {"/dev/fuse"},
        set(),
        "as root: chmod 666 /dev/fuse, and see which rule of udev sets it",
    ),
    "/dev/fuse": (
        "mount --bind /etc/hostname /dev/fuse",
        {"/dev/fuse"},
        set(),
        "as root: modprobe fuse",
    ),
    "user namespaces": (
        "echo 0 >/proc/sys/user/max_user_namespaces",
        {"user namespaces"},
        set(),
        "as root: sysctl -w user.max_user_namespaces=15000",
    ),
    "e2fsprogs": (
        "\n".join(HIDE.format(f"/usr/sbin/{name}") for name in E2FSPROGS),
        {"mke2fs", "e2fsck"},
        {"debugfs", "resize2fs"},
        "install e2fsprogs",
    ),
    "squashfs-tools": (
        HIDE.format("/usr/bin/mksquashfs"),
        set(),
        {"mksquashfs"},
        "install squashfs-tools",
    ),
    "engine": (
        HIDE.format("$(readlink -f /usr/bin/apptainer)"),
        {"engine"},
        set(),
        "load one, for example: module load apptainer",
    ),
}


def test_ready_whatever_the_rules(doctor, site, site_text):
    """What the site forbids its users is no fault of the node."""
    text = "[create]\nmin_size = 100M\nmin_files = 5K\nsize = 10G\n[site]\nlock = create scratch\n"
    site.write_text(site_text + "outside = refuse\n" + text)
    status, checks = doctor()
    assert (status, states(checks, "problem")) == (0, set())


@pytest.mark.parametrize("name", STRIPPED)
def test_stripped(doctor, name):
    """What is missing is named, and nothing else."""
    before, problems, warnings, advice = STRIPPED[name]
    status, checks = doctor(before=before)
    assert (states(checks, "problem"), states(checks, "warning")) == (problems, warnings)
    assert status == (1 if problems else 0)
    assert {checks[name]["advice"] for name in problems | warnings} == {advice}


def test_stripped_of_everything(doctor, site, site_text):
    """Without anything at all, everything is named."""
    site.write_text(site_text.replace(BASE, "/no/base.sif").replace("/home", "/no/bind"))
    before = "\n".join(lines for lines, *_rest in STRIPPED.values())
    before = before.replace("mount --bind /etc/hostname /dev/fuse\n", "")
    # Last, because it hides what the others need.
    status, checks = doctor(before=before)
    wanted = set().union(*(problems for _lines, problems, *_rest in STRIPPED.values()))
    assert (status, states(checks, "problem")) == (1, wanted | {"base image base"})
    warned = set().union(*(warnings for _lines, _problems, warnings, _advice in STRIPPED.values()))
    assert states(checks, "warning") == warned | {"bind /no/bind"}


def test_refusal_of_options(doctor, tmp_path):
    """A util-linux that is too old shows in the options that are used."""
    place = fake(
        tmp_path, "unshare", "echo \"unshare: unrecognized option '--keep-caps'\" >&2; exit 1"
    )
    status, checks = doctor(variables={"PATH": f"{place}:{PATH}"})
    assert (status, states(checks, "problem")) == (1, {"unshare options"})
    assert checks["unshare options"]["advice"] == "install util-linux 2.36 or newer"


def fake(tmp_path, name, script):
    """Make a program that stands before the real one, and return its directory."""
    place = tmp_path / "fake"
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/sh\n{script}\n")
    (place / name).chmod(0o755)
    return place


BAD = [
    ("apptainer", "apptainer version 1.4.3", "engine", "warning", "3163"),
    ("apptainer", "apptainer version 1.0.3-2", "engine", "problem", "setuid root"),
    ("fuse-overlayfs", "fuse-overlayfs: version 1.16", "fuse-overlayfs", "warning", "475"),
    ("fuse2fs", "fuse2fs 1.47.4 (6-Mar-2026)", "fuse2fs", "warning", "244"),
]


@pytest.mark.parametrize(("name", "says", "check", "state", "why"), BAD)
def test_bad_versions(doctor, tmp_path, name, says, check, state, why):
    """A version that is known to be bad is told, with where one can read of it."""
    real = shutil.which(name, path=PATH)
    script = f'case $1 in --version | -V) echo "{says}" ;; *) exec {real} "$@" ;; esac'
    _status, checks = doctor(variables={"PATH": f"{fake(tmp_path, name, script)}:{PATH}"})
    assert checks[check]["state"] == state and why in checks[check]["why"]
    assert "newer" in checks[check]["advice"] or "another" in checks[check]["advice"]


def test_program_that_does_not_run(doctor, tmp_path):
    """A program that is there and cannot run is as bad as none."""
    place = fake(tmp_path, "mke2fs", "echo 'error while loading shared libraries' >&2; exit 127")
    status, checks = doctor(variables={"PATH": f"{place}:{PATH}"})
    assert (status, checks["mke2fs"]["state"]) == (1, "problem")
    assert "does not run" in checks["mke2fs"]["found"]


def test_image(doctor, site, site_text, tmp_path):
    """Images that are not there, not readable, no images: the default is a problem."""
    (tmp_path / "text").write_text("not an image")
    (tmp_path / "secret.sif").write_bytes(b"x")
    (tmp_path / "secret.sif").chmod(0)
    more = f"[images]\ndefault = text\ntext = {tmp_path}/text\nsecret = {tmp_path}/secret.sif\n"
    site.write_text(site_text.replace("[images]\ndefault = base\n", more))
    status, checks = doctor()
    assert (status, states(checks, "problem")) == (1, {"base image text"})
    assert states(checks, "warning") == {"base image secret"}


def test_settings(doctor, site):
    """Settings that are wrong are named with file and line; the rest is looked at all the same."""
    site.write_text("[create]\nsise = 5\n")
    status, checks = doctor()
    assert (status, checks["settings"]["state"]) == (1, "problem")
    assert checks["settings"]["found"] == f"{site}, line 2: unknown key sise in [create]"
    assert checks["fuse2fs"]["state"] == "ok"


def test_compression_that_is_not_read(doctor, site, site_text, tmp_path):
    """What the site has pack-overlay compress with is tried: here squashfuse cannot read it."""
    site.write_text(f"{site_text}[pack]\ncompression = xz\n")
    status, checks = doctor()
    assert (status, checks["a packed overlay"]["found"]) == (0, "xz: a command read it")
    tools = tmp_path / "tools"
    tools.mkdir()
    real = '/usr/bin/mksquashfs "$@"'
    pack = f'#!/bin/sh\n[ $# -gt 2 ] || exec {real}\nset -- "$1" "$2" -comp lzma\nexec {real}\n'
    (tools / "mksquashfs").write_text(pack)
    (tools / "mksquashfs").chmod(0o755)
    status, checks = doctor(variables={"PATH": f"{tools}:{PATH}"})
    assert (status, states(checks, "problem")) == (1, {"a packed overlay"})
    assert "lzma, which sessions cannot read" in checks["a packed overlay"]["found"]
    assert "[pack] compression = gzip" in checks["a packed overlay"]["advice"]


def test_compressions(doctor, tmp_path):
    """Each compression that this node can pack with is tried: others may have packed so."""
    _status, checks = doctor()
    assert checks["compressions"]["state"] == "ok"
    assert checks["compressions"]["found"] == "zstd, gzip, lz4, xz"
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("squashfuse_ll", path=PATH)  # one that was built without xz
    read = f"""#!/bin/sh
case $* in *xz.sqsh*) echo "Squashfs image uses xz compression" >&2; exit 1 ;; esac
exec {real} "$@"
"""
    (tools / "squashfuse_ll").write_text(read)
    (tools / "squashfuse_ll").chmod(0o755)
    status, checks = doctor(variables={"PATH": f"{tools}:{PATH}"})
    assert (status, checks["compressions"]["state"]) == (0, "warning")
    assert checks["compressions"]["found"] == "not read: xz"
    assert "have nobody pack so: xz" in checks["compressions"]["advice"]


def test_scratch(doctor, site, site_text, tmp_path):
    """A place for overlays that is not there, or not writable, is a problem."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    site.write_text(site_text.replace(f"'{tmp_path}/my files'", f"{closed} /no/scratch"))
    status, checks = doctor()
    problems = {f"{closed}: writing", "/no/scratch: writing"}
    assert (status, states(checks, "problem")) == (1, problems)


def test_scratch_that_others_rule(doctor, site, site_text, tmp_path):
    """A directory for temporary files where others could exchange them is told."""
    place = tmp_path / "local"
    place.mkdir()
    place.chmod(0o777)
    site.write_text(site_text.replace(f"local = '{tmp_path}'", f"local = '{place}'"))
    _status, found = doctor()
    check = found[f"{place}: others"]
    assert check["state"] == "warning" and "sticky bit" in check["found"]
    place.chmod(0o1777)
    assert not [name for name in doctor()[1] if name.endswith(": others")]


def test_scratch_without_programs(doctor, site, site_text, tmp_path):
    """A place for temporary files on which no program may be started is told, and the next tried."""
    (tmp_path / "noexec").mkdir()
    local = f"local = '{tmp_path}'\n"
    assert local in site_text
    site.write_text(site_text.replace(local, f"local = '{tmp_path}/noexec' '{tmp_path}'\n"))
    before = f"mount -t tmpfs -o noexec none '{tmp_path}/noexec'"
    status, checks = doctor(before=before)
    name = f"{tmp_path}/noexec: programs"
    assert (status, states(checks, "warning")) == (0, {name})
    assert checks[name]["found"] == "they may not be started: it is mounted noexec"
    assert checks[f"{tmp_path}: programs"]["state"] == "ok"


def test_named(doctor, scratch, tmp_path):
    """Directories that are named are tried, and no others."""
    (scratch / "place").mkdir()
    status, checks = doctor("place", "/sys")
    tried = {name for name in checks if name.endswith(": writing")}
    assert (status, tried) == (1, {"place: writing", "/sys: writing"})
    (scratch / "place").rmdir()


LOCKS = {
    "local": None,
    "none": "there are no locks: No locks available",
    "unknown": "there are no locks: Function not implemented",
    "all": "two processes can hold the same lock for writing",
    "stay": "the lock of a killed process stays",
    "silent": "a request for a lock gets no answer in 10 seconds",
}


@pytest.mark.parametrize("locks", LOCKS)
def test_locks(doctor, scratch, locks):
    """A file system without locks, or whose locks do not hold, is a problem."""
    (scratch / "place").mkdir()
    status, checks = doctor("place", through=[*UNLOCKED, locks, "place"])
    check = checks["place: locks"]
    if LOCKS[locks] is None:
        assert check["state"] == "ok" and "between two nodes they are not tried" in check["found"]
        assert (status, states(checks, "problem")) == (0, set())
    else:
        assert (status, states(checks, "problem")) == (1, {"place: locks"})
        assert check["found"] == LOCKS[locks]
    # Neither fallocate nor extended attributes are there.
    assert states(checks, "warning") == {"place: allocation", "place: extended attributes"}


def test_scratch_without_locks(environ, scratch, site, site_text, tmp_path):
    """So too for the site's own place, where nobody named it, in words for a person."""
    place = tmp_path / "place"
    place.mkdir()
    site.write_text(site_text.replace(f"'{tmp_path}/my files'", str(place)))
    result = execute([*UNLOCKED, "none", str(place), ADMIN, "doctor"], environ=environ, cwd=scratch)
    assert result.status == 1
    name = f"{place}: locks"
    assert (
        f"problem  {name}  there are no locks: No locks available\n"
        "           why: without locks two sessions can write one overlay at once, and that"
        " destroys it\n"
        "           do:  keep overlays that are written on another file system\n"
    ) in result.stdout
    assert result.stdout.endswith("\nthis node is not ready: 1 problem, 2 warnings\n")


def test_plain_and_quiet(environ, scratch):
    """Into a pipe goes one line for a check, without colours; --quiet leaves out what is well."""
    result = execute([ADMIN, "doctor", "."], environ=environ, cwd=scratch)
    assert result.status == 0 and "\033" not in result.stdout
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok       ") for line in lines[:-2])
    assert lines[-2:] == ["", "this node is ready; 0 warnings"]
    result = execute([ADMIN, "doctor", "-q", "."], environ=environ, cwd=scratch)
    assert result == (0, "\nthis node is ready; 0 warnings\n", "")


@pytest.mark.parametrize("columns", [60, 100])
def test_terminal(environ, scratch, columns):
    """On a terminal lines are coloured and no longer than it is wide."""
    shell = pexpect.spawn(
        ADMIN,
        ["doctor", "/sys"],
        env={**environ, "TERM": "xterm"},
        cwd=scratch,
        dimensions=(40, columns),
        encoding="utf-8",
        timeout=60,
    )
    text = shell.read()
    shell.close()
    assert shell.exitstatus == 1
    assert "\033[32mok" in text and "\033[31;1mproblem" in text
    for colour in ("32", "33", "31;1", "0"):
        text = text.replace(f"\033[{colour}m", "")
    words = [line for line in text.splitlines() if "/" not in line]  # a path is not broken
    assert max(map(len, words)) <= columns


def test_installed(environ, scratch, tmp_path):
    """In an installation compiled files and the modulefile are looked at."""
    prefix = tmp_path / "prefix"
    tool = [sys.executable, "-S", str(ROOT / "tools" / "install"), str(prefix)]
    subprocess.run(
        tool, check=True, capture_output=True, env={"PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    admin = str(prefix / version() / "bin" / "overlay-admin")

    def doctor():
        result = execute([admin, "doctor", "--json", "."], environ=environ, cwd=scratch)
        return {check["name"]: check for check in json.loads(result.stdout)["checks"]}

    checks = doctor()
    assert checks["precompiled files"]["found"] == "they are there"
    assert checks["modulefile"]["state"] == "ok"
    assert str(prefix / "modulefiles") in checks["modulefile"]["found"]
    source = prefix / version() / "lib" / "overlay" / "size.py"
    source.write_text(source.read_text() + "# changed\n")
    checks = doctor()
    assert checks["precompiled files"]["state"] == "problem"
    assert checks["precompiled files"]["found"].startswith("size.py: not the same as the source")
    shutil.rmtree(prefix / "modulefiles")
    assert doctor()["modulefile"]["state"] == "warning"


MODULE_SYSTEMS = {
    "LMOD_CMD": "/usr/share/lmod/lmod/libexec/lmod",
    "MODULES_CMD": os.path.join(
        os.path.dirname(os.path.dirname(BASE)),
        "environment-modules/usr/lib/x86_64-linux-gnu/modulecmd.tcl",
    ),
}


@pytest.mark.parametrize("variable", MODULE_SYSTEMS)
def test_modulefile(environ, scratch, site, site_text, variable):
    """The module system that is here loads the modulefile, or what it says is told."""
    environ[variable] = MODULE_SYSTEMS[variable]

    def check():
        result = execute([ADMIN, "doctor", "--json", "."], environ=environ, cwd=scratch)
        checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
        return checks["modulefile"]["state"], checks["modulefile"]["found"]

    assert check() == ("ok", f"module use {ROOT}/modulefiles; it loads")
    site.write_text(site_text + "[engine]\nmodule = no-such-engine\n")
    state, said = check()
    assert state == "problem" and "error" in said.lower()


# ------------------------------------------------------------------------------- report --


@pytest.fixture
def prepared():
    """Return the directory of the 1,000 overlays."""
    path = os.environ.get("OVERLAY_DOCTOR")
    assert path, "OVERLAY_DOCTOR is not set: see tests/prepare-doctor --help"
    return os.path.join(path, "report")


def test_report(ok, prepared):
    """1,000 overlays of 20 owners, a twentieth of them damaged: right numbers, in time."""
    start = time.monotonic()
    found = json.loads(ok("overlay-admin", "report", "--json", prepared))
    assert time.monotonic() - start < 60  # tools/benchmark has the figure
    owners = {one["owner"]: one for one in found["owners"]}
    assert set(owners) == {str(number) for number in range(61001, 61021)}
    for name, one in owners.items():
        damaged = 3 if int(name) % 2 else 2
        cut = damaged - 1
        place = os.path.join(prepared, name)
        status = [os.stat(os.path.join(place, file)) for file in os.listdir(place)]
        assert one["size"] == (50 - cut) * (16 << 20) + cut * (8 << 20)
        assert one["allocated"] == sum(each.st_blocks for each in status) * 512
        assert one["files"] == (50 - damaged) * 40
        counted = {
            name: one[name] for name in ("overlays", "damaged", "not_clean", "old", "nearly_full")
        }
        assert counted == {
            "overlays": 50,
            "damaged": damaged,
            "not_clean": 2,
            "old": 4,
            "nearly_full": 1,
        }
        assert one["in_use"] == one["unreadable"] == 0
    total = found["total"]
    assert (total["overlays"], total["damaged"]) == (1000, 50)
    assert (total["files"], found["kept_off"]) == (950 * 40, 950 * 40 - 1000)
    for figure in ("size", "allocated", "used"):
        assert total[figure] == sum(one[figure] for one in owners.values())


def test_report_forms(ok, run, prepared):
    """The table and --csv say the same; the damaged ones are named with --verbose."""
    rows = list(csv.DictReader(io.StringIO(ok("overlay-admin", "report", "--csv", prepared))))
    found = json.loads(ok("overlay-admin", "report", "--json", prepared))
    assert rows == [{name: str(value) for name, value in one.items()} for one in found["owners"]]
    result = run("overlay-admin", "report", "-v", prepared)
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "OWNER",
        "OVERLAYS",
        "SIZE",
        "ON",
        "DISK",
        "USED",
        "FILES",
        "NOT",
        "CLEAN",
        "OLD",
        "FULL",
        "DAMAGED",
    ]
    assert len(lines) == 24 and lines[-1] == "37,000 files kept off the file system"
    assert len(result.stderr.splitlines()) == 50
    assert "/61001/01.ext3: " in result.stderr and "it is cut off" in result.stderr


def test_links_out_of_the_binds(doctor, environ, tmp_path):
    """A home, a place for overlays and a bind that are links to elsewhere are named."""
    (tmp_path / "home").rmdir()
    disk = "/mnt/disk"
    environ["HOME"] = f"{tmp_path}/home"
    environ["OVERLAY_BINDS_PATHS"] = f"'{tmp_path}' /mnt/link"
    before = (
        f"mount -t tmpfs disk /mnt; mkdir -p {disk}/ana; ln -s disk /mnt/link"
        f"; ln -s {disk}/ana '{tmp_path}/home'"
    )
    _status, checks = doctor(before=before)
    found = {name: check for name, check in checks.items() if name.startswith("links of ")}
    assert {name: check["found"] for name, check in found.items()} == {
        f"links of {tmp_path}/home": f"it leads out of [binds] paths, to {disk}/ana",
        "links of /mnt/link": f"it leads out of [binds] paths, to {disk}",
    }
    assert found[f"links of {tmp_path}/home"]["advice"] == f"add to [binds] paths: {disk}"
