"""The layout of lib/overlay: packages from the bottom up, and what may import what."""

import ast
import os
import re
import subprocess
import sys

import pytest
from overlay.host.tools import TOOLS
from overlay.safety import finish
from support import ROOT

LIB = os.path.join(ROOT, "lib")

# From the bottom up: what stands here imports only what stands before it, or beside it in
# its own package. docs/design.md says what each is for.
ORDER = (
    "errors",
    "size",
    "plan",
    "output",
    "host",
    "settings",
    "image",
    "environment",
    "quota",
    "safety",
    "launch",
    "shared",
    "create",
    "change",
    "jobs",
    "doctor",
    "pages",
    "expose",
    "commands",
    "cli",
    "api",
)


def modules(lib):
    """Return the modules below a directory, packages too, from name to path."""
    found = {}
    for directory, _directories, names in os.walk(os.path.join(lib, "overlay")):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                words = os.path.relpath(path, lib)[: -len(".py")].split(os.sep)
                found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


def imported(path, known):
    """Return the modules of ours that a file imports at run time, inside functions too.

    known  the names of all of ours
    """
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    hints = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    return _named((node for node in ast.walk(tree) if id(node) not in hints), known) - {"overlay"}


def _named(nodes, known):
    """Return the modules of ours that some nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & known or {node.module}
    return found


def imported_late(path, known):
    """Return the modules of ours that the functions of a file import."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return _named((inner for node in functions for inner in ast.walk(node)), known)


def arrows(lib):
    """Return what each module below a directory imports, from name to a set of names."""
    known = modules(lib)
    return {name: imported(path, set(known)) for name, path in known.items()}


def upwards(found):
    """Return the imports, as text, that lead to something that stands above."""

    def floor(name):
        return ORDER.index(name.split(".")[1]) if "." in name else -1

    return sorted(
        f"{name} imports {other}"
        for name, others in found.items()
        for other in others
        if floor(other) > floor(name)
    )


def circles(found):
    """Return the modules, sorted, that can be reached from themselves."""

    def reached(name):
        seen, pending = set(), [name]
        while pending:
            for other in found[pending.pop()] - seen:
                seen.add(other)
                pending.append(other)
        return seen

    return sorted(name for name in found if name in reached(name))


def test_order():
    """Every module and package has its place in ORDER, and ORDER names nothing else."""
    assert {name.split(".")[1] for name in modules(LIB) if "." in name} == set(ORDER)


def test_no_import_upwards():
    """No package imports one that stands above it."""
    assert upwards(arrows(LIB)) == []


def test_no_circle():
    """No module reaches itself through its imports, those inside functions included."""
    assert circles(arrows(LIB)) == []


def test_end_of_a_session():
    """What the end of a session imports is imported while it lasts: an upgrade may take it away."""
    paths = modules(LIB)
    known = set(paths)
    late = {name: imported_late(path, known) for name, path in paths.items()}
    early = {name: imported(path, known) - late[name] for name, path in paths.items()}

    def loaded(*names):
        seen, pending = set(), [*names]
        while pending:
            name = pending.pop()
            seen.add(name)
            pending += early[name] - seen
        return seen

    end = loaded("overlay.safety.finish", *finish.NEEDED)
    there = end | loaded("overlay.launch.run", "overlay.host.foreground")
    end.remove("overlay.image.image")  # decides what an image is, which is long known
    assert {name: late[name] - there for name in end if late[name] - there} == {}


def words(path):
    """Return the texts in the code of a file, as a list; comments and docstrings are none."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_tools():
    """Every tool that is asked for by name is in TOOLS, and what brings it is named there alone."""
    asked = set()
    for name, path in modules(LIB).items():
        if name != "overlay.host.tools":
            packages = {tool.package for tool in TOOLS.values()} - TOOLS.keys()
            known = {(text, word) for text in words(path) for word in packages if word in text}
            assert (name, known) == (name, set())
        with open(path, encoding="utf-8") as file:
            asked |= set(re.findall(r'process\.need\("([^"]+)"', file.read()))
    assert {"mke2fs", "unshare", "zstd"} <= asked <= TOOLS.keys()


def test_starts():
    """Programs are started in two modules only, which tell of them: see test_verbose.

    In a third one our process becomes a command, in a session that is there.
    """
    starts = r"\b(subprocess\.\w+|os\.(posix_spawnp?|exec\w+|spawn\w+|popen|system))\("
    found = []
    for name, path in modules(LIB).items():
        with open(path, encoding="utf-8") as file:
            found += [name] * bool(re.search(starts, file.read()))
    assert sorted(found) == [
        "overlay.host.foreground",
        "overlay.host.process",
        "overlay.shared.join",
    ]


@pytest.mark.parametrize("name", sorted(modules(LIB)))
def test_alone(name):
    """Each module can be the first that a program imports."""
    script = "import importlib, sys; sys.path.insert(0, sys.argv[1]);"
    script += "importlib.import_module(sys.argv[2])"
    words = [sys.executable, "-IS", "-c", script, LIB, name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("text", "up", "round"),
    [
        (
            "from overlay.image import b\n",
            ["overlay.host.a imports overlay.image.b"],
            True,
        ),
        ("def f():\n    from overlay.image.b import f\n", [True], True),
        ("import overlay.image.b\n", [True], True),
        (
            "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from overlay.image import b\n",
            [],
            False,
        ),
        ("from overlay import errors\n", [], False),
    ],
)
def test_faults_are_seen(tmp_path, text, up, round):
    """An import upwards and a circle are found wherever they stand; those for types do not count."""
    files = {
        "__init__": "",
        "errors": "",
        "host/__init__": "",
        "host/a": text,
        "image/__init__": "",
        "image/b": "from overlay.host import a\nfrom overlay.errors import x\n",
    }
    for name, content in files.items():
        path = tmp_path / "overlay" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = arrows(tmp_path)
    assert [bool(line) for line in upwards(found)] == [bool(line) for line in up]
    assert circles(found) == (["overlay.host.a", "overlay.image.b"] if round else [])
