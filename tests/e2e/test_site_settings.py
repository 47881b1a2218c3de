"""Settings of a site that change what a session sees."""

import contextlib
import os
import pwd
from pathlib import Path

import pytest
from e2e.conftest import alone


@pytest.fixture
def places(scratch):
    """Make directories of the host that nothing binds by itself, each with a file, and return them."""
    names = ["site", "more", "own", "job"]
    for name in names:
        (scratch / name).mkdir()
        (scratch / name / "file").write_text(f"{name}\n")
    return {name: f"'{scratch}/{name}:/{name}'" for name in names}


@pytest.mark.parametrize("lock", [None, "binds.paths", "binds"])
def test_binds_add_up(ok, overlay, home, site, site_text, places, lock):
    """Every file of settings, and the environment, can add a path; a lock is for the site's only."""
    overlay()
    site.write_text(f"{site_text}[binds]\npaths = {places['site']}\n")
    (site.parent / "overlay.d").mkdir()
    locking = f"[site]\nlock = {lock}\n" if lock else ""
    (site.parent / "overlay.d" / "more.ini").write_text(
        f"{locking}[binds]\nadd = {places['more']}\n"
    )
    (home / ".config" / "overlay").mkdir(parents=True)
    own = home / ".config" / "overlay" / "overlay.ini"
    own.write_text(f"[binds]\nadd = {places['own']}\n")
    words = ["run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c"]
    line = "cat /site/file /more/file /own/file /job/file 2>/dev/null; true"
    seen = ok(*words, line, variables={"OVERLAY_BINDS_ADD": places["job"]})
    assert seen.split() == ["site", "more"] + (["own", "job"] if lock is None else [])


def test_hidden_by_an_added_bind(run, scratch, home, site, site_text, places):
    """What an added bind would cover is no place for what an overlay is filled with."""
    site.write_text(f"{site_text}[binds]\nadd = {places['more']}\n")
    result = run("create-overlay", "--from", f"{scratch}/own:/more", "-o", "b")
    assert (result.status, "/more would not be seen inside" in result.stderr) == (2, True), result


MODULE = """
import os
try:
    import {name}
except ImportError:
    print('hidden', os.environ.get('R_LIBS_USER'))
else:
    print('found', os.environ.get('R_LIBS_USER'))
"""


@pytest.fixture
def user_module():
    """Return the name of a module that the user has where pip installs without an overlay."""
    local = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local"
    versions = [local / "lib" / f"python3.{minor}" for minor in range(9, 16)]
    name = f"of_the_user_{os.getpid()}"
    with alone("user-site"):
        for version in versions:
            (version / "site-packages").mkdir(parents=True, exist_ok=True)
            (version / "site-packages" / f"{name}.py").write_text("")
        yield name
        for version in versions:
            (version / "site-packages" / f"{name}.py").unlink()
            for path in (version / "site-packages", version, local / "lib", local):
                with contextlib.suppress(OSError):  # there is something in it
                    path.rmdir()


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_user_site(ok, overlay, user_module, mode):
    """What pip has installed in the home directory comes before the overlay's, or is hidden."""
    overlay()
    module = MODULE.format(name=user_module)
    words = ["run-overlay", "-o", f"a.ext3{mode}", "--", "python3", "-B", "-c", module]
    assert ok(*words) == "found None\n"
    for user_site, seen in (("keep", "found None\n"), ("hide", "hidden NULL\n")):
        assert ok(*words, variables={"OVERLAY_LAUNCH_USER_SITE": user_site}) == seen
