"""Manual pages as data: what stands in them, and what must stand there for a setting.

`PYTHONPATH=lib python3 tests/unit/manual.py` writes the part KEYS of overlay.ini(5) anew,
after a change of the settings.
"""

import os
import re
import subprocess
import textwrap

from overlay.settings.table import SECTIONS, SETTINGS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = os.path.join(ROOT, "share", "man")


def path(name):
    """Return the path of a page, named like run-overlay.1."""
    return os.path.join(PAGES, f"man{name[-1]}", name)


def read(name):
    """Return the source of a page."""
    with open(path(name), encoding="utf-8") as file:
        return file.read()


def names():
    """Return the names of all pages."""
    return sorted(
        name
        for directory in os.listdir(PAGES)
        for name in os.listdir(os.path.join(PAGES, directory))
    )


def part(source, title):
    """Return the text below a heading, .Sh or .Ss, to the next of its kind."""
    kind = re.search(rf"^\.(S[hs]) {re.escape(title)}$", source, re.MULTILINE)
    assert kind, f"there is no heading {title}"
    ends = r"^\.Sh " if kind[1] == "Sh" else r"^\.S[hs] "
    return re.split(ends, source[kind.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def options(source):
    """Return the options that a page explains, as {"-o", "--overlay", ...}."""
    found = set()
    for line in re.findall(r"^\.It (Fl .*)$", part(source, "OPTIONS"), re.MULTILINE):
        for words in line.split(" , "):
            match = re.match(r"Fl (Fl )?(\S+)", words)
            found.add(("--" if match[1] else "-") + match[2])
    return found


def statuses(source):
    """Return the exit statuses that a page lists."""
    return [int(text) for text in re.findall(r"^\.It (\d+)$", part(source, "EXIT STATUS"), re.M)]


def escape(text):
    """Return text as it stands in a page: hyphens of options, and backquotes, are not typography."""
    text = text.replace("\\", "\\e").replace("`", "\\(ga")
    return re.sub(r"(?<!\S)-(?=\w)", r"\\-", text)


def sentences(text):
    """Return text as the lines of a page: every sentence begins on a new one."""
    lines = []
    for sentence in re.split(r"(?<=\.) (?=\S)", text):
        lines += textwrap.wrap(escape(sentence), 78, break_on_hyphens=False, break_long_words=False)
    return "".join(f"{line}\n" for line in lines)


def section(name):
    """Return the heading that a section of overlay.ini has in overlay.ini(5)."""
    return f".Ss [{name}] section\n{sentences(SECTIONS[name])}"


def entry(setting):
    """Return what stands in overlay.ini(5) for a setting: key, kind, default, and its help."""
    names = setting.is_chosen
    kind = setting.kind.name
    key = "Ar name" if names else f"Ic {setting.key}"
    lines = f".It {key} = Ar {kind}\n{sentences(setting.help)}.br\n"
    if not names:
        lines += sentences(f"Default: {setting.default or 'empty'}.")
    if setting.example:
        example = f"{'name' if names else setting.key} = {setting.example}"
        lines += f"Example:\n.Bd -literal -offset indent -compact\n{escape(example)}\n.Ed\n"
    return lines


def keys():
    """Return the part KEYS of overlay.ini(5), which follows the table of settings."""
    lines = []
    for name in SECTIONS:
        entries = [entry(setting) for setting in SETTINGS if setting.section == name]
        if entries:
            lines += [section(name), ".Bl -tag -width Ds\n", *entries, ".El\n"]
    return "".join(lines)


def lint(name):
    """Return what mandoc has to say of a page, less what depends on the machine's other pages."""
    done = subprocess.run(
        ["mandoc", "-T", "lint", path(name)], capture_output=True, text=True, check=False
    )
    return [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "referenced manual not found" not in line and "outdated mandoc.db" not in line
    ]


def write_keys():
    """Put what the table of settings gives into overlay.ini(5)."""
    source = read("overlay.ini.5")
    old = part(source, "KEYS")
    with open(path("overlay.ini.5"), "w", encoding="utf-8") as file:
        file.write(source.replace(old, "\n" + keys()))


if __name__ == "__main__":
    write_keys()
