"""A plan as data: what is printed does what would run."""

import os
import random
import subprocess

import pytest
from overlay.plan import Plan, Step

# Appends its arguments and the variables that the tests use to $RECORD.
PROGRAM = """#!/bin/sh
for word; do printf '%s\\0' "$word"; done >> "$RECORD"
printf '%s\\0' "A=${A-unset}" "B=${B-unset}" "${PATH%%:/usr*}" >> "$RECORD"
"""


@pytest.fixture
def program(scratch):
    """Return the path of a program that writes down its arguments."""
    path = scratch / "it's a program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return str(path)


def recorded(scratch, arguments, environ):
    """Run a program that records and return what it wrote down."""
    path = scratch / "record"
    path.unlink(missing_ok=True)
    done = subprocess.run(
        arguments, env={**environ, "RECORD": str(path)}, capture_output=True, check=True
    )
    assert done.stderr == b""
    return path.read_bytes()


WORDS = [
    ["plain"],
    [],
    ["", " ", "a b", "\t"],
    ["it's", '"', "`id`", "$HOME", "\\", "a\nb", "*", "~", "#", "!", "a=b", "-n", "--"],
    ["ünï", "\udcff\udc80", "\x01\x7f"],
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unset": ["A"]},
        {"variables": {"A": "x y", "B": "it's\n$HOME"}},
        {"unset": ["B"], "variables": {"A": "1"}},
        {"path_first": "/my dir/it's"},
        {"path_first": "/x", "unset": ["A"], "variables": {"B": ""}},
    ],
)
def test_round_trip(scratch, program, words, options):
    """A printed line run by sh gives the program the same words and variables."""
    environ = {"PATH": "/usr/bin:/bin", "A": "from outside"}
    step = Step([program, *words], **options)
    direct = recorded(scratch, step.arguments, step.environment(environ))
    assert recorded(scratch, ["sh", "-c", step.shell()], environ) == direct
    assert direct.startswith(b"".join(os.fsencode(word) + b"\0" for word in words))


def test_random_words(scratch, program):
    """Two thousand random words come through a shell as they are."""
    chance = random.Random(7)
    alphabet = "ab '\"\\$`!*?[]{}()&|;<>#~=-\n\t\udcfeé,:"
    words = ["".join(chance.choices(alphabet, k=chance.randrange(9))) for _ in range(2000)]
    found = recorded(scratch, ["sh", "-c", Step([program, *words]).shell()], {"PATH": "/bin"})
    assert found.split(b"\0")[:2000] == [os.fsencode(word) for word in words]


def test_output(scratch):
    """The output of a step goes to its file, whatever that is called."""
    path = scratch / "it's > here"
    step = Step(["printf", "%s", "x"], output=str(path))
    subprocess.run(["sh", "-c", step.shell()], check=True)
    assert path.read_text() == "x"


def test_lines():
    """Before, final, after: one line each, what it is for as a comment above it."""
    plan = Plan(
        Step(["b"], unset=["X"]),
        before=[Step(["a", "1 2"], why="first"), Step(["a"])],
        after=[Step(["c"], why="last")],
    )
    assert plan.shell() == "# first\na '1 2'\na\nenv -u X b\n# last\nc\n"
    assert Plan(before=[Step(["a"])]).shell() == "a\n"


def test_environment_is_a_copy():
    """The caller's environment is not changed."""
    environ = {"A": "1", "B": "2"}
    step = Step(["x"], unset=["A"], variables={"C": "3"})
    assert step.environment(environ) == {"B": "2", "C": "3"}
    assert environ == {"A": "1", "B": "2"}


def test_what_no_shell_does():
    """A Step without words is a comment, whatever its names hold."""
    steps = [Step(why="a\nb: the owner\u2028is noted"), Step(["true"], why="true")]
    assert Plan(before=steps).shell() == "# a b: the owner is noted\n# true\ntrue\n"


@pytest.mark.parametrize("fails", [None, "first", "second", "end"])
def test_do(fails):
    """The Steps are done in order up to the first that fails, and those behind it always."""
    done = []

    def act(name):
        done.append(name)
        if name == fails:
            raise KeyError(name)
        return len(done)

    def step(name):
        return Step(["x"], action=lambda: act(name))

    plan = Plan(Step(["x"]), before=map(step, ["first", "second"]), after=[step("last")])
    if fails:
        with pytest.raises(KeyError):
            plan.do(lambda _final: act("end"))
    else:
        assert plan.do(lambda final: (final, act("end"))) == (plan.final, 3)
    names = ["first", "second", "end"]
    assert done == names[: names.index(fails) + 1 if fails else 3] + ["last"]


def test_a_step_that_only_process_can_do():
    """A Step without an action is not called by mistake."""
    with pytest.raises(TypeError, match="apptainer run"):
        Step(["apptainer", "run"]).do()
