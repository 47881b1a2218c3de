"""What users are told, letter by letter, from a directory with a space in its name."""

import os

import pytest
from support import PATH, ROOT, shell


@pytest.fixture(autouse=True)
def on_path(environ):
    """Put the commands on PATH, as the module does."""
    environ["PATH"] = f"{ROOT}/bin:{PATH}"


@pytest.fixture
def two(overlay):
    """Make the two overlays of the documentation."""
    return overlay("overlay1.ext3"), overlay("overlay2.ext3")


def test_create(environ, scratch):
    """create-overlay -s 500 -n 700: 500 MB, 700 thousand files, in its default name."""
    result = shell("create-overlay -s 500 -n 700", environ, scratch)
    path = scratch / "overlay-500M-700K.ext3"
    assert (result.status, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"created '{path}'"
    assert lines[1] == "  size   500 MiB, reserved"
    assert lines[-1] == "next: mount-overlay -o overlay-500M-700K.ext3"
    assert os.stat(path).st_size == 500 << 20
    result = shell(
        "run-overlay -o overlay-500M-700K.ext3 -- df --output=iavail,avail /",
        environ,
        scratch,
    )
    files, room = map(int, result.stdout.split()[-2:])
    assert files >= 700000 and room > 300 << 10, result


def test_run(environ, scratch, two):
    """run-overlay -o overlay1.ext3 -o overlay2.ext3 -f file1.txt; the first is writable."""
    (scratch / "seed.txt").write_text("mkdir /data && echo two > /data/two\n")
    (scratch / "file1.txt").write_text("cat /data/two; echo one > /data/one; ls /data\n")
    result = shell("run-overlay -o overlay2.ext3 -f seed.txt", environ, scratch)
    assert result == (0, "", "")
    result = shell("run-overlay -o overlay1.ext3 -o overlay2.ext3 -f file1.txt", environ, scratch)
    assert result == (0, "two\none\ntwo\n", "")
    for name, content in (("overlay1", "one\n"), ("overlay2", "two\n")):
        result = shell(f"run-overlay -o {name}.ext3 -- ls /data", environ, scratch)
        assert result == (0, content, "")


def test_job_script(environ, scratch, two, bashrc):
    """The job script and the command file of the documentation."""
    bashrc('conda() { echo conda "$@"; }\n')
    (scratch / "abc.py").write_text("import sys; print('python', sys.version_info[0])\n")
    (scratch / "file.txt").write_text(
        "source ~/.bashrc\nconda activate /opt/conda-envs/myenv\npython abc.py\n"
    )
    (scratch / "job.sh").write_text(
        "#!/bin/bash\n#SBATCH --mem=8GB\n#SBATCH --time=1:00:00\n\n"
        "run-overlay -o overlay1.ext3 -o overlay2.ext3 -f file.txt\n"
    )
    seed = "mkdir -p /opt/conda-envs/myenv; mkdir /bin2; ln -s /usr/bin/python3 /opt/python"
    assert shell(f"run-overlay -o overlay2.ext3 -- sh -c '{seed}'", environ, scratch).status == 0
    (scratch / "file.txt").write_text(
        "source ~/.bashrc\nconda activate /opt/conda-envs/myenv\nPATH=/opt:$PATH\npython abc.py\n"
    )
    result = shell("bash job.sh", environ, scratch)
    assert result == (0, "conda activate /opt/conda-envs/myenv\npython 3\n", "")


DEBIAN = """\
# If not running interactively, don't do anything
case $- in
    *i*) ;;
      *) return;;
esac
conda() { echo conda "$@"; }
"""


def test_bashrc_of_debian(environ, scratch, two, bashrc):
    """Where ~/.bashrc returns early for a script it does so inside as it does outside."""
    bashrc(DEBIAN)
    (scratch / "file.txt").write_text("source ~/.bashrc\nconda activate x\necho end\n")
    outside = shell("HOME=~overlay-tester bash file.txt", environ, scratch)
    inside = shell("run-overlay -o overlay1.ext3 -f file.txt", environ, scratch)
    assert outside.stderr == "file.txt: line 2: conda: command not found\n"
    assert inside == outside


def test_directories(environ, scratch, two):
    """/data, /env, /conda and /opt/conda-envs can be made, and stay; /home is the host's."""
    line = "mkdir /data /env /conda /opt/conda-envs && echo x > /env/f"
    result = shell(f"run-overlay -o overlay1.ext3 -- sh -c '{line}'", environ, scratch)
    assert result == (0, "", "")
    line = "run-overlay -o overlay1.ext3:ro -- ls -d /data /env/f /conda /opt/conda-envs /home/*"
    result = shell(line, environ, scratch)
    assert result.status == 0
    homes = [f"/home/{name}" for name in os.listdir("/home")]
    assert sorted(result.stdout.split()) == sorted(
        ["/data", "/env/f", "/conda", "/opt/conda-envs", *homes]
    )


def test_all_files_can_be_made(environ, scratch):
    """As many files as were asked for can be made, in one directory or in many."""
    assert shell("create-overlay -q -s 20 -n 2 -o a", environ, scratch).status == 0
    line = "mkdir /data && cd /data && seq 1999 | xargs touch && ls | wc -l"
    result = shell(f"run-overlay -o a.ext3 -- sh -c '{line}'", environ, scratch)
    assert result == (0, "1999\n", "")
