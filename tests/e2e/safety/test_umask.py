"""What we make inside overlays lets others through, whatever the user's umask is."""

import re

import pytest
from support import shell, tool

PLACES = ("", "upper", "work", "work/work", "upper/usr", "upper/usr/local", "upper/usr/local/q")


def mode(image, place):
    """Return the permission bits of a directory of an image, None when it is not there."""
    said = tool("debugfs", "-R", f'stat "/{place}"', image).stdout
    found = re.search(r"Mode: +0?(\d+)", said)
    return found and int(found.group(1), 8)


@pytest.fixture
def sources(scratch, environ):
    """Make a directory, an archive without members for its directories, and a squashfs file."""
    line = """
    mkdir -p tree/sub && echo x >tree/sub/f && chmod 755 tree tree/sub && chmod 644 tree/sub/f
    tar -cf files.tar -C tree sub/f && mksquashfs tree tree.sqsh -quiet -no-progress
    """
    assert shell(f"set -e; PATH=$PATH:/usr/sbin; {line}", environ, scratch).status == 0


@pytest.mark.parametrize("umask", ["077", "027", "0"])
@pytest.mark.parametrize("source", ["tree", "files.tar", "tree.sqsh"])
def test_from(words, environ, scratch, sources, umask, source):
    """--from: /usr and /usr/local, which nobody has brought, are open; resized and packed too."""
    create, resize, pack = (words(f"{name}-overlay")[-1] for name in ("create", "resize", "pack"))
    line = f"""umask {umask}; set -e
    {create} -q --sparse -s 64 -n 1 -o a --from {source}:/usr/local/q
    cp a.ext3 b.ext3; {resize} -q b.ext3 -n 3
    {pack} -q a.ext3 -o a.sqsh; unsquashfs -lls a.sqsh >listed
    if grep ^d listed | grep -v "^drwxr-xr-x"; then exit 1; fi
    {create} -q --sparse -s 64 -n 1 -o empty; stat -c %a empty.ext3"""
    result = shell(line, {**environ, "PATH": f"{environ['PATH']}:/usr/sbin"}, scratch)
    assert result.status == 0, result
    for image in ("a.ext3", "b.ext3"):
        assert {place: mode(scratch / image, place) for place in PLACES} == dict.fromkeys(
            PLACES, 0o755
        )
    assert mode(scratch / "a.ext3", "upper/usr/local/q/sub") == 0o755
    # The image itself is the user's file, and follows the umask as every other one.
    assert result.stdout == f"{0o666 & ~int(umask, 8):o}\n"


def test_commands(words, environ, scratch):
    """-f: what the commands make has the user's umask, and what lies above it is open."""
    (scratch / "commands").write_text("mkdir -p /usr/local/mine\n")
    create = words("create-overlay")[-1]
    line = f"umask 077; {create} -q --sparse -s 64 -n 1 -o a -f commands"
    assert shell(line, environ, scratch).status == 0
    places = ("", "upper", "work", "upper/usr", "upper/usr/local")
    assert {place: mode(scratch / "a.ext3", place) for place in places} == dict.fromkeys(
        places, 0o755
    )
    assert mode(scratch / "a.ext3", "upper/usr/local/mine") == 0o700
