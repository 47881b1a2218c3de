"""Errors: the words for a person, and names that cannot forge a message."""

import os
import random
import subprocess

import pytest
from overlay import errors


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "''"),
        ("plain.ext3", "plain.ext3"),
        ("/a-b_c/d@e%f+g=h:i,j", "/a-b_c/d@e%f+g=h:i,j"),
        ("größe", "größe"),
        ("my file", "'my file'"),
        ("it's", "'it'\\''s'"),
        ('"', "'\"'"),
        ("$HOME", "'$HOME'"),
        ("~", "'~'"),
        ("a\nrun-overlay: error: b", "$'a\\x0arun-overlay: error: b'"),
        ("a\tb'c\\d", "$'a\\x09b\\'c\\\\d'"),
        ("\x1b[31m", "$'\\x1b[31m'"),
        ("\u202eexe", "$'\\xe2\\x80\\xaeexe'"),
        ("a\udcff", "$'a\\xff'"),
        ("a\ud800", "$'a\\x3f'"),
        (7, "7"),
    ],
)
def test_quote(text, quoted):
    """A word in a message stands on one line and can be pasted."""
    assert errors.quote(text) == quoted


def test_quote_pastes():
    """Bash reads every quoted name as the name that it was."""
    chance = random.Random(2)
    alphabet = "ab 'é\"\\$`!\n\t\x01\x7f\x1b~*?[]{}()#&|;<>-=:,\udc80\udcff\u202e\u00a0xf09"
    names = ["".join(chance.choices(alphabet, k=chance.randrange(1, 9))) for _ in range(2000)]
    script = "printf '%s\\0' " + " ".join(map(errors.quote, names))
    done = subprocess.run(
        ["bash"],
        input=script.encode(errors="surrogateescape"),
        capture_output=True,
        check=True,
    )
    expected = [name.encode(errors="surrogateescape") for name in names]
    assert done.stdout.split(b"\0")[:-1] == expected
    assert not done.stderr


def test_quote_one_line():
    """No character makes a second line or reaches the terminal as a control character."""
    for number in [
        *range(0x3000),
        0x85,
        0x2028,
        0x2029,
        *range(0xDC80, 0xDD00),
        0x10FFFF,
    ]:
        quoted = errors.quote(f"a{chr(number)}b")
        assert quoted.isprintable() and len(quoted.splitlines()) == 1, number


def test_reason():
    """An operating system error is told in its words alone."""
    with pytest.raises(OSError) as caught:
        os.stat("/there/is/no/such/file")
    assert errors.reason(caught.value) == "No such file or directory"
    assert errors.reason(OSError("odd")) == "odd"


def test_overlay_error():
    """An OverlayError carries words, status and hint."""
    error = errors.OverlayError("what", status=errors.MISSING, hint="do")
    assert (str(error), error.what, error.status, error.hint) == (
        "what",
        "what",
        66,
        "do",
    )


def test_statuses():
    """Every status is its own."""
    numbers = [value for name, value in vars(errors).items() if name.isupper()]
    assert sorted(numbers) == [1, 2, 65, 66, 69, 70, 73, 74, 75, 77, 78, 130]
