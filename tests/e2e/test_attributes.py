"""Extended attributes: what can be carried is, and what cannot is named."""

import os
import re
import struct
import tarfile

import pytest
from support import is_clean, tool

# As setcap(8) writes them, cap_net_raw=ep: linux/capability.h, VFS_CAP_REVISION_2.
CAPABILITIES = "01 00 00 02 00 20 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
MAKE = f"""
import os
os.mkdir('/data')
with open('/data/program', 'w') as file:
    file.write('content')
os.chown('/data/program', 5, 6)
os.setxattr('/data/program', 'security.capability', bytes.fromhex('{CAPABILITIES}'))
os.setxattr('/data/program', 'user.note', b'note')
os.mkdir('/data/closed')
os.chmod('/data/program', 0o640)
os.chmod('/data/closed', 0)
"""


def attributes(path, inside):
    """Return the lines of debugfs(8) about the attributes of a file in an image."""
    return tool("debugfs", "-R", f"ea_list {inside}", path).stdout.split("\n")[1:]


def test_capabilities(ok, run, overlay, scratch):
    """An overlay that holds a file with capabilities can be packed and written anew; all is kept."""
    path = overlay("a.ext3")
    (scratch / "make.py").write_text(MAKE)
    ok("run-overlay", "-o", "a.ext3", "--fakeroot", "--", "python3", "make.py")
    before = attributes(path, "/upper/data/program")
    assert any(CAPABILITIES in line for line in before)
    ok("resize-overlay", "-q", "a.ext3", "-n", "3")
    assert is_clean(path)
    assert attributes(path, "/upper/data/program") == before
    line = "stat -c '%a %u %g' /data/program /data/closed; cat /data/program"
    seen = ok("run-overlay", "-o", "a.ext3:ro", "--fakeroot", "--", "sh", "-c", line)
    assert seen == "640 5 6\n0 0 0\ncontent"
    ok("pack-overlay", "-q", "a.ext3", "-o", "one.sqsh")
    overlay("b.ext3")
    ok("run-overlay", "-o", "b.ext3", "--", "touch", "/other")
    ok("pack-overlay", "-q", "b.ext3", "a.ext3", "-o", "two.sqsh")
    for name in ("one.sqsh", "two.sqsh"):
        listed = tool("unsquashfs", "-ll", "-d", "", scratch / name).stdout
        assert re.search(r"^-rw-r----- .* /data/program$", listed, re.MULTILINE), name
        assert re.search(r"^d--------- .* /data/closed$", listed, re.MULTILINE), name
        assert ok("run-overlay", "-o", f"{name}:ro", "--", "cat", "/data/program") == "content"
        said = tool("unsquashfs", "-d", scratch / name[:3], scratch / name).stderr
        assert "security.capability" in said, name  # which only root could set
        assert os.getxattr(scratch / name[:3] / "data" / "program", "user.note") == b"note", name
        (scratch / name[:3] / "data" / "closed").chmod(0o700)  # so that pytest can remove it
    # Only root could set them again; the file is there without.
    result = run("create-overlay", "--from", "one.sqsh:/d", "-o", "c")
    assert result.status == 0, result
    assert f"{LEFT_OUT}: security.capability of /data/program\n" in result.stderr
    assert ok("run-overlay", "-o", "c.ext3:ro", "--", "cat", "/d/data/program") == "content"


LEFT_OUT = "create-overlay: attributes of files that cannot be carried are left out"


def archive(path, *members):
    """Make a tar archive of (name, type, extended attributes) of members."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, kind, attributes in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size = kind, 0o755, 0
            info.pax_headers = {f"SCHILY.xattr.{key}": text for key, text in attributes.items()}
            file.addfile(info)


def test_archive(ok, run, scratch):
    """What only root may set, or is larger than ext3 takes, is named, and left out of the file."""
    kept = {"user.small": "x" * 50, "security.selinux": "label"}
    archive(
        scratch / "a.tar",
        ("one", tarfile.REGTYPE, {"trusted.foo": "bar", **kept}),
        ("d", tarfile.DIRTYPE, {}),
        ("d/two", tarfile.REGTYPE, {"user.huge": "y" * 20_000, **kept}),
    )
    result = run("create-overlay", "--from", "a.tar:/data", "-o", "a")
    assert result.status == 0, result
    named = [line for line in result.stderr.splitlines() if line.startswith(LEFT_OUT)]
    (line,) = named
    assert re.search(r"trusted\.foo of (/data)?/one", line)
    assert re.search(r"user\.huge of (/data)?/d/two", line)
    for name in ("one", "d/two"):
        (line,) = filter(None, attributes(scratch / "a.ext3", f"/upper/data/{name}"))
        assert line.startswith("  user.small (50)"), name


def squash(tree, path, *names):
    """Pack a directory; of its attributes of users some become root's, which only root could set.

    names  of them, without "user."
    """
    words = ("mksquashfs", tree, path, "-quiet", "-no-progress", "-noX")
    assert tool(*words).returncode == 0
    data = path.read_bytes()
    for name in names:
        stored = struct.pack("<H", len(name)) + name.encode()  # struct squashfs_xattr_entry
        assert data.count(b"\0\0" + stored) == 1
        data = data.replace(b"\0\0" + stored, b"\1\0" + stored)
    path.write_bytes(data)


@pytest.mark.parametrize("huge", [False, True], ids=["root", "large"])
def test_squashfs(ok, run, scratch, small, huge):
    """Of a squashfs file all that cannot be carried is named, and the rest is kept."""
    tree = small / "squashed"
    tree.mkdir()
    for name in ("one", "two", "three", "four"):
        (tree / name).write_text(name)
        os.setxattr(tree / name, "user.note", name.encode())
    (tree / "four").chmod(0o444)
    (tree / "five").mkdir()
    os.setxattr(tree / "five", "user.of.five", b"5")
    for name in ("overlay.origin", "overlay.redirect"):
        os.setxattr(tree / "one", f"user.{name}", b"x")
    if huge:
        os.setxattr(tree / "two", "user.huge", b"y" * 20_000)
    else:
        os.setxattr(tree / "two", "user.third", b"x")
    squash(
        tree, scratch / "a.sqsh", "overlay.origin", "overlay.redirect", *([] if huge else ["third"])
    )
    result = run("create-overlay", "--from", "a.sqsh:/d", "-o", "a")
    assert result.status == 0, result
    (line,) = [one for one in result.stderr.splitlines() if one.startswith(LEFT_OUT)]
    left_out = [f"{'user.huge' if huge else 'trusted.third'} of /two"]
    left_out += ["trusted.overlay.origin of /one", "trusted.overlay.redirect of /one"]
    assert sorted(line[len(LEFT_OUT) + 2 :].split(", ")) == sorted(left_out)
    for name in ("one", "two", "three", "four"):
        (kept,) = filter(None, attributes(scratch / "a.ext3", f"/upper/d/{name}"))
        assert kept.split() == ["user.note", f"({len(name)})", "=", f'"{name}"'], kept
    assert "user.of.five" in attributes(scratch / "a.ext3", "/upper/d/five")[0]


def test_opaque_in_squashfs(ok, run, scratch):
    """A directory that hides all below it by root's attribute hides it, out of squashfs too."""
    for name in ("base-files", "doc"):
        (scratch / "t" / "usr" / "share" / name).mkdir(parents=True)
    os.setxattr(scratch / "t" / "usr" / "share" / "base-files", "user.overlay.opaque", b"y")
    (scratch / "t" / "usr" / "share" / "base-files" / "new").touch()
    squash(scratch / "t", scratch / "a.sqsh", "overlay.opaque")
    result = run("create-overlay", "-q", "--from", "a.sqsh", "-o", "a")
    assert result == (0, "", "")
    for mode in ("", ":ro"):
        seen = ok("run-overlay", "-o", f"a.ext3{mode}", "--", "ls", "-A", "/usr/share/base-files")
        assert seen == "new\n", mode
        assert ok("run-overlay", "-o", f"a.ext3{mode}", "--", "ls", "-A", "/usr/share/doc"), mode


def test_opaque(ok, scratch):
    """A directory that root's overlayfs has marked as hiding all below it hides it here."""
    archive(
        scratch / "a.tar",
        ("usr", tarfile.DIRTYPE, {}),
        ("usr/share", tarfile.DIRTYPE, {}),
        ("usr/share/base-files", tarfile.DIRTYPE, {"trusted.overlay.opaque": "y"}),
        ("usr/share/base-files/new", tarfile.REGTYPE, {}),
    )
    ok("create-overlay", "-q", "--from", "a.tar:/", "-o", "a")
    for mode in ("", ":ro"):
        words = ("run-overlay", "-o", f"a.ext3{mode}", "--", "ls", "-A", "/usr/share/base-files")
        assert ok(*words) == "new\n", mode


def test_deletions(ok, run, scratch):
    """A deletion in an archive of what overlayfs has written deletes here; other devices do not."""
    archive(
        scratch / "a.tar",
        ("usr", tarfile.DIRTYPE, {}),
        ("usr/share", tarfile.DIRTYPE, {}),
        ("usr/share/base-files", tarfile.DIRTYPE, {}),
        ("usr/share/base-files/motd", tarfile.CHRTYPE, {}),
    )
    ok("create-overlay", "-q", "--from", "a.tar:/", "-o", "a")
    for mode in ("", ":ro"):
        words = ("run-overlay", "-o", f"a.ext3{mode}", "--", "ls", "-A", "/usr/share/base-files")
        seen = ok(*words).split()
        assert ("motd" in seen, "profile" in seen) == (False, True), mode
    archive(scratch / "b.tar", ("disk", tarfile.BLKTYPE, {}))
    result = run("create-overlay", "--from", "b.tar:/", "-o", "b")
    assert (result.status, "its member disk is a device" in result.stderr) == (65, True), result


@pytest.mark.parametrize("place", ["/data", "/"])
def test_directory(ok, run, scratch, small, place):
    """A file in a directory, with more attributes than ext3 takes: as many as fit are kept.

    Where it is read as it is, and where it is copied: cp(1) is silent about what it leaves out.
    """
    name = f"tree{len(place)}"
    (small / name / "usr").mkdir(parents=True)
    (small / name / "usr" / "file").write_text("content")
    for number in range(5):
        os.setxattr(small / name / "usr" / "file", f"user.n{number}", b"x" * (1004 - number))
    (small / name / "usr" / "file").chmod(0o444)
    result = run("create-overlay", "--from", f"{small}/{name}:{place}", "-o", "a")
    assert result.status == 0, result
    inside = "/data/usr/file" if place == "/data" else "/usr/file"
    (line,) = [one for one in result.stderr.splitlines() if one.startswith(LEFT_OUT)]
    assert sorted(re.findall(r"(user\.\w+) of (\S+?)(?:,|$)", line)) == [
        ("user.n0", inside),
        ("user.n1", inside),
    ]
    lines = filter(None, attributes(scratch / "a.ext3", f"/upper{inside}"))
    assert sorted(line.split()[0] for line in lines) == ["user.n2", "user.n3", "user.n4"]
    assert ok("run-overlay", "-o", "a.ext3:ro", "--", "cat", inside) == "content"
