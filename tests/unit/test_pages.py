"""The pages for a site's users: what is filled in, what is left out, and whose files are replaced."""

import os
import re

import pytest
from overlay.pages import fill, forms, site
from support import ROOT
from test_words import MODULES, strings


def test_fill():
    """Parts for some sites only, and values that end neither a cell nor a line."""
    text = "a\n<!-- if x -->\n`@x@`\n<!-- end -->\n<!-- if y -->\n@y@\n<!-- end -->\n| @x@ | b |\n"
    assert fill.fill(text, {"x": "1|\x1b2", "y": ""}) == "a\n`1|2`\n| 1/2 | b |\n"


@pytest.mark.parametrize("name", fill.NAMES)
def test_every_value_is_known(settings, name):
    """No page asks for what no site can have, and every page is listed."""
    text = fill.page(name, site.values(settings()))
    assert not re.search(r"@(?!pages@)\w+@", text) and "<!--" not in text
    assert forms.markdown(text, {"b": "Of b"}).count("[Of b](b.md)") == text.count("@pages@")


def test_restructured():
    """What the texts use of Markdown, in the other form."""
    text = "# A title\n\nSome `code`.\n\n- one\n\n```\n$ x\n\ny `z`\n```\n\n"
    text += "| a | b |\n|---|---|\n| c | `d e` |\n"
    assert forms.restructured(text, {}).splitlines() == [
        *("A title", "=======", "", "Some ``code``.", "", "- one", ""),
        *(".. code-block:: text", "", "   $ x", "", "   y `z`", ""),
        *(".. list-table::", "   :header-rows: 1", ""),
        *("   * - a", "     - b", "   * - c", "     - ``d e``"),
    ]


def test_messages_are_ours():
    """What the page on trouble quotes is what the commands say."""
    text = (ROOT / "lib/overlay/pages/text/trouble.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`", text, re.M)
    said = {text for module in MODULES for text in strings(module)}
    others = {"Permission denied", "command not found"}  # of the kernel, and of the shell
    missing = {one for one in quoted if not any(one in text for text in said)}
    assert missing <= others and len(quoted) > 6


def test_everybodys(settings, environ):
    """Names of users and variables stay what each user's shell makes of them."""
    values = site.values(
        settings(
            scratch_locations="$SCRATCH/x /y/{user}", binds_paths="/a:/data /b", binds_add="/c"
        )
    )
    assert (values["place"], values["filesystem"]) == ("$SCRATCH/x", "$SCRATCH/x")
    assert (values["binds"], values["own"]) == ("`/data`, `/b` and `/c`", "/work")


def test_own_pages_are_replaced(ok, run, scratch):
    """Pages that were written before are replaced; another's file stops all before a write."""
    ok("overlay-admin", "pages", "-q", "d")
    before = (scratch / "d/index.md").read_bytes()
    (scratch / "d/first.md").write_text(f"{forms.COMMENTS['md']}\nold\n")
    ok("overlay-admin", "pages", "-q", "d")
    assert "old" not in (scratch / "d/first.md").read_text()
    (scratch / "d/trouble.md").write_text("mine\n")
    (scratch / "d/index.md").write_text(f"{forms.COMMENTS['md']}\nold\n")
    done = run("overlay-admin", "pages", "d")
    assert done.status == 73 and "d/trouble.md exists already" in done.stderr
    assert (scratch / "d/trouble.md").read_text() == "mine\n"
    assert (scratch / "d/index.md").read_bytes() != before
    assert len(os.listdir(scratch / "d")) == len(fill.NAMES)
