"""Exposed programs as a site has them: by modules, by several users, after an upgrade."""

import os
import shutil
import subprocess

import pytest
from module_systems import Shell, start
from support import BASE, PATH, ROOT, digests, execute, version, wait_until

TOGETHER = True  # one environment is made for all of them

INSTALL = """set -e
python3 -m venv /opt/env
printf '#!/opt/env/bin/python\\nimport sys; print("tool", sys.argv[1:])\\n' >/opt/env/bin/tool
chmod 755 /opt/env/bin/tool
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with an installation, and an overlay whose programs are exposed in d."""
    place = tmp_path_factory.mktemp("site") / "a site"
    place.mkdir()
    subprocess.run(
        ["make", "-s", "-C", ROOT, "install", f"PREFIX={place}/prefix"],
        check=True,
        capture_output=True,
    )
    (place / "prefix/etc/overlay.ini").write_text(
        f"[images]\ndefault = base\nbase = {BASE}\n[engine]\nmodule = none\n"
    )
    (place / "install.txt").write_text(INSTALL)
    (place / "node").mkdir(mode=0o700)
    command(place, "create-overlay", "-q", "-f", "install.txt", "-o", "env.ext3")
    command(place, "expose-overlay", "-q", "-o", "env.ext3", "--name", "analysis/2.1", "d")
    return place


def environment(place):
    """Return the environment of a user of that site."""
    return {
        "PATH": PATH,
        "HOME": str(place),
        "LC_ALL": "C.UTF-8",
        "OVERLAY_SCRATCH_LOCAL": f"'{place}/node'",
        "OVERLAY_LAUNCH_LINGER": "3",
    }


def command(place, name, *words):
    """Run an installed command, which must end well, and return its Result."""
    path = place / "prefix" / version() / "bin" / name
    done = execute([path, *map(str, words)], environ=environment(place), cwd=place)
    assert done.status == 0, done
    return done


@pytest.fixture(params=("lmod", "modules"))
def shell(request, place, tmp_path):
    """Return a Shell of each module system that knows the exposed module."""
    variables = environment(place)
    del variables["HOME"]
    return Shell(request.param, tmp_path, place / "d/modulefiles", variables=variables)


# What is typed, and what is printed then.
TYPED = {
    "python": ("python -c 'import sys; print(sys.prefix)'", "/opt/env\n"),
    "pip": ("pip list 2>/dev/null | grep -c '^pip '", "1\n"),
    "a space": ("tool 'a  b'", "tool ['a  b']\n"),
    "a newline": ('tool "$(printf "x\\ny")"', "tool ['x\\ny']\n"),
    "quotes": ("""tool "it's" '"' '$HOME'""", """tool ["it's", '"', '$HOME']\n"""),
    "a glob": ("touch p.q; tool *.q '*.q' ''", "tool ['p.q', '*.q', '']\n"),
    "a login shell": (
        'env -i HOME="$HOME" OVERLAY_SCRATCH_LOCAL="$OVERLAY_SCRATCH_LOCAL" bash -l "$HOME/login"',
        "tool ['x']\n",
    ),
    "a script": ('printf "#!/usr/bin/env python\nprint(6 * 7)\n" >s; chmod 755 s; ./s', "42\n"),
    "after module purge": ('module purge; command -v tool; "$BIN"/tool x', "tool ['x']\n"),
}


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_loaded(shell, place, tmp_path, name):
    """With the module its programs are typed by their names, whatever the arguments are."""
    lines = "\n".join(f"echo = {what}\n{line}" for what, (line, _said) in TYPED.items())
    uses = f"module use '{place}/d/modulefiles'; module load analysis"
    (tmp_path / "login").write_text(f"{start(shell.system, 'bash')}\n{uses}\ntool x\n")
    done = shell.run(f"module load analysis\n{lines}", shell=name, BIN=f"{place}/d/bin")
    said = dict(part.split("\n", 1) for part in done.stdout.split("= ")[1:])
    assert said == {what: said for what, (_line, said) in TYPED.items()}, done


def test_page(shell, place, tmp_path):
    """The lines of docs/programs.md."""
    text = (ROOT / "docs/programs.md").read_text().partition("## As a module")[2]
    (tmp_path / "env.ext3").symlink_to(place / "env.ext3")
    path = f"{place}/prefix/{version()}/bin:{PATH}"
    done = shell.run(f"{text.split('```')[1]}command -v python", PATH=path)
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/env/bin/python", done
    assert done.stdout.splitlines()[-2].startswith("Python 3."), done


def test_unloaded(shell, place):
    """What load changes, unload and purge take back: the environment is as it was."""
    before, loaded, after, _again, purged = shell.state(
        "module load analysis", "module unload analysis", "module load analysis", "module purge"
    )
    changed = {
        name for name, value in loaded["names"].items() if before["names"].get(name) != value
    }
    assert changed == {"PATH"}
    assert loaded["names"]["PATH"] == f"{place}/d/bin:" + before["names"]["PATH"]
    assert before == after == purged


def test_told(shell, place):
    """avail, whatis and help tell what it is and how it was made, and load nothing."""
    done = shell.run(
        "for word in avail whatis help; do echo = $word; module $word analysis/2.1 2>&1; done;"
        " echo = path; echo $PATH"
    )
    parts = dict(part.split("\n", 1) for part in done.stdout.split("= ")[1:])
    parts = {name: " ".join(text.split()) for name, text in parts.items()}
    assert "analysis/2.1" in parts["avail"] and parts["path"] == PATH
    assert (
        "Description: pip, pip3, pip3.11, python, python3, python3.11, tool: programs of env.ext3"
        in (parts["whatis"])
    )
    made = "create: create-overlay -q -f install.txt -o env.ext3"
    assert made in parts["whatis"] and made in parts["help"]
    assert f"7 commands, which run in {place}/env.ext3" in parts["help"]


def test_two_versions(shell, place):
    """Of two versions of a module one is loaded at a time: the last, or the user is told."""
    command(place, "expose-overlay", "-q", "-o", "env.ext3", "--name", "analysis/3.0", "e")
    done = shell.run(
        f"module use '{place}/e/modulefiles'; module load analysis/2.1; module load analysis/3.0;"
        " echo $PATH"
    )
    first = "e" if shell.system == "lmod" else "d"
    assert done.stdout.strip() == f"{place}/{first}/bin:{PATH}", done
    assert shell.system == "lmod" or "conflict" in done.stderr.lower()


HOSTILE = """x [exec touch pwned] $(touch pwned) `touch pwned` "]] os.execute("touch pwned") \\ {"""


def test_words_of_others(shell, place):
    """What an overlay says of itself is shown by a module, and run by nobody."""
    command(place, "update-overlay", "-q", "env.ext3", "--", "echo", HOSTILE, "\x1b[31m\n")
    command(place, "expose-overlay", "-q", "-o", "env.ext3", "--name", "shown", "f")
    done = shell.run(
        f"module use '{place}/f/modulefiles'; module whatis shown; module help shown;"
        " module load shown; command -v tool; ls"
    )
    said = done.stdout + done.stderr
    assert HOSTILE[:9] in said and "\\x1b[31m" in said and "\x1b" not in said, done
    assert done.stdout.splitlines()[-2:] == [f"{place}/f/bin/tool", "script.bash"], done


def test_after_an_upgrade(place, tmp_path):
    """What was exposed goes on when a newer version of ours is installed, and the older removed."""
    prefix = tmp_path / "prefix"
    shutil.copytree(place / "prefix", prefix, symlinks=True)
    words = [prefix / version() / "bin/expose-overlay", "-q", "-o", place / "env.ext3", "g"]
    assert execute(words, environ=environment(place), cwd=tmp_path).status == 0
    newer = tmp_path / "newer"
    for name in ("bin", "lib", "etc", "modulefiles", "tools", "share"):
        shutil.copytree(ROOT / name, newer / name)
    for name in ("Makefile", "LICENSE"):
        shutil.copy(ROOT / name, newer)
    (newer / "lib/overlay/__init__.py").write_text('__version__ = "99.0"\n')
    for tree, what in ((newer, "install"), (ROOT, "uninstall")):
        words = ["make", "-s", "-C", tree, what, f"PREFIX={prefix}"]
        subprocess.run(words, check=True, capture_output=True)
    assert not (prefix / version()).exists()
    (tmp_path / "node").mkdir(mode=0o700)
    scratch = {"OVERLAY_SCRATCH_LOCAL": f"'{tmp_path}/node'"}  # where no session is yet
    for words in (["tool", "x"], ["tool", "y"], ["python", "-c", "print(6 * 7)"]):
        done = execute(
            [tmp_path / "g/bin" / words[0], *words[1:]],
            environ={**environment(place), **scratch},
            cwd=tmp_path,
        )
        assert (done.status, done.stderr) == (0, ""), done


# ------------------------------------------------------------------ several users --

# Prints who runs it and in which session, when as many as are named have come.
MEET = """
import os, sys, time
place, count = sys.argv[1], int(sys.argv[2])
open(f"{place}/{os.getuid()}.{os.getpid()}", "x").close()
end = time.monotonic() + 60
while len(os.listdir(place)) < count and time.monotonic() < end:
    time.sleep(0.01)
print(len(os.listdir(place)) >= count, sys.prefix, os.getuid(), os.readlink("/proc/self/ns/mnt"))
"""


class Users:
    """The tester and the colleague, and what root has exposed for both.

    admin    the installation of root's, with analysis/ in it
    meeting  where both may write
    """

    def __init__(self, prepared, as_colleague):
        self.admin = prepared / "admin"
        self.meeting = prepared / "meeting"
        self._as_colleague = as_colleague
        self._environ = {
            "PATH": PATH,
            "HOME": "/",
            "LC_ALL": "C.UTF-8",
            "OVERLAY_SCRATCH_LOCAL": str(self.meeting),
            "OVERLAY_LAUNCH_LINGER": "1",
        }

    def start(self, *words, colleague=False):
        """Start a program as one of the two, and return it."""
        return subprocess.Popen(
            [*(self._as_colleague if colleague else []), *words],
            env=self._environ,
            cwd=self.meeting,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def ended(started):
    """Return what a program said that has ended well."""
    said, errors = started.communicate(timeout=120)
    assert started.returncode == 0, errors
    return said


@pytest.fixture
def users(colleague, as_colleague):
    """Return the Users; nothing of theirs is left on the node at the end."""
    users = Users(colleague.parent, as_colleague)
    yield users
    wait_until(lambda: not list(users.meeting.glob("overlay-*")))


def test_two_users_at_once(users):
    """What root exposes in a place that nobody writes, two users run at once, each for themselves."""
    program = users.admin / "analysis/bin/python"
    place = users.meeting / "two"
    place.mkdir()
    place.chmod(0o777)
    before = digests(users.admin)
    started = [
        users.start(program, "-c", MEET, place, "8", colleague=bool(number % 2))
        for number in range(8)
    ]
    said = [ended(one).split() for one in started]
    shutil.rmtree(place)
    assert {(met, prefix) for met, prefix, _user, _session in said} == {("True", "/opt/env")}
    assert len({user for _met, _prefix, user, _session in said}) == 2
    assert len({(user, session) for _met, _prefix, user, session in said}) == 2  # one session each
    assert digests(users.admin) == before
    removed = users.start(users.admin / "bin/expose-overlay", "--remove", users.admin / "analysis")
    assert "cannot remove" in removed.communicate()[1]
    assert removed.returncode == 73 and digests(users.admin) == before


def test_colleague_exposes_what_is_shared(users):
    """A packed environment that is another user's is exposed, and used, by a colleague."""
    mine = users.meeting / "mine"
    words = (users.admin / "bin/expose-overlay", "-q", "-o", users.admin / "shared.sqsh", mine)
    assert ended(users.start(*words, colleague=True)) == f"1 commands in {mine}/bin\n"
    assert os.stat(mine / "bin/python").st_uid != os.getuid()
    said = ended(users.start(mine / "bin/python", "-c", "print(6 * 7)", colleague=True))
    assert said == "42\n"
    assert ended(users.start(mine / "bin/python", "-c", "print(6 * 7)")) == "42\n"  # and by others
    ended(users.start(users.admin / "bin/expose-overlay", "-q", "--remove", mine, colleague=True))
    assert not mine.exists() or not os.listdir(mine)


def test_directory_of_somebody_else(users, place, tmp_path):
    """In a directory of another user's no link is followed, to write or to remove, and no list obeyed."""
    mine = tmp_path / "mine"
    words = [place / "prefix" / version() / "bin/expose-overlay", "-q", "-o", place / "env.ext3"]
    assert execute([*words, mine], environ=environment(place), cwd=tmp_path).status == 0
    before = digests(mine)
    theirs = users.meeting / "theirs"
    script = (
        'mkdir -m 777 "$1" && ln -s "$2/bin" "$1/bin" && ln -s "$2/modulefiles" "$1/modulefiles" &&'
        ' printf "# written by expose-overlay\\nbin/python\\n../x\\n/etc/passwd\\n" >"$1/.exposed"'
    )
    ended(users.start("sh", "-c", script, "sh", theirs, mine, colleague=True))
    done = execute([*words, theirs], environ=environment(place), cwd=tmp_path)
    assert done.status == 73 and "it is a link that somebody else has made" in done.stderr
    done = execute([words[0], "--remove", theirs], environ=environment(place), cwd=tmp_path)
    assert done.status == 66 and "nothing was exposed in" in done.stderr
    assert digests(mine) == before
    ended(users.start("rm", "-r", theirs, colleague=True))
