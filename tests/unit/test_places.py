"""How names lead through links, and what of the host is seen inside."""

import os

import pytest
from overlay.host.places import View, Way, follow, parse_binds


@pytest.fixture
def tree(tmp_path):
    """Return a directory with links in it, the name of which leads through none."""
    place = tmp_path.resolve()
    (place / "g" / "me" / "p").mkdir(parents=True)
    (place / "home").mkdir()
    (place / "home" / "me").symlink_to(place / "g" / "me")
    (place / "g" / "me" / "up").symlink_to("../../home")
    (place / "loop").symlink_to("loop")
    (place / "gone").symlink_to("nothing")
    return str(place)


@pytest.mark.parametrize(
    ("name", "links", "real"),
    [
        ("g/me", [], "g/me"),
        ("g//me/.", [], "g/me"),
        ("g/me/../me/p", [], "g/me/p"),
        ("home/me", [("home/me", "home/me")], "g/me"),
        ("home/me/p", [("home/me", "home/me/p")], "g/me/p"),
        ("home/me/..", [("home/me", "home/me/..")], "g"),
        (
            "home/me/up/me/p",
            [
                ("home/me", "home/me/up/me/p"),
                ("g/me/up", "g/me/up/me/p"),
                ("home/me", "home/me/p"),
            ],
            "g/me/p",
        ),
    ],
)
def test_follow(tree, name, links, real):
    """Each link is named, with how the name reads there; the end is what realpath(1) says."""
    way = follow(f"{tree}/{name}")
    assert way.real == f"{tree}/{real}" == os.path.realpath(way.name)
    assert way.links == [(f"{tree}/{link}", f"{tree}/{path}") for link, path in links]


@pytest.mark.parametrize("name", ["loop", "gone", "nothing", "g/me/nothing"])
def test_leads_nowhere(tree, name):
    """A name that leads nowhere has no way."""
    assert follow(f"{tree}/{name}") is None


def test_root():
    """The root has no parts."""
    assert follow("/").real == "/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", [("/a", "/a")]),
        ("/a/", [("/a", "/a")]),
        ("/a:/b:ro", [("/a", "/b")]),
        ("/a,/b:/c", [("/a", "/a"), ("/b", "/c")]),
        ("/a\\:b", []),
    ],
)
def test_parse_binds(text, expected):
    """A specification may name several binds."""
    assert list(parse_binds(text)) == expected


def test_what_is_laid_over_counts():
    """The last mount over a path decides what is seen there."""
    view = View([("/home", "/home"), ("/other", "/home/me")])
    assert view.shows("/home/you") and not view.shows("/home/me/x")
    assert view.needed(Way("/home/me")) == []
    assert not View([]).shows("/home")


def test_directories_of_the_system_stay():
    """Nothing of the host is laid over what every image has of its own."""
    view = View([("/l", "/l")])
    link = Way("/l/bin", [("/l/bin", "/l/bin")], "/usr/bin")
    assert view.needed(link) == []
    assert view.needed(Way("/usr"), system=True) == []
    assert view.needed(Way("/var/lib/me"), system=True) == [("/var/lib/me", "/var/lib/me", False)]


def test_name_through_a_parent():
    """A name with .. behind a link that is not there inside cannot be had; the real one can."""
    way = Way("/l/../x", [("/l", "/l/../x")], "/g/x")
    assert View([]).needed(way) == [("/g/x", "/g/x", False)]


def test_mount_that_is_a_link():
    """What is mounted under a link's name is a directory inside."""
    view = View([("/tmp", "/tmp")])
    way = Way("/tmp/t", [("/tmp", "/tmp/t")], "/scratch/tmp/t")
    assert view.needed(way) == [("/scratch/tmp/t", "/scratch/tmp/t", False)]
    assert view.place_of(way) == "/tmp/t"
    assert view.leads_out(Way("/tmp/t", [("/tmp", "/tmp/t")], "/g/t"))
