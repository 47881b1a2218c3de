"""What `make release` makes, each installed as an admin does, and used from there."""

import os
import re
import shutil
import subprocess
import sys

import pexpect
import pytest
from checkout import VERSION, Checkout
from module_systems import WORK, Shell, lmod_home
from support import BASE, PATH, execute, wait_until

TOGETHER = True  # one release for all of them

NEXT = "7.6"
KINDS = ("rpm", "wheel", "easybuild")
ENVIRONMENT = {"PATH": PATH, "HOME": "/", "LC_ALL": "C.UTF-8"}
SITE = "[images]\ndefault = rocky-9\nrocky-9 = {base}\n[engine]\nmodule = none\n"


def run(*words, **options):
    """Run a program that must end well, and return what it prints."""
    options.setdefault("env", ENVIRONMENT)
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done
    return done.stdout


def as_root(*words, **options):
    """Run a program as root of a namespace of users: rpm wants to change its root."""
    return run("unshare", "--user", "--map-root-user", *words, **options)


def rpm(root, *words):
    """Run rpm for a root with a system of its own; nothing that a package requires is in it."""
    return as_root("rpm", "--root", root, "--nodeps", *words)


class Installed:
    """An installation.

    bin       the directory of the commands
    settings  the directory that outlives versions
    tree      all that was installed
    variables what the environment of a user has of it without a module
    modules   the directory of modulefiles, None without
    """

    def __init__(self, bin, settings, tree, variables, modules=None):
        self.bin = bin
        self.settings = settings
        self.tree = tree
        self.variables = variables
        self.modules = modules
        (settings / "overlay.d").mkdir(parents=True, exist_ok=True)
        (settings / "overlay.d/site.ini").write_text(SITE.format(base=BASE))

    def environment(self, home):
        """Return the environment of a user: by the module, where there is one."""
        known = {**ENVIRONMENT, "HOME": str(home), **self.variables}
        if self.modules is None:
            return known
        script = (
            f". {lmod_home()}/init/bash; module use '{self.modules}'; module load overlay; env -0"
        )
        text = run("bash", "-c", script, env={**known, "USER": "x", "LOGNAME": "x"})
        return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the directory for all of this."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def git(place):
    """Return the Checkout that is released."""
    return Checkout(place / "my tree")


@pytest.fixture(scope="module")
def made(git, place):
    """Return the directory with a release."""
    done = git.release(place / "made")
    assert (done.returncode, done.stderr) == (0, ""), done
    return place / "made"


@pytest.fixture(scope="module")
def following(made, place):
    """Return a directory with the source archive, the RPM and the wheel of the next version."""
    place = place / "following"
    place.mkdir()
    run("tar", "-C", place, "-xf", made / f"overlay-{VERSION}.tar.gz")
    tree = place / f"overlay-{NEXT}"
    (place / f"overlay-{VERSION}").rename(tree)
    for name in ("lib/overlay/__init__.py", "packaging/overlay.spec", "packaging/overlay.eb"):
        path = tree / name
        path.write_text(path.read_text().replace(VERSION, NEXT))
    with open(tree / "etc/overlay.ini", "a") as file:
        file.write("# new\n")
    archive = place / f"overlay-{NEXT}.tar.gz"
    run("tar", "-C", place, "-czf", archive, tree.name)
    words = ("--no-index", "--no-deps", "--no-build-isolation", "-w", place, archive)
    run(sys.executable, "-m", "pip", "-q", "wheel", *words, env={**ENVIRONMENT, "HOME": str(place)})
    build_rpm(archive, place)
    return place


def build_rpm(archive, place):
    """Build the RPM of a source archive as the admin's guide says; return its path."""
    top = f"{place}/rpmbuild"
    run("rpmbuild", "-tb", "--nodeps", "--define", f"_topdir {top}", archive, cwd=place)
    [made] = (place / "rpmbuild/RPMS/noarch").iterdir()
    return made.rename(place / made.name)


@pytest.fixture(scope="module")
def installations(made, place):
    """Return a function from a kind to what is Installed, once."""
    known = {}

    def installed(kind):
        if kind not in known:
            known[kind] = INSTALL[kind](made, place / "site" / kind)
        return known[kind]

    return installed


def install_rpm(made, top):
    """Install the package into a root."""
    root = top / "root"
    root.mkdir(parents=True)
    rpm(root, "-i", made / f"overlay-{VERSION}-1.noarch.rpm")
    return root_of_rpm(root)


def root_of_rpm(root):
    """Return what is Installed in a root."""
    usr = root / "usr"
    variables = {
        "PATH": f"{usr}/bin:{PATH}",
        "MANPATH": f"{usr}/share/man:",
        "XDG_DATA_DIRS": f"{usr}/share",
    }
    return Installed(
        usr / "bin", root / "etc/overlay", usr, variables, modules=usr / "share/modulefiles"
    )


def install_wheel(made, top):
    """Install the wheel into an environment of its own."""
    venv = top / "venv"
    run(sys.executable, "-m", "venv", venv)
    wheel = made / f"overlay-{VERSION}-py3-none-any.whl"
    run(venv / "bin/pip", "install", "-q", "--no-index", wheel, umask=0o022)
    variables = {"PATH": f"{venv}/bin:{PATH}", "XDG_DATA_DIRS": f"{venv}/share"}
    return Installed(venv / "bin", venv / "etc", venv, variables)


def install_easybuild(made, top):
    """Build the file for EasyBuild by a real eb, with Lmod."""
    top.mkdir(parents=True)
    known = f". {lmod_home()}/init/bash && PATH={WORK}/others/bin:$PATH && exec"
    words = f"--prefix={top} --sourcepath={made} --robot-paths=: --ignore-index"
    environ = {**ENVIRONMENT, "HOME": str(top), "USER": "x", "LOGNAME": "x"}
    script = f'{known} eb {words} "$0"'
    run("bash", "-c", script, made / f"overlay-{VERSION}.eb", env=environ, cwd=top)
    tree = top / "software/overlay" / VERSION
    return Installed(tree / "bin", tree.parent / "etc", tree, {}, modules=top / "modules/all")


INSTALL = {"rpm": install_rpm, "wheel": install_wheel, "easybuild": install_easybuild}


@pytest.fixture(params=KINDS)
def kind(request):
    """Return a way to install."""
    return request.param


@pytest.fixture
def installed(kind, installations):
    """Return what is Installed in that way."""
    return installations(kind)


@pytest.fixture
def user(installed, home):
    """Return the environment of a user of it."""
    return installed.environment(home)


def test_made(git, made):
    """All of it is there with its checksum; the tag and the RPM have the changes."""
    names = {
        f"overlay-{VERSION}{ending}"
        for ending in (".tar.gz", "-py3-none-any.whl", "-1.noarch.rpm", ".eb")
    }
    assert set(os.listdir(made)) == {*names, "SHA256SUMS"}
    said = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=made).splitlines()
    assert {line.partition(": OK")[0] for line in said} == names
    assert git("tag", "--points-at", "HEAD") == f"v{VERSION}\n"
    message = git("tag", "--list", "--format=%(contents)", f"v{VERSION}").strip()
    assert message == f"overlay {VERSION}\n\n- All is better, 100 % of it."
    assert git("status", "--porcelain") == ""
    changes = run("rpm", "-qp", "--changelog", made / f"overlay-{VERSION}-1.noarch.rpm")
    assert re.fullmatch(rf"\* .* - {VERSION}-1\n- All is better, 100 % of it\.\n+", changes), (
        changes
    )


def test_source_archive(made, tmp_path):
    """The source archive is the whole tree: it installs as a checkout does."""
    run("tar", "-C", tmp_path, "-xf", made / f"overlay-{VERSION}.tar.gz")
    tree = tmp_path / f"overlay-{VERSION}"
    run("make", "-s", "-C", tree, "install", f"PREFIX={tmp_path}/prefix")
    assert os.access(tmp_path / "prefix" / VERSION / "bin/run-overlay", os.X_OK)
    for path in (tree / "packaging").iterdir():
        text = path.read_text()
        assert VERSION in text and "@VERSION@" not in text and "@CHANGES@" not in text


def test_same_again(git, made, tmp_path):
    """Who builds the same commit again, under another umask, gets the same bytes."""
    git("tag", "-d", f"v{VERSION}")
    done = git.release(tmp_path / "again", umask=0o077)
    assert done.returncode == 0, done
    assert (tmp_path / "again/SHA256SUMS").read_text() == (made / "SHA256SUMS").read_text()


def test_main_job(installed, user, scratch):
    """Overlays are made, filled and used on the engine; the default image is the site's."""
    (scratch / "file.txt").write_text("cat /data/two; echo one > /data/one; ls /data\n")

    def typed(line):
        words = ["bash", "--norc", "-c", line]
        result = execute(words, environ=user, cwd=scratch)
        assert (result.status, result.stderr) == (0, ""), result
        return result.stdout

    path = typed("type -P run-overlay").strip()
    assert os.path.realpath(path) == os.path.realpath(installed.bin / "run-overlay")
    typed("create-overlay -s 30 -n 1 -o overlay1 && create-overlay -q -s 30 -n 1 -o overlay2")
    typed("run-overlay -o overlay2.ext3 -- sh -c 'mkdir /data && echo two > /data/two'")
    assert typed("run-overlay -o overlay1.ext3 -o overlay2.ext3 -f file.txt") == "two\none\ntwo\n"
    origin = typed("overlay-admin config --origin")
    assert f"rocky-9 = {BASE}" in origin
    assert f"# {installed.settings}/overlay.d/site.ini, line 3" in origin


def test_pages(installed, user):
    """`man` finds every page, and shows it."""
    pages = [*sorted(os.listdir(installed.bin)), "overlay.ini", "overlay"]
    pages = [page for page in pages if "overlay" in page]
    found = run("man", "-w", *pages, env=user).splitlines()
    assert len(found) == len(pages) == 14
    assert all(os.path.realpath(path).startswith(f"{installed.tree}/") for path in found), found
    assert "OVERLAY" in run("man", "7", "overlay", env={**user, "MANPAGER": "cat"})


def test_completion(installed, user, scratch):
    """bash-completion finds ours by itself, and that offers the names of the site."""
    shell = pexpect.spawn(
        "bash",
        ["--norc", "-i"],
        env={**user, "TERM": "dumb", "PS1": "ready> "},
        cwd=str(scratch),
        encoding="utf-8",
        timeout=120,
        dimensions=(50, 200),
    )
    shell.delaybeforesend = None
    shell.sendline(
        "bind 'set enable-bracketed-paste off'; . /usr/share/bash-completion/bash_completion"
    )
    shell.sendline('bind -x \'"\\C-x": printf "<%s>\\n" "$READLINE_LINE"\'; echo now\'\'on')
    shell.expect_exact("nowon")
    for typed, line in (
        ("run-overlay -c roc", "run-overlay -c rocky-9 "),
        ("create-overlay --spa", "create-overlay --sparse "),
    ):
        shell.send(f"{typed}\t\x18")
        shell.expect(r"<([^<>\n]*)>\r?\n")
        assert shell.match[1] == line
        shell.send("\x15")
    shell.close(force=True)


def test_doctor(kind, installed):
    """The doctor knows of each what it must not ask for."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from types import SimpleNamespace as Node; from overlay.doctor import installation\n"
        "for check in installation.modulefile(Node(environ={}, root=sys.argv[2])):"
        " print(check.state, check.found)"
    )
    [package] = {path.parent.parent for path in installed.tree.rglob("overlay/api.py")}
    root = os.path.dirname(os.path.dirname(os.path.realpath(installed.bin / "run-overlay")))
    assert (
        run(sys.executable, "-c", script, package, root)
        == {
            "rpm": f"ok module use {installed.modules}; no module system to try it in\n",
            "wheel": "ok none; pip has installed this, and makes none\n",
            "easybuild": "ok the one that EasyBuild has written\n",
        }[kind]
    )


@pytest.mark.parametrize("system", ["lmod", "modules"])
@pytest.mark.parametrize("kind", ["rpm"])
def test_modulefiles(installed, system, home):
    """The package's modulefiles find the tree and the site's settings from where they lie."""
    changed = installed.settings / "overlay.d/then.ini"
    changed.write_text("[engine]\nmodule =\ncommands = no-such-engine\n")
    shell = Shell(system, home, installed.modules)
    done = shell.run(f"module load overlay/{VERSION}; type -P run-overlay; complete -p run-overlay")
    changed.unlink()
    path, completion = done.stdout.splitlines()
    assert path == f"{installed.tree}/lib/overlay/{VERSION}/bin/run-overlay"
    assert completion == "complete -F _overlay run-overlay"
    assert "no container engine is on PATH (no-such-engine)" in done.stderr


def test_no_place_of_the_build(installed, made, place):
    """Nothing that is installed names a place in which it was built, or the one that built it."""
    home = os.path.expanduser("~")
    foreign = re.compile(
        rf"{place}/(my tree|made|following)|/BUILD(ROOT)?/|/tmp/tmp\w{{8}}/|{home}/".encode()
    )
    for path in installed.tree.rglob("*"):
        # What the tools write themselves is theirs.
        others = {"easybuild", "pip", "direct_url.json"}.intersection(path.relative_to(place).parts)
        if path.is_file() and not others:
            assert not foreign.search(path.read_bytes()), path


def settings_of(installed, home):
    """Return (version, image, size) as the commands of an installation have them."""
    environ = installed.environment(home)
    version = run("run-overlay", "--version", env=environ).split()[1]
    text = run("overlay-admin", "config", env=environ)
    found = dict(re.findall(r"^(images.default|create.size) = ?(.*)$", text, re.M))
    return version, found["images.default"], found["create.size"]


def test_rpm_upgrade(made, following, tmp_path, home):
    """An upgrade, a downgrade and an erasure leave what the site has set, and nothing else."""
    root = tmp_path / "my root"
    root.mkdir()
    old, new = made / f"overlay-{VERSION}-1.noarch.rpm", following / f"overlay-{NEXT}-1.noarch.rpm"
    rpm(root, "-i", old)
    first = root_of_rpm(root)
    first.modules = None
    kept = root / "etc/overlay"
    file = kept / "overlay.ini"
    text = file.read_text().replace("\nsize =\n", "\nsize = 77M\n", 1)
    file.write_text(text)
    assert settings_of(first, home) == (VERSION, "rocky-9", "77M")
    rpm(root, "-U", new)
    assert settings_of(first, home) == (NEXT, "rocky-9", "77M")
    assert file.read_text() == text and (kept / "overlay.ini.rpmnew").read_text().endswith(
        "# new\n"
    )
    assert sorted(os.listdir(root / "usr/lib/overlay")) == [NEXT, "bin", "etc"]
    assert os.readlink(root / "usr/lib/overlay/bin/run-overlay") == f"../{NEXT}/bin/run-overlay"
    rpm(root, "-U", "--oldpackage", old)
    assert settings_of(first, home) == (VERSION, "rocky-9", "77M")
    rpm(root, "-e", "overlay")
    left = [path for path in root.rglob("*overlay*") if not path.is_dir()]
    assert {path.name for path in left} == {"overlay.ini.rpmsave", "overlay.ini.rpmnew"}
    assert (kept / "overlay.ini.rpmsave").read_text() == text
    assert (kept / "overlay.d/site.ini").exists() and not (root / "usr/lib/overlay").exists()


def waits(process):
    """Return whether a process waits for signals only, and for as long as it takes: proc(5)."""
    with open(f"/proc/{process.pid}/syscall") as file:
        words = file.read().split()
    # Of rt_sigtimedwait(2), the third argument is the time, and the fourth the size of a set.
    return words[3:5] == ["0x0", "0x8"]


def test_rpm_upgrade_in_use(made, following, tmp_path, home):
    """What runs while its version is replaced ends as it would have ended."""
    root = tmp_path / "root"
    root.mkdir()
    rpm(root, "-i", made / f"overlay-{VERSION}-1.noarch.rpm")
    installed = root_of_rpm(root)
    installed.modules = None
    work = tmp_path / "my work"
    (work / "scratch").mkdir(parents=True)
    environ = {**installed.environment(home), "OVERLAY_SCRATCH_LOCAL": str(work / "scratch")}
    for name in ("a", "b", "c", "d"):
        run("create-overlay", "-q", "-s", "20", "-n", "1", "-o", name, env=environ, cwd=work)
    lines = {
        "one": ("run-overlay", "-o", "a.ext3", "-f", "one.txt"),
        "two": ("run-overlay", "-o", "b.ext3", "-o", "c.ext3", "-f", "two.txt"),
        "new": ("create-overlay", "-o", "new", "-f", "new.txt"),
        "upd": ("update-overlay", "d.ext3", "-f", "upd.txt"),
    }
    sessions = {}
    for name, words in lines.items():
        os.mkfifo(work / f"{name}.gate")
        gate = f"touch '{work}/{name}.ready'; cat '{work}/{name}.gate'; echo {name} > /opt/{name}"
        end = "no-such-command" if name == "one" else "true"
        (work / f"{name}.txt").write_text(f"{gate}\n{end}\n")
        sessions[name] = subprocess.Popen(
            words,
            executable=installed.bin / words[0],
            env=environ,
            cwd=work,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for name, session in sessions.items():
        wait_until((work / f"{name}.ready").exists, 300)
        wait_until(lambda session=session: waits(session), 300)
    rpm(root, "-U", following / f"overlay-{NEXT}-1.noarch.rpm")
    assert not (root / "usr/lib/overlay" / VERSION).exists()
    said = {}
    for name, session in sessions.items():
        (work / f"{name}.gate").write_text("")
        said[name] = session.communicate(timeout=300)[0]
    assert {name: session.returncode for name, session in sessions.items()} == {
        "one": 127,
        "two": 0,
        "new": 0,
        "upd": 0,
    }, said
    for name, path in (("one", "a"), ("two", "b"), ("new", "new"), ("upd", "d")):
        words = ("run-overlay", "-o", f"{path}.ext3:ro", "--", "cat", f"/opt/{name}")
        done = run(installed.bin / words[0], *words[1:], env=environ, cwd=work)
        assert done == f"{name}\n"


def test_rpm_upgrade_of_the_settings(made, following, tmp_path):
    """A file of settings that nobody has changed becomes that of the new version."""
    rpm(tmp_path, "-i", made / f"overlay-{VERSION}-1.noarch.rpm")
    rpm(tmp_path, "-U", following / f"overlay-{NEXT}-1.noarch.rpm")
    assert sorted(os.listdir(tmp_path / "etc/overlay")) == ["overlay.d", "overlay.ini"]
    assert (tmp_path / "etc/overlay/overlay.ini").read_text().endswith("# new\n")


def test_wheel_upgrade(made, following, tmp_path, home):
    """pip takes nothing of what lies in etc: neither at an upgrade, nor at a removal."""
    old = made / f"overlay-{VERSION}-py3-none-any.whl"
    new = following / f"overlay-{NEXT}-py3-none-any.whl"
    top = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", top)
    pip = (sys.executable, "-m", "pip", "--python", top / "bin/python3", "-q")
    first = Installed(top / "bin", top / "etc", top, {"PATH": f"{top}/bin:{PATH}"})
    (first.settings / "overlay.ini").write_text("[create]\nsize = 77M\n")
    for wheel, version in ((old, VERSION), (new, NEXT), (old, VERSION)):
        run(*pip, "install", "--no-index", wheel)
        assert settings_of(first, home) == (version, "rocky-9", "77M")
    run(*pip, "uninstall", "-y", "overlay")
    left = sorted(str(path.relative_to(top)) for path in top.rglob("*") if "overlay" in path.name)
    assert left == ["etc/overlay.d", "etc/overlay.ini"]


@pytest.mark.parametrize("how", ["--prefix", "--target"])
def test_wheel_elsewhere(made, tmp_path, home, how):
    """Without an environment of Python the commands find their modules, and what others have not."""
    top = tmp_path / "my place"
    wheel = made / f"overlay-{VERSION}-py3-none-any.whl"
    run(sys.executable, "-m", "pip", "-q", "install", "--no-index", how, top, wheel)
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("argparse", "overlay"):
        (evil / f"{name}.py").write_text("raise SystemExit('taken from PYTHONPATH')\n")
    variables = {"PATH": f"{top}/bin:{PATH}", "PYTHONPATH": str(evil)}
    installed = Installed(top / "bin", top / "etc", top, variables)
    assert settings_of(installed, home)[:2] == (VERSION, "rocky-9")
    [package] = top.rglob("overlay/api.py")
    script = (
        "import json, os, sys; sys.path.insert(0, sys.argv[1]); from overlay import api; print("
        "api.load_config({'PATH': os.environ['PATH']})['images.default'])"
    )
    assert run(sys.executable, "-c", script, package.parent.parent) == "rocky-9\n"


def test_easybuild_upgrade(made, following, installations, home):
    """The next version beside it has the same settings; the other one stays."""
    first = installations("easybuild")
    tree = first.tree.parent / NEXT
    run("make", "-s", "-C", following / f"overlay-{NEXT}", "install-alone", f"DIRECTORY={tree}")
    second = Installed(tree / "bin", first.settings, tree, {"PATH": f"{tree}/bin:{PATH}"})
    assert settings_of(second, home)[:2] == (NEXT, "rocky-9")
    assert settings_of(first, home)[:2] == (VERSION, "rocky-9")
    shutil.rmtree(tree)
    assert settings_of(first, home)[:2] == (VERSION, "rocky-9")
