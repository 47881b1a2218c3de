"""Packing: names, what is closed to others, deletions of several layers, comparisons."""

import subprocess
import types

import pytest
from overlay.change import pack
from overlay.commands.pack import _path
from overlay.errors import USAGE, OverlayError
from overlay.image import image as images


def options(*overlays, output=None):
    """Return what the command line gives."""
    return types.SimpleNamespace(overlays=overlays, output=output)


@pytest.mark.parametrize(
    ("overlays", "output", "path"),
    [
        (["a.ext3"], None, "a.sqsh"),
        (["/x y/a.img"], None, "/x y/a.sqsh"),
        (["a"], None, "a.sqsh"),
        (["v1.2.ext3", "b.ext3"], None, "v1.2.sqsh"),
        (["a.ext3"], "b", "b.sqsh"),
        (["a.ext3"], "v1.2", "v1.2.sqsh"),
        (["a.ext3"], "b.squashfs", "b.squashfs"),
        (["a.ext3"], "b.sfs", "b.sfs"),
    ],
)
def test_path(overlays, output, path):
    """The name of the new file: as given, or the first overlay's with another ending."""
    assert _path(options(*overlays, output=output)) == path


@pytest.mark.parametrize("name", ["b.ext3", "b.tar.gz", "b.sif"])
def test_path_of_something_else(name):
    """A name that would say it is something else is refused."""
    with pytest.raises(OverlayError) as error:
        _path(options("a.ext3", output=name))
    assert (error.value.status, error.value.hint) == (USAGE, "-o b.sqsh")


@pytest.fixture
def layer(make_image):
    """Return a function that makes an image with directories and files and looks at it."""
    found = []

    def layer(name, directories=(), files=(), closed=()):
        path = make_image(name, directories=("upper", "work", *(f"upper/{d}" for d in directories)))
        lines = [f"write /dev/null /upper/{file}" for file in files]
        lines += [f"sif /upper/{file} mode {mode}" for file, mode in closed]
        words = ["/usr/sbin/debugfs", "-w", "-f", "-", path]
        subprocess.run(words, input="\n".join(lines), text=True, check=True, capture_output=True)
        found.append(images.look(str(path)))
        return found[-1]

    yield layer
    for one in found:
        one.close()


def test_closed(layer):
    """Files that others cannot read, directories that they cannot enter; links do not count."""
    found = layer(
        "a.ext3",
        ["d", "e", "f"],
        ["d/open", "d/key", "e/x"],
        [
            ("d", "040755"),
            ("e", "040700"),
            ("f", "040751"),
            ("d/open", "0100644"),
            ("d/key", "0100640"),
            ("e/x", "0100604"),
        ],
    )
    assert pack.closed(found) == [b"/d/key", b"/e", b"/f"]


def names(words):
    """Return the names in options for mksquashfs."""
    assert words[::2] == ["-p"] * (len(words) // 2)
    return sorted(word[1:].rpartition('"')[0] for word in words[1::2])


def test_pseudo(layer):
    """Deletions reach what lies below all of them, unless a layer above has it anew."""
    top = layer("a.ext3", ["d"], ["d/.wh.one", "d/two", ".wh.gone"])
    middle = layer("b.ext3", ["d", "gone"], ["d/.wh.two", "d/.wh.three", "gone/.wh.four"])
    assert pack._pseudo([top]) == []
    assert names(pack._pseudo([top, middle])) == [".wh.gone", "d/.wh.one", "d/.wh.three"]
    odd = layer("c.ext3", ["d"], ["d/.wh.größe"])
    expected = ["d/.wh.größe", "d/.wh.three", "d/.wh.two", "gone/.wh.four"]
    assert names(pack._pseudo([odd, middle])) == expected


@pytest.mark.parametrize("depth", [15, 20])
def test_pseudo_of_a_long_path(layer, depth):
    """A deletion whose path is longer than Linux takes is no reason to bring back what it hides."""
    path = "/".join(["n" * 250] * depth)
    top, deep = layer("a.ext3"), layer("b.ext3")
    lines = ["cd /upper"]
    for _number in range(depth):
        lines += [f"mkdir {'n' * 250}", f"cd {'n' * 250}"]
    lines.append("write /dev/null .wh.gone")
    words = ["/usr/sbin/debugfs", "-w", "-f", "-", deep.path]
    subprocess.run(words, input="\n".join(lines), text=True, check=True, capture_output=True)
    deep.read_again()
    if depth == 15:
        assert names(pack._pseudo([top, deep])) == [f"{path}/.wh.gone"]
    else:
        with pytest.raises(OverlayError, match="the deletion of gone cannot be put into a pack"):
            pack._pseudo([top, deep])


@pytest.mark.parametrize(
    ("record", "name", "may"),
    [
        ("f\t600\t1\t2\t1\t\td/a\tb", "d/a\tb", False),
        ("\tf\t600\t1\t2\t1\t\ta", "a", False),
        ("0" * 64 + "  ./a\tb", "./a\tb", False),
        ("", "", False),
        ("f\t600\t1\t0\t1\t\td/.wh.a", "d/.wh.a", False),
        ("\tf\t600\t1\t0\t1\t\td/.wh.a", "d/.wh.a", True),
        ("\t" + "0" * 64 + "  ./d/.wh.a", "./d/.wh.a", True),
        ("c\t600\t1\t0\t2\t\td/.wh..opq", "d/.wh..opq", True),
    ],
)
def test_may_differ(record, name, may):
    """What is in one of the trees only is a fault, but for markers put in and second names."""
    assert pack._name(record) == name
    assert pack._may_differ(record) == may
