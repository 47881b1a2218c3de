"""Engines: which is found, what it can do, and its command line word by word."""

import csv
import io
import os

import pytest
from overlay.errors import UNAVAILABLE, OverlayError
from overlay.launch import engine as common
from overlay.launch import engines
from overlay.launch.engines.apptainer import Apptainer, bind_option, needs_mount
from overlay.launch.engines.singularity import Singularity
from overlay.launch.facts import Opened
from overlay.launch.request import Overlay

APPTAINER = Apptainer("/usr/bin/apptainer")


def arguments(overlays=(("a.ext3", True),), **options):
    """Return the words behind the engine's name for a session."""
    opened = [Opened(Overlay(path), None, written=written) for path, written in overlays]
    return APPTAINER.arguments(common.Launch("base.sif", opened, **options))[1:]


@pytest.mark.parametrize(
    ("overlays", "expected"),
    [
        ([("a", True)], ["a"]),
        ([("a", False)], ["a:ro"]),
        ([("a", True), ("b", False)], ["b:ro", "a"]),
        ([("a", True), ("b", False), ("c", False)], ["c:ro", "b:ro", "a"]),
        ([("a", False), ("b", False), ("c", False)], ["c:ro", "b:ro", "a:ro"]),
        ([("my file", True)], ["my file"]),
        ([("-a", False)], ["-a:ro"]),
        ([("it's", True)], ["it's"]),
        ([("a,b", True)], ['"a,b"']),
        ([("a,b", False)], ['"a,b:ro"']),
        ([('a"b', True)], ['"a""b"']),
        ([('a",b', False)], ['"a"",b:ro"']),
        ([("a\nb", True)], ['"a\nb"']),
    ],
)
def test_overlays(overlays, expected):
    """The engine gets the layers bottom first, each as one field of its list."""
    words = []
    for text in expected:
        words += ["--overlay", text]
    assert arguments(overlays) == ["-q", "shell", *words, "base.sif"]


def test_overlays_read_back():
    """Every name is one field to a reader of comma-separated values, the engine's way."""
    for name in ["a,b", 'a"b', '"a"', ",", '"', "a,'b", 'a,"b",c', "a\n,b"]:
        word = arguments([(name, False)])[3]
        assert list(csv.reader(io.StringIO(word, newline=""))) == [[name + ":ro"]]


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("/a:/b:ro,/c", ["--bind", "/a:/b:ro,/c"]),
        (("/a", "/a", False), ["--bind", "/a"]),
        (("/a", "/b", False), ["--bind", "/a:/b"]),
        (("/a", "/a", True), ["--bind", "/a:/a:ro"]),
        (("/a b", "/c d", True), ["--bind", "/a b:/c d:ro"]),
        (("/a'b", "/a'b", False), ["--bind", "/a'b"]),
        (("/a:b", "/c", False), ["--mount", "type=bind,source=/a:b,destination=/c"]),
        (("/a", "/b:c", True), ["--mount", "type=bind,source=/a,destination=/b:c,ro"]),
        (
            ("/a,b", "/c", True),
            ["--mount", 'type=bind,"source=/a,b",destination=/c,ro'],
        ),
        (
            ('/a"b', '/a"b', True),
            ["--mount", 'type=bind,"source=/a""b","destination=/a""b",ro'],
        ),
        (
            ("/a\nb", "/c", True),
            ["--mount", 'type=bind,"source=/a\nb",destination=/c,ro'],
        ),
        (("/a\\b", "/c", False), ["--mount", "type=bind,source=/a\\b,destination=/c"]),
    ],
)
def test_binds(bind, expected):
    """A bind is said with --bind, or with --mount where --bind would misread it."""
    assert bind_option(bind) == expected
    assert needs_mount(bind) == (expected[0] == "--mount")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["-q", "shell", "--overlay", "a.ext3", "base.sif"]),
        (
            {"command": ["ls", "-l"]},
            ["-q", "exec", "--overlay", "a.ext3", "base.sif", "ls", "-l"],
        ),
        ({"command": []}, ["-q", "exec", "--overlay", "a.ext3", "base.sif"]),
        ({"quiet": False}, ["shell", "--overlay", "a.ext3", "base.sif"]),
        (
            {"binds": ["/x", ("/y", "/y", True)], "gpus": ["nv"], "options": ["--home", "/h"]},
            [
                "-q",
                "shell",
                "--overlay",
                "a.ext3",
                "--bind",
                "/x",
                "--bind",
                "/y:/y:ro",
                "--nv",
                "--home",
                "/h",
                "base.sif",
            ],
        ),
    ],
)
def test_whole(options, expected):
    """Overlays, binds, flags, image, command: in this order."""
    assert arguments(**options) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("apptainer version 1.4.5\n", ("apptainer", (1, 4, 5))),
        ("apptainer version 1.3.0-rc.1", ("apptainer", (1, 3, 0))),
        ("apptainer version 1.2.5+8-gabc-dirty", ("apptainer", (1, 2, 5))),
        ("singularity version 3.8.7", ("singularity", (3, 8, 7))),
        ("singularity-ce version 4.1.0-1.el9", ("singularity", (4, 1, 0))),
        ("singularity-pro version 3.11-4", ("singularity", (3, 11))),
    ],
)
def test_parse_version(output, expected):
    """Every engine's way to say its version is read."""
    assert APPTAINER.parse_version(output) == expected


@pytest.mark.parametrize(
    "output",
    [
        "",
        "\n",
        "hello",
        "podman version 4.3",
        "apptainer version",
        "apptainer version x.y",
        "apptainer version 1..2",
    ],
)
def test_parse_version_refuses(tmp_path, output):
    """What is no version is refused with the line to try."""
    path = program(tmp_path / "my engine", f"#!/bin/sh\nprintf '%s' '{output}'\n")
    with pytest.raises(OverlayError) as error:
        Apptainer(path).version({})
    assert error.value.what == f"'{path}' does not say which version it is"
    assert error.value.hint == f"try it by hand: '{path}' --version"
    assert error.value.status == UNAVAILABLE


def program(path, text="#!/bin/sh\n", mode=0o755):
    """Write an executable file and return its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("version", "feature", "sentence"),
    [
        ("apptainer version 1.4.5", "--fakeroot with an overlay", None),
        (
            "apptainer version 1.0.3",
            "--fakeroot with an overlay",
            "--fakeroot with an overlay needs apptainer 1.1 or newer; {} is 1.0.3",
        ),
        (
            "singularity version 3.7.1",
            "--fakeroot with an overlay",
            "--fakeroot with an overlay needs singularity 3.8 or newer; {} is 3.7.1",
        ),
        (
            "singularity version 3.8.7",
            "--mount",
            "--mount needs singularity 3.9 or newer; {} is 3.8.7",
        ),
        ("singularity-ce version 3.11.4", "--mount", None),
    ],
)
def test_check(tmp_path, version, feature, sentence):
    """An engine too old for what was asked is refused with both versions."""
    path = program(tmp_path / "apptainer", f"#!/bin/sh\necho '{version}'\n")
    found = Apptainer(path)
    if sentence is None:
        assert found.check(feature, os.environ) is None
        return
    with pytest.raises(OverlayError) as error:
        found.check(feature, os.environ)
    assert error.value.what == sentence.format(path)
    assert error.value.hint == "load a newer engine; see: module avail"
    assert error.value.status == UNAVAILABLE


def test_find(tmp_path):
    """The first that is there is taken; its own name says which engine it is."""
    one = program(tmp_path / "one" / "singularity")
    two = program(tmp_path / "two" / "apptainer")
    environ = {"PATH": f"{tmp_path}/none::relative:{tmp_path}/one:{tmp_path}/two"}

    def found(*commands):
        result = engines.find(commands, environ)
        return result.path, result.name

    assert found("singularity", "apptainer") == (one, "singularity")
    assert found("no-such-engine", two) == (two, "apptainer")
    assert found("/no/such/apptainer", one) == (one, "singularity")


def test_find_link(tmp_path):
    """A link called singularity to an apptainer is an apptainer."""
    real = program(tmp_path / "apptainer")
    (tmp_path / "singularity").symlink_to(real)
    found = engines.find([str(tmp_path / "singularity")], {})
    assert (found.path, found.name) == (str(tmp_path / "singularity"), "apptainer")


@pytest.mark.parametrize(
    ("commands", "looked"),
    [
        (["no-such-a", "no-such-b"], "no-such-a, no-such-b"),
        ([], "none"),
        (["/no such"], "'/no such'"),
    ],
)
def test_find_none(commands, looked):
    """Without an engine it is said what was looked for."""
    with pytest.raises(OverlayError) as error:
        engines.find(commands, {"PATH": "/usr/bin:/bin"})
    assert error.value.what == f"no container engine found; looked for {looked}"
    assert error.value.hint == "load one, for example: module load apptainer"
    assert error.value.status == UNAVAILABLE


@pytest.mark.parametrize("place", ["libexec", "lib", f"{os.uname().machine}/libexec"])
def test_launchers_and_own_helpers(tmp_path, place):
    """An engine with helpers of its own looks there; one that is setuid root takes none of ours."""
    real = program(tmp_path / "bin" / "apptainer")
    (tmp_path / "link").symlink_to(real)
    found = Apptainer(str(tmp_path / "link"))
    nowhere = {"PATH": str(tmp_path)}
    before = found.launchers(nowhere)
    assert before is None or before.directory is None  # as this machine has helpers in /usr/bin
    own = tmp_path / place / "apptainer" / "bin"
    program(own / "starter")
    assert found.libexec() == [str(own)]
    again = found.launchers(nowhere)
    assert (again is None, again and again.base) == (before is None, before and before.base)
    program(own / "fuse-overlayfs")
    ours = found.launchers(nowhere)
    assert (ours.directory, ours.base) == (str(own), False)
    program(own / "squashfuse_ll")
    assert found.launchers(nowhere).base
    suid = program(own / "starter-suid", mode=0o4755)
    if os.getuid():
        assert not common.is_setuid(suid)  # it would run as us
    else:
        assert found.launchers(nowhere) is None


def test_launchers_before_path(tmp_path):
    """Helpers where our launchers would not look are not theirs to start."""
    real = program(tmp_path / "bin" / "apptainer")
    for name in ("fuse-overlayfs", "fuse2fs"):
        program(tmp_path / "else" / name)
    found = Apptainer(real)
    assert found.launchers({"PATH": f"{tmp_path}/else:/usr/bin"}) is None


def test_find_needs_a_program(tmp_path):
    """A directory, and a file that may not be run, are no engine."""
    (tmp_path / "apptainer").mkdir()
    program(tmp_path / "file" / "apptainer", mode=0o644)
    with pytest.raises(OverlayError):
        engines.find([str(tmp_path / "apptainer"), str(tmp_path / "file" / "apptainer")], {})


@pytest.mark.parametrize(
    ("family", "variable"),
    [(Apptainer, "APPTAINERENV_PS1"), (Singularity, "SINGULARITYENV_PS1")],
)
def test_variable(family, variable):
    """Each engine has its own prefix for variables."""
    assert family("/x").variable("PS1") == variable


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [
        ([], {}, set()),
        (["-C"], {}, {"contained"}),
        (["--contain"], {}, {"contained"}),
        ([], {"APPTAINER_CONTAINALL": "1"}, {"contained"}),
        ([], {"SINGULARITY_CONTAIN": "1"}, set()),
        (["--no-mount", "tmp,cwd"], {}, {"no_cwd"}),
        (["--no-mount=home"], {}, {"own_home"}),
        ([], {"APPTAINER_NO_MOUNT": "home,cwd"}, {"no_cwd", "own_home"}),
        (["--home=/h"], {}, {"own_home"}),
        (["-H", "/h"], {}, {"own_home"}),
        ([], {"APPTAINER_NO_HOME": "1"}, {"own_home"}),
        (["-f"], {}, {"fakeroot"}),
        ([], {"APPTAINER_FAKEROOT": "1"}, {"fakeroot"}),
        (["--writable-tmpfs=true"], {}, {"layer"}),
        ([], {"APPTAINER_WRITABLE_TMPFS": "1"}, {"layer"}),
    ],
)
def test_told(options, environ, expected):
    """What users tell the engine themselves is understood, by options and by variables."""
    told = APPTAINER.told(options, environ)
    assert {name for name in told.__slots__ if getattr(told, name)} == expected


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("--bind=/a", "binds.paths"),
        ("-B/a", "binds.paths"),
        ("-cB/a", "binds.paths"),
        ("-H", "binds.paths"),
        ("--home=/a", "binds.paths"),
        ("--scratch", "binds.paths"),
        ("-eW/a", "binds.paths"),
        ("--fusemount=host:a", "binds.paths"),
        ("--nv", "launch.gpu"),
        ("--nvccli=true", "launch.gpu"),
        ("-e", None),
        ("-o/BHSW.ext3", None),
        ("--pwd=/B", None),
        ("--no-home", None),
    ],
)
def test_sets_aside(word, setting):
    """Its own options that do what a locked setting does are known."""
    assert APPTAINER.sets_aside(word) == setting


def test_families():
    """Every module beside them is a family of engines, which is found by its program's name."""
    directory = os.path.dirname(engines.__file__)
    names = [name[:-3] for name in os.listdir(directory) if name.endswith(".py")]
    assert len(names) > 2
    for name in set(names) - {"__init__"}:
        assert issubclass(engines._family(name.replace("_", "-")), common.Engine)
    for name in ("__init__", "", "engine", "apptainer.sif", "../apptainer"):
        assert engines._family(name) is None
