"""The modulefiles in a real Lmod and in real Environment Modules."""

import os
import shutil
import subprocess

import pytest
from module_systems import PATH, Shell, start
from overlay.settings import config as configuration
from support import ROOT, version

VERSION = "1.0"  # any; it is not that of the tree
NEXT = "1.10"  # to be taken for newer than 1.9, and 1.9 for newer than 1.0
SYSTEMS = ("lmod", "modules")

COMPLETION = "_overlay() { :; }\n_overlay_names() { :; }\ncomplete -F _overlay run-overlay\n"
ZSH_COMPLETION = "#compdef run-overlay\n_overlay_was_called\n"


def install(source, prefix):
    """Install a tree as an admin does."""
    subprocess.run(
        ["make", "-s", "-C", source, "install", f"PREFIX={prefix}"],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a prefix with three versions, installed from copies of this tree."""
    place = tmp_path_factory.mktemp("installed")
    prefix = place / "prefix"
    for number in (VERSION, "1.9", NEXT):
        copy = place / number
        for name in ("bin", "lib", "etc", "modulefiles", "tools"):
            shutil.copytree(ROOT / name, copy / name)
        for name in ("Makefile", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        start = copy / "lib/overlay/__init__.py"
        start.write_text(f'__version__ = "{number}"\n')
        for name, text in (
            ("bash-completion/completions/overlay", COMPLETION),
            ("zsh/site-functions/_overlay", ZSH_COMPLETION),
            ("man/man1/run-overlay.1", f".TH run-overlay 1\nversion {number}\n"),
        ):
            file = copy / "share" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        install(copy, prefix)
    return prefix


@pytest.fixture
def prefix(installed):
    """Return that prefix; what a test sets for the site is removed after it."""
    kept = (installed / "etc/overlay.ini").read_text()
    choose(installed, "module = none")
    yield installed
    shutil.rmtree(installed / "etc")
    (installed / "etc").mkdir()
    (installed / "etc/overlay.ini").write_text(kept)


def choose(prefix, *lines, file="overlay.d/site.ini"):
    """Set keys of [engine] for the site."""
    path = prefix / "etc" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["[engine]", *lines, ""]))


@pytest.fixture(params=SYSTEMS)
def system(request):
    """Return the name of a module system: each test is made in both."""
    return request.param


@pytest.fixture
def shell(system, prefix, tmp_path):
    """Return a Shell that knows the installed modulefiles."""
    return Shell(system, tmp_path, prefix / "modulefiles")


@pytest.fixture
def engines(tmp_path):
    """Return a directory of modulefiles for an engine; its program says hello."""
    directory = tmp_path / "engines"
    (directory / "engine").mkdir(parents=True)
    (directory / "engine/1.4").write_text(
        f"#%Module1.0\nprepend-path PATH {tmp_path}/engine-bin\nsetenv ENGINE_LOADED 1\n"
    )
    return directory


@pytest.mark.parametrize(
    "manual",
    [{}, {"MANPATH": "/somewhere/man:"}, {"MANPATH": "/somewhere/man"}],
    ids=str,
)
def test_unload_restores(shell, prefix, manual):
    """What load changes, unload takes back: environment, functions, completions."""
    tree = prefix / VERSION
    before, loaded, after = shell.state(
        f"module load overlay/{VERSION}", "module unload overlay", **manual
    )
    changed = {
        name for name, value in loaded["names"].items() if before["names"].get(name) != value
    }
    assert changed == {"PATH", "MANPATH"}
    assert loaded["names"]["PATH"] == f"{tree}/bin:" + before["names"]["PATH"]
    pages = before["names"].get("MANPATH", ":").lstrip(":")
    assert loaded["names"]["MANPATH"] == f"{tree}/share/man:{pages}"
    assert "_overlay run-overlay" in loaded["completions"]
    assert int(loaded["functions"]) == int(before["functions"]) + 2
    if after["names"].get("MANPATH") == "":
        del after["names"]["MANPATH"]
    assert after == before


@pytest.mark.parametrize("name", ["bash", "zsh"])
@pytest.mark.parametrize(
    "line",
    ["module purge", "module unload overlay", "module load overlay; module purge", "module reload"],
)
def test_strict_script(shell, system, tmp_path, name, line):
    """A script with `set -e` goes on, where the module was loaded before it: by the login shell."""
    own = "complete -W word other" if name == "bash" else "autoload -U compinit; compinit -u"
    script = tmp_path / "strict"
    script.write_text(f"{start(system, name)}\n{own}\nset -eu\n{line}\necho done\n")
    options = "--norc" if name == "bash" else "-f"
    done = shell.run(f"module load overlay; {name} {options} '{script}'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_man(shell, prefix):
    """Our pages and the system's are found while it is loaded, the system's afterwards."""
    done = shell.run(
        f"module load overlay/{VERSION}; man -w run-overlay ls; module unload overlay; man -w ls"
    )
    ours, system, afterwards = done.stdout.splitlines()
    assert ours == str(prefix / VERSION / "share/man/man1/run-overlay.1")
    assert "/ls.1" in system and afterwards == system


def test_default_and_switch(shell, prefix):
    """The highest version is the default; switching leaves nothing of the other."""
    before, default, switched = shell.state(
        "module load overlay", f"module switch overlay/{VERSION}", silent=False
    )
    assert default["names"]["PATH"].split(":")[0] == str(prefix / NEXT / "bin")
    assert switched["names"]["PATH"] == f"{prefix}/{VERSION}/bin:{before['names']['PATH']}"
    assert str(prefix / NEXT) not in str(switched["names"])


def test_default_of_the_site(shell, prefix):
    """What the admin's guide says keeps another version as the default."""
    chosen = prefix / "modulefiles" / "overlay" / ".modulerc"
    chosen.write_text(f"#%Module\nmodule-version overlay/{VERSION} default\n")
    try:
        done = shell.run("module load overlay; echo $PATH")
    finally:
        chosen.unlink()
    assert done.stdout.strip() == f"{prefix}/{VERSION}/bin:{PATH}"


def test_two_versions(shell, system, prefix):
    """Never two versions at once: Lmod swaps, Environment Modules say what to do."""
    done = shell.run(f"module load overlay/{VERSION}; module load overlay/1.9; echo $PATH")
    first = "1.9" if system == "lmod" else VERSION
    assert done.stdout.strip() == f"{prefix}/{first}/bin:{PATH}"
    assert system == "lmod" or "conflict" in done.stderr.lower()


def test_information(shell, system):
    """avail, whatis, help, show and spider tell what it is, and load nothing."""
    done = shell.run(
        "for word in avail whatis help show; do echo = $word; module $word overlay 2>&1; done;"
        "echo = path; echo $PATH"
    )
    parts = dict(part.split("\n", 1) for part in done.stdout.split("= ")[1:])
    assert all(f"overlay/{version}" in parts["avail"] for version in (VERSION, "1.9", NEXT))
    assert f"Version: {NEXT}" in parts["whatis"]
    assert "create-overlay -s 500 -n 700" in parts["help"]
    assert f"/{NEXT}/bin" in parts["show"]
    assert parts["path"].strip() == PATH
    if system == "lmod":
        done = shell.run("module spider overlay; module spider overlay/1.9")
        assert f"overlay/{NEXT}" in done.stderr and "as many files as you need" in done.stderr


@pytest.mark.parametrize("name", ["zsh", "fish", "tcsh"])
def test_other_shells(shell, prefix, name):
    """PATH is right in every shell, and as before after unload."""
    # What stands in a line of its own is understood by all three.
    done = shell.run(
        f"module load overlay/{VERSION}\nwhich run-overlay\nenv | grep ^PATH=\n"
        "module unload overlay\nenv | grep ^PATH=",
        shell=name,
    )
    found, loaded, after = done.stdout.splitlines()[-3:]
    assert found == str(prefix / VERSION / "bin/run-overlay")
    # Environment Modules want their own tclsh on PATH and put /usr/bin first.
    assert loaded == f"PATH={prefix}/{VERSION}/bin:" + after.partition("=")[2]
    assert after.endswith(PATH)


def test_zsh_completion(shell):
    """The completion of zsh appears with the module and goes with it."""
    tell = "echo ${_comps[run-overlay]-none} ${functions[_overlay]+function} $#fpath"
    done = shell.run(
        "\n".join(
            [
                "autoload -Uz compinit; compinit -u -D",
                tell,
                f"module load overlay/{VERSION}",
                tell,
                "module unload overlay",
                tell,
            ]
        ),
        shell="zsh",
    )
    before, loaded, after = (line.split() for line in done.stdout.splitlines()[-3:])
    assert before[0] == "none" and loaded[:2] == ["_overlay", "function"], done
    assert int(loaded[-1]) == int(before[-1]) + 1
    assert after == before


def test_engine_module(shell, prefix, engines):
    """The engine's module comes and goes with ours."""
    shell.directories += (engines,)
    choose(prefix, "commands = no-such-engine", "module = engine/1.4")
    before, loaded, after = shell.state(
        "module load overlay/1.0", "module unload overlay", silent=False
    )
    assert loaded["names"]["ENGINE_LOADED"] == "1"
    assert "ENGINE_LOADED" not in after["names"]
    assert after["names"]["PATH"] == before["names"]["PATH"]


def test_engine_commands_in_several_lines(shell, prefix, engines):
    """A value goes on behind empty lines and comments, as configparser has it."""
    choose(
        prefix, "commands = no-such-engine", "", "# the old one", "   apptainer", "module = none"
    )
    done = shell.run("module load overlay/1.0; command -v run-overlay")
    assert (done.stderr, done.stdout) == ("", f"{prefix}/1.0/bin/run-overlay\n")


def test_engine_module_of_the_user(shell, prefix, engines):
    """An engine that the user loaded himself stays."""
    shell.directories += (engines,)
    choose(prefix, "module = engine")
    states = shell.state("module load engine", "module load overlay/1.0", "module unload overlay")
    assert states[-1]["names"]["ENGINE_LOADED"] == "1"


def test_engine_module_unknown(shell, prefix):
    """A name that no module has is an error that says who can help; nothing is loaded."""
    choose(prefix, "module = no-such-engine/7")
    done = shell.run("module load overlay/1.0; echo $? $PATH")
    assert done.stdout.strip() == f"1 {PATH}"
    words = " ".join(done.stderr.split())
    assert "overlay needs the module no-such-engine/7" in words
    assert "ask your site's support" in words


@pytest.mark.parametrize(
    ("commands", "warned"),
    [
        ("no-such-engine sh", False),
        ("/bin/sh", False),
        ("\n  no-such-engine\n  sh", False),
        ("no-such-engine /no/such/engine", True),
        ("no-such-engine\n  # sh", True),
    ],
)
def test_engine_on_path(shell, prefix, commands, warned):
    """Without a module for the engine its absence is a warning, and the module is loaded."""
    choose(prefix, "module =", f"commands = {commands}")
    done = shell.run("module load overlay/1.0; echo $? $PATH")
    assert done.stdout.strip() == f"0 {prefix}/1.0/bin:{PATH}"
    assert ("no container engine is on PATH" in done.stderr) == warned


def test_engine_of_the_last_file(shell, prefix):
    """What a later file of overlay.d sets stands above the earlier; other sections do not count."""
    choose(prefix, "module = no-such-engine", file="overlay.ini")
    choose(prefix, "module = no-such-engine", file="overlay.d/10.ini")
    choose(
        prefix,
        "; module = x",
        "module = none",
        "[site]",
        "message = module = y",
        file="overlay.d/90.ini",
    )
    (prefix / "etc/overlay.d/site.ini").unlink()
    done = shell.run("module load overlay/1.0; echo $?")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("name", [".site.ini", "site.ini~", "site.txt"])
def test_no_file_of_the_site(shell, prefix, name):
    """What an editor leaves in overlay.d is not read."""
    choose(prefix, "module = none", file="overlay.ini")
    choose(prefix, "module = no-such-engine", file=f"overlay.d/{name}")
    (prefix / "etc/overlay.d/site.ini").unlink()
    done = shell.run("module load overlay/1.0; echo $?")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_overlay_config(shell, prefix, tmp_path):
    """OVERLAY_CONFIG names another file, for us as for the commands."""
    choose(prefix, "module = no-such-engine")
    other = tmp_path / "other.ini"
    other.write_text("[engine]\nmodule = none\n")
    done = shell.run("module load overlay/1.0; echo $?", OVERLAY_CONFIG=str(other))
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "[engine]\nmodule=a/1",
        "[engine]\r\nmodule = a/1\r\n",
        "[engine]\nmodule\t=\ta/1 \n",
        "[engine]\nmodule =\n\n# of the site\n   a/1\n",
        "[engine]\n  module = a/1\n  commands = x\n",
        "[engine]\n  commands = x\n    module = b\n  module = a/1\n",
        "[engine]\ncommands = x\n ; module = b\nmodule = a/1\n",
        "[binds]\npaths =\n  /x\n  [engine]\n  module = b\n[engine]\nmodule = a/1\n",
        "[engine]\nmodule = a/1\n[binds]\npaths =\n  module = b\n",
    ],
)
def test_same_grammar(shell, prefix, tmp_path, text):
    """What the modulefiles go by is what the commands read."""
    path = tmp_path / "other.ini"
    path.write_text(text)
    variables = {"OVERLAY_CONFIG": str(path)}
    assert configuration.load(variables, str(ROOT))["engine.module"].split() == ["a/1"]
    done = shell.run("module load overlay/1.0", **variables)
    assert "needs the module a/1 (" in " ".join(done.stderr.split())


def test_settings_that_are_wrong(shell, prefix):
    """A mistake in the settings is told with its line, and the commands are there all the same."""
    choose(prefix, "size = 1")
    done = shell.run("module load overlay/1.0; echo $? $PATH; module unload overlay; echo $PATH")
    assert done.stdout == f"0 {prefix}/1.0/bin:{PATH}\n{PATH}\n"
    said = " ".join(done.stderr.split())
    assert f"overlay: warning: {prefix}/etc/overlay.d/site.ini, line 2: unknown key size" in said


def test_settings_of_the_user(shell, prefix, tmp_path):
    """What users set for themselves holds for the module as for the commands."""
    choose(prefix, "module =", "commands = no-such-engine")
    own = tmp_path / ".config/overlay/overlay.ini"
    own.parent.mkdir(parents=True)
    own.write_text("[engine]\ncommands = sh\n")
    done = shell.run("module load overlay/1.0; echo $?")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_nothing_is_asked_to_tell(shell, prefix):
    """What only tells of the module starts no program for it."""
    program = prefix / f"{NEXT}/lib/overlay/helpers/for-modulefiles"
    text = program.read_text()
    program.write_text('#!/bin/sh\ntouch "$0.asked"\n')
    asked = program.parent / f"{program.name}.asked"
    try:
        shell.run("module avail overlay; module whatis overlay; module help overlay")
        before = asked.exists()
        shell.run("module load overlay")
        assert (before, asked.exists()) == (False, True)
    finally:
        program.write_text(text)
        asked.unlink(missing_ok=True)


def test_hook(shell, system, prefix):
    """The site's own file is run in the place of a change to ours, and undone at unload."""
    (prefix / "etc/site.lua").write_text('setenv("SITE", myModuleVersion())\n')
    (prefix / "etc/site.tcl").write_text("setenv SITE $version\n")
    before, loaded, after = shell.state("module load overlay/1.9", "module unload overlay")
    assert loaded["names"]["SITE"] == "1.9"
    assert "SITE" not in after["names"]


def test_files_of_another(shell, prefix, colleague):
    """Settings and hooks of somebody else, or for everybody to write, are left out and named."""
    choose(prefix, "module = none")
    (prefix / "etc/overlay.d/z.ini").symlink_to(colleague / "settings/overlay.ini")
    for name in ("site.lua", "site.tcl"):
        (prefix / "etc" / name).symlink_to(colleague / "settings" / name)
    done = shell.run("module load overlay/1.9; echo $? ${HIS-none}")
    assert done.stdout == "0 none\n"
    said = " ".join(done.stderr.split())
    assert f"the settings in {prefix}/etc/overlay.d/z.ini are left out: it belongs to" in said
    assert f"{prefix}/etc/site." in said
    for name in ("site.lua", "site.tcl"):
        path = prefix / "etc" / name
        path.unlink()
        path.write_text('setenv("HIS", "1")\n' if name == "site.lua" else "setenv HIS 1\n")
        path.chmod(0o666)
    assert shell.run("module load overlay/1.9; echo $? ${HIS-none}").stdout == "0 none\n"
    for name in ("site.lua", "site.tcl"):
        (prefix / "etc" / name).chmod(0o664)
    assert shell.run("module load overlay/1.9; echo $? ${HIS-none}").stdout == "0 1\n"


def test_incomplete(shell, prefix):
    """An installation that lacks a part says so and is not loaded."""
    away = prefix / "1.9/bin/away"
    launcher = prefix / "1.9/bin/run-overlay"
    launcher.rename(away)
    try:
        done = shell.run("module load overlay/1.9; echo $? $PATH")
    finally:
        away.rename(launcher)
    assert done.stdout.strip() == f"1 {PATH}"
    assert "is not complete" in " ".join(done.stderr.split())


@pytest.mark.parametrize("how", ["plain", "relative", "link"])
def test_clone(system, tmp_path, how):
    """A clone of the repository is an installation, wherever it lies and however it is named."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in ("bin", "lib", "etc", "modulefiles"):
        shutil.copytree(ROOT / name, clone / name)
    if how == "link":
        os.symlink(clone, tmp_path / "link")
        clone = tmp_path / "link"
    directory = clone / "modulefiles"
    shell = Shell(
        system,
        tmp_path,
        directory.relative_to(tmp_path) if how == "relative" else directory,
    )
    done = shell.run("module load overlay; which run-overlay; create-overlay --version")
    assert done.stdout.splitlines() == [
        f"{clone}/bin/run-overlay",
        f"create-overlay {version()}",
    ], done
