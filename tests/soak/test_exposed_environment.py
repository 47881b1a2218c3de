"""A large environment as a user has it: numpy, pandas and JupyterLab, by a module; and a workflow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "site"))

from module_systems import Shell  # noqa: E402
from support import BASE, PATH, ROOT, execute  # noqa: E402

LONG = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "long")
PAGE = (ROOT / "docs/programs.md").read_text()


def blocks(heading):
    """Return the blocks below a heading of docs/programs.md."""
    part = re.search(rf"^## {heading}.*\n((?:(?!## ).*\n)*)", PAGE, re.M)[1]
    return re.findall(r"^```\n(.*?)^```", part, re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with the environment, made from a list as the page has it, exposed in env."""
    place = tmp_path_factory.mktemp("large")
    (place / "site.ini").write_text(
        f"[images]\ndefault = base\nbase = {BASE}\n[binds]\nadd = {LONG}/wheels\n"
    )
    (place / "requirements.txt").write_text("numpy\npandas\njupyterlab\n")
    shown, commands = blocks("I have an environment already")[1].split("$ create-overlay ")
    (place / "install.txt").write_text(shown.partition("\n")[2])
    words = commands.replace("-s 10G -n 200 ", "").split()
    command(place, "create-overlay", *words)
    command(place, "expose-overlay", "-o", "env.ext3", "--name", "analysis", "env")
    return place


def environment(place):
    """Return the environment of the user: pip finds its wheels without a network."""
    return {
        "PATH": PATH,
        "HOME": str(place),
        "LC_ALL": "C.UTF-8",
        "OVERLAY_CONFIG": str(place / "site.ini"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": f"{LONG}/wheels",
    }


def command(place, name, *words):
    """Run a command of ours, which must end well."""
    done = subprocess.run(
        [ROOT / "bin" / name, *words],
        env=environment(place),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done


COMPUTE = "import numpy, pandas; print(pandas.DataFrame({'a': numpy.arange(4)}).a.sum())"


@pytest.mark.parametrize("name", ["bash", "zsh"])
@pytest.mark.parametrize("system", ["lmod", "modules"])
def test_by_a_module(place, tmp_path, system, name):
    """The host's user types python, pip and jupyter."""
    variables = {key: value for key, value in environment(place).items() if key != "HOME"}
    shell = Shell(system, tmp_path, place / "env/modulefiles", variables=variables)
    done = shell.run(
        f'module load analysis\npython -c "{COMPUTE}"\npip list 2>/dev/null | grep -c -E '
        '"^(numpy|pandas|jupyterlab) "\njupyter --version | grep jupyterlab',
        shell=name,
    )
    number, count, version = done.stdout.splitlines()
    assert (number, count) == ("6", "3") and re.fullmatch(r"jupyterlab +: 4[.0-9]+", version), done


def test_snakemake(place, tmp_path):
    """The Snakefile of the page: Snakemake on the host, its rule inside."""
    text = blocks("Snakemake")[0].replace("/home/you", str(place))
    (tmp_path / "Snakefile").write_text(text)
    (tmp_path / "input.txt").write_text("x")
    (tmp_path / "script.py").write_text("import sys; print(sys.prefix, *sys.argv[1:])")
    done = execute(
        [f"{LONG}/bin/snakemake", "--cores", "2"],
        environ={**environment(place), "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.status == 0, done
    assert (tmp_path / "result.txt").read_text() == "/opt/env input.txt\n"
