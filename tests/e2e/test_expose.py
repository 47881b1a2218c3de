"""expose-overlay: programs in an overlay as commands of the host, however people start them."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from overlay.errors import OverlayError
from overlay.expose import inside
from support import ROOT, shell, wait_until

TOGETHER = True  # one environment is made for all of them

OTHERS = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "others")
WHEELS = os.path.join(OTHERS, "wheels")

INSTALL = f"""set -e
python3 -m venv /opt/env
/opt/env/bin/pip install -q --no-cache-dir --no-index --find-links {WHEELS} ipykernel
printf '#!/opt/env/bin/python\\nimport sys; print("tool", sys.argv[1:])\\n' >/opt/env/bin/tool
printf '#!/bin/sh\\necho not the host\\n' >/opt/env/bin/perl
chmod 755 /opt/env/bin/tool /opt/env/bin/perl
mkdir /opt/env/share/jupyter/kernels/ir /opt/zero
truncate -s 100G /opt/zero/zero
chmod 755 /opt/zero/zero
cat >/opt/env/share/jupyter/kernels/ir/kernel.json <<'END'
{{"argv": ["tool", "$(touch x)", "--file={{connection_file}}", "{{resource_dir}}"],
 "display_name": "R\\u001b[31m", "language": "R", "interrupt_mode": "message"}}
END
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory, request):
    """Return an overlay with an environment."""
    from support import BASE, PATH

    place = tmp_path_factory.mktemp("exposed")
    (place / "site.ini").write_text(
        f"[images]\ndefault = base\nbase = {BASE}\n[binds]\nadd = {WHEELS}\n"
    )
    (place / "install.txt").write_text(INSTALL)
    environ = {
        "PATH": PATH,
        "HOME": str(place),
        "OVERLAY_CONFIG": str(place / "site.ini"),
        "LC_ALL": "C.UTF-8",
        "OVERLAY_SCRATCH_LOCAL": str(place),
    }
    words = [ROOT / "bin/create-overlay", "-q", "-f", "install.txt", "-o", "env"]
    done = subprocess.run(
        words, env=environ, cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "env.ext3"


@pytest.fixture
def environ(environ, image):
    """Return the environment of the tests, with shared sessions of their own."""
    place = image.parent / "node"
    place.mkdir(mode=0o700, exist_ok=True)
    return {
        **environ,
        "OVERLAY_CONFIG": str(image.parent / "site.ini"),  # the same for all, as on a node
        "OVERLAY_SCRATCH_LOCAL": str(place),
        "OVERLAY_LAUNCH_LINGER": "3",
    }


@pytest.fixture
def exposed(ok, scratch, image):
    """Return a directory with the exposed programs."""
    assert ok("expose-overlay", "-q", "-o", image, scratch / "d").endswith("/d/bin'\n")
    return scratch / "d"


def test_what_is_chosen(ok, run, scratch, image):
    """By itself Python, scripts of the environment and what the host lacks; what is asked for."""
    ok("expose-overlay", "-o", image, "d")
    names = set(os.listdir(scratch / "d/bin"))
    assert {"python", "python3", "pip", "tool", "jupyter-kernelspec"} <= names
    assert not names & {"perl", "activate", "Activate.ps1"}
    ok("expose-overlay", "-o", image, "--all", "d")
    assert {"perl", "python"} <= set(os.listdir(scratch / "d/bin"))
    (scratch / "d/bin/mine").write_text("mine\n")
    done = run("expose-overlay", "-o", image, "--program", "tool", "--name", "t", "d")
    assert done.status == 0 and " files of before are removed from it: " in done.stderr
    assert sorted(os.listdir(scratch / "d/bin")) == ["mine", "tool"]
    assert sorted(os.listdir(scratch / "d/modulefiles")) == ["t", "t.lua"]
    ok("expose-overlay", image, "d")  # overlays may be named without -o
    assert "python" in os.listdir(scratch / "d/bin")
    ok("expose-overlay", "-o", image, "--program", "tool", "--name", "t", "d")
    done = run("expose-overlay", "-o", image, "--program", "none", "d")
    assert done.status == 66 and "there is no program none in /opt/env/bin" in done.stderr
    ok("expose-overlay", "--remove", "d")
    assert os.listdir(scratch / "d") == ["bin"] and os.listdir(scratch / "d/bin") == ["mine"]
    assert run("expose-overlay", "--remove", "d").status == 66
    assert run("expose-overlay", "--remove", image).status == 66


def test_program_without_an_end(environ, image, monkeypatch):
    """A program that is made to be read for ever is not."""
    monkeypatch.setattr(inside, "_SECONDS", 1)
    words = [str(ROOT / "bin/run-overlay"), "-q", "-o", f"{image}:ro", "--"]
    with pytest.raises(OverlayError, match="cannot be opened: what is in them takes too long"):
        inside.look(words, ["/opt/zero"], environ)


def test_nobody_elses_file(run, scratch, image):
    """What is in the way and not ours stays, and nothing else is written."""
    (scratch / "d/bin").mkdir(parents=True)
    (scratch / "d/bin/python").write_text("mine\n")
    done = run("expose-overlay", "-o", image, "d")
    assert done.status == 73 and "d/bin/python' exists already" in done.stderr
    assert os.listdir(scratch / "d/bin") == ["python"]


# A line of bash in a directory with a file "a b", and what it prints. $BIN is the directory of commands.
STARTS = {
    "arguments": (
        "\"$BIN\"/tool 'a  b' \"it's\" '*' '' $'x\\ny' '$HOME' --version",
        "tool ['a  b', \"it's\", '*', '', 'x\\ny', '$HOME', '--version']",
    ),
    "shebang": (
        'printf \'#!%s/python\\nprint("from", __file__[-2:])\\n\' "$LINK" >s; chmod 755 s; ./s',
        "from /s",
    ),
    "make -j": (
        "printf 'all: a b\\na b:\\n\\t@tool $@\\n' >M; make -sj2 -f M | sort",
        "tool ['a']\ntool ['b']",
    ),
    "xargs -P8": (
        "seq 8 | xargs -P8 -n1 tool | sort",
        "\n".join(f"tool ['{n}']" for n in range(1, 9)),
    ),
    "subprocess": (
        '/usr/bin/python3 -c \'import subprocess as s; s.run(["tool", "a b"])\'',
        "tool ['a b']",
    ),
    "sh -c": ("sh -c 'tool x'", "tool ['x']"),
    "cron": ('env -i "$BIN"/tool x', "tool ['x']"),
    "nohup": ("nohup tool x 2>/dev/null", "tool ['x']"),
    "here-document": ("python - <<'END'\nprint(6 * 7)\nEND", "42"),
    "pipe": ("echo hello | python -c 'import sys; print(sys.stdin.read().strip())'", "hello"),
    "from inside": (
        'python -c \'import subprocess as s; s.run(["tool", "x"])\'',
        "tool ['x']",
    ),
    "a first line from inside": (
        "printf '#!%s/tool\\n' \"$LINK\" >s; chmod 755 s;"
        ' python -c \'import subprocess as s; s.run(["./s", "x"])\'',
        "tool ['./s', 'x']",
    ),
    "what runs": (
        "python -c 'import sys, os; print(sys.executable, sys.prefix, os.path.basename(os.getcwd()))'",
        "/opt/env/bin/python /opt/env my files",
    ),
    "a descriptor of the caller's": (
        "echo 9 >n; python -c 'print(open(9).read())' 9<n; python -c 'print(open(8).read())' 8<n",
        "9\n\n9",
    ),
    "elsewhere": ("cd /usr/share && tool x", "tool ['x']"),
    "not seen inside": (f'cd {OTHERS} && python -c "import os; print(os.getcwd())"', OTHERS),
    "venv on top": (
        "python -m venv --without-pip v && python -c 'import subprocess as s;"
        ' s.run(["v/bin/python", "-c", "import sys; print(sys.prefix[-2:])"])\'',
        "/v",
    ),
    "login shell": ("bash -lc '\"$BIN\"/tool x'", "tool ['x']"),
    "background": ("tool x & wait $!", "tool ['x']"),
    "status": ("python -c 'raise SystemExit(7)'; echo $?", "7"),
    "signal": ("python -c 'import os; os.kill(os.getpid(), 9)'; echo $?", "137"),
}


@pytest.mark.parametrize("name", STARTS)
def test_ways_of_starting(exposed, environ, scratch, tmp_path, name):
    """A command is the same however it is started."""
    line, expected = STARTS[name]
    link = tmp_path / "bin"  # of which the name can stand in the first line of a script
    link.symlink_to(exposed / "bin")
    variables = {"BIN": str(exposed / "bin"), "LINK": str(link)}
    done = subprocess.run(
        ["bash", "-c", line],
        env={**environ, **variables, "PATH": f"{exposed}/bin:{environ['PATH']}"},
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.rstrip("\n").replace("Killed\n", "") == expected, done


QUICKLY = "#!/bin/sh\nexit 9\n"  # what stands in the place of run-overlay


def quickly(exposed, environ, place, *words):
    """Run an exposed Python that has no run-overlay, and return its CompletedProcess."""
    script = (exposed / "bin/python").read_text()
    (exposed / "fails").write_text(QUICKLY)
    (exposed / "fails").chmod(0o755)
    script = re.sub(r"(exec|_need) \S*run-overlay", rf"\1 '{exposed}/fails'", script)
    (exposed / "quick").write_text(script)
    return subprocess.run(
        ["sh", exposed / "quick", *words],
        env=environ,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


SHOWN = """
import json, os
known = {name: value for name, value in os.environ.items() if name not in ("_", "SHLVL")}
status = open("/proc/self/status").read()
fields = dict(line.split(":", 1) for line in status.splitlines())
print(json.dumps([known, os.getcwd(), fields["NoNewPrivs"], fields["CapEff"], fields["SigBlk"]]))
"""


def test_quick_is_the_same(exposed, environ, scratch):
    """Who enters without Python is as who came through run-overlay."""
    environ = {
        **environ,
        **{
            "CONDA_PREFIX": "/x",
            "LINES2": "a\nexport B=1",
            "EMPTY": "",
            "BAZ": "it's",
            "R_LIBS": "/q",
        },
        "OLDPWD": "/usr",
    }
    words = ["-c", SHOWN]
    first = subprocess.run(
        [exposed / "bin/python", *words],
        env=environ,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=True,
    )
    second = quickly(exposed, environ, scratch, *words)
    assert second.returncode == 0, second
    assert json.loads(second.stdout) == json.loads(first.stdout)
    assert "CONDA_PREFIX" not in second.stdout


def test_quick_only_where_it_is_right(exposed, environ, scratch, image):
    """Where anything is other than it was noted, it is not the quick way."""
    start = [exposed / "bin/python", "-c", "pass"]
    subprocess.run(start, env=environ, cwd=scratch, check=True)
    words = ["-c", "print(6 * 7)"]
    for name, value, status in (
        ("FOO", "bar", 0),
        ("OVERLAY_LAUNCH_LINGER", "4", 9),
        ("APPTAINER_NV", "1", 9),
        ("APPTAINERENV_X", "1", 9),
        ("SSL_CERT_FILE", "/etc/hosts", 9),
        ("HOME", "/", 9),
        ("OVERLAY_SCRATCH_LOCAL", "/nowhere", 9),
        ("OVERLAY_DEBUG", "1", 9),
        ("PROMPT_COMMAND", "x", 9),
    ):
        done = quickly(exposed, {**environ, name: value}, scratch, *words)
        assert done.returncode == status, (name, done)
    assert quickly(exposed, environ, "/usr", *words).returncode == 9  # is it seen inside?
    (scratch / "x").mkdir(mode=0o311)
    done = quickly(exposed, environ, scratch / "x", *words)  # can it be compared?
    (scratch / "x").chmod(0o755)
    assert (done.returncode, done.stderr) == (9, "")
    os.utime(image.parent / "site.ini")
    assert quickly(exposed, environ, scratch, *words).returncode == 9
    subprocess.run(start, env=environ, cwd=scratch, check=True)
    assert quickly(exposed, environ, scratch, *words).returncode == 0
    # Another overlay of that name: as update-overlay puts it there.
    other = image.with_name("other.ext3")
    shutil.copy(image, other)
    other.rename(image)
    assert quickly(exposed, environ, scratch, *words).returncode == 9
    # The session has ended.
    subprocess.run(start, env=environ, cwd=scratch, check=True)
    node = environ["OVERLAY_SCRATCH_LOCAL"]
    wait_until(lambda: not list(Path(node).glob("*/*.lease")))
    assert quickly(exposed, environ, scratch, *words).returncode == 9


def test_interrupted(exposed, environ, scratch):
    """What is sent to a command, the program gets: it is the same process."""
    code = "import time\nprint('up', flush=True)\nwhile True: time.sleep(.05)"
    command = subprocess.Popen(
        [exposed / "bin/python", "-c", code],
        env=environ,
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout.readline() == "up\n"
    command.send_signal(signal.SIGINT)
    _out, errors = command.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors and command.returncode == -signal.SIGINT


def gone(exposed, environ, scratch, path):
    """Return what an exposed program says while some file is not there, or has another name."""
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        done = subprocess.run(
            [exposed / "bin/tool"],
            env=environ,
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        aside.rename(path)
    hint = f"make the commands anew with what is there now: expose-overlay -o OVERLAY '{exposed}'"
    return done.returncode, hint in done.stderr, done.stderr


def test_what_it_needs_is_gone(exposed, environ, scratch, image):
    """Where the overlay or what is ours is gone, a command says so, and what to type."""
    assert gone(exposed, environ, scratch, image) == (
        66,
        True,
        f"tool: error: there is no {image}, which it needs\n"
        f"tool: hint: make the commands anew with what is there now: expose-overlay -o OVERLAY '{exposed}'\n",
    )
    status, hinted, said = gone(exposed, environ, scratch, exposed / ".start")
    assert (status, hinted) == (66, True) and f"tool: error: {exposed}/.start is not there" in said
    command = exposed / "bin/tool"
    command.write_text(command.read_text().replace(f"{ROOT}/bin/run-overlay", "/gone/run-overlay"))
    done = subprocess.run([command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 66
    assert "tool: error: there is no /gone/run-overlay, which it needs\n" in done.stderr


def test_program_is_gone(exposed, environ, scratch):
    """Where the program is not inside any more, the quick way says so."""
    subprocess.run([exposed / "bin/python", "-c", ""], env=environ, cwd=scratch, check=True)
    python = exposed / "bin/python"
    python.write_text(python.read_text().replace("=/opt/env/bin/python", "=/opt/env/bin/gone"))
    done = quickly(exposed, environ, scratch)
    assert done.returncode == 127, done
    assert done.stderr == (
        "gone: error: there is no /opt/env/bin/gone inside any more\n"
        f"gone: hint: make the commands anew with what is there now: expose-overlay -o OVERLAY '{exposed}'\n"
    )


def test_session_that_ends(exposed, environ, scratch):
    """A session may end between any two looks: its files are gone then, and it is not the quick way."""
    subprocess.run([exposed / "bin/python", "-c", ""], env=environ, cwd=scratch, check=True)
    name = re.search("overlay_name=([0-9a-f]+)", (exposed / "bin/python").read_text())[1]
    [note] = Path(environ["OVERLAY_SCRATCH_LOCAL"]).glob(f"*/*{name}.quick")
    text = note.read_text()
    note.write_text(re.sub("overlay_lease=.*", "overlay_lease=/gone", text))
    done = quickly(exposed, environ, scratch)
    assert (done.returncode, done.stderr) == (9, "")
    note.chmod(0)
    done = quickly(exposed, environ, scratch)
    assert (done.returncode, done.stderr) == (9, "")
    note.unlink()


# ------------------------------------------------------------------------------- the page --


@pytest.fixture
def page(environ, scratch, home, image):
    """Return a function from a heading of docs/programs.md to its blocks, with the user's home in them."""
    (scratch / "env.ext3").symlink_to(image)
    environ["PATH"] = f"{ROOT}/bin:{OTHERS}/bin:{environ['PATH']}"
    text = (ROOT / "docs/programs.md").read_text().replace("/home/you", str(home))

    def page(heading):
        part = re.search(rf"^#+ {heading}.*\n((?:(?!## ).*\n)*)", text, re.M)[1]
        return re.findall(r"^```\n(.*?)^```", part, re.M | re.S)

    return page


def typed(line, environ, scratch):
    """Type a line, which must end well, and return what it prints."""
    done = subprocess.run(
        ["bash", "-c", line], env=environ, cwd=scratch, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


def test_page_of_commands(page, environ, scratch, home):
    """The first line of a script, and a Makefile, as the page has them."""
    [line] = page("The programs of an overlay")
    typed(line, environ, scratch)
    (scratch / "script").write_text(*page("The first line"))
    (scratch / "script").chmod(0o755)
    assert typed("./script", environ, scratch) == "from /opt/env\n"
    (scratch / "Makefile").write_text(*page("Make"))
    (scratch / "input.txt").write_text("x")
    (scratch / "script.py").write_text("import sys; print(sys.prefix, *sys.argv[1:])")
    typed("make", environ, scratch)
    assert (scratch / "result.txt").read_text() == "/opt/env input.txt\n"
    [settings] = page("VS Code")
    interpreter = json.loads(settings)["python.defaultInterpreterPath"]
    line = f"{interpreter} -c 'import sys; print(sys.executable)'"
    assert typed(line, environ, scratch) == "/opt/env/bin/python\n"


def test_page_of_kernels(page, environ, scratch, tmp_path, image):
    """The lines for Jupyter, and for Open OnDemand's: it finds the kernels."""
    update, line, listed = page("Jupyter")[0].splitlines()
    assert update == "update-overlay env.ext3 -- pip install ipykernel"
    assert " analysis " in typed(f"{line}; {listed}", environ, scratch)
    [block] = page("Open OnDemand")
    block = block.replace("/share/env.sqsh", str(image)).replace("/share/kernels", f"{tmp_path}/k")
    said = typed(f"{block}{listed}", {**environ, "HOME": str(tmp_path)}, scratch)
    assert f"{tmp_path}/k/share/jupyter/kernels/analysis" in said


# -------------------------------------------------------------------------------- kernels --

CLIENT = """
import asyncio, os, signal, sys
import nbformat
from nbclient import NotebookClient

cells = [
    "import sys; x = 1; print(sys.executable)",
    "!command -v pip",
    "open('result', 'w').write('made'); x + 41",
    "import time\\nprint('begun', flush=True)\\nwhile True: time.sleep(.1)",
    "print(6 * 7)",
]


class Client(NotebookClient):
    # Interrupts a cell that says that it has begun.

    def process_message(self, message, cell, index):
        if "begun" in message["content"].get("text", ""):
            self.interrupting = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().process_message(message, cell, index)


async def main(path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
    client = Client(notebook, kernel_name="mine", allow_errors=True, timeout=120)
    async with client.async_setup_kernel():
        for number, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, number)
        nbformat.write(notebook, path)
        await client.km.restart_kernel()
        await client.kc.wait_for_ready(timeout=60)
        again = nbformat.v4.new_code_cell("import os; print('x' in dir(), os.getpid())")
        notebook.cells.append(again)
        await client.async_execute_cell(again, len(cells))
        there, pid = again.outputs[0].text.split()
        os.kill(int(pid), signal.SIGKILL)
        while await client.km.is_alive():
            await asyncio.sleep(0.05)
        print(there, os.path.exists(f"/proc/{pid}"))


asyncio.run(main(sys.argv[1]))
"""


def test_kernel(ok, environ, scratch, home, image):
    """A Jupyter outside runs a notebook, interrupts and restarts; a kernel that is killed leaves nothing."""
    ok("expose-overlay", "-q", "-o", image, "--kernel", "mine", "--user")
    jupyter = {**environ, "PATH": f"{OTHERS}/bin:{environ['PATH']}"}
    listed = subprocess.run(
        [f"{OTHERS}/bin/jupyter-kernelspec", "list", "--json"],
        env=jupyter,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(listed.stdout)["kernelspecs"]["mine"]
    assert found["resource_dir"] == f"{home}/.local/share/jupyter/kernels/mine"
    assert found["spec"]["language"] == "python"
    assert found["spec"]["display_name"] == "Python 3 (ipykernel) (mine)"
    done = subprocess.run(
        [f"{OTHERS}/bin/python", "-c", CLIENT, scratch / "n.ipynb"],
        env=jupyter,
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done
    assert done.stdout == "False False\n"  # restarted it knows nothing, and killed it is gone
    notebook = json.loads((scratch / "n.ipynb").read_text())
    python, pip, result, endless, after = (cell["outputs"] for cell in notebook["cells"])
    assert "".join(python[0]["text"]) == "/opt/env/bin/python\n"
    assert "".join(pip[0]["text"]).strip() == "/opt/env/bin/pip"
    assert "".join(result[0]["data"]["text/plain"]) == "42"
    assert (scratch / "result").read_text() == "made"
    assert endless[-1]["ename"] == "KeyboardInterrupt"
    assert "".join(after[0]["text"]) == "42\n"
    node = environ["OVERLAY_SCRATCH_LOCAL"]
    wait_until(lambda: not os.listdir(node), 60)
    subprocess.run(
        [f"{OTHERS}/bin/jupyter-kernelspec", "uninstall", "-y", "mine"],
        env=jupyter,
        capture_output=True,
        check=True,
    )
    assert not os.path.exists(found["resource_dir"])


def test_kernel_of_another_language(ok, environ, scratch, image):
    """What a kernel says of itself inside is what it is outside, and starts it there."""
    ok("expose-overlay", "-q", "-o", image, "--kernel", "ir", "--prefix", "k")
    place = scratch / "k/share/jupyter/kernels/ir"
    said = json.loads((place / "kernel.json").read_text())
    assert said["language"] == "R" and said["interrupt_mode"] == "message"
    assert said["display_name"] == "R\\x1b[31m (ir)"
    (scratch / "connection").write_text("{}")
    [program, _file] = said["argv"]
    assert typed(f"'{program}' connection", environ, scratch) == (
        f"tool ['$(touch x)', '--file={scratch}/connection', '/opt/env/share/jupyter/kernels/ir']\n"
    )
    done = shell(f"'{program}' gone", environ, scratch)
    assert (done.status, done.stderr) == (66, "kernel: error: there is no connection file gone\n")
    ok("expose-overlay", "-q", "--remove", "--kernel", "ir", "--prefix", "k")
    assert not place.exists()


def test_inside(run, image):
    """In a session nothing can be exposed, and it is said why."""
    program = ROOT / "bin/expose-overlay"
    words = ("-o", f"{image}:ro", "-b", ROOT, "-b", image.parent, "--", program, "-o", image, "d")
    done = run("run-overlay", *words)
    assert done.status == 69
    assert (
        "error: you are inside a session already, and there no session can be started\n"
        in done.stderr
    )


def test_no_kernel(run, scratch, image):
    """What cannot be is told, with what to type."""
    for words, said in (
        (["--kernel", "mine"], "it is not said where the kernel goes"),
        (["--kernel", "a/b", "--user"], "cannot be the name of a kernel"),
        ([], "the directory for the commands is not named"),
        ([""], "the name of the directory is empty"),
        (["--user"], "say where a kernel goes, and none is named"),
        (["-p", "python", "d"], "there is no option -p"),
        (["--name", "../../x", "d"], "cannot be the name of a module"),
        (["--name=-rf", "d"], "cannot be the name of a module"),
        (["d:e"], "cannot stand on PATH"),
        (["d\ne"], "cannot stand on PATH"),
    ):
        done = run("expose-overlay", "-o", image, *words)
        assert done.status == 2 and said in done.stderr, done
