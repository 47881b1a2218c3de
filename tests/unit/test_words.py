"""The words of messages and pages: plain English, read once."""

import ast
import collections
import re

import pytest
from support import ROOT

PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("etc/*"),
    *ROOT.glob("share/man/*/*"),
    *ROOT.glob("share/bash-completion/completions/*"),
    *ROOT.glob("share/zsh/site-functions/*"),
]
MODULES = sorted((ROOT / "lib" / "overlay").rglob("*.py"))

# "There is no room" and "it is no longer there" are plain.
STIFF = re.compile(
    r"\b(?<!there )(?:is|are|was|were|be) no (?!longer\b|more\b)\w+|\b(?:he|him|his|himself)\b",
    re.IGNORECASE,
)


def stiff(text):
    """Return what is better said in other words; how a text is broken into lines is nothing."""
    return STIFF.findall(" ".join(text.split()))


def strings(module):
    """Return all strings of a module; what is put into one when it runs stands as {}."""
    tree = ast.parse(module.read_text())
    found, parts = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append("".join(words))
            parts |= set(map(id, node.values))
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("it is no\n  overlay", 1),
        ("They are no files.", 1),
        ("He may write\nhis file himself.", 3),
        ("there is no room; there are no\nlocks; it is no longer here; this is not", 0),
    ],
)
def test_stiff(text, count):
    """The other tests here can fail."""
    assert len(stiff(text)) == count


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page):
    """No page says "is no file" for "is not a file", or "he" of a user."""
    assert stiff(page.read_text()) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: "/".join(module.parts[-2:]))
def test_messages(module):
    """No message does."""
    assert [text for text in strings(module) if stiff(text)] == []


def test_one_place():
    """A sentence of five words and more stands in one module: those who change it find it."""
    where = collections.defaultdict(set)
    for module in MODULES:
        tree = ast.parse(module.read_text())
        described = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
                      if isinstance(node, described)}  # fmt: skip
        for text in strings(module):
            words = re.findall(r"[A-Za-z]{2,}|\ba\b", text.replace("{}", ""))
            if len(words) >= 5 and text not in docstrings and " " in text:
                where[text].add(module.relative_to(ROOT / "lib"))
    assert len(where) > 500  # it looks where messages are
    assert {text: places for text, places in where.items() if len(places) > 1} == {}
