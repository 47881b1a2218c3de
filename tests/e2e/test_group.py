"""Sessions under another group than that of the overlay: newgrp(1), sg(1), setgid directories."""

import grp
import os
import shlex
import subprocess

import pytest
from support import BASE, ROOT, is_clean, shell, tool

PROJECT = "overlay-project"


@pytest.fixture(scope="module")
def project():
    """Return the number of a group that is the tester's, but not the one of the login."""
    number = grp.getgrnam(PROJECT).gr_gid
    assert number in os.getgroups() and number != os.getegid(), "see tests/prepare-colleague"
    return number


@pytest.fixture
def in_project(environ, scratch):
    """Return a function that runs one of our commands under the group, and returns its Result."""

    def in_project(name, *words):
        line = shlex.join([str(ROOT / "bin" / name), *map(str, words)])
        return shell(shlex.join(["sg", PROJECT, "-c", line]), environ, scratch)

    return in_project


@pytest.fixture
def environ(environ, tmp_path):
    """Return the usual environment, with a scratch of its own."""
    (tmp_path / "tmp").mkdir()
    return {**environ, "TMPDIR": str(tmp_path / "tmp")}


def groups(image, directory="/upper"):
    """Return the groups of the files in a directory of an image, by name."""
    done = tool("debugfs", "-R", f"ls -l {directory}", image)
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert rows, done
    return {row[-1]: int(row[4]) for row in rows if row[-1] != ".."}


def test_made_before(run, ok, overlay, in_project, project, scratch):
    """An overlay that was made before newgrp is written; each file has the group of its place."""
    image = overlay()
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /data; echo 1 >/data/f")
    line = "id -g; echo 2 >>/data/f; echo 3 >/data/g; mkdir /new; cat /data/*; touch here"
    result = in_project("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    assert result == (0, f"{os.getegid()}\n1\n2\n3\n", "")
    assert (scratch / "here").stat().st_gid == project
    assert (
        set(groups(image).values()) == set(groups(image, "/upper/data").values()) == {os.getegid()}
    )
    assert is_clean(image)
    said = in_project("run-overlay", "-v", "-o", "a.ext3", "--", "true").stderr
    assert f"inside, your group {PROJECT} is called " in said
    printed = in_project("run-overlay", "--dry-run", "-o", "a.ext3", "--", "id", "-g").stdout
    assert shell(f"sg {PROJECT} -c {shlex.quote(printed)}", {"PATH": os.environ["PATH"]}, scratch)[
        :2
    ] == (0, f"{os.getegid()}\n")


def test_made_after(run, in_project, project, scratch):
    """One that is made after it is written after it, and without it."""
    assert in_project("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a").status == 0
    for number, where in enumerate([in_project, run, run]):
        result = where("run-overlay", "-o", "a.ext3", "--", "touch", f"/{number}")
        assert result == (0, "", "")
    assert set(groups(scratch / "a.ext3").values()) == {project}
    assert run("run-overlay", "--fakeroot", "-o", "a.ext3", "--", "id", "-u").stdout == "0\n"


def test_reading(ok, overlay, in_project):
    """Read-only it is seen as ever, deletion markers and all."""
    overlay()
    line = "mkdir /data; echo 1 >/data/f; rm -rf /opt; rm /data/f; echo 2 >/data/g"
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    line = "ls -A /data; cat /data/g; ls -d /opt"
    result = in_project("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line)
    assert result.stdout == ok("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line + "; true")


def test_fakeroot(overlay, in_project):
    """--fakeroot, which the system refuses there, is refused with what to type."""
    overlay()
    result = in_project("run-overlay", "--fakeroot", "-o", "a.ext3", "--", "true")
    own = grp.getgrgid(os.getegid()).gr_name
    assert (result.status, result.stdout) == (69, "")
    assert result.stderr == (
        f"run-overlay: error: --fakeroot cannot be had while your group is {PROJECT}: newgidmap"
        f" wants that of your login, {own}\n"
        f"run-overlay: hint: leave the shell of newgrp: exit; or: sg {own} -c 'run-overlay …'\n"
    )


def test_directory(run, ok, in_project, scratch):
    """A directory is written under its group; under another, it is said what to type."""
    (scratch / "d").mkdir()
    assert in_project("run-overlay", "-q", "-o", "d", "--", "touch", "/a").status == 0
    own = grp.getgrgid(os.getegid()).gr_name
    why = f"what is inside belongs to the group {PROJECT}, and your group is {own}"
    hint = (
        f"to write it: sg {PROJECT} -c 'run-overlay …'; or make it all your group's:"
        f" chgrp -R {own} d/upper d/work"
    )
    result = run("run-overlay", "-o", "d", "--", "ls", "/a")
    assert result == (0, "/a\n", f"run-overlay: d is mounted read-only: {why}; {hint}\n")
    result = run("run-overlay", "-o", "d:rw", "--", "touch", "/b")
    assert result == (
        77,
        "",
        f"run-overlay: error: d cannot be mounted writable: {why}\nrun-overlay: hint: {hint}\n",
    )
    assert in_project("run-overlay", "-o", "d", "--", "touch", "/b").status == 0
    subprocess.run(["chgrp", "-R", own, "d/upper", "d/work"], cwd=scratch, check=True)
    assert ok("run-overlay", "-o", "d:rw", "--", "sh", "-c", "touch /c; ls /?") == "/a\n/b\n/c\n"


def test_directory_that_hands_on_its_group(ok, environ, project, scratch):
    """In a setgid directory, directories and images are made so that they can be written."""
    os.chown(scratch, -1, project)
    scratch.chmod(0o2755)
    (scratch / "d").mkdir()
    (scratch / "tmp").mkdir()
    assert (scratch / "d").stat().st_gid == project
    for _time in range(2):
        line = "mkdir -p /data; echo 1 >>/data/f; cat /data/f"
        found = ok("run-overlay", "-q", "-o", "d", "--", "sh", "-c", line)
    assert found == "1\n1\n"
    variables = {"TMPDIR": str(scratch / "tmp")}
    (scratch / "commands").write_text("mkdir /data; touch /data/f\n")
    for name, words in {"a": (), "b": ("--from", "d/upper"), "c": ("-f", "commands")}.items():
        words = ["create-overlay", "-q", "-s", "16", "-n", "1", "-o", name, *words]
        ok(*words, variables=variables)
        assert set(groups(scratch / f"{name}.ext3").values()) == {os.getegid()}
        ok("run-overlay", "-o", f"{name}.ext3", "--", "touch", "/opt/x", variables=variables)


def test_making_and_changing(run, ok, in_project, project, scratch):
    """Sources, commands, another size and packing work there, whatever group the files have."""
    for name in ("one", "two"):
        (scratch / "from").mkdir(exist_ok=True)
        (scratch / "from" / name).write_text(name)
    os.chown(scratch / "from" / "one", -1, project)
    (scratch / "commands").write_text("touch /usr/made /opt/made; id -g\n")
    made = ["-q", "-s", "16", "-n", "1"]
    # Once without it, so that what is kept for later is there under the other group.
    ok("create-overlay", *made, "-f", "commands", "-o", "own")
    for name, words in {"a": ("--from", "from:/data"), "b": ("-f", "commands")}.items():
        result = in_project("create-overlay", *made, *words, "-o", name)
        assert result.status == 0 and "cannot" not in result.stderr, result
        assert set(groups(scratch / f"{name}.ext3").values()) == {project}
    assert "made" in groups(scratch / "b.ext3", "/upper/usr")
    assert set(groups(scratch / "a.ext3", "/upper/data").values()) == {project}
    for words in (["-n", "2"], ["-s", "+10"], ["-s", "20"]):
        for name in ("own", "a"):
            before = groups(scratch / f"{name}.ext3")
            assert in_project("resize-overlay", "-q", f"{name}.ext3", *words).status == 0
            assert groups(scratch / f"{name}.ext3") == before
    for name in ("own", "a"):
        assert in_project("pack-overlay", "-q", f"{name}.ext3", "-o", f"{name}.sqsh").status == 0
    line = ["--", "sh", "-c", "cat /data/*; ls /opt/made"]
    for where in (run, in_project):
        result = where("run-overlay", "-q", "-o", "a.sqsh", "-o", "own.sqsh", *line)
        assert result == (0, "onetwo/opt/made\n", "")
    assert in_project("check-overlay", "-q", "--own", "own.ext3").status == 0
    assert set(groups(scratch / "own.ext3").values()) == {project}


def test_plain_engine(engine, overlay, environ, scratch):
    """The plain engine fails so: when it no longer does, all of this may go."""
    overlay()
    words = ["apptainer", "exec", "--overlay", "a.ext3", BASE, "true"]
    result = shell(shlex.join(["sg", PROJECT, "-c", shlex.join(words)]), environ, scratch)
    assert result.status == 255 and "upper is not writable" in result.stderr
