"""Texts that follow from the tables of the program: etc/overlay.ini and parts of the manual.

`make reference` writes them; a test compares what is in the repository with them.
"""

from __future__ import annotations

import textwrap

from overlay.settings.table import SECTIONS, SETTINGS

# What stands for the keys that the site chooses: (key, whether it is there from the start).
_NAMES = {"images": ("centos-8.2.2004", True), "templates": ("conda", False)}


def site_ini() -> str:
    """Return etc/overlay.ini: every key with its explanation, at its default."""
    lines = [
        "# The site's settings for create-overlay, mount-overlay, run-overlay and the rest.",
        "#",
        "# Better than editing this file: put your own keys into overlay.d/NAME.ini beside it;",
        "# an upgrade does not touch them. All is explained in overlay.ini(5).",
        "# {user}, {home} and $VARIABLE in a value stand for the caller's own,",
        "# {machine} for what uname -m says.",
    ]
    for section, about in SECTIONS.items():
        settings = [setting for setting in SETTINGS if setting.section == section]
        if not settings:
            continue
        lines += ["", "", f"# {about}", f"[{section}]"]
        for setting in settings:
            lines.append("")
            lines += textwrap.wrap(setting.help, 88, initial_indent="# ", subsequent_indent="# ")
            if setting.is_chosen:
                key, there = _NAMES[section]
                lines.append(f"{'' if there else '# '}{key} = {setting.example}")
                continue
            if setting.example:
                lines.append(f"# {setting.key} = {setting.example}")
            lines.append(f"{setting.key} = {setting.default}".rstrip())
    return "\n".join(lines) + "\n"
