"""What an overlay makes ready, and which base image it belongs to, after an update."""

import json
import subprocess

import pytest
from e2e.test_ready import SHOWN, program, venv
from support import BASE


@pytest.fixture
def env(scratch, ok):
    """Return the path of an overlay with one venv that is ready, and room."""
    tree = venv(scratch / "tree")
    words = ["--from", f"{tree}:/opt/env", "--set", "GIVEN=it's", "-s", "24", "-n", "2"]
    ok("create-overlay", "-q", *words, "-o", "env.ext3")
    return scratch / "env.ext3"


@pytest.fixture
def shown(ok, engine):
    """Return a function that says what our sessions, the plain engine and a login shell find."""

    def shown(line=SHOWN, name="env.ext3"):
        ways = {
            ok("run-overlay", "-q", "-o", f"{name}:ro", "--", "sh", "-c", line),
            ok("run-overlay", "-q", "-o", f"{name}:ro", "--", "bash", "-lc", line),
            engine("exec", "--overlay", f"{name}:ro", BASE, "sh", "-c", line).stdout,
        }
        assert len(ways) == 1
        return ways.pop().strip()

    return shown


READY = "/opt/env/bin/tool venv /opt/env"


def test_change_in_activation(run, shown, scratch, env):
    """What the activation sets by then is what is set; what --set has set stays."""
    line = "echo export MORE=more >>/opt/env/bin/activate"
    said = run("update-overlay", "env.ext3", "--", "sh", "-c", line)
    assert said.status == 0, said
    assert shown() == READY
    assert shown('echo "$MORE $GIVEN"') == "more it's"
    assert shown('echo "$MORE $GIVEN"', "env.ext3.~1~") == "it's"


def test_nothing_to_find_out(run, shown, env):
    """A venv whose own two files are as they were is not asked again; all else is."""

    def starts(*words):
        said = run("update-overlay", "-v", "env.ext3", *words)
        assert said.status == 0, said
        lines = [line for line in said.stderr.splitlines() if line.startswith("+ ")]
        return sum(" exec " in line and "apptainer" in line for line in lines)

    assert starts("--", "sh", "-c", "mkdir /data; echo x >/opt/env/more") == 1
    assert shown() == READY
    assert starts("--", "sh", "-c", "echo 'export MORE=more' >>/opt/env/bin/activate") == 2
    assert shown('echo "$MORE $GIVEN"') == "more it's"
    assert starts("--activate", "/opt/env", "--", "true") == 2
    assert shown('echo "$MORE $GIVEN"') == "more it's"


def test_removed(run, shown, env):
    """One that is gone is said, and no longer first in PATH."""
    said = run("update-overlay", "env.ext3", "--", "rm", "-r", "/opt/env")
    assert (said.status, "/opt/env is gone, and no longer activated" in said.stderr) == (0, True)
    assert shown('case $PATH:$VIRTUAL_ENV in *env*) echo "$PATH";; esac') == ""
    assert shown('echo "$GIVEN"') == "it's"


def test_moved(run, shown, env):
    """One that has another name is ready under that."""
    said = run("update-overlay", "env.ext3", "--", "mv", "/opt/env", "/opt/new")
    assert said.status == 0, said
    assert "activated: /opt/new" in said.stderr
    assert shown() == "/opt/new/bin/tool venv /opt/new"


def test_made(run, ok, shown, scratch):
    """The first one that an update makes is ready; a second is named, and --activate chooses."""
    ok("create-overlay", "-q", "-s", "24", "-n", "2", "-o", "env.ext3")
    tree = venv(scratch / "tree")
    line = ["-b", scratch, "--", "cp", "-r"]
    said = run("update-overlay", "env.ext3", *line, tree, "/opt/env")
    assert said.status == 0, said
    assert "activated: /opt/env" in said.stderr
    assert shown() == READY
    program(tree / "bin" / "tool", "two")
    said = run("update-overlay", "env.ext3", *line, tree, "/opt/two")
    assert said.status == 0, said
    assert shown() == READY
    hint = "update-overlay env.ext3 --activate /opt/two --activate /opt/env"
    assert "not activated: /opt/two" in said.stderr and hint in said.stderr
    said = run(*hint.split())
    assert (said.status, "activated: /opt/two /opt/env" in said.stderr) == (0, True), said
    assert shown() == "/opt/two/bin/tool two /opt/two"
    ok("update-overlay", "-q", "--activate", "/opt/env", "env.ext3")
    assert shown() == READY
    assert shown('case $PATH in *two*) echo "$PATH";; esac') == ""


def test_never_of_itself(ok, run, shown, scratch):
    """What was there before, and not activated, is not by another update."""
    tree = venv(scratch / "tree")
    words = ["--from", f"{tree}:/opt/env", "--no-activate", "-s", "24", "-n", "2"]
    ok("create-overlay", "-q", *words, "-o", "env.ext3")
    ok("update-overlay", "-q", "env.ext3", "--", "touch", "/opt/x")
    assert run("run-overlay", "-q", "-o", "env.ext3:ro", "--", "tool").status == 127
    ok("update-overlay", "-q", "env.ext3", "--activate", "/opt/env")
    assert shown() == READY


def test_no_activate(run, ok, shown, env):
    """--no-activate leaves nothing ready, and what --set has set."""
    said = run("update-overlay", "env.ext3", "--no-activate")
    assert (said.status, "nothing is activated any more" in said.stderr) == (0, True), said
    assert run("run-overlay", "-q", "-o", "env.ext3:ro", "--", "tool").status == 127
    assert shown('echo "$GIVEN"') == "it's"
    assert json.loads(ok("show-overlay", "--json", "env.ext3"))[0]["activated"] == []


@pytest.mark.parametrize(
    ("path", "status", "what"),
    [
        ("/opt/evn", 66, "there is no /opt/evn in it to activate"),
        ("/opt", 65, "/opt is not an environment"),
        ("/opt/env/bin/tool", 65, "/opt/env/bin/tool is not an environment"),
    ],
)
def test_mistakes(run, env, path, status, what):
    """What cannot be activated is said, with what can be; the overlay is as it was."""
    before = env.read_bytes()
    said = run("update-overlay", "env.ext3", "--activate", path)
    assert said.status == status, said
    assert what in said.stderr and "--activate /opt/env" in said.stderr
    assert env.read_bytes() == before


def test_activation_that_fails(run, shown, env):
    """What cannot be found out any more leaves what was ready as it was, and is said."""
    line = "echo 'trap - EXIT; exit 0' >>/opt/env/bin/activate"
    said = run("update-overlay", "env.ext3", "--", "sh", "-c", line)
    assert (said.status, "/opt/env is as ready as it was" in said.stderr) == (0, True), said
    assert shown() == READY


def test_image(run, ok, scratch, env):
    """An update with another base image makes the overlay one for that; a session does not."""
    own = scratch / "own.sif"
    subprocess.run(["cp", "--reflink=auto", BASE, own], check=True)

    def base():
        document = json.loads(ok("show-overlay", "--json", "env.ext3"))[0]
        return document["base"][0]["path"], document["history"][0]["entries"][-1]["image"]["path"]

    ok("run-overlay", "-q", "-c", own, "-o", "env.ext3", "--", "true")
    assert base() == (BASE, BASE)
    ok("update-overlay", "-q", "env.ext3", "-c", own, "--", "true")
    assert base() == (str(own), str(own))
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", "echo $APPTAINER_CONTAINER")
    assert said.stdout == f"{own}\n"


def test_two_that_are_ready(ok, shown, scratch):
    """Of two in one overlay, one carried along, both are ready after an update."""
    words = ["--from", f"{venv(scratch / 'one')}:/opt/env", "-o", "one.ext3"]
    ok("create-overlay", "-q", *words)
    tree = venv(scratch / "two", "/opt/two", "two")
    program(tree / "bin" / "second", "second")
    words = ["--from", "one.ext3", "--from", f"{tree}:/opt/two", "--activate", "/opt/two"]
    ok("create-overlay", "-q", *words, "-s", "24", "-n", "2", "-o", "env.ext3")
    line = 'tool; second; echo "$PATH" | tr : "\\n" | grep env'
    before = shown(line)
    assert before == "two\nsecond\n/opt/env/bin"
    ok("update-overlay", "-q", "env.ext3", "--", "true")
    assert shown(line) == before


def test_packed(ok, shown, env):
    """A packed one is ready after its update, also as what stands behind its end says."""
    ok("pack-overlay", "-q", "env.ext3")
    ok("update-overlay", "-q", "env.sqsh", "--", "mv", "/opt/env", "/opt/new")
    assert shown(name="env.sqsh") == "/opt/new/bin/tool venv /opt/new"
    document = json.loads(ok("show-overlay", "--json", "env.sqsh"))[0]
    assert document["activated"] == ["/opt/new"]
    actions = [one["action"] for one in document["history"][0]["entries"]]
    assert actions == ["create", "pack", "update", "pack"]


def test_history_stays(ok, scratch):
    """Whatever becomes of an overlay, it says how it was made; and that can be run again."""
    (scratch / "install").write_text("cd /opt; mkdir x; echo 1 >x/one; exit 0\n")
    (scratch / "more").write_text("cd /opt/x && echo 2 >two\n")
    ok("create-overlay", "-q", "-f", "install", "-s", "24", "-n", "2", "-o", "a.ext3")
    ok("update-overlay", "-q", "a.ext3", "-f", "more")
    ok("update-overlay", "-q", "a.ext3", "--", "sh", "-c", "echo '3 3' >'/opt/x/the third'")
    ok("create-overlay", "-q", "-f", "install", "-o", "b.ext3")
    subprocess.run(["cp", "a.ext3", "copied.ext3"], cwd=scratch, check=True)
    ok("resize-overlay", "-q", "copied.ext3", "-s", "+8")
    ok("pack-overlay", "-q", "copied.ext3", "-o", "packed.sqsh")
    subprocess.run(["cp", "packed.sqsh", "again.sqsh"], cwd=scratch, check=True)
    ok("create-overlay", "-q", "--from", "again.sqsh", "-o", "unpacked.ext3")
    ok("pack-overlay", "-q", "a.ext3", "b.ext3", "-o", "merged.sqsh")
    steps = ["create", "update", "update"]
    expected = {
        "copied.ext3": [[*steps, "resize"]],
        "again.sqsh": [[*steps, "resize", "pack"]],
        "unpacked.ext3": [["create"], [*steps, "resize"]],
        "merged.sqsh": [["create", "pack"], [*steps, "pack"]],
    }
    for name, actions in expected.items():
        histories = json.loads(ok("show-overlay", "--json", name))[0]["history"]
        assert sorted([e["action"] for e in one["entries"]] for one in histories) == actions, name
    for name in ("a.ext3", "again.sqsh", "unpacked.ext3"):
        (scratch / "recipe").write_text(ok("show-overlay", "--recipe", name))
        ok("create-overlay", "-q", "--force", "-f", "recipe", "-o", "made.ext3")
        line = 'cat /opt/x/one /opt/x/two "/opt/x/the third"'
        shown = ok("run-overlay", "-q", "-o", "made.ext3:ro", "--", "sh", "-c", line)
        assert shown == "1\n2\n3 3\n", name
