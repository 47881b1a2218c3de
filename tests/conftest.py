"""What all tests share: the tree under test, its programs, and a place to work in."""

import os
import pwd
import sys

import pytest
from support import PATH, ROOT, execute, from_environment

sys.path.insert(0, str(ROOT / "lib"))
sys.dont_write_bytecode = True


def pytest_addoption(parser):
    """Let several runs side by side share the tests."""
    parser.addoption(
        "--share", metavar="DIR", help="run what no other run with the same directory has taken"
    )


def pytest_collection_modifyitems(items):
    """Begin with what takes longest: else one run would still be at it when the others end."""
    items.sort(key=lambda item: not _goes_together(item))


def _goes_together(item):
    """Return whether one run makes all tests of the file: it says so, as TOGETHER."""
    return getattr(item.module, "TOGETHER", False)


def _taken(items, directory):
    """Yield those of some tests that nobody else has taken, each taken just before.

    directory  where a file of its own stands for each test, or all of a file, that is taken
    """
    known = {}
    for number, item in enumerate(items):
        name = item.module.__name__ if _goes_together(item) else str(number)
        if name not in known:
            try:
                os.close(os.open(os.path.join(directory, name), os.O_CREAT | os.O_EXCL))
                known[name] = True
            except FileExistsError:
                known[name] = False
        if known[name]:
            yield item


def pytest_runtestloop(session):
    """Run this run's share of the tests, one test taken ahead: fixtures ask for the next."""
    directory = session.config.getoption("--share")
    if not directory or session.testsfailed or session.config.option.collectonly:
        return None  # as pytest does it
    taken = _taken(session.items, directory)
    item = next(taken, None)
    while item is not None:
        following = next(taken, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


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


@pytest.fixture
def as_colleague(colleague):
    """Return the words before a command line that another user types, who has our groups too."""
    user = pwd.getpwnam("overlay-colleague")
    program = colleague.parent / "as" / "setpriv"
    return [str(program), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--keep-groups"]
