"""The pictures and figures of the documentation are those that the tools make."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from support import ROOT

DOCS = ROOT / "docs"
PICTURES = sorted((DOCS / "pictures").glob("*.svg"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SVG = "{http://www.w3.org/2000/svg}"


def made(directory, *words):
    """Run a tool of this tree, and return what it made in a directory, from name to text."""
    subprocess.run([sys.executable, *words], check=True)
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_drawn(tmp_path):
    """tools/pictures draws what lies in docs/pictures: the figures in them are of today's record."""
    found = made(tmp_path, ROOT / "tools" / "pictures", tmp_path)
    assert len(found) == 4
    for name, text in found.items():
        assert text == (DOCS / "pictures" / name).read_text(), f"make pictures: {name}"


def test_measured(tmp_path):
    """docs/performance.md and its charts are written from docs/performance.json."""
    words = [ROOT / "tools" / "benchmark", "--from", DOCS / "performance.json"]
    found = made(tmp_path, *words, "--page", tmp_path / "performance.md", "--svg", tmp_path)
    assert found.pop("performance.md") == (DOCS / "performance.md").read_text(), "make pictures"
    assert len(found) == 4
    for name, text in found.items():
        assert text == (DOCS / "pictures" / name).read_text(), f"make pictures: {name}"


def test_recorded():
    """README.md shows the record of the first session, whole."""
    readme = (ROOT / "README.md").read_text()
    record = (DOCS / "first-session.txt").read_text()
    assert f"```\n{record}```\n" in readme
    count = int(re.search(r"wc -l\n(\d+)", record)[1])
    assert f"{count:,} files inside, one file outside" in readme


def test_all_shown():
    """Each picture stands on a page, each that is named is there, and has words beside it."""
    shown = set()
    for page in PAGES:
        for words, path in re.findall(r"!\[(.*?)\]\((.+?)\)", page.read_text()):
            assert words, (page, path)
            assert (page.parent / path).is_file(), (page, path)
            shown.add(os.path.basename(path))
    assert shown == {path.name for path in PICTURES}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_legible(path):
    """A picture says in words what it shows, has both grounds, and its words lie on its card."""
    root = ElementTree.parse(path).getroot()
    title, description = root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title description"
    assert len(title) > 10 and len(description) > 2 * len(title)
    assert "prefers-color-scheme:dark" in root.find(f"{SVG}style").text
    width, height = float(root.get("width")), float(root.get("height"))
    texts = root.findall(f"{SVG}text")
    assert texts[0].text == title
    for text in texts:
        kinds = (text.get("class") or "").split()
        letter = (
            7.9
            if "code" in kinds
            else 7.2
            if "small" in kinds
            else 9.8
            if "title" in kinds
            else 8.4
        )
        length = letter * len(text.text)
        left = float(text.get("x")) - {"end": length, "middle": length / 2}.get(
            text.get("text-anchor"), 0
        )
        assert left >= 0 and left + length <= width and 0 < float(text.get("y")) < height, text.text
