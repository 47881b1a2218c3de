"""What the sources of quotas say, and what follows from it; programs are real, sources are not."""

import os
import time

import pytest
from overlay.create.policy import room_for
from overlay.errors import CANNOT_CREATE, CONFIGURATION, OverlayError
from overlay.host import mounts, process
from overlay.host.names import user_name
from overlay.quota import btrfs, ceph, kernel, lustre, nfs, space
from overlay.quota.check import find_limits
from overlay.quota.command import parse_command
from overlay.quota.limits import Limits, Place
from overlay.quota.sources import SOURCES, load
from support import wait_until

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
NOTHING = (None, None, None)
HEAD = "     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n"


@pytest.fixture
def on(monkeypatch):
    """Return a function that makes every directory lie on a file system of some type."""

    def on(type, point="/"):
        monkeypatch.setattr(mounts, "find", lambda _fd: mounts.Mount(type, point, "server:/x"))

    return on


@pytest.fixture
def place(scratch, environ, on):
    """Return a Place on NFS, of uid 1001 and gid 100."""
    on("nfs4", "/mnt/e4")
    place = Place(scratch, environ, 5)
    place.user, place.group = 1001, 100
    return place


@pytest.fixture
def program(tmp_path, environ):
    """Return a function that puts a shell script on PATH; it can say what it was asked."""
    environ["PATH"] = f"{tmp_path}/bin:{environ['PATH']}"
    (tmp_path / "bin").mkdir()

    def program(name, script):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho "$*" >>"$0.asked"\n{script}\n')
        path.chmod(0o755)
        return path

    return program


@pytest.fixture
def check(scratch, environ, settings, monkeypatch):
    """Return a function that checks a reserved overlay of 100 MiB, the disk never full."""
    monkeypatch.setattr(space, "limits", lambda _place: [])

    def check(now=100 * MIB, full=None, files=1, **variables):
        config = settings(**{f"quota_{name}": text for name, text in variables.items()})
        room = room_for(str(scratch / "a.ext3"), config)
        if room is None:
            return []
        return room.check(now_bytes=now, full_bytes=full or now, files=files)

    return check


@pytest.fixture
def says(monkeypatch, on):
    """Return a function that sets what the only source says of the user's quota."""

    def says(blocks, files=NOTHING):
        on("lustre", "/scratch")
        limits = Limits("user", "test", "your quota on /scratch", blocks, files)
        monkeypatch.setattr(lustre, "limits", lambda _place: [limits])

    return says


def sides(limits):
    """Return the numbers of Limits: (used, soft, hard) of bytes and of files."""
    return (
        (limits.used_bytes, limits.soft_bytes, limits.hard_bytes),
        (limits.used_files, limits.soft_files, limits.hard_files),
    )


# Output of `lfs quota`, and what it says.
LFS = {
    "one line": (
        "Disk quotas for usr alice (uid 1001):\n"
        + HEAD
        + "    /lustre  1000000       0 2000000       -    1234       0    5000       -\n",
        ((1000000 * KIB, 0, 2000000 * KIB), (1234, 0, 5000)),
    ),
    "wrapped": (
        "Disk quotas for usr alice (uid 1001):\n"
        + HEAD
        + "/gpfs-like/a/very/long/path/of/lustre\n"
        + "                1000000*  900000 1000000   6d23h    1234*   1000    5000   6d23h\n",
        ((1000000 * KIB, 900000 * KIB, 1000000 * KIB), (1234, 1000, 5000)),
    ),
    "none": (
        HEAD + "  /lustre  12  0  0  -  3  0  0  -\n",
        ((12 * KIB, 0, 0), (3, 0, 0)),
    ),
    "dashes": (HEAD + "  /lustre  -  -  -  -  -  -  -  -\n", (NOTHING, NOTHING)),
    "default": (
        HEAD
        + "  /lustre  0k  8T  10T  -  0  3000000  36000000  -\n"
        + "uid 1001 is using default block quota setting\n"
        + "uid 1001 is using default file quota setting\n",
        ((0, 8 * TIB, 10 * TIB), (0, 3000000, 36000000)),
    ),
    "units": (
        HEAD + "  /lustre  622G  2.644T  3T  -  168k  0k  2M  -\n",
        ((622 * GIB, int(2.644 * TIB), 3 * TIB), (168000, 0, 2000000)),
    ),
    "a server down": (
        HEAD + "  /lustre  [1024]*  0  [512]  -  7  0  0  -\nSome errors happened\n",
        ((MIB, 0, 512 * KIB), (7, 0, 0)),
    ),
    "grace is over": (
        HEAD + "  /lustre  900*  800  1000  expired  9*  8  0  expired\n",
        ((900 * KIB, 800 * KIB, 800 * KIB), (9, 8, 8)),
    ),
    "in grace": (
        HEAD + "  /lustre  900*  800  1000  1d2h  9*  8  10  6d23h59m58s\n",
        ((900 * KIB, 800 * KIB, 1000 * KIB), (9, 8, 10)),
    ),
    "grace is over, as lfs says it": (
        HEAD + "  /lustre  900*  800  1000  none  9*  8  10  none\n",
        ((900 * KIB, 800 * KIB, 800 * KIB), (9, 8, 8)),
    ),
    "a path with blanks": (
        HEAD + "  /my lustre/of mine  900  0  1000  -  9  0  10  -\n",
        ((900 * KIB, 0, 1000 * KIB), (9, 0, 10)),
    ),
}


@pytest.mark.parametrize("name", LFS)
def test_lfs(name):
    """The answers of `lfs quota` are understood."""
    text, expected = LFS[name]
    assert tuple(lustre.parse_lfs(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "no quota\n", HEAD, HEAD + "/lustre\n", HEAD + "/lustre 1 2 3 - x 5 6 -\n"],
)
def test_lfs_unknown(text):
    """What `lfs quota` does not print is no answer."""
    with pytest.raises(ValueError):
        lustre.parse_lfs(text)


QUOTA = """\
Disk quotas for user alice (uid 1001): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
/dev/loop0 /mnt/e4   12291*  10240   20480 1796022498     113*    100     200 1796022498
server:/other /mnt/e42   1  2  3  0  4  5  6  0
Disk quotas for group users (gid 100): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
server:/x /mnt/e4   12291  0   0 0     113    0     200 0
Disk quotas for group staff (gid 50): none
"""  # noqa: W291


def test_quota(place):
    """The answer of quota(1): the rows of this mount point, user and group."""
    user, group = nfs.parse_quota(QUOTA, place, 1796022498)
    assert (user.kind, user.name) == ("user", "your quota on /mnt/e4")
    assert sides(user) == ((12291 * KIB, 10240 * KIB, 20480 * KIB), (113, 100, 200))
    assert group.kind == "group"
    assert sides(group) == ((12291 * KIB, None, None), (113, None, 200))


def test_quota_after_grace(place):
    """A soft limit is as good as a hard one when its time of grace is over."""
    user, group = nfs.parse_quota(QUOTA, place, 1796022499)
    assert sides(user) == ((12291 * KIB, 10240 * KIB, 10240 * KIB), (113, 100, 100))
    assert sides(group) == ((12291 * KIB, None, None), (113, None, 200))


@pytest.mark.parametrize(
    "text", ["", "Disk quotas for user alice (uid 1001): none\n", QUOTA.replace("e4", "e5")]
)
def test_quota_none(place, text):
    """No row for this mount point is no quota."""
    assert nfs.parse_quota(text, place, 0) == []


def test_quota_unknown(place):
    """A row with fewer columns is not guessed at."""
    with pytest.raises(ValueError):
        nfs.parse_quota("Disk quotas for user alice (uid 1001):\n/x /mnt/e4 1 2 3\n", place, 0)


COMMAND = {
    "1 2 3 4\n": [((1, None, 2), (3, None, 4), "your quota on /mnt/e4")],
    "\n 1  2\t3 4 \n": [((1, None, 2), (3, None, 4), "your quota on /mnt/e4")],
    "1 0 - -": [((1, None, None), NOTHING, "your quota on /mnt/e4")],
    "- 2 3 -": [((None, None, 2), (3, None, None), "your quota on /mnt/e4")],
    "1 2 3 4 file set x\n5 6 7 8 y\n": [
        ((1, None, 2), (3, None, 4), "the quota of file set x"),
        ((5, None, 6), (7, None, 8), "the quota of y"),
    ],
    "": [],
    "\n \n": [],
}


@pytest.mark.parametrize("text", COMMAND)
def test_command(place, text):
    """The answers of the site's command, as overlay.ini documents them."""
    found = parse_command(text, place)
    assert [(*sides(limits), limits.name) for limits in found] == COMMAND[text]


@pytest.mark.parametrize("text", ["1 2 3\n", "1G 2 3 4\n", "no quota for you\n", "1 -2 3 4\n"])
def test_command_unknown(place, text):
    """What is not four numbers is no answer."""
    with pytest.raises(ValueError):
        parse_command(text, place)


def test_qgroup():
    """What is promised counts as used; each limit only when its flag is set."""
    values = {
        "limit_flags": 1,
        "referenced": 100,
        "exclusive": 50,
        "max_referenced": 1000,
        "max_exclusive": 0,
        "rsv_data": 10,
        "rsv_meta_pertrans": 2,
        "rsv_meta_prealloc": 1,
    }
    (found,) = btrfs.parse_qgroup(values.__getitem__, "x")
    assert sides(found) == ((113, None, 1000), NOTHING)
    values.update(limit_flags=3, max_exclusive=500)
    assert [sides(limits)[0] for limits in btrfs.parse_qgroup(values.__getitem__, "x")] == [
        (113, None, 1000),
        (63, None, 500),
    ]
    values["limit_flags"] = 0
    assert btrfs.parse_qgroup(values.__getitem__, "x") == []


def test_filesystem(scratch):
    """The file system of a directory is the one that df(1) names."""
    df = os.popen(f"df --output=fstype,target '{scratch}'").read().splitlines()[1].split()
    mount = Place(scratch, {}, 0).mount
    assert [mount.type, mount.point] == df
    mount = Place("/proc", {}, 0).mount
    assert (mount.type, mount.point, mount.source) == ("proc", "/proc", "proc")


def test_mount_names():
    """Blanks in the names of mountinfo are escaped."""
    assert mounts._plain(r"/my\040disk\134x") == r"/my disk\x"


def test_statvfs(monkeypatch, place):
    """A directory that shows less than its mount point has a quota of its own."""

    def statvfs(path):
        if path == place.directory:
            # Blocks, free, available; files, free, available.
            return os.statvfs_result((4096, 4096, 1000, 400, 300, 50, 20, 10, 0, 255))
        return os.statvfs_result((4096, 4096, 5000, 4000, 3000, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    directory, whole = space.limits(place)
    assert (directory.kind, whole.kind) == ("project", "space")
    assert sides(directory) == ((600 * 4096, None, 900 * 4096), (30, None, 40))
    assert sides(whole) == ((1000 * 4096, None, 4000 * 4096), (0, None, None))


def test_statvfs_is_second(monkeypatch, settings, scratch, environ, says):
    """What the size of the directory tells is left out where its quota is known better."""
    numbers = (0, None, GIB), NOTHING
    of_size = [Limits(kind, "statvfs", kind, *numbers) for kind in ("project", "space")]
    monkeypatch.setattr(space, "limits", lambda _place: of_size)
    says(numbers[0])
    assert [one.kind for one in find_limits(scratch, settings())[0]] == [
        "user",
        "project",
        "space",
    ]
    known = Limits("tree", "test", "x", *numbers)
    monkeypatch.setattr(lustre, "limits", lambda _place: [known])
    assert [one.kind for one in find_limits(scratch, settings())[0]] == ["tree", "space"]


def test_one_time_for_all(monkeypatch, on, program, check):
    """Asking, having btrfs count, and asking again take the time of [quota] timeout, not thrice it."""
    on("btrfs")
    full = Limits("tree", "test", "the quota", (GIB, None, GIB), NOTHING)

    def limits(place):
        place.ask([asked])
        return [full]

    monkeypatch.setattr(btrfs, "limits", limits)
    left = []

    def ask(words, environ, seconds):
        left.append(seconds)
        return real(words, environ, seconds)

    real = process.ask
    monkeypatch.setattr(process, "ask", ask)
    asked = str(program("once", '[ ! -e "$0.once" ] || exec sleep 1000; >"$0.once"'))
    for sync in ("exec sleep 1000", "exit 0"):
        program("sync", sync)
        left.clear()
        with pytest.raises(OverlayError) as caught:
            check(timeout="3")
        # The second answer does not come in time: the first still holds.
        assert "the quota is short by 100 MiB" in caught.value.what
        assert left == sorted(set(left), reverse=True) and left[0] <= 3 and len(left) > 1
        os.unlink(f"{asked}.once")


def test_sources():
    """The table names a module for every type of file system; what is local, the kernel knows."""
    for type in SOURCES:
        assert load(type, is_local=False).limits
    assert load("xfs", is_local=True) is kernel
    assert load("xfs", is_local=False) is None
    assert {"btrfs", "ceph", "lustre", "nfs4"} <= SOURCES.keys()


def test_ceph(monkeypatch, scratch, environ, on):
    """Ceph: the limits of the directory and of those above, up to the mount point."""
    on("ceph", os.path.dirname(scratch))
    values = {
        (str(scratch), "ceph.quota.max_bytes"): b"1000",
        (str(scratch), "ceph.quota.max_files"): b"0",
        (str(scratch), "ceph.dir.rbytes"): b"400",
        (str(scratch), "ceph.dir.rentries"): b"7",
        (os.path.dirname(scratch), "ceph.quota.max_files"): b"20",
        (os.path.dirname(scratch), "ceph.dir.rentries"): b"9",
    }

    def getxattr(path, name):
        if (path, name) in values:
            return values[path, name]
        raise OSError(61, "No data available")

    monkeypatch.setattr(os, "getxattr", getxattr)
    found = ceph.limits(Place(scratch, environ, 5))
    assert [sides(limits) for limits in found] == [
        ((400, None, 1000), (7, None, None)),
        (NOTHING, (9, None, 20)),
    ]


def test_room(says, check):
    """What fits is not mentioned, to the last byte."""
    says((100 * MIB, None, 200 * MIB), (9, None, 10))
    assert check() == []


def test_refused(says, check, scratch):
    """What does not fit is refused: used, limit, needed, short by, and what to type."""
    says((100 * GIB, None, 110 * GIB))
    with pytest.raises(OverlayError) as caught:
        check(now=20 * GIB)
    assert caught.value.status == CANNOT_CREATE
    assert caught.value.what == (
        f"there is no room for the overlay in '{scratch}': your quota on /scratch is short by"
        " 10 GiB (used 100 GiB, limit 110 GiB, needed 20 GiB)"
    )
    assert caught.value.hint == (
        "choose a smaller size (-s 10239 fits), or add --sparse: then room is taken only as the"
        " overlay fills, and a session can run into the limit; remove what you do not need, or"
        " choose another directory with -o"
    )


@pytest.mark.parametrize(
    ("blocks", "files", "options", "what", "hint"),
    [
        (
            (300 * MIB, None, 200 * MIB),
            NOTHING,
            {},
            "short by 200 MiB (used 300 MiB, limit 200 MiB, needed 100 MiB)",
            "remove what you do not need, or choose another directory with -o",
        ),
        (
            (MIB, None, TIB),
            (10, None, 10),
            {"hint": "see myquota"},
            "short by 1 file (used 10, limit 10, needed 1)",
            "see myquota",
        ),
        (
            (110 * MIB, None, 200 * MIB),
            (1000, None, 10),
            {"hint": "see myquota"},
            "short by 10 MiB (used 110 MiB, limit 200 MiB, needed 100 MiB)",
            "choose a smaller size (-s 89 fits), or add --sparse: then room is taken only as the"
            " overlay fills, and a session can run into the limit; see myquota",
        ),
        (
            (180 * MIB, None, 200 * MIB),
            NOTHING,
            {"now": 21 * MIB, "full": GIB, "hint": "see myquota"},
            "short by 1 MiB (used 180 MiB, limit 200 MiB, needed 21 MiB)",
            "choose a smaller size with -s: its journal and tables take the room; see myquota",
        ),
        (
            (180 * MIB, None, 200 * MIB),
            NOTHING,
            {"hint": "see myquota"},
            "short by 80 MiB (used 180 MiB, limit 200 MiB, needed 100 MiB)",
            "choose a smaller size (-s 19 fits); see myquota",
        ),
    ],
)
def test_hints(says, check, blocks, files, options, what, hint):
    """Every kind of shortage has its own way out."""
    says(blocks, files)
    with pytest.raises(OverlayError) as caught:
        check(**options)
    assert caught.value.what.endswith(what)
    assert caught.value.hint == hint


def test_warnings(says, check):
    """A soft limit, and a sparse overlay that will not fit when it fills, are warnings."""
    says((100 * MIB, 150 * MIB, 300 * MIB), (5, 5, 9))
    assert check() == [
        "with the overlay, your quota on /scratch is over its soft limit (used 100 MiB, limit"
        " 150 MiB, needed 100 MiB)",
        "with the overlay, your quota on /scratch is over its soft limit (used 5, limit 5,"
        " needed 1)",
    ]
    says((100 * MIB, None, 300 * MIB))
    assert check(now=20 * MIB, full=GIB) == [
        "when the overlay fills, your quota on /scratch has not enough room for all of it (used"
        " 100 MiB, limit 300 MiB, needed 1 GiB)"
    ]


def test_check_setting(says, check):
    """warn: the same words, and it is made; off: nothing is asked."""
    says((100 * MIB, None, 150 * MIB))
    assert check(check="warn") == [
        "your quota on /scratch is short by 50 MiB (used 100 MiB, limit 150 MiB, needed 100 MiB)"
    ]
    assert check(check="off") == []


def test_free_space(scratch, environ, settings):
    """The free space of a real file system counts."""
    with pytest.raises(OverlayError) as caught:
        room_for(str(scratch / "a.ext3"), settings()).check(
            now_bytes=1 << 60, full_bytes=1 << 60, files=1
        )
    assert "the file system " in caught.value.what
    assert "(free " in caught.value.what


LUSTRE = HEAD + "  /lustre  102400  0  153600  -  5  0  {}  -\n"


def test_lustre_program(on, program, check, scratch):
    """The real program lfs is asked for user and group; the tighter limit is named."""
    on("lustre", "/lustre")
    text = LUSTRE.format(0)
    path = program("lfs", f"case $2 in -u) echo '{text}' ;; *) echo '{LUSTRE.format(5)}' ;; esac")
    with pytest.raises(OverlayError) as caught:
        check()
    assert "your quota on /lustre is short by 50 MiB (used 100 MiB, limit 150 MiB" in (
        caught.value.what
    )
    asked = (path.parent / "lfs.asked").read_text().splitlines()
    assert asked == [
        f"quota -u {os.geteuid()} {scratch}",
        f"quota -g {os.getegid()} {scratch}",
    ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'lfs: cannot reach the server' >&2; exit 1", "lfs: cannot reach the server"),
        ("exit 3", "lfs ended with 3"),
        ("echo what; exit 0", "lfs: what"),
        ("echo usr quotas are not enabled. >&2; exit 1", None),
        (f"test $2 = -u || exit 1; echo '{LUSTRE.format(9)}'", None),
    ],
)
def test_failing_program(on, program, check, script, words):
    """A program that fails is a warning; quotas that are not in use are none."""
    on("lustre", "/lustre")
    program("lfs", script)
    notices = check(now=MIB)
    assert notices == ([f"the quota could not be checked: {words}"] if words else [])


def test_missing_program(on, check, monkeypatch):
    """Lustre without lfs is a warning; NFS without quota(1) is not the user's business."""
    monkeypatch.setattr(process, "which", lambda _name, _environ: None)
    on("nfs")
    assert check() == []
    on("lustre")
    assert check() == [
        "the quota could not be checked: the program lfs of Lustre is missing on this machine"
    ]


def test_on_failure(on, program, check, scratch):
    """The site may rather have no overlay than one that was not checked."""
    on("lustre")
    program("lfs", "exit 3")
    with pytest.raises(OverlayError) as caught:
        check(on_failure="refuse")
    assert caught.value.status == CANNOT_CREATE
    assert caught.value.what == (
        f"whether there is room for the overlay in '{scratch}' is not known: lfs ended with 3"
    )
    assert check(on_failure="refuse", check="warn") == [
        "the quota could not be checked: lfs ended with 3"
    ]


def is_gone(number):
    """Return whether a process has ended, its entry being waited for or not."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_hanging_program(on, program, check):
    """A program that hangs is killed in time, with what it started; its siblings are not asked."""
    on("lustre")
    path = program("lfs", 'sleep 1000 &\necho $! >>"$0.pids"\nwait')
    begin = time.monotonic()
    assert check(timeout="1") == ["the quota could not be checked: lfs gave no answer within 1 s"]
    assert time.monotonic() - begin < 60
    (number,) = (path.parent / "lfs.pids").read_text().split()
    wait_until(lambda: is_gone(number))


def test_deadline_is_shared(on, program, check):
    """All programs together get the time; what the first said before counts."""
    on("lustre")
    program("lfs", f"case $2 in -u) echo '{LUSTRE.format(0)}' ;; *) exec sleep 1000 ;; esac")
    with pytest.raises(OverlayError) as caught:
        check(timeout="1")
    assert "short by 50 MiB" in caught.value.what


def test_rpc_program(on, program, check):
    """NFS: quota(1) ends with 1 when over quota; its text counts."""
    on("nfs4", "/mnt/e4")
    text = (
        f"Disk quotas for user x (uid {os.geteuid()}):\n{HEAD}"
        "server:/x /mnt/e4  102401*  102400  153600  0  5  0  0  0"
    )
    path = program("quota", f"echo '{text}'; exit 1")
    with pytest.raises(OverlayError) as caught:
        check()
    assert "your quota on /mnt/e4 is short by 50 MiB" in caught.value.what
    assert (path.parent / "quota.asked").read_text() == (
        "-Q -w -p --show-mntpoint -u -g -f /mnt/e4\n"
    )
    program("quota", f"echo 'Disk quotas for user x (uid {os.geteuid()}): none'; exit 1")
    assert check() == []
    program("quota", "echo 'quota: error while getting quota from server:/x' >&2; exit 1")
    assert check() == [
        "the quota could not be checked: quota: error while getting quota from server:/x"
    ]


def test_site_command(on, program, check, scratch):
    """The site's command is asked first, with the user and the path; nothing leaves it to us."""
    on("gpfs", "/gpfs")
    path = program("quota line", "echo 0 1048576 0 0 the file set jobtmp")
    command = f"'{path}' --user={{user}} {{path}} '$HOME'"
    with pytest.raises(OverlayError) as caught:
        check(command=command)
    assert "the quota of the file set jobtmp is short by 99 MiB" in caught.value.what
    asked = (path.parent / "quota line.asked").read_text()
    assert asked == f"--user={user_name(os.geteuid())} {scratch} $HOME\n"
    program("quota line", "exit 0")
    assert check(command=command) == []
    on("lustre")
    program("lfs", f"echo '{LUSTRE.format(0)}'")
    with pytest.raises(OverlayError):
        check(command=command)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 1 2 3", "the site's command prints '1 2 3', not four numbers"),
        ("echo no >&2; exit 2", "q: no"),
        ("exec sleep 1000", "q gave no answer within 1 s"),
    ],
)
def test_site_command_fails(on, program, check, script, words):
    """A command of the site that fails is a warning."""
    on("gpfs")
    path = program("q", script)
    assert check(command=str(path), timeout="1") == [f"the quota could not be checked: {words}"]
    assert check(command="/no/such") == [
        "the quota could not be checked: the site's command /no/such is missing"
    ]


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "3601"])
def test_wrong_timeout(settings, text):
    """The timeout is whole seconds."""
    with pytest.raises(OverlayError) as caught:
        settings(quota_timeout=text)["quota.timeout"]
    assert caught.value.status == CONFIGURATION
