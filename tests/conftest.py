"""What all tests share: the tree under test, its programs, and a place to work in."""

import os
import sys

import pytest
from support import PATH, ROOT, execute, from_environment

sys.path.insert(0, str(ROOT / "lib"))
sys.dont_write_bytecode = True


def pytest_addoption(parser):
    """Let a run take one half of the tests, so that two runs side by side make all of them."""
    parser.addoption("--half", type=int, choices=(1, 2), help="run every other test only")


def pytest_collection_modifyitems(config, items):
    """Leave out the other half. Neighbours cost much the same, so both take as long."""
    half = config.getoption("--half")
    if half:
        config.hook.pytest_deselected(items=items[2 - half :: 2])
        items[:] = items[half - 1 :: 2]


def _no_skip(report):
    """In CI a check that was not made is a check that failed."""
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)  # pytest would not count it
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Turn the skip of a test into a failure."""
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Turn the skip of a file into a failure."""
    return _no_skip((yield))


@pytest.fixture
def scratch(tmp_path):
    """Return a fresh directory whose name has a space."""
    path = tmp_path / "my files"
    path.mkdir()
    return path


@pytest.fixture
def home(tmp_path):
    """Return an empty home directory."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def site(tmp_path, site_text):
    """Return the path of the site's overlay.ini for the programs under test."""
    path = tmp_path / "site" / "overlay.ini"
    path.parent.mkdir()
    path.write_text(site_text)
    return path


@pytest.fixture
def environ(home, site):
    """Return the environment that the programs under test get; a test may change it."""
    return {
        "HOME": str(home),
        "PATH": PATH,
        "OVERLAY_CONFIG": str(site),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture
def settings(environ):
    """Return a function from OVERLAY_* settings to the loaded Config."""

    from overlay.settings import config as configuration

    def settings(**variables):
        names = {f"OVERLAY_{name.upper()}": text for name, text in variables.items()}
        return configuration.load({**environ, **names}, str(ROOT))

    return settings


@pytest.fixture
def words():
    """Return a function from the name of a program to the words that start it."""
    return lambda name: [str(ROOT / "bin" / name)]


@pytest.fixture
def run(words, environ, scratch):
    """Return a function that runs a program of the tree under test and returns its Result."""

    def run(name, *arguments, stdin=None, cwd=scratch, variables=()):
        return execute(
            [*words(name), *map(str, arguments)],
            environ={**environ, **dict(variables)},
            cwd=cwd,
            stdin=stdin,
        )

    return run


@pytest.fixture
def ok(run):
    """Return run() for commands that must end well; returns standard output."""

    def ok(*arguments, **options):
        result = run(*arguments, **options)
        assert result.status == 0, result
        return result.stdout

    return ok


@pytest.fixture
def colleague():
    """Return the directory with another user's overlays."""
    return from_environment("OVERLAY_COLLEAGUE")
