"""`make install`, `make uninstall` and `pip install`: what an admin gets, and where."""

import filecmp
import os
import shutil
import subprocess

import pytest
from support import ROOT, version

VERSION = version()
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"}


def make(*words):
    """Run make and return what it says."""
    done = subprocess.run(
        ["make", "-s", "-C", ROOT, *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def files(top):
    """Return all files below a directory, by their paths in it."""
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir())


def command(place, name, *arguments, **variables):
    """Run an installed command and return its CompletedProcess."""
    return subprocess.run(
        [place / name, *arguments],
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def prefix(tmp_path):
    """Return a prefix with one installation."""
    make("install", f"PREFIX={tmp_path}/prefix")
    return tmp_path / "prefix"


def test_version_in_one_place(prefix):
    """The modulefiles get the version at installation."""
    modules = ["clone", "clone.lua"]
    assert sorted(os.listdir(ROOT / "modulefiles/overlay")) == modules
    installed = sorted(os.listdir(prefix / "modulefiles/overlay"))
    assert installed == [VERSION, f"{VERSION}.lua"]
    for name, copy in zip(modules, installed):
        source = ROOT / "modulefiles/overlay" / name
        assert source.read_text() == (prefix / "modulefiles/overlay" / copy).read_text()
        assert VERSION not in source.read_text().replace("#%Module1.0", "")


def test_reproducible(prefix, tmp_path):
    """Two installations have the same bytes, whatever the place, DESTDIR and the umask."""
    subprocess.run(
        [
            "sh",
            "-c",
            'umask 077; make -s -C "$0" install PREFIX=/x DESTDIR="$1"',
            ROOT,
            tmp_path / "root",
        ],
        check=True,
        capture_output=True,
    )
    other = tmp_path / "root/x"
    names = files(prefix)
    assert names == files(other)
    assert filecmp.cmpfiles(prefix, other, names, shallow=False)[0] == names
    assert all(os.stat(prefix / name).st_mode == os.stat(other / name).st_mode for name in names)
    assert f"{VERSION}/LICENSE" in names
    [compiled] = prefix.glob(f"{VERSION}/lib/overlay/__pycache__/cli.*.pyc")
    # By these flags Python does not even look at the source.
    assert compiled.read_bytes()[4:8] == b"\1\0\0\0"


def test_runs_from_a_read_only_place(prefix, tmp_path):
    """The commands run without a right to write, and nothing is written."""
    tree = prefix / VERSION
    before = files(tree)
    subprocess.run(["chmod", "-R", "a-w", tree], check=True)
    try:
        done = command(
            tree / "bin",
            "create-overlay",
            "-s",
            "20",
            "-n",
            "1",
            "-o",
            tmp_path / "new",
        )
    finally:
        subprocess.run(["chmod", "-R", "u+w", tree], check=True)
    assert done.returncode == 0 and (tmp_path / "new.ext3").stat().st_size == 20 << 20, done
    assert files(tree) == before


def test_site_configuration(prefix):
    """The site's own file is used and outlives another installation and the removal."""
    kept = prefix / "etc/overlay.ini"
    assert kept.read_bytes() == (ROOT / "etc/overlay.ini").read_bytes()
    kept.write_text("[no such section]\n")
    make("install", f"PREFIX={prefix}")
    done = command(prefix / VERSION / "bin", "create-overlay", "-s", "20", "-n", "1")
    assert done.returncode == 78 and str(kept) in done.stderr
    (prefix / "0.9").mkdir()
    make("uninstall", f"PREFIX={prefix}")
    assert files(prefix) == ["etc/overlay.ini"] and (prefix / "0.9").is_dir()


def test_a_name_for_all_versions(prefix):
    """What exposed programs start leads to the version installed last, and to another in the end."""
    stable = prefix / "bin/run-overlay"
    said = command(prefix / "bin", "run-overlay", "--version").stdout
    assert said == f"run-overlay {VERSION}\n"
    for older in ("0.9", "0.10"):
        shutil.copytree(prefix / VERSION, prefix / older, symlinks=True)
    assert os.readlink(stable) == f"../{VERSION}/bin/run-overlay"
    make("uninstall", f"PREFIX={prefix}")
    assert os.readlink(stable) == "../0.10/bin/run-overlay"
    assert command(prefix / "bin", "run-overlay", "--version").returncode == 0
    make("install", f"PREFIX={prefix}")
    assert os.readlink(stable) == f"../{VERSION}/bin/run-overlay"
    for older in ("0.9", "0.10"):
        shutil.rmtree(prefix / older)
    make("uninstall", f"PREFIX={prefix}")
    assert not (prefix / "bin").exists()


def test_python(tmp_path):
    """PYTHON= is what the commands start, and what compiles."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    chosen = tmp_path / "python-of-the-site"
    chosen.symlink_to(python)
    make("install", f"PREFIX={tmp_path}/prefix", f"PYTHON={chosen}")
    with open(tmp_path / "prefix" / VERSION / "bin/run-overlay") as file:
        assert file.readline() == f"#!{chosen} -IS\n"


def test_alone(tmp_path):
    """`make install-alone`: a version and nothing beside it; a directory of others stays as it is."""
    place = tmp_path / "my apps" / "7"
    place.mkdir(parents=True)
    for _again in range(2):
        make("install-alone", f"DIRECTORY={place}")
        assert os.listdir(place.parent) == ["7"]
        assert command(place / "bin", "run-overlay", "--version").returncode == 0
    settings = place.parent / "etc/overlay.d/site.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text("[no such section]\n")
    done = command(place / "bin", "create-overlay", "-s", "20", "-n", "1")
    assert done.returncode == 78 and str(settings) in done.stderr
    (place / ".installed").unlink()
    before = files(tmp_path)
    for there, why in ((place, "is not empty"), (settings, "is not a directory"), ("7", "usage: ")):
        done = subprocess.run(
            ["make", "-s", "-C", ROOT, "install-alone", f"DIRECTORY={there}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode and why in done.stderr
    assert files(tmp_path) == before


def test_installing_while_users_run_it(prefix):
    """During an installation over itself, the commands of users work all the time."""
    again = subprocess.Popen(
        ["make", "-s", "-C", ROOT, "install", f"PREFIX={prefix}"],
        stdout=subprocess.DEVNULL,
    )
    calls = 0
    while again.poll() is None or calls < 3:
        done = command(prefix / VERSION / "bin", "run-overlay", "--version")
        assert (done.returncode, done.stderr) == (0, "")
        calls += 1
    assert again.returncode == 0
    assert not [name for name in os.listdir(prefix) if name.startswith(".")]


def test_pip(tmp_path):
    """`pip install .` from a tree with rests of a build: commands, configuration, no rests."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".tox", "build", "tests"))
    for rest in ("build/lib/overlay/rest.py", "build/scripts-3/rest"):
        path = tree / rest
        path.parent.mkdir(parents=True)
        path.write_text("rest\n")
    place = tmp_path / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", place], check=True)
    subprocess.run(
        [place / "bin/pip", "install", "--no-index", "--no-build-isolation", tree],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert set(os.listdir(ROOT / "bin")) <= set(os.listdir(place / "bin"))
    done = command(place / "bin", "create-overlay", "-s", "20", "-n", "1", "-o", tmp_path / "new")
    assert done.returncode == 0 and (tmp_path / "new.ext3").exists(), done
    done = command(place / "bin", "run-overlay", "-o", tmp_path / "new.ext3", "--", "true")
    # The default image of etc/overlay.ini is not there, and the message names the file.
    [configuration] = place.glob("lib/python*/site-packages/overlay/overlay.ini")
    assert done.returncode == 66 and str(configuration) in done.stderr
    assert not list(place.rglob("rest*"))
    for name in files(ROOT / "lib"):
        if not name.endswith(".pyc"):
            [copy] = place.glob(f"lib/python*/site-packages/{name}")
            assert copy.stat().st_mode & 0o111 == (ROOT / "lib" / name).stat().st_mode & 0o111


def test_planted_names(tmp_path):
    """Names that somebody has planted below the prefix do not lead the installation elsewhere."""
    top = tmp_path / "prefix"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("file", "settings", "directory"):
        (elsewhere / name).write_text("mine\n")
    (top / "modulefiles" / "overlay").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / f".{VERSION}.new").symlink_to(elsewhere)
    (top / "modulefiles" / "overlay" / f"{VERSION}.lua.new").symlink_to(elsewhere / "file")
    (top / "etc" / "overlay.ini.new").symlink_to(elsewhere / "settings")
    make("install", f"PREFIX={top}")
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == dict.fromkeys(
        ("file", "settings", "directory"), "mine\n"
    )
    assert not [name for name in os.listdir(top) if ".new." in name]
    assert command(top / VERSION / "bin", "create-overlay", "--version").returncode == 0
    make("uninstall", f"PREFIX={top}")
    assert sorted(os.listdir(top)) == [f".{VERSION}.new", "etc", "modulefiles"]
