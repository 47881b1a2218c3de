"""The manual, the completions and the guides say what the program does."""

import os
import re
import shlex

import manual
import pytest
from overlay import cli, errors
from overlay.cli import COMMANDS
from overlay.settings.table import SETTINGS

PROGRAMS = sorted(COMMANDS)
STATUSES = {
    value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)
}


def text(*parts):
    """Return the text of a file of the tree."""
    with open(os.path.join(manual.ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def guides():
    """Return the names of README.md and the files in docs/."""
    docs = sorted(n for n in os.listdir(os.path.join(manual.ROOT, "docs")) if n.endswith(".md"))
    return ["README.md", *(os.path.join("docs", name) for name in docs)]


def actions(program):
    """Return the argparse actions of a command, those of its subcommands included."""
    found = []
    parsers = [cli.parser(program)]
    for parser in parsers:
        for action in parser._actions:
            if action.option_strings:
                found.append(action)
            elif isinstance(action.choices, dict):
                parsers += action.choices.values()
    return found


def parsed_options(program):
    """Return all options of a command."""
    return {word for action in actions(program) for word in action.option_strings}


# ----------------------------------------------------------------- the pages --


def test_pages():
    """Every command has a page, and there are two more."""
    assert manual.names() == sorted(
        [*(f"{name}.1" for name in PROGRAMS), "overlay.7", "overlay.ini.5"]
    )


@pytest.mark.parametrize("name", manual.names())
def test_lint(name):
    """mandoc finds nothing to complain about."""
    assert manual.lint(name) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_options(program):
    """A page explains the options of its command, all and no other."""
    assert manual.options(manual.read(f"{program}.1")) == parsed_options(program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_arguments_of_options(program):
    """An option that takes an argument is shown with one."""
    listed = re.findall(
        r"^\.It (Fl .*)$", manual.part(manual.read(f"{program}.1"), "OPTIONS"), re.M
    )
    for action in actions(program):
        long = action.option_strings[-1][2:]
        [line] = [line for line in listed if re.search(rf"Fl Fl {long}( |$)", line)]
        assert (" Ar " in line or " Cm " in line) == (action.nargs != 0), line


@pytest.mark.parametrize("program", PROGRAMS)
def test_statuses(program):
    """Exit statuses and files of all commands stand in overlay(7); a page refers to it."""
    source = manual.read(f"{program}.1")
    assert manual.statuses(source) == []
    assert ".Xr overlay 7" in manual.part(source, "EXIT STATUS")
    assert "overlay.ini\nYour own" not in source


def used_statuses():
    """Return the statuses that some module of the program names."""
    found = set()
    for directory, _names, files in os.walk(os.path.join(manual.ROOT, "lib", "overlay")):
        for name in files:
            if name.endswith(".py") and name != "errors.py":
                found.update(re.findall(r"\b[A-Z_]+\b", text(directory, name)))
    return {vars(errors)[name] for name in found if isinstance(vars(errors).get(name), int)}


def test_all_statuses():
    """overlay(7) lists every status in use, in order."""
    assert used_statuses() <= STATUSES
    assert manual.statuses(manual.read("overlay.7")) == sorted(used_statuses())


def test_keys():
    """overlay.ini(5) has what the table of settings gives: section, key, default, help.

    PYTHONPATH=lib python3 tests/unit/manual.py brings it up to date.
    """
    assert manual.part(manual.read("overlay.ini.5"), "KEYS").strip() == manual.keys().strip()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_key(setting):
    """Each key stands below the heading of its section, with its default."""
    found = manual.part(manual.read("overlay.ini.5"), f"[{setting.section}] section")
    if setting.is_chosen:
        assert "\n.It Ar name = " in found
        return
    found = found.partition(f"\n.It Ic {setting.key} = ")[2].partition("\n.It ")[0]
    assert f"Default: {setting.default or 'empty'}." in " ".join(found.split())


@pytest.mark.parametrize("name", manual.names())
def test_references(name):
    """Pages that are named as ours are there."""
    for other, chapter in re.findall(r"^\.Xr (\S*overlay\S*) (\d)", manual.read(name), re.M):
        assert f"{other}.{chapter}" in manual.names()


# ------------------------------------------------------------------ examples --


def command_lines(source):
    """Return the lines that start one of our commands, with continued lines joined.

    In pages they begin with .Dl or stand in displays, in guides in blocks of code.
    """
    source = source.replace("\\e\n", "\n").replace("\\\n", " ").replace("\\-", "-")
    found = []
    for line in source.splitlines():
        line = re.sub(r"^(\.Dl )?\s*([$>] )?([A-Z_]+=\S+ )*", "", line)
        if re.match(rf"({'|'.join(PROGRAMS)}) ", line) and "..." not in line:
            found.append(line)
    return found


def parse(line):
    """Parse a command line as a shell and then the command would; comments are left out."""
    words = shlex.split(line, comments=True)
    for place, word in enumerate(words):
        if re.match(r"(\d?[<>]|\||&&|;)", word) and "--" not in words[:place]:
            words = words[:place]
            break
    return cli.parse(words[0], words[1:])


def examples():
    """Return (file, line) of every example."""
    sources = {name: manual.read(name) for name in manual.names()}
    sources.update({name: text(name) for name in guides()})
    return [
        (name, line)
        for name, source in sources.items()
        for line in command_lines(
            source
            if name in manual.names()
            else "\n".join(re.findall(r"^```.*?^```", source, re.M | re.S))
        )
    ]


@pytest.mark.parametrize(("name", "line"), examples())
def test_examples(name, line):
    """Every example can be typed."""
    parse(line)


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_there(program):
    """Each page has examples of its command, and so has the README of the first three."""
    assert any(parse(line) for name, line in examples() if name == f"{program}.1")
    if program in ("create-overlay", "mount-overlay", "run-overlay"):
        assert any(line.startswith(program) for name, line in examples() if name == "README.md")


@pytest.mark.parametrize("name", guides())
def test_links(name):
    """Links of the guides lead to files that are there."""
    directory = os.path.dirname(os.path.join(manual.ROOT, name))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(name)):
        assert os.path.exists(os.path.join(directory, target)), target
