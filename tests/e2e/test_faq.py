"""What docs/faq.md says to write works as it stands there."""

import os
import re
import shlex
import sys

import pytest
from overlay import cli
from support import ROOT, shell

ENVIRONMENT = "mkdir -p /data; python3 -m venv --without-pip /opt/env"


@pytest.fixture
def block(ok, overlay, scratch, environ):
    """Return a function from the heading of a question to its blocks of code, names put in."""
    overlay("env.ext3")
    ok("run-overlay", "-o", "env.ext3", "--", "sh", "-c", ENVIRONMENT)
    environ["PATH"] = f"{ROOT / 'bin'}:{environ['PATH']}"
    # A path without a blank, which a line with #! cannot have.
    link = scratch.parent / "files"
    os.symlink(scratch, link)
    text = (ROOT / "docs" / "faq.md").read_text()

    def block(heading):
        part = re.search(rf"^## .*{heading}.*\n((?:(?!## ).*\n)*)", text, re.M)[1]
        found = re.findall(r"^```\n(.*?)^```", part, re.M | re.S)
        return [one.replace("/scratch/you", str(link)) for one in found]

    return block


def write(path, text):
    """Write a script that can be executed."""
    path.write_text(text)
    path.chmod(0o755)


def test_wrapper(block, scratch, environ):
    """Arguments, standard input and the status pass through the script."""
    write(scratch / "envpython", *block("wrapper"))
    program = "import sys; print(sys.prefix, sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    line = f"./envpython -c '{program}' a 'b c'"
    assert shell(line, environ, scratch, stdin="in") == (7, "/opt/env ['a', 'b c'] in\n", "")


def test_first_line(block, scratch, environ):
    """A script of Python with arguments, and a file of bash commands, are programs."""
    python, commands = block("begin with")
    write(scratch / "script", python + "import sys; print(sys.prefix, sys.argv[1:])\n")
    write(scratch / "steps", commands + "echo in $SINGULARITY_CONTAINER\n")
    assert shell("./script a 'b c'", environ, scratch).stdout == "/opt/env ['a', 'b c']\n"
    done = shell("./steps", environ, scratch)
    assert done.status == 0 and re.fullmatch(r"in /.*\.sif\n", done.stdout), done


def test_kernel(block):
    """The line for Jupyter is one of ours; tests/e2e/test_expose.py starts what it makes."""
    program, *words = shlex.split(*block("kernel of Jupyter"))
    assert cli.parse(program, words).kernel == "env"


def test_makefile(block, scratch, environ):
    """The recipes of a Makefile run inside."""
    (scratch / "Makefile").write_text(*block("Makefile"))
    (scratch / "input.txt").write_text("x")
    (scratch / "script.py").write_text("import sys; print(sys.prefix, *sys.argv[1:])")
    done = shell("make", environ, scratch)
    assert done.status == 0, done
    assert (scratch / "result.txt").read_text() == "/opt/env input.txt\n"


def test_certificates(block, scratch, environ):
    """A bundle that only the host has is not passed on; a copy where the host is seen is."""
    environ["SSL_CERT_FILE"] = sys.executable  # a file that the base image has not
    copy, export, _create = block("certificate")[0].splitlines()
    look = "run-overlay -q -o env.ext3:ro -- sh -c 'echo $SSL_CERT_FILE'"
    assert shell(look, environ, scratch) == (0, "\n", "")
    done = shell(f"{copy}; {export}; {look}", environ, scratch)
    assert done.stdout == f"{scratch.parent}/files/certificates.pem\n", done
