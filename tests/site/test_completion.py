"""The completions in a real bash and a real zsh: what a Tab makes of a line."""

import argparse
import os
import re
import subprocess
from pathlib import Path

import pexpect
import pytest
from overlay.cli import parser
from overlay.settings import config as configuration

ROOT = Path(__file__).resolve().parent.parent.parent
BASH = ROOT / "share/bash-completion/completions/overlay"
ZSH = ROOT / "share/zsh/site-functions"
COMMANDS = sorted(path.name for path in (ROOT / "bin").iterdir())

# Ctrl-X shows the line as the shell has it now.
START = {
    "bash": f"""
        . '{BASH}'
        bind 'set enable-bracketed-paste off' 'set bell-style none'
        bind -x '"\\C-x": printf "<%s>\\n" "$READLINE_LINE"'
        PS1='ready> '
    """,
    "zsh": f"""
        unsetopt beep prompt_sp prompt_cr
        fpath=('{ZSH}' $fpath)
        autoload -Uz compinit && compinit -u -D
        show() {{ print -r -- "<$BUFFER>" }}
        zle -N show && bindkey '^X' show
        PS1='ready> '
    """,
}


# What a name of the settings could hold for a completion that takes it for code.
CODE = ("$(touch pwned)", "`touch pwned`", ";touch pwned", ") $(touch pwned) (", "<(touch pwned)")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with overlays, other files, and a site's settings with two names."""
    tmp_path = tmp_path_factory.mktemp("completion")
    place = tmp_path / "work"
    place.mkdir()
    for name in (
        "env.ext3",
        "env.txt",
        "data.img",
        "ref.sqsh",
        "base.sif",
        "com mands.txt",
        "my file.ext3",
        "job.txt",
    ):
        (place / name).write_text("")
    (place / "sub").mkdir()
    (place / "sub" / "inner.ext3").write_text("")
    site = tmp_path / "site"
    (site / "overlay.d").mkdir(parents=True)
    (site / "overlay.ini").write_text(
        "# [images]\n[images]\ndefault = rocky-9\nrocky-9 = /a.sif\n  # no = key\n[binds]\npaths = /x\n"
        "[templates]\nminiforge=/t.tar\n"
    )
    (site / "overlay.d" / "more.ini").write_text("[images]\n; x = /y\nubuntu-24=/b.sif\n")
    code = "".join(f"evil{number}{text} = /d.sif\n" for number, text in enumerate(CODE))
    (site / "overlay.d" / "evil.ini").write_text(f"[images]\n{code}[templates]\n{code}")
    return place


@pytest.fixture(scope="module")
def environ(place):
    """Return the environment of the shells."""
    home = place.parent / "home"
    (home / ".config/overlay").mkdir(parents=True)
    (home / ".config/overlay/overlay.ini").write_text("[images]\nmine = /c.sif")
    return {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "OVERLAY_CONFIG": str(place.parent / "site/overlay.ini"),
    }


@pytest.fixture(scope="module", params=["bash", "zsh"])
def complete(request, place, environ):
    """Return a function from what is typed, up to a Tab, to the line that the shell makes of it."""
    name = request.param
    words = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[name]
    script = place.parent / "start"
    script.write_text(START[name])
    shell = pexpect.spawn(
        name, words, cwd=place, env=environ, encoding="utf-8", timeout=60, dimensions=(50, 200)
    )
    shell.delaybeforesend = None
    shell.sendline(f"unset zle_bracketed_paste; . '{script}'")
    shell.expect_exact("ready> ")

    def complete(text):
        shell.send(f"{text}\t\x18")
        shell.expect(r"<([^<>\n]*)>\r?\n")
        line = shell.match[1]
        shell.send("\x15")
        return line

    yield complete
    shell.close(force=True)


@pytest.mark.parametrize("typed", ["run-overlay -c ev", "create-overlay -t ev", "run-overlay -c "])
def test_names_are_no_code(complete, place, typed):
    """A name in the settings is never run, and none that could be is offered."""
    line = complete(typed)
    assert line == typed and not (place / "pwned").exists()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("run-overlay -o env", "run-overlay -o env.ext3 "),
        ("run-overlay --overlay da", "run-overlay --overlay data.img "),
        ("run-overlay --overlay=da", "run-overlay --overlay=data.img "),
        ("mount-overlay -o re", "mount-overlay -o ref.sqsh "),
        ("mount-overlay -o su", "mount-overlay -o sub/"),
        ("mount-overlay -o sub/", "mount-overlay -o sub/inner.ext3 "),
        ("mount-overlay -o my", "mount-overlay -o my\\ file.ext3 "),
        ("mount-overlay -o my\\ f", "mount-overlay -o my\\ file.ext3 "),
        ("mount-overlay -o job", "mount-overlay -o job"),
        ("mount-overlay -o env.ext3:", "mount-overlay -o env.ext3:r"),
        ("run-overlay -o env.ext3:ro", "run-overlay -o env.ext3:ro "),
        ("run-overlay -o a -o my\\ file.ext3:rw", "run-overlay -o a -o my\\ file.ext3:rw "),
        ("run-overlay --overlay=env.ext3:ro", "run-overlay --overlay=env.ext3:ro "),
        ("run-overlay -o env.ext3:x", "run-overlay -o env.ext3:x"),
        ("run-overlay -b sub:", "run-overlay -b sub:"),
        ("create-overlay -o env.ext3:", "create-overlay -o env.ext3:"),
        ("resize-overlay re", "resize-overlay re"),
        ("resize-overlay -o en", "resize-overlay -o env.ext3 "),
        ("resize-overlay -o re", "resize-overlay -o re"),
        ("pack-overlay re", "pack-overlay re"),
        ("pack-overlay env.ext3 -o re", "pack-overlay env.ext3 -o ref.sqsh "),
        ("create-overlay -o re", "create-overlay -o re"),
        ("check-overlay en", "check-overlay env.ext3 "),
        ("check-overlay env.ext3 da", "check-overlay env.ext3 data.img "),
        ("check-overlay --rec", "check-overlay --recover "),
        ("show-overlay en", "show-overlay env.ext3 "),
        ("list-overlays --sort si", "list-overlays --sort size "),
        ("list-overlays su", "list-overlays sub/"),
        ("list-overlays en", "list-overlays en"),
        ("run-overlay -c ro", "run-overlay -c rocky-9 "),
        ("run-overlay -o env.ext3 -c ub", "run-overlay -o env.ext3 -c ubuntu-24 "),
        ("run-overlay --container mi", "run-overlay --container mine "),
        ("run-overlay -c ba", "run-overlay -c base.sif "),
        ("run-overlay -c su", "run-overlay -c sub/"),
        ("run-overlay -c job", "run-overlay -c job"),
        ("run-overlay -f com", "run-overlay -f com\\ mands.txt "),
        ("run-overlay -f jo", "run-overlay -f job.txt "),
        ("run-overlay -o env.ext3 --fake", "run-overlay -o env.ext3 --fakeroot "),
        ("run-overlay -o env.ext3 -- cat jo", "run-overlay -o env.ext3 -- cat job.txt "),
        ("create-overlay --spa", "create-overlay --sparse "),
        ("create-overlay -t mini", "create-overlay -t miniforge "),
        ("create-overlay -s 5", "create-overlay -s 5"),
    ],
)
def test_tab(complete, typed, line):
    """One Tab completes what can be one thing only, and nothing else."""
    assert complete(typed) == line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(complete, command):
    """Every program is completed."""
    assert complete(f"{command} --verbos") == f"{command} --verbose "


def candidates(environ, place, *words, script=BASH):
    """Return what bash offers for the last of some words."""
    code = (
        '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _overlay "$1" "${@: -1}" "${@: -2:1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(script), *words],
        env=environ,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_all_options(environ, place, command):
    """A - offers all options of a command, and those of its subcommands, and no other."""
    parsers = [parser(command)]
    for action in parsers[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    options = {name for each in parsers for name in each._option_string_actions}
    assert candidates(environ, place, command, "-") == sorted(options)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["overlay-admin", ""], ["config", "doctor", "pages", "report", "sessions"]),
        (["overlay-admin", "doctor", ""], ["sub"]),
        (["pack-overlay", "--compression", ""], ["gzip", "lz4", "xz", "zstd"]),
        (["create-overlay", "--size", ""], [""]),
        (["mount-overlay", "--wait", "--n"], ["--no-share", "--nv"]),
        (["show-overlay", "--files", "en"], ["env.ext3"]),
    ],
    ids=" ".join,
)
def test_offered(environ, place, words, offered):
    """What a command wants at a place is offered there."""
    assert candidates(environ, place, *words) == offered


def test_all_candidates(environ, place):
    """An empty word offers everything that fits, and nothing that does not."""
    overlays = ["data.img", "env.ext3", "my file.ext3", "ref.sqsh", "sub"]
    assert candidates(environ, place, "run-overlay", "-o", "") == overlays
    images = ["base.sif", "mine", "rocky-9", "sub", "ubuntu-24"]
    assert candidates(environ, place, "mount-overlay", "-c", "") == images


def test_site_of_the_tree(environ, place, tmp_path):
    """The settings are those that the commands of the same tree read."""
    environ = {name: value for name, value in environ.items() if name != "OVERLAY_CONFIG"}
    prefix = tmp_path / "prefix"
    script = prefix / "1.0/share/bash-completion/completions/overlay"
    script.parent.mkdir(parents=True)
    script.write_text(BASH.read_text())
    for where in ("1.0/etc", "etc"):
        (prefix / where).mkdir()
        (prefix / where / "overlay.ini").write_text(f"[images]\n{where.replace('/', '-')} = x\n")

    def names():
        found = candidates(environ, place, "run-overlay", "-c", "", script=script)
        return [name for name in found if name not in ("base.sif", "sub", "mine")]

    assert names() == ["1.0-etc"]
    (prefix / "1.0/.installed").write_text("")
    assert names() == ["etc"]


@pytest.mark.parametrize(
    "text",
    [
        "[images]\none=/a.sif",
        "[images]\r\none = /a.sif\r\n",
        "[images]\none\t=\t/a=b.sif\n\n# two = /b.sif\ntwo-2 = /c.sif\n",
        "[images]\none =\n  /a.sif\n",
        "[binds]\npaths =\n  /x\n[images]\ndefault = one\none = /a.sif\n[engine]\nmodule = none\n",
    ],
)
def test_same_grammar(environ, place, tmp_path, text):
    """The names that are offered are those that the commands know."""
    path = tmp_path / "overlay.ini"
    path.write_text(text)
    environ = {**environ, "OVERLAY_CONFIG": str(path), "HOME": "/nowhere"}
    images = configuration.load(environ, str(ROOT)).images()
    assert "one" in images
    offered = candidates(environ, place, "run-overlay", "-c", "")
    assert offered == sorted(["base.sif", "sub", *images])


def test_no_process(environ, place):
    """A Tab starts no program: that would be felt on a slow file system."""
    environ = {**environ, "PATH": "/nowhere"}
    code = f'. "{BASH}"; COMP_WORDS=(run-overlay -c ""); COMP_CWORD=2; _overlay run-overlay "" -c; echo ok'
    done = subprocess.run(
        ["/bin/bash", "-c", code],
        env=environ,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_names_of_functions():
    """Everything that the file defines begins with _overlay, so that the module can take it back."""
    assert set(re.findall(r"^(\w+)\(\)", BASH.read_text(), re.M)) == {
        "_overlay",
        "_overlay_names",
        "_overlay_files",
        "_overlay_kind",
        "_overlay_options",
    }
    assert os.access(ZSH / "_overlay", os.R_OK)
