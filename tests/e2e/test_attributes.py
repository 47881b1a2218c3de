"""Extended attributes: what can be carried is, and what cannot is named."""

import os
import re

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


def test_capabilities(ok, overlay, scratch):
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
