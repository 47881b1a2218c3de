"""overlay-admin: the settings as they are, files that are wrong, overlays by owner."""

import csv
import html.parser
import io
import json
import os
import pwd
import subprocess
import time

import pytest
from overlay.doctor import site as doctor_of_the_site
from overlay.doctor import trial
from overlay.image import ext3_size
from overlay.settings.table import SETTINGS
from test_config import WRONG


def rows(ok, *arguments, **options):
    """Return what `config --json` says, by the names of the settings."""
    found = json.loads(ok("overlay-admin", "config", "--json", *arguments, **options))
    return {row["name"]: row for row in found}


# ------------------------------------------------------------------------------- config --


def test_every_setting(ok, base):
    """Every setting is there once, typed, and the site's images with them."""
    found = rows(ok)
    names = {setting.name for setting in SETTINGS if not setting.is_chosen}
    assert set(found) == names | {"images.base"}
    assert found["create.allocation"]["value"] == "reserve"
    assert found["images.base"]["value"] == str(base)
    assert found["create.directories"]["value"] == ["/opt"]
    assert found["safety.low"]["value"] == 5
    assert found["create.size"]["value"] is None


def test_origins(ok, environ, site, site_text, home):
    """Each value says where it comes from."""
    site.write_text("[site]\nlock = create.files\n[create]\nfiles = 5\n" + site_text)
    more = site.parent / "overlay.d" / "a.ini"
    more.parent.mkdir()
    more.write_text("[create]\nmargin = 7%\n")
    own = home / ".config" / "overlay" / "overlay.ini"
    own.parent.mkdir(parents=True)
    own.write_text("\n[create]\nsize = 10G\nfiles = 6\n")
    environ["OVERLAY_SAFETY_LOW"] = "9%"
    found = rows(ok)
    expected = {
        "create.files": (5000, f"{site}, line 4", True),
        "create.margin": (7, f"{more}, line 2", False),
        "create.size": (10 << 30, f"{own}, line 3", False),
        "safety.low": (9, "$OVERLAY_SAFETY_LOW", False),
        "create.min_size": (None, "default", False),
    }
    for name, (value, origin, locked) in expected.items():
        row = found[name]
        assert (row["value"], row["origin"], row["locked"]) == (value, origin, locked)
    assert (found["create.margin"]["file"], found["create.margin"]["line"]) == (str(more), 2)
    lines = ok("overlay-admin", "config", "--origin").splitlines()
    assert [line.split() for line in lines if line.startswith(("create.files", "create.size"))] == [
        ["create.size", "=", "10G", "#", f"{own},", "line", "3"],
        ["create.files", "=", "5", "#", f"{site},", "line", "4,", "locked"],
    ]
    plain = ok("overlay-admin", "config").splitlines()
    assert (
        len(plain) == len(lines) and "create.size = 10G" in plain and "create.min_size =" in plain
    )


def test_wrong_in_the_environment(run):
    """A wrong value is shown and told, and the others are shown too."""
    result = run("overlay-admin", "config", variables={"OVERLAY_CREATE_SIZE": "big"})
    assert result.status == 78
    assert "create.size = big\n" in result.stdout and "create.margin = 20%\n" in result.stdout
    assert result.stderr == (
        "overlay-admin: error: $OVERLAY_CREATE_SIZE: [create] size: 'big' is not a size;"
        " it looks like 500, 500M, 20G or 1.5T\n"
    )


@pytest.mark.parametrize(("text", "line", "sentence", "hint"), WRONG)
def test_check_wrong(run, scratch, text, line, sentence, hint):
    """--check says of a wrong file what every command would say of it."""
    (scratch / "new.ini").write_text(text)
    result = run("overlay-admin", "config", "--check", "new.ini")
    expected = f"overlay-admin: error: new.ini, line {line}: {sentence}\n"
    expected += f"overlay-admin: hint: {hint}\n" if hint else ""
    assert result == (78, "", expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read new.ini: No such file or directory"),
        (
            "[site]\nlock = create.sise\n",
            "new.ini, line 2: [site] lock: there is no create.sise to lock",
        ),
        ("[site]\nlock = creat\n", "new.ini, line 2: [site] lock: there is no creat to lock"),
        (
            "[create]\nmin_size = 2G\nmax_size = 1G\n",
            "new.ini, line 2: [create] min_size is more than max_size (new.ini, line 3)",
        ),
        (
            "[site]\nlock = images.*\n",
            "new.ini, line 2: [site] lock: there is no 'images.*' to lock",
        ),
    ],
)
def test_check_more(run, scratch, text, said):
    """So too for a file that is not there, and for locks of what does not exist."""
    if text is not None:
        (scratch / "new.ini").write_text(text)
    result = run("overlay-admin", "config", "--check", "new.ini")
    assert (result.status, result.stderr.splitlines()[0]) == (78, f"overlay-admin: error: {said}")


def test_check_right(run, scratch):
    """A file without mistakes gives 0, whatever the settings here are."""
    (scratch / "new.ini").write_text("[site]\nlock = create.size images.mine\n[create]\nsize = 5\n")
    variables = {"OVERLAY_CONFIG": "/no/such.ini"}
    result = run("overlay-admin", "config", "--check", "new.ini", variables=variables)
    assert result == (0, "", "overlay-admin: new.ini: no mistake found\n")
    result = run("overlay-admin", "config", "-q", "--check", "new.ini", variables=variables)
    assert result == (0, "", "")


def test_check_own(ok):
    """The file that is shipped is right."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ok("overlay-admin", "config", "--check", os.path.join(root, "etc", "overlay.ini"))


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["report"], "no directory is named", "the current one: overlay-admin report ."),
        (
            ["report", "--older", "-1", "."],
            "--older: '-1' is not a number of days",
            "--older 1",
        ),
        (
            ["report", "--csv", "--json", "."],
            "--csv and --json cannot be given together",
            "give one of them",
        ),
        (["config", "--jso"], "there is no option --jso", "did you mean --json?"),
    ],
)
def test_usage(run, arguments, said, hint):
    """What cannot be understood is told as by the other commands."""
    expected = f"overlay-admin: error: {said}\n"
    expected += f"overlay-admin: hint: {hint}\n" if hint else ""
    assert run("overlay-admin", *arguments) == (2, "", expected)


@pytest.mark.parametrize("command", ["config", "doctor", "report", "sessions", "pages"])
def test_help(ok, command):
    """Every subcommand explains itself."""
    assert ok("overlay-admin", command, "--help").startswith(f"usage: overlay-admin {command} ")


# ------------------------------------------------------------------------------- report --


@pytest.fixture
def overlays(make_image, scratch):
    """Return a directory with two overlays of the caller, and what is none."""
    for name in ("a.ext3", "b.ext3"):
        os.rename(make_image(name), scratch / name)
    (scratch / "notes.txt").write_text("none")
    return scratch


def patch(path, offset, data):
    """Write bytes into a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def counts(ok, place, *arguments):
    """Return the total of a report, without what is 0."""
    found = json.loads(ok("overlay-admin", "report", "--json", *arguments, place))
    return {name: value for name, value in found["total"].items() if value and name != "owner"}


def test_report(ok, overlays):
    """Overlays are counted, under their owner's name."""
    found = json.loads(ok("overlay-admin", "report", "--json", overlays))
    [owner] = found["owners"]
    assert owner["owner"] == pwd.getpwuid(os.getuid()).pw_name
    assert (owner["overlays"], owner["size"], owner["files"]) == (2, 32 << 20, 0)
    status = [os.stat(overlays / name) for name in ("a.ext3", "b.ext3")]
    assert owner["allocated"] == sum(each.st_blocks for each in status) * 512
    assert (found["kept_off"], found["older"]) == (0, 90)


def test_report_states(ok, overlays):
    """Not clean, old, nearly full, damaged and unreadable ones are told apart."""
    first, second = overlays / "a.ext3", overlays / "b.ext3"
    patch(first, 1024 + 0x3A, b"\0\0")
    assert counts(ok, overlays)["not_clean"] == 1
    patch(first, 1024 + 0x3A, b"\1\0")
    patch(first, 1024 + 0x30, int(time.time() - 40 * 86400).to_bytes(4, "little"))
    assert "old" not in counts(ok, overlays)
    assert counts(ok, overlays, "--older", "39")["old"] == 1
    patch(first, 1024 + 0x0C, bytes(4))
    assert counts(ok, overlays)["nearly_full"] == 1
    os.truncate(first, 4 << 20)
    found = counts(ok, overlays)
    assert (found["damaged"], found["overlays"], found["size"]) == (1, 2, 20 << 20)
    if os.getuid():
        second.chmod(0)
        found = counts(ok, overlays)
        assert (found["damaged"], found["unreadable"], found["overlays"]) == (1, 1, 2)


def test_report_in_use(ok, overlays):
    """One in use is not one that was left unclean."""
    from overlay.image import lock

    patch(overlays / "a.ext3", 1024 + 0x3A, b"\0\0")
    with open(overlays / "a.ext3", "r+b") as file:
        lock.take(file.fileno(), write=True)
        found = counts(ok, overlays)
    assert found["in_use"] == 1 and "not_clean" not in found


def used(path, days):
    """Let a file be one that was last used some days, and an hour, ago."""
    when = time.time() - days * 86400 - 3600
    os.utime(path, (when, when))


def test_expiring(ok, environ, overlays, tmp_path):
    """What the site's purge is about to remove is counted, whoever asks; asking is no use of it."""
    for name, days in (("a.ext3", 80), ("b.ext3", 10)):
        used(overlays / name, days)
    assert "expiring" not in counts(ok, overlays)
    environ["OVERLAY_SCRATCH_PURGE"] = "90d"
    environ["OVERLAY_SCRATCH_LOCATIONS"] = f"$NOT_SET /nowhere '{overlays.parent}/{{user}}/x'"
    before = os.stat(overlays / "a.ext3").st_atime_ns
    for _ in range(2):
        assert counts(ok, overlays)["expiring"] == 1
    assert os.stat(overlays / "a.ext3").st_atime_ns == before
    environ["OVERLAY_SCRATCH_LOCATIONS"] = str(tmp_path / "elsewhere")
    assert "expiring" not in counts(ok, overlays)


class Page(html.parser.HTMLParser):
    """What a page says: the texts of its tags, and everything that it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.said, self.fetched = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if data.strip():
            self.said.append((self.open[-1], data))

    def texts(self, tag):
        return [text for where, text in self.said if where == tag]


def test_page(ok, run, overlays):
    """A page is one file that fetches nothing; the next one takes its place, and no other file's."""
    place = overlays / "report.html"
    assert ok("overlay-admin", "report", "--html", place, overlays) == ""
    page = Page(place.read_text())
    name = pwd.getpwuid(os.getuid()).pw_name
    assert page.texts("td")[:3] == [name, "2", "32 MiB"]
    assert page.texts("h2") == [
        "Room on disk, and of it data inside",
        "Files kept off the file system",
    ]
    assert page.fetched == [] and not {"img", "link", "iframe"} & {tag for tag, _ in page.said}
    os.unlink(overlays / "b.ext3")
    ok("overlay-admin", "report", "--html", place, overlays)
    assert Page(place.read_text()).texts("td")[1] == "1"
    for other in ("notes.txt", "a.ext3"):
        before = (overlays / other).read_bytes()
        done = run("overlay-admin", "report", "--html", overlays / other, overlays)
        assert done.status == 73 and "exists already" in done.stderr
        assert (overlays / other).read_bytes() == before
    done = run("overlay-admin", "report", "--html", overlays, overlays)
    assert done.status == 73 and "it is a directory" in done.stderr
    assert sorted(os.listdir(overlays)) == ["a.ext3", "notes.txt", "report.html"]


def test_page_of_hostile_names():
    """Whatever an owner is called, it is text in the page."""
    from overlay.doctor import page, report

    owners = [report.Owner(name) for name in ("<script>x()</script>", 'a" onload="x', "\udcff")]
    for owner in owners:
        owner.overlays, owner.allocated = 1, 1 << 30
    text = page.page(owners, report.total(owners), directories=["/<b>"], now=0, older=90, soon=14)
    found = Page(text)
    assert found.texts("td")[0] == "<script>x()</script>"
    assert "x()" not in "".join(found.texts("script")) and "/<b>" in "".join(found.texts("p"))
    assert 'onload="x' not in text and text.encode()


def test_settings_without_a_file(environ, tmp_path):
    """The doctor names the files that are read, not one that is not there."""
    own = tmp_path / "etc/overlay.d/own.ini"
    own.parent.mkdir(parents=True)
    own.write_text("[create]\nsize = 1G\n")
    del environ["OVERLAY_CONFIG"]
    config, check = doctor_of_the_site.load(environ, str(tmp_path))
    assert (config["create.size"], check.found) == (1 << 30, str(own))


def test_report_vanishing(settings, overlays):
    """An overlay that goes while we look is not counted, and disturbs nobody."""
    from overlay.doctor import report
    from overlay.image.expiry import Expiry
    from overlay.image.search import Search

    os.truncate(overlays / "a.ext3", 4 << 20)

    def going():
        for path, found in report.found(Search(), [str(overlays)], None):
            if os.path.basename(path) == "a.ext3":
                os.unlink(path)
            yield path, found

    expiry = Expiry(settings())
    [owner] = report.collect(going(), low=5, now=time.time(), days=90, expiry=expiry)
    assert (owner.overlays, owner.damaged) == (1, 0)


def test_report_places(run, overlays, tmp_path):
    """A directory that is not there gives its status; the others are reported all the same."""
    result = run("overlay-admin", "report", "--json", tmp_path / "no", overlays)
    assert result.status == 66 and json.loads(result.stdout)["total"]["overlays"] == 2
    if os.getuid():
        (overlays / "closed").mkdir(mode=0)
        result = run("overlay-admin", "report", overlays)
        (overlays / "closed").chmod(0o700)
        assert result.status == 0
        assert result.stderr == f"overlay-admin: cannot look into '{overlays}/closed'\n"


def test_report_of_nothing(run, scratch):
    """Where there is no overlay, that is said."""
    assert run("overlay-admin", "report", ".") == (0, "", "overlay-admin: there are no overlays\n")
    result = run("overlay-admin", "report", "--csv", ".")
    assert result.stdout.startswith("owner,overlays,size,allocated,used,files,not_clean,")


def test_report_csv(ok, overlays):
    """--csv has one line for an owner."""
    [row] = csv.DictReader(io.StringIO(ok("overlay-admin", "report", "--csv", overlays)))
    assert (row["overlays"], row["size"]) == ("2", str(32 << 20))


def test_files_inside(make_image, ok, scratch, tmp_path):
    """What the file system itself needs is not counted as the user's files."""
    content = tmp_path / "many.ext3.content"
    (content / "upper" / "d").mkdir(parents=True)
    (content / "work").mkdir()
    for number in range(30):
        (content / "upper" / "d" / str(number)).touch()
    options = ext3_size.mke2fs_options(16 << 20, 1000)
    os.rename(make_image("many.ext3", options=options), scratch / "many.ext3")
    found = json.loads(ok("overlay-admin", "report", "--json", scratch))
    assert (found["total"]["files"], found["kept_off"]) == (31, 30)


# -------------------------------------------------------------------------------- trial --


def test_trial(tmp_path):
    """A local file system has working locks, and nothing is left behind."""
    found = trial.of(str(tmp_path))
    assert (found.written, found.locks, found.flock) == (None, None, None)
    assert found.mount.is_local and 0 < found.free <= found.room
    assert os.listdir(tmp_path) == []


def test_trial_elsewhere(tmp_path):
    """Where nothing can be written, that is all that is said."""
    assert trial.of(str(tmp_path / "no")).written == "No such file or directory"
    assert "embedded null" in trial.of("/a\0b").written
    if os.getuid():
        tmp_path.chmod(0o555)
        found = trial.of(str(tmp_path))
        tmp_path.chmod(0o755)
        assert found.written == "Permission denied"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("echo longer >long", "overwritten with something shorter is not what was written"),
        (": >gone", "a file that was removed is still there"),
        ("rm name7", "of 300 names in a directory 299 and then 299 are listed"),
    ],
)
def test_what_a_session_is_tried_with(tmp_path, line, words):
    """What the doctor does in a session finds a file system that does one of these."""
    from overlay.doctor import session

    place = str(tmp_path / "overlay-doctor")
    write, read = (
        text.replace("/overlay-doctor", place) for text in (session._WRITE, session._READ)
    )
    run = ["/bin/sh", "-c"]
    done = subprocess.run([*run, write + read], capture_output=True, text=True, check=True)
    assert done.stdout == session._SEEN
    script = f"cd '{place}' && {{ {line}; }}; {read}"
    done = subprocess.run([*run, script], capture_output=True, text=True, check=False)
    assert done.stdout != session._SEEN
    assert words in session._wrong(done.stdout)
