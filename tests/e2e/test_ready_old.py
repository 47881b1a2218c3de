"""Overlays that carry nothing: of version 1.0, and of the plain engine. docs/admin.md has the table."""

import json

import pytest
from support import BASE

FILL = "mkdir -p /env/bin; echo echo found >/env/bin/tool; chmod 755 /env/bin/tool"


@pytest.fixture(params=["engine", "version 1.0"])
def old(request, engine, ok, run, scratch):
    """Return the path of an overlay that was filled in a session, as it has always been done."""
    if request.param == "engine":
        made = engine("overlay", "create", "--size", "64", "old.ext3")
        assert made.status == 0, made
        filled = engine("exec", "--overlay", "old.ext3", BASE, "sh", "-c", FILL)
        assert filled.status == 0, filled
    else:  # an empty one is what it was then
        ok("create-overlay", "-q", "-s", "64", "-n", "2", "-o", "old.ext3")
        ok("run-overlay", "-q", "-o", "old.ext3", "--", "sh", "-c", FILL)
    return scratch / "old.ext3"


def test_sessions_say_nothing(run, old):
    """Nothing is said, nothing is ready, and the site's image is taken."""
    line = "/env/bin/tool; echo $APPTAINER_CONTAINER; command -v tool"
    for words in (["old.ext3:ro"], ["old.ext3"]):
        said = run("run-overlay", "-o", *words, "--", "sh", "-c", line)
        assert said == (127, f"found\n{BASE}\n", ""), said


def test_shown(run, ok, old):
    """It is shown as any other, carries nothing, and has no recipe to show."""
    document = json.loads(ok("show-overlay", "--json", "old.ext3"))[0]
    assert (document["history"], document["base"], document["activated"]) == ([], [], [])
    said = run("show-overlay", "--recipe", "old.ext3")
    assert said.status == 66 and "hint" in said.stderr, said


def test_other_commands(run, ok, old):
    """It is updated, resized, checked, packed and taken as a source without a word of this."""
    for words in (
        ["update-overlay", "old.ext3", "--", "touch", "/env/x"],
        ["resize-overlay", "old.ext3", "-s", "+8"],
        ["check-overlay", "old.ext3"],
        ["pack-overlay", "old.ext3"],
        ["update-overlay", "old.sqsh", "--", "touch", "/env/y"],
    ):
        said = run(*words)
        assert said.status == 0, said
        assert not {"history", "activated", "ready"} & set(said.stderr.split()), said
    for name in ("old.ext3", "old.sqsh"):
        assert json.loads(ok("show-overlay", "--json", name))[0]["history"] == []
    assert run("run-overlay", "-o", "old.sqsh", "--", "ls", "/env").stdout == "bin\nx\ny\n"


def test_made_ready_later(run, ok, engine, old):
    """--activate makes it one of today's: ready with our commands and the plain engine, and bound."""
    ok("update-overlay", "-q", "old.ext3", "--activate", "/env")
    said = run("run-overlay", "-o", "old.ext3:ro", "--", "tool")
    assert said == (0, "found\n", ""), said
    assert engine("exec", "--overlay", "old.ext3:ro", BASE, "tool").stdout == "found\n"
    document = json.loads(ok("show-overlay", "--json", "old.ext3"))[0]
    assert [one["path"] for one in document["base"]] == [BASE]
