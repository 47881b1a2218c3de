"""`overlay-admin pages`: what real documentation tools make of it, and whether it is true."""

import os
import re
import subprocess

import pexpect
import pytest
from overlay.pages.fill import NAMES
from support import BASE, ROOT

OTHERS = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "others", "bin")
BUSY = """
[engine]
module = apptainer/1.4
[images]
default = rocky-9
rocky-9 = /share/images/rocky-9.sif
ubuntu = /share/images/{machine}/ubuntu-24.04.sif
[binds]
paths = /scratch /home /projects:/data:ro
[create]
max_size = 200G
max_files = 5M
[quota]
hint = see *what* takes_ the <room>: myquota | less
[templates]
conda = /share/templates/miniforge.tar.zst:/ext3
[scratch]
purge = 90d
"""


def built(form, place):
    """Build the pages that lie in place/text, strictly; return what the builder said."""
    (place / "conf.py").write_text("project = 'x'\nhtml_theme = 'sphinx_rtd_theme'\n")
    (place / "mkdocs.yml").write_text("site_name: x\ndocs_dir: text\nsite_dir: html\n")
    words = {
        "rst": ["sphinx-build", "-q", "-W", "-c", place, place / "text", place / "html"],
        "md": ["mkdocs", "build", "-q", "--strict", "-f", place / "mkdocs.yml"],
    }[form]
    done = subprocess.run(
        [f"{OTHERS}/{words[0]}", *words[1:]],
        env={"PATH": f"{OTHERS}:/usr/bin:/bin", "HOME": str(place), "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("form", ["rst", "md"])
@pytest.mark.parametrize("settings", ["", BUSY], ids=["plain", "busy"])
def test_builds(run, site, scratch, form, settings):
    """The pages of two sites build without a warning, and say what the site has."""
    site.write_text(settings)
    done = run("overlay-admin", "pages", "-q", "--format", form, scratch / "text")
    assert done == (0, "", "")
    assert sorted(os.listdir(scratch / "text")) == sorted(f"{name}.{form}" for name in NAMES)
    assert built(form, scratch) == (0, "")
    page = (scratch / "html" / "index.html").read_text()
    assert ("rocky-9" in page, "90 days" in page) == (bool(settings),) * 2
    assert "@" not in re.sub(r"<[^>]*>|\S+@\S+\.\S+", "", page.partition("<body")[2])
    if settings:
        assert "see *what* takes_ the &lt;room&gt;: myquota | less" in re.sub(
            r"</?span[^>]*>", "", page
        )


def blocks(text):
    """Yield the blocks of a page that show what a person typed, as lists of lines."""
    for block in re.findall(r"^```\n(.*?)^```$", text, re.S | re.M):
        if block.startswith("$ "):
            yield block.splitlines()


def masked(line):
    """Return a line without its figures."""
    return re.sub(r"[\d.,]+ [KMGT]iB|[\d,]+", "N", line.rstrip())


def test_first_page_is_true(run, site, site_text, environ, tmp_path):
    """Who types what the first page shows gets what it shows."""
    scratch = tmp_path / "you"  # no name that would stand in quotes
    scratch.mkdir()
    site.write_text(
        f"{site_text}[scratch]\nlocations = '{scratch}'\n[binds]\npaths = '{scratch}'\n"
    )
    assert run("overlay-admin", "pages", "-q", scratch / "text").status == 0
    text = (scratch / "text" / "first.md").read_text()
    environ = {**environ, "PATH": f"{ROOT}/bin:{environ['PATH']}", "TERM": "dumb"}
    seen = []
    for lines in blocks(text):
        while lines:
            command = lines.pop(0)[2:]
            shown = []
            while lines and not lines[0].startswith("$ "):
                shown.append(lines.pop(0))
            if command.startswith("mount-overlay"):
                said = in_a_terminal(command, shown, environ, scratch)
            elif command.startswith(("module ", "cd ")):
                said = []
            else:
                done = subprocess.run(
                    ["bash", "-c", command],
                    env=environ,
                    cwd=scratch,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=True,
                )
                said = done.stdout.splitlines()
            if command.startswith("create-overlay"):  # what is left is that of a file system
                shown, said = (
                    [line for line in one if "left" not in line] for one in (shown, said)
                )
            assert list(map(masked, said)) == list(map(masked, shown)), command
            seen.append(command.split()[0])
    assert seen == ["module", "cd", "create-overlay", "mount-overlay", "run-overlay"]


def in_a_terminal(command, shown, environ, place):
    """Type into a session what a block shows behind its prompts; return the lines as shown."""
    child = pexpect.spawn(
        "bash",
        ["-c", command],
        env=environ,
        cwd=str(place),
        encoding="utf-8",
        dimensions=(50, 300),
        timeout=60,
    )
    child.setecho(False)
    said = []
    for line in shown:
        prompt, mark, typed = line.partition("> ")
        if not (mark and line.startswith("[")):
            child.expect_exact("\r\n")
            said.append(child.before)
            continue
        child.expect_exact(f"{prompt.replace(str(place), '')}", searchwindowsize=None)
        child.expect_exact("> ")
        said.append(line)
        child.sendline(typed)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return said


def test_base_is_named(run, site, scratch):
    """The image of the page is the site's, by its path for the plain engine."""
    site.write_text(f"[images]\ndefault = base\nbase = {BASE}\n")
    run("overlay-admin", "pages", scratch)
    assert f"\n    {BASE} bash job.txt\n" in (scratch / "engine.md").read_text()
