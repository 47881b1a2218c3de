"""Overlays that make their environments ready, know where they belong and how they were made."""

import json
import os
import shutil
import subprocess

import pytest
from e2e.safety.trees import CLEAN, state
from support import BASE

SHOWN = 'echo "$(command -v tool) $(tool) $VIRTUAL_ENV$CONDA_PREFIX"'


def program(path, text):
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {text}\n")
    path.chmod(0o755)


def venv(top, place="/opt/env", text="venv"):
    """Make a directory that is laid out as a venv is, for a place inside."""
    program(top / "bin" / "tool", text)
    (top / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (top / "bin" / "activate").write_text(
        f"deactivate() {{ :; }}\nVIRTUAL_ENV={place}; export VIRTUAL_ENV\n"
        f'PATH="$VIRTUAL_ENV/bin:$PATH"; export PATH\nPS1="(env) $PS1"\n'
    )
    return top


def conda(top):
    """Make a directory that is laid out as a prefix of conda is."""
    program(top / "bin" / "tool", "conda")
    (top / "conda-meta").mkdir()
    scripts = top / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "proj.sh").write_text(
        'set -u\n[[ -v CONDA_PREFIX ]] && export PROJ_DATA="${CONDA_PREFIX}/share/proj"\n'
        "helper() { :; }\nshopt -s nullglob\n"
    )
    return top


@pytest.fixture
def env(scratch, ok):
    """Return a function that makes an overlay of a directory at /opt/env."""

    def env(name, tree, *options):
        ok("create-overlay", "-q", "--from", f"{tree}:/opt/env", *options, "-o", name)
        return scratch / name

    return env


def starts(run, engine, name, line=SHOWN):
    """Return what each way to start a program in an overlay says of the environment."""
    (name.parent / "job").write_text(line)
    (name.parent / "login-job").write_text(f"#!/bin/bash -l\n{line}")
    ours, plain = ("-q", "-o", f"{name}:ro"), ("--overlay", f"{name}:ro", BASE)
    shell = ("sh", "-c", line)
    ways = {
        "command": run("run-overlay", *ours, "--", *shell),
        "file": run("run-overlay", *ours, "-f", "job"),
        "login": run("run-overlay", *ours, "--", "bash", "-lc", line),
        "login in a file": run("run-overlay", *ours, "-f", "login-job"),
        "our shell": run("mount-overlay", *ours, stdin=line + "\n"),
        "fakeroot": run("run-overlay", *ours, "--fakeroot", "--", *shell),
        "exec": engine("exec", *plain, *shell),
        "shell": engine("shell", *plain, stdin=line + "\n"),
        "plain login": engine("exec", *plain, "bash", "-lc", line),
        "plain cleanenv": engine("exec", "-e", *plain, *shell),
        "plain containall": engine("exec", "-C", *plain, *shell),
        "plain fakeroot": engine("exec", "--fakeroot", *plain, *shell),
    }
    for option in ("CLEANENV", "CONTAINALL"):
        variables = {f"APPTAINER_{option}": "1"}
        ways[option] = run("run-overlay", *ours, "--", *shell, variables=variables)
    return {way: result.stdout.strip() for way, result in ways.items()}


def test_venv(run, ok, engine, env, scratch):
    """A venv is found, said, and ready however a program is started: packed as well."""
    tree = venv(scratch / "tree")
    said = run("create-overlay", "--from", f"{tree}:/opt/env", "-o", "a.ext3")
    assert said.status == 0, said
    assert "activated: /opt/env; its programs are found in every session" in said.stderr
    expected = "/opt/env/bin/tool venv /opt/env"
    found = starts(run, engine, scratch / "a.ext3")
    assert found == dict.fromkeys(found, expected)
    written = run("run-overlay", "-q", "-o", "a.ext3", "--", "sh", "-c", SHOWN)
    assert written.stdout.strip() == expected
    ok("pack-overlay", "-q", "a.ext3")
    found = starts(run, engine, scratch / "a.sqsh")
    assert found == dict.fromkeys(found, expected)


def test_conda(run, engine, env, scratch):
    """Bash in an activation is run by bash, once; what cannot be carried is said."""
    tree = conda(scratch / "tree")
    said = run("create-overlay", "--from", f"{tree}:/opt/env", "-o", "a.ext3")
    assert said.status == 0, said
    assert "functions and aliases of the activation (1) cannot be carried" in said.stderr
    found = starts(run, engine, scratch / "a.ext3")
    assert found == dict.fromkeys(found, "/opt/env/bin/tool conda /opt/env")
    shown = run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "printenv", "PROJ_DATA")
    assert shown.stdout == "/opt/env/share/proj\n"


def test_built(run, ok, scratch):
    """What commands have made is activated; so is what a hand-made /ext3/env.sh does."""
    (scratch / "install").write_text(
        "mkdir -p /ext3/bin\n"
        "printf '#!/bin/sh\\necho built\\n' >/ext3/bin/tool; chmod 755 /ext3/bin/tool\n"
        "echo 'export PATH=/ext3/bin:$PATH DATA=\"a  b\"' >/ext3/env.sh\n"
    )
    ok("create-overlay", "-q", "-f", "install", "-o", "a.ext3")
    shown = ok("run-overlay", "-q", "-o", "a.ext3:ro", "--", "sh", "-c", 'tool; echo "$DATA"')
    assert shown == "built\na  b\n"
    assert "built" in ok("show-overlay", "--recipe", "a.ext3")


def test_script(run, ok, engine, scratch):
    """What /ext3/env.sh sets, with all that bash can, is set however a program is started."""
    program(scratch / "tree" / "ext3" / "bin" / "tool", "script")
    (scratch / "tree" / "ext3" / "env.sh").write_text(
        "set -eu\ndeclare -a parts=(/ext3 bin)\nfunction helper { local -; set +u; }\nalias ll='ls'\n"
        'printf -v place "%s/%s" "${parts[@]}"\nexport PATH=$place:$PATH\n'
        "[[ $place =~ ext3 ]] && export VIRTUAL_ENV=\"a  'b' \\$HOME\"\n"
        "trap 'echo bye' EXIT\nshopt -s extglob\n"
    )
    said = run("create-overlay", "--from", f"{scratch}/tree:/", "-o", "a.ext3")
    assert (said.status, "activated: /ext3/env.sh" in said.stderr) == (0, True), said
    line = SHOWN.replace("$VIRTUAL_ENV$CONDA_PREFIX", "$VIRTUAL_ENV")
    found = starts(run, engine, scratch / "a.ext3", line)
    assert found == dict.fromkeys(found, "/ext3/bin/tool script a  'b' $HOME")


def test_chosen(run, ok, env, scratch):
    """--activate names what is ready, --set more; --no-activate nothing; several: none, and said."""
    tree = scratch / "tree"
    venv(tree / "one", "/opt/env/one", "one")
    venv(tree / "two", "/opt/env/two", "two")
    said = run("create-overlay", "--from", f"{tree}:/opt/env", "-o", "none.ext3")
    assert said.status == 0, said
    assert "it holds several environments, and none is activated: /opt/env/one /opt/env/two" in (
        said.stderr
    )
    name = env(
        "both.ext3",
        tree,
        "--activate",
        "/opt/env/two",
        "--activate",
        "/opt/env/one",
        "--set",
        "NAME=it's",
    )
    line = "tool; echo $NAME; echo $PATH | cut -d: -f1,2"
    shown = ok("run-overlay", "-q", "-o", f"{name}:ro", "--", "sh", "-c", line)
    assert shown == "two\nit's\n/opt/env/two/bin:/opt/env/one/bin\n"
    name = env("plain.ext3", venv(scratch / "venv"), "--no-activate")
    assert run("run-overlay", "-q", "-o", f"{name}:ro", "--", "tool").status == 127


def test_not_found(run, scratch, env):
    """When a file of commands ends with 127, environments that are not ready are named."""
    name = env("plain.ext3", venv(scratch / "venv"), "--no-activate")
    (scratch / "job").write_text("tool\n")
    result = run("run-overlay", "-q", "-o", name, "-f", "job")
    assert result.status == 127
    line = "export PATH=/opt/env/bin:$PATH"
    assert result.stderr.splitlines() == ["job: line 1: tool: command not found"]
    result = run("run-overlay", "-o", name, "-f", "job")
    assert result.stderr.splitlines() == [
        "job: line 1: tool: command not found",
        f"run-overlay: not on PATH: /opt/env in '{name}'; for that: {line}",
    ]
    (scratch / "job").write_text(f"{line}\ntool\n")
    assert run("run-overlay", "-o", name, "-f", "job") == (0, "venv\n", "")
    ready = env("ready.ext3", scratch / "venv")
    (scratch / "job").write_text("other\n")
    said = "job: line 1: other: command not found\n"
    assert run("run-overlay", "-o", ready, "-f", "job") == (127, "", said)


@pytest.mark.parametrize(
    ("options", "status", "what"),
    [
        (["--activate", "/opt/nothing"], 66, "there is no /opt/nothing in it to activate"),
        (["--activate", "opt"], 2, "opt is not the absolute path of a directory inside"),
        (["--activate", "/"], 2, "/ is all that is inside, not an environment"),
        (["--activate", "/opt"], 65, "/opt is not an environment"),
        (["--activate", "/opt/env/lib"], 65, "hint: what there is: --activate /opt/env\n"),
        (["--activate", "/opt/env/bin/tool"], 65, "/opt/env/bin/tool is not an environment"),
        (["--activate", "/opt/env/bin/true"], 65, "/opt/env/bin/true is not an environment"),
        (["--activate", "/opt/env/pyvenv.cfg"], 65, "/opt/env/pyvenv.cfg is not an environment"),
        (["--set", "1=2"], 2, "1=2 does not set a variable"),
    ],
)
def test_wrong(run, scratch, options, status, what):
    """What cannot be activated is said, and nothing is made."""
    tree = venv(scratch / "tree")
    (tree / "lib").mkdir()
    shutil.copy("/bin/true", tree / "bin")
    said = run("create-overlay", "--from", f"{tree}:/opt/env", *options, "-o", "a.ext3")
    assert said.status == status, said
    assert what in said.stderr
    assert not (scratch / "a.ext3").exists()


def test_activation_that_exits(run, scratch):
    """One that ends the shell is found out at creation, not in a job where nothing runs."""
    tree = venv(scratch / "tree")
    with open(tree / "bin" / "activate", "a") as file:
        file.write("exit 0\n")
    words = ["create-overlay", "--from", f"{tree}:/opt/env", "-o", "a.ext3"]
    said = run(*words, "--activate", "/opt/env")
    assert (said.status, "ends the shell" in said.stderr) == (65, True), said
    assert not (scratch / "a.ext3").exists()
    # Where nobody chose it, what it has set until then is what is set.
    assert run(*words).status == 0
    shown = run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "tool")
    assert (shown.status, shown.stdout) == (0, "venv\n"), shown


def test_activation_that_waits(run, scratch):
    """One that asks gets no answer, and one that takes its time is told of."""
    tree = venv(scratch / "tree")
    with open(tree / "bin" / "activate", "a") as file:
        file.write('read -r answer; export ANSWER="<$answer>"; sleep 4\n')
    said = run("create-overlay", "--from", f"{tree}:/opt/env", "-o", "a.ext3", stdin="yes\n")
    assert said.status == 0, said
    assert "the activation of /opt/env takes its time" in said.stderr
    shown = run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "printenv", "ANSWER")
    assert shown.stdout == "<>\n"


def test_mistake_is_told_before_the_work(run, scratch):
    """What is not in the sources is said before anything is copied, with what is there."""
    tree = venv(scratch / "tree")
    words = ["create-overlay", "-v", "--from", f"{tree}:/opt/env", "-o", "a.ext3"]
    said = run(*words, "--activate", "/opt/env/evn")
    assert said.status == 66, said
    assert said.stderr.endswith("hint: what there is: --activate /opt/env\n")
    assert "apptainer" not in said.stderr


def test_layers(run, ok, engine, env, scratch):
    """Of two activated layers both are ready, and the first named comes first; packed as well."""
    env("one.ext3", venv(scratch / "t1", text="one"))
    tree = venv(scratch / "t2", "/opt/other", "two")
    program(tree / "bin" / "second", "second")
    ok("create-overlay", "-q", "--from", f"{tree}:/opt/other", "-o", "two.ext3")
    line = "tool; second"
    for names, expected in ((("one", "two"), "one"), (("two", "one"), "two")):
        stack = [word for name in names for word in ("-o", f"{name}.ext3:ro")]
        assert ok("run-overlay", "-q", *stack, "--", "sh", "-c", line) == f"{expected}\nsecond\n"
    both = ("--overlay", "one.ext3:ro", "--overlay", "two.ext3:ro")
    assert engine("exec", *both, BASE, "sh", "-c", line).stdout.split()[1] == "second"
    ok("pack-overlay", "-q", "two.ext3", "one.ext3", "-o", "both.sqsh")
    assert ok("run-overlay", "-q", "-o", "both.sqsh", "--", "sh", "-c", line) == "two\nsecond\n"
    plain = engine("exec", "--overlay", "both.sqsh", BASE, "sh", "-c", line)
    assert plain.stdout.split()[1] == "second"


def test_follows(run, ok, env, scratch, site):
    """An environment goes on with its own image when the site's default is another one."""
    own = scratch / "own.sif"
    subprocess.run(["cp", "--reflink=auto", BASE, own], check=True)
    env("env.ext3", venv(scratch / "tree"), "-c", own)
    ok("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "results.ext3")
    line = "tool; echo $APPTAINER_CONTAINER"
    for stack in (["-o", "env.ext3:ro"], ["-o", "results.ext3", "-o", "env.ext3"]):
        said = run("run-overlay", *stack, "--", "sh", "-c", line)
        assert (said.status, said.stdout) == (0, f"venv\n{own}\n"), said
        assert said.stderr.count("was made for") == 1
    # A data set, without an activation, binds nobody.
    (scratch / "data").mkdir()
    ok("create-overlay", "-q", "--from", "data:/data", "-c", own, "-o", "data.ext3")
    said = run("run-overlay", "-o", "data.ext3:ro", "--", "sh", "-c", "echo $APPTAINER_CONTAINER")
    assert (said.status, said.stdout) == (0, f"{BASE}\n"), said
    # The user's word goes first.
    said = run("run-overlay", "-c", "base", "-o", "env.ext3:ro", "--", "sh", "-c", line)
    assert (said.status, said.stdout) == (0, f"venv\n{BASE}\n"), said
    variables = {"OVERLAY_IMAGES_FOLLOW": "no"}
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", line, variables=variables)
    assert said.stdout == f"venv\n{BASE}\n"
    # Another one under its name is told, one that is gone is an error with what to type.
    with open(own, "r+b") as file:
        file.seek(48)
        file.write(b"another one's id")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", line)
    assert (said.status, said.stdout) == (0, f"venv\n{own}\n"), said
    assert "is another one than that" in said.stderr
    own.unlink()
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "true")
    assert said.status == 66, said
    assert f"{own}" in said.stderr and "-c" in said.stderr
    assert run("run-overlay", "-o", "data.ext3:ro", "--", "true").status == 0
    # Where the site's image is locked, only images that it names are followed.
    site.write_text(f"[site]\nlock = images.default\n[images]\ndefault = base\nbase = {BASE}\n")
    said = run("run-overlay", "-o", "env.ext3:ro", "--", "sh", "-c", line)
    assert (said.status, said.stdout) == (0, f"venv\n{BASE}\n"), said


def test_moved_venv(ok, env, scratch):
    """One that was made elsewhere is ready where it is now."""
    name = env("a.ext3", venv(scratch / "tree", scratch / "tree"))
    assert ok("run-overlay", "-q", "-o", f"{name}:ro", "--", "sh", "-c", SHOWN) == (
        "/opt/env/bin/tool venv /opt/env\n"
    )
    path = ok("run-overlay", "-q", "-o", f"{name}:ro", "--", "printenv", "PATH")
    assert path.startswith("/opt/env/bin:") and str(scratch) not in path


def test_changed_lines(run, env, scratch):
    """Lines of the engine's that are not those that were recorded are told of."""
    name = env("a.ext3", venv(scratch / "tree"))
    listing = run("show-overlay", "--files=/.singularity.d/env", name).stdout
    file = next(word for word in listing.split() if "92-overlay-" in word)
    subprocess.run(
        ["/usr/sbin/debugfs", "-w", "-R", f"rm upper{file}", name], check=True, capture_output=True
    )
    said = run("run-overlay", "-o", f"{name}:ro", "--", "true")
    assert said.status == 0, said
    assert "activation was changed" in said.stderr


def test_typing_mistake_loses_no_build(run, ok, scratch):
    """What the commands made is kept when what is to be activated is not there."""
    (scratch / "install").write_text("mkdir -p /opt/x; echo 1 >/opt/x/f\n")
    said = run("create-overlay", "-f", "install", "--activate", "/opt/y", "-o", "a.ext3")
    assert said.status == 66, said
    assert "what the commands made is kept in" in said.stderr
    line = said.stderr.partition("create-overlay --from ")[2].partition(";")[0]
    ok("create-overlay", "-q", "--from", *line.split())
    assert ok("run-overlay", "-q", "-o", "a.ext3:ro", "--", "cat", "/opt/x/f") == "1\n"


def test_last_made_comes_first(ok, env, scratch):
    """Of two in one overlay, one carried along, that which is chosen now comes first."""
    tree = venv(scratch / "t1", text="one")
    env("one.ext3", tree)
    other = venv(scratch / "t2", "/opt/other", "two")
    words = ["--from", "one.ext3", "--from", f"{other}:/opt/other", "--activate", "/opt/other"]
    ok("create-overlay", "-q", *words, "-o", "both")
    assert ok("run-overlay", "-q", "-o", "both.ext3:ro", "--", "tool") == "two\n"


def test_library_of_r(run, ok, engine, scratch):
    """A directory of R packages comes first where R looks for them; packed as well."""
    (scratch / "lib" / "ggplot2").mkdir(parents=True)
    (scratch / "lib" / "ggplot2" / "DESCRIPTION").write_text("Package: ggplot2\n")
    words = ["--from", "lib:/opt/R", "--activate", "/opt/R"]
    ok("create-overlay", "-q", *words, "-o", "a.ext3")
    found = starts(run, engine, scratch / "a.ext3", 'echo "$R_LIBS_SITE"')
    assert found == dict.fromkeys(found, "/opt/R")
    ok("pack-overlay", "-q", "a.ext3")
    assert ok("run-overlay", "-q", "-o", "a.sqsh", "--", "printenv", "R_LIBS_SITE") == "/opt/R\n"


def test_unpacked_base(ok, run, engine, scratch):
    """Over an unpacked base image without scripts of its own, what --env sets is kept as well."""
    base = scratch / "base"
    assert engine("build", "--sandbox", base, BASE).status == 0
    subprocess.run(["chmod", "-R", "u+w", base], check=True)
    subprocess.run(["rm", "-r", base / ".singularity.d", base / "environment"], check=False)
    (base / ".singularity.d").mkdir()
    (base / ".singularity.d" / "runscript").write_text('#!/bin/sh\nexec "$@"\n')
    (base / ".singularity.d" / "runscript").chmod(0o755)
    tree = venv(scratch / "tree")
    words = ["--from", f"{tree}:/opt/env", "-c", base]
    ok("create-overlay", "-q", *words, "-o", "a.ext3")
    line = "tool; echo $GIVEN"
    variables = {"APPTAINERENV_GIVEN": "x"}
    said = run("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", line, variables=variables)
    assert (said.status, said.stdout) == (0, "venv\nx\n"), said
    for how in ("exec", "run"):
        words = ["--env", "GIVEN=y", "--overlay", "a.ext3:ro", base, "sh", "-c", line]
        plain = engine(how, *words)
        assert plain.stdout == "venv\ny\n", plain
    subprocess.run(["chmod", "-R", "u+w", base], check=True)


def test_history(run, ok, env, scratch):
    """How it was made is kept through copies, packs and another size; secrets are not."""
    (scratch / "install").write_text(
        "export MY_TOKEN=hunter2\necho https://me:hunter2@host.invalid/ >/dev/null\n"
        "mkdir -p /opt/x; echo 1 >/opt/x/f\n"
    )
    said = run("create-overlay", "-f", "install", "--set", "API_KEY=hunter2", "-o", "a.ext3")
    assert (said.status, "the commands are kept in it" in said.stderr) == (0, True), said
    assert "hunter2" not in ok("show-overlay", "--recipe", "a.ext3")
    ok("resize-overlay", "-q", "a.ext3", "-n", "9")
    said = run("pack-overlay", "--open", "a.ext3")
    told = "will be readable for everybody: how it was made"
    assert (said.status, told in said.stderr) == (0, True), said
    for name in ("a.ext3", "a.sqsh"):
        document = json.loads(ok("show-overlay", "--json", name))[0]
        (history,) = document["history"]
        assert history["entries"][0]["action"] == "create"
        assert history["entries"][0]["image"]["path"] == os.path.realpath(BASE)
        assert "hunter2" not in json.dumps(history["entries"][0]["recipe"])
        shown = ok("show-overlay", name)
        assert "made" in shown and "base image" in shown
    # The recipe runs again.
    recipe = ok("show-overlay", "--recipe", "a.sqsh")
    (scratch / "again").write_text(recipe)
    ok("create-overlay", "-q", "-f", "again", "-o", "b.ext3")
    assert ok("run-overlay", "-q", "-o", "b.ext3:ro", "--", "cat", "/opt/x/f") == "1\n"
    ok("create-overlay", "-q", "--no-history", "-f", "install", "-o", "c.ext3")
    assert json.loads(ok("show-overlay", "--json", "c.ext3"))[0]["history"] == []


@pytest.mark.parametrize("options", [["-s", "+16"], ["-s", "16"], ["-n", "9"]])
def test_resized(ok, env, scratch, options):
    """Larger, smaller, for more files: it is ready, and says that it was resized."""
    name = env("a.ext3", venv(scratch / "tree"), "-s", "24", "-n", "2")
    ok("resize-overlay", "-q", "a.ext3", *options)
    assert ok("run-overlay", "-q", "-o", "a.ext3:ro", "--", "tool") == "venv\n"
    (history,) = json.loads(ok("show-overlay", "--json", "a.ext3"))[0]["history"]
    entry = history["entries"][-1]
    assert (len(history["entries"]), entry["action"]) == (2, "resize")
    assert entry["command"] == ["resize-overlay", "-q", "a.ext3", *options]
    assert state(name) == CLEAN
    assert ok("check-overlay", "a.ext3") == "a.ext3: clean\n"


HOSTILE = {
    "fifo": "mkfifo note; mkfifo history.json",
    "link": "ln -s /etc/shadow note; ln -s /etc/shadow history.json",
    "huge": "truncate -s 2G note; truncate -s 2G history.json",
    "bytes": "head -c 3000 /dev/urandom >note; head -c 3000 /dev/urandom >history.json",
    "newer": "printf 'overlay 99\\n\\n' >note; echo '{\"format\": 99, \"entries\": []}' >history.json",
    "escapes": "printf 'overlay 1\\nimage /a%%1b[31mx%%0a\\nimage-size 1\\ndirectory /o\\n\\nx\\n' >note;"
    'echo \'{"format": 1, "entries": [{"action": "\\u001b[31m", "command": [7, {}], "recipe": 5,'
    ' "image": []}, 3, null]}\' >history.json',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile(run, ok, overlay, scratch, kind):
    """What somebody else has put there is shown without harm, and never obeyed."""
    path = overlay()
    place = scratch / "place" / ".singularity.d" / "overlay" / "0123456789abcdef0123"
    place.mkdir(parents=True)
    subprocess.run(["sh", "-c", HOSTILE[kind]], cwd=place, check=True)
    (scratch / "dir" / "work").mkdir(parents=True)
    (scratch / "place").rename(scratch / "dir" / "upper")
    for name in ("dir", path.name):
        if name == path.name and kind not in ("huge",):
            subprocess.run(
                ["/usr/sbin/mke2fs", "-q", "-t", "ext3", "-F", "-d", scratch / "dir", path],
                check=True,
                capture_output=True,
            )
        shown = run("show-overlay", name)
        assert (shown.status, shown.stderr) == (0, ""), shown
        assert "\x1b" not in shown.stdout
        assert run("show-overlay", "--json", name).status == 0
        assert run("show-overlay", "--recipe", name).status in (0, 66)
        said = run("run-overlay", "-o", f"{name}:ro", "--", "true")
        assert said.status in (0, 66), said
        assert "\x1b" not in said.stderr and "bug" not in said.stderr
