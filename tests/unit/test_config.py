"""The settings: layers, locks, types, and what is said of a wrong file."""

import os
from pathlib import Path

import pytest
from overlay.errors import CONFIGURATION, MISSING, NOT_ALLOWED, OverlayError
from overlay.settings import config as configuration
from overlay.settings import files, table
from overlay.settings.files import Origin, site_file, user_file
from overlay.settings.modules import answer
from overlay.settings.values import BOOLEAN

SECTIONS = "known: " + ", ".join(f"[{name}]" for name in table.SECTIONS)

BELOW = "what is indented below a key belongs to its value"

ALONE = "keys and comments stand on lines of their own"

KEYS = "known: " + ", ".join(one.key for one in table.SETTINGS if one.section == "create")

# Content of an overlay.ini, the line that is wrong, the sentence, the hint.
WRONG = [
    ("x = 1\n", 1, "a key stands before the first [section]", None),
    ("\n\n# c\nx = 1\n[site]\n", 4, "a key stands before the first [section]", None),
    ("[]\n", 1, "it is not `[section]`", None),
    ("\n[create] size = 5\n", 2, "something stands behind [create]", ALONE),
    ("[create] # new ones\n", 1, "something stands behind [create]", ALONE),
    ("[create]]\n", 1, "something stands behind [create]", ALONE),
    ("[site]\n[site]\n", 2, "[site] stands here a second time", None),
    ("[site]\nlock =\n\n[site]\n", 4, "[site] stands here a second time", None),
    (
        "[create]\nsize = 1\nsize = 2\n",
        3,
        "size stands in [create] a second time",
        None,
    ),
    ("[create]\nsize\n", 2, "it is not `key = value`", None),
    ("[create]\nsize: 5\n", 2, "it is not `key = value`", None),
    ("[create\nsize = 5\n", 1, "it is not `[section]`", None),
    ("[images]\na = /a\0b.sif\n", 2, "a NUL byte stands here", None),
    (
        "# a\fb\u2028c\x1cd\n[create]\nsise = 5\n",
        3,
        "unknown key sise in [create]",
        "did you mean size?",
    ),
    (
        "[binds]\npaths = /a\n  [b]\n  path = /c\npath = /d\n",
        5,
        "unknown key path in [binds]",
        "did you mean paths?",
    ),
    (
        "[create]\nsize = 5\n files = 6\n",
        2,
        "[create] size: '5\\nfiles = 6' is not a size; it looks like 500, 500M, 20G or 1.5T",
        BELOW,
    ),
    ("[create]\n= 5\n", 2, "it is not `key = value`", None),
    ("[creat]\nsize = 5\n", 1, "unknown section [creat]", "did you mean [create]?"),
    (
        "[site]\n[binds]\n[Images]\n",
        3,
        "unknown section [Images]",
        "did you mean [images]?",
    ),
    ("[DEFAULT]\nsize = 5\n", 1, "unknown section [DEFAULT]", SECTIONS),
    ("[xyzzy]\n", 1, "unknown section [xyzzy]", SECTIONS),
    ("[create]\nsise = 5\n", 2, "unknown key sise in [create]", "did you mean size?"),
    ("[create]\nSize = 5\n", 2, "unknown key Size in [create]", "did you mean size?"),
    (
        "[site]\n[create]\n\n# c\nqqq = 5\n",
        5,
        "unknown key qqq in [create]",
        KEYS,
    ),
    (
        "[create]\nsize = 5\n[launch]\nsize = 5\n",
        4,
        "unknown key size in [launch]",
        "known: gpu, clear, user_site, bashrc, share, linger",
    ),
    (
        "[engine]\ncommand = a\n",
        2,
        "unknown key command in [engine]",
        "did you mean commands?",
    ),
    ("[binds]\npath = /a\n", 2, "unknown key path in [binds]", "did you mean paths?"),
    (
        "[create]\nsize = big\n",
        2,
        "[create] size: 'big' is not a size; it looks like 500, 500M, 20G or 1.5T",
        None,
    ),
    (
        "[create]\nsize = 0\n",
        2,
        "[create] size: '0' is zero; a size looks like 500, 500M, 20G or 1.5T",
        None,
    ),
    (
        "[create]\nsize = 5X\n",
        2,
        "[create] size: '5X' has an unknown unit; sizes look like 500M, 20G or 1.5T",
        None,
    ),
    (
        "[create]\n  files = -1\n",
        2,
        "[create] files: '-1' is not a number of files; it looks like 700, 700K or 2M",
        None,
    ),
    (
        "[create]\nsize = 5 ; five\n",
        2,
        "[create] size: '5 ; five' is not a size; it looks like 500, 500M, 20G or 1.5T",
        None,
    ),
    (
        "[create]\nallocation = holes\n",
        2,
        "[create] allocation: 'holes' is not one of reserve, sparse",
        None,
    ),
    (
        "[create]\npermissions = 0466\n",
        2,
        "[create] permissions: with '0466' its owner could not use it; 0600 is the least",
        None,
    ),
    (
        "[create]\npermissions = 0888\n",
        2,
        "[create] permissions: '0888' is not a mode such as 0600",
        None,
    ),
    (
        "[create]\nmargin = five %\n",
        2,
        "[create] margin: 'five %' is not a percentage from 0% to 100%",
        None,
    ),
    (
        "[update]\nversions = 0\n",
        2,
        "[update] versions: '0' is not a number from 1 to 1000",
        None,
    ),
    (
        "[templates]\nt = '/a\n",
        2,
        "[templates] t: quotes do not match (No closing quotation)",
        None,
    ),
    ("[templates]\nt =\n", 2, "[templates] t: it is empty", None),
    ("[images]\na =\n", 2, "[images] a: it is empty", None),
    ("[images]\na = '/a.sif' '/b.sif'\n", 2, "[images] a: there is more than one path", None),
    (
        "[images]\na = /a.sif ; one\n",
        2,
        "[images] a: ';' begins a comment; those stand on lines of their own",
        None,
    ),
    (
        "[binds]\npaths = /a # the first\n",
        2,
        "[binds] paths: '#' begins a comment; those stand on lines of their own",
        None,
    ),
    (
        "[engine]\ncommands = a #b\n",
        2,
        "[engine] commands: '#b' begins a comment; those stand on lines of their own",
        None,
    ),
    ("[launch]\ngpu = yes\n", 2, "[launch] gpu: 'yes' is not one of auto, none", None),
    (
        "[binds]\npaths = '/a\n",
        2,
        "[binds] paths: quotes do not match (No closing quotation)",
        None,
    ),
    (
        "[binds]\npaths = /a\n  /b\n  'c\n",
        2,
        "[binds] paths: quotes do not match (No closing quotation)",
        None,
    ),
    (
        "[images]\na = /i/{name}.sif\n",
        2,
        "[images] a: {name} is not known; {user}, {home} and {machine} are",
        None,
    ),
    (
        "[scratch]\nlocal = /a {x}/b\n",
        2,
        "[scratch] local: {x} is not known; {user}, {home} and {machine} are",
        None,
    ),
    ("[site]\nmessage = a\nb\n", 3, "it is not `key = value`", None),
]


def caught(environ, root="/nowhere"):
    """Return the OverlayError that load() raises."""
    with pytest.raises(OverlayError) as error:
        configuration.load(environ, root)
    return error.value


def write(path, text):
    """Write a file, and the directories that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "line", "sentence", "hint"), WRONG)
def test_wrong(environ, site, text, line, sentence, hint):
    """A wrong file is refused with file, line, what is wrong and what is near it."""
    site.write_text(text)
    error = caught(environ)
    assert (error.what, error.hint) == (f"{site}, line {line}: {sentence}", hint)
    assert error.status == CONFIGURATION


@pytest.mark.parametrize("place", ["overlay.d", "home", "quoted"])
def test_wrong_elsewhere(environ, site, home, place):
    """The message names the very file that is wrong, as it can be pasted."""
    path = {
        "overlay.d": site.parent / "overlay.d" / "50-gpu.ini",
        "home": home / ".config" / "overlay" / "overlay.ini",
        "quoted": site.parent / "overlay.d" / "it's.ini",
    }[place]
    write(path, "[launch]\ngpus = auto\n")
    named = str(path) if place != "quoted" else f"'{site.parent}/overlay.d/it'\\''s.ini'"
    error = caught(environ)
    assert error.what == f"{named}, line 2: unknown key gpus in [launch]"
    assert error.hint == "did you mean gpu?"


def test_not_text(environ, site):
    """A file that is not UTF-8 text is refused with the line of the first such byte."""
    site.write_bytes(b"[site]\n# gr\xfc\xdfe\n")
    assert caught(environ).what == f"{site}, line 2: it is not UTF-8 text"


def test_byte_order_mark(environ, site):
    """A file that a Windows editor has saved reads as the same text."""
    site.write_bytes(b"\xef\xbb\xbf[create]\r\nsize = 5\r\n")
    assert configuration.load(environ, "/nowhere")["create.size"] == 5 << 20


def test_missing(environ):
    """OVERLAY_CONFIG that leads nowhere is an error, not the default."""
    error = caught({**environ, "OVERLAY_CONFIG": "/no such.ini"})
    assert error.what == "the configuration '/no such.ini' is missing"
    assert (error.hint, error.status) == ("unset OVERLAY_CONFIG", MISSING)


def test_directory_of_files_unreadable(environ, site):
    """overlay.d that is no directory is an error that names it."""
    write(site.parent / "overlay.d", "x")
    error = caught(environ)
    assert error.what == f"cannot read {site.parent}/overlay.d: Not a directory"
    assert error.status == CONFIGURATION


@pytest.mark.parametrize(
    ("layers", "value", "origin"),
    [
        ([], None, "default"),
        (["site"], 1, "{site}, line 2"),
        (["site", "b"], 3, "{d}/b.ini, line 2"),
        (["site", "b", "a"], 3, "{d}/b.ini, line 2"),
        (["a"], 2, "{d}/a.ini, line 2"),
        (["site", "b", "user"], 4, "{user}, line 2"),
        (["site", "user", "environment"], 5, "$OVERLAY_CREATE_SIZE"),
        (["environment"], 5, "$OVERLAY_CREATE_SIZE"),
        (["hidden", "other"], None, "default"),
    ],
)
def test_layers(environ, site, home, layers, value, origin):
    """Default, site, overlay.d by name, user, environment: the later is the stronger."""
    directory, user = (
        site.parent / "overlay.d",
        home / ".config" / "overlay" / "overlay.ini",
    )
    places = {
        "site": (site, 1),
        "a": (directory / "a.ini", 2),
        "b": (directory / "b.ini", 3),
        "user": (user, 4),
        "hidden": (directory / ".h.ini", 6),
        "other": (directory / "o.ini~", 7),
    }
    site.write_text("")
    for layer in layers:
        if layer == "environment":
            environ["OVERLAY_CREATE_SIZE"] = "5"
        else:
            path, number = places[layer]
            write(path, f"[create]\nsize = {number}\n")
    found = configuration.load(environ, "/nowhere")
    assert found["create.size"] == (None if value is None else value << 20)
    assert str(found.origin("create.size")) == origin.format(site=site, d=directory, user=user)


@pytest.mark.parametrize("uid", [0, os.getuid(), 12345])
def test_whose(environ, site, home, tmp_path, uid):
    """Files of the caller, of root and, for the site, of the installation's owner are obeyed."""
    user = home / ".config" / "overlay" / "overlay.ini"
    write(user, "[create]\nsize = 4\n")
    write(site, "[create]\nfiles = 1\n")
    said = []
    found = configuration.load(
        environ, "/nowhere", notice=lambda line, level: said.append((line, level)), uid=uid
    )
    # Who runs these tests owns the installation as well.
    assert found["create.files"] == 1000 and found.files == [str(site)]
    mine = os.getuid() in (0, uid)  # root may be the one who runs them
    assert found["create.size"] == (4 << 20 if mine else None)
    assert len(said) == len(found.left_out) == (not mine)
    if not mine:
        [(line, level)] = said
        assert level == "warning" and line.startswith(f"the settings in {user} are left out: it ")


def test_user_file_place(environ, home, tmp_path):
    """XDG_CONFIG_HOME moves the user's file; without a home there is none."""
    assert user_file(environ) == f"{home}/.config/overlay/overlay.ini"
    moved = {**environ, "XDG_CONFIG_HOME": str(tmp_path)}
    assert user_file(moved) == f"{tmp_path}/overlay/overlay.ini"
    assert user_file({}) is None
    relative = {**environ, "XDG_CONFIG_HOME": "home/.config"}
    assert user_file(relative) == f"{home}/.config/overlay/overlay.ini"


def test_lock(environ, site, home):
    """A locked key is the site's, whatever user and environment say; others stay free."""
    site.write_text("[site]\nlock = create.size\n[create]\nsize = 1\nfiles = 1\n")
    write(home / ".config/overlay/overlay.ini", "[create]\nsize = 2\nfiles = 2\n")
    environ["OVERLAY_CREATE_SIZE"] = "3"
    found = configuration.load(environ, "/nowhere")
    assert (found["create.size"], found["create.files"]) == (1 << 20, 2000)


def test_lock_of_an_image(environ, site, home):
    """An image of the site's list can be locked too."""
    site.write_text("[site]\nlock = images.a\n[images]\na = /site.sif\n")
    write(home / ".config/overlay/overlay.ini", "[images]\na = /mine.sif\nb = /b.sif\n")
    assert configuration.load(environ, "/nowhere").images() == {
        "a": "/site.sif",
        "b": "/b.sif",
    }


@pytest.mark.parametrize("name", ["site.lock", "site.message"])
def test_always_locked(environ, site, home, name):
    """The lock itself and the site's message are nobody else's."""
    key = name.partition(".")[2]
    write(home / ".config/overlay/overlay.ini", f"[site]\n{key} = create.size\n")
    environ[configuration.variable(name)] = "create.size"
    found = configuration.load(environ, "/nowhere")
    assert not found[name]


def test_lock_in_overlay_d(environ, site):
    """A lock in overlay.d holds as one in the site's file does."""
    site.write_text("[create]\nsize = 1\n")
    write(site.parent / "overlay.d" / "a.ini", "[site]\nlock = create.size\n")
    environ["OVERLAY_CREATE_SIZE"] = "3"
    assert configuration.load(environ, "/nowhere")["create.size"] == 1 << 20


def test_locks_add_up(environ, site):
    """A file that locks something leaves the locks of the others, each with its own place."""
    site.write_text("[site]\nlock = create.margin\n")
    for name, key in (("a", "size"), ("b", "files")):
        write(site.parent / "overlay.d" / f"{name}.ini", f"\n[site]\nlock = create.{key}\n")
    environ["OVERLAY_CREATE_SIZE"] = environ["OVERLAY_CREATE_FILES"] = "3"
    found = configuration.load(environ, "/nowhere")
    assert (found["create.size"], found["create.files"]) == (None, None)
    assert found["site.lock"] == ("create.margin", "create.size", "create.files")
    assert str(found.lock("create.size")) == f"{site.parent}/overlay.d/a.ini, line 3"
    assert found.lock("create.allocation") is None


def test_lock_of_a_section(environ, site, home):
    """A whole section can be locked, with the names that users would add to it."""
    site.write_text("[site]\nlock = quota images\n[images]\na = /site.sif\n")
    write(home / ".config/overlay/overlay.ini", "[images]\nb = /b.sif\n[quota]\ntimeout = 9\n")
    environ["OVERLAY_QUOTA_COMMAND"] = "true"
    found = configuration.load(environ, "/nowhere")
    assert found.images() == {"a": "/site.sif"}
    assert (found["quota.timeout"], found["quota.command"]) == (5, ())


def test_lock_of_the_default_image(environ, site, home):
    """With the default its image is locked: its name cannot be given to another."""
    site.write_text("[site]\nlock = images.default\n[images]\ndefault = a\na = /site.sif\n")
    write(home / ".config/overlay/overlay.ini", "[images]\na = /mine.sif\nb = /b.sif\n")
    environ["OVERLAY_IMAGES_A"] = "/mine.sif"
    found = configuration.load(environ, "/nowhere")
    assert found.images() == {"a": "/site.sif", "b": "/b.sif"}


HELD = [
    ("create.allocation = reserve", "create-overlay --sparse -s 16 -n 1", "--sparse"),
    ("create.allocation = sparse", "create-overlay --reserve -s 16 -n 1", "--reserve"),
    ("create.size = 20", "create-overlay -s 16 -n 1", "-s"),
    ("create.files = 2", "create-overlay -s 16 -n 1", "-n"),
    ("images.default = base", "create-overlay -s 16 -n 1 -f x -c /y", "-c"),
    ("binds.paths =", "create-overlay -s 16 -n 1 -f x -b /y", "-b"),
    ("images.default = base", "mount-overlay -o a.ext3 -c /y", "-c"),
    ("binds.paths =", "run-overlay -o a.ext3 -b /y -- true", "-b"),
    *(
        (
            f"{key} ={value}",
            f"run-overlay -o a --engine-option={word} -- true",
            f"--engine-option={word}",
        )
        for key, value, word in (
            ("binds.paths", "", "--bind=/y"),
            ("binds.paths", "", "--bind"),
            ("binds.paths", "", "-B/y"),
            ("binds.paths", "", "-cB/y"),
            ("binds.paths", "", "--home=/y:/y"),
            ("binds.paths", "", "-H"),
            ("binds.paths", "", "--scratch=/y"),
            ("binds.paths", "", "--workdir"),
            ("binds.paths", "", "-eW/y"),
            ("binds.paths", "", "--fusemount=container:x"),
            ("binds.paths", "", "--mount=type=bind,src=/y,dst=/y"),
            ("launch.gpu", " none", "--nv"),
        )
    ),
    ("launch.gpu = none", "mount-overlay -o a.ext3 --nv", "--nv"),
    ("launch.gpu = none", "mount-overlay -o a.ext3 --rocm", "--rocm"),
    ("jobs.size = 10G", "run-overlay -o a.ext3 --per-task -s 16 -- true", "-s"),
    ("jobs.files = 10", "mount-overlay -o a.ext3 --discard-writes -n 16", "-n"),
    ("update.versions = 2", "update-overlay a.ext3 --versions 3 -- true", "--versions"),
    ("pack.compression = lz4", "pack-overlay a.ext3 --compression xz", "--compression"),
]


@pytest.mark.parametrize(("setting", "command", "option"), HELD)
def test_lock_holds_against_options(run, site, base, setting, command, option):
    """What is locked is not set aside on the command line either."""
    name, value = setting.split(" =")
    section, key = name.split(".")
    site.write_text(f"[site]\nlock = {name}\n[{section}]\n{key} ={value}\n")
    if section != "images":
        with site.open("a") as file:
            file.write(f"[images]\nbase = {base}\n")
    program, *arguments = command.split()
    result = run(program, *arguments)
    assert result == (
        NOT_ALLOWED,
        "",
        f"{program}: error: {option} is not for you to choose here: {name} is locked"
        f" ({site}, line 2)\n{program}: hint: leave {option} out\n",
    )


def test_lock_and_the_same_option(environ, site):
    """An option that says what the site says is harmless, and so is a lock on nothing."""
    site.write_text("[site]\nlock = create\n[create]\nallocation = sparse\n")
    found = configuration.load(environ, "/nowhere")
    found.hold("create.allocation", "--sparse", "sparse")
    found.hold("create.size", "-s", "16")
    found.hold("create.allocation", "--sparse", None)


def test_lock_with_commas(environ, site):
    """Commas between locks are told apart from a wrong name."""
    site.write_text("[site]\nlock = create.size, create.files\n")
    error = caught(environ)
    assert error.what == f"{site}, line 2: [site] lock: there is no create.size, to lock"
    assert error.hint == "blanks separate them, not commas"


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("min_size = 10G", "max_size = 1G"),
        ("size = 10G", "max_size = 1G"),
        ("min_files = 9", "files = 8"),
        ("files = 9", "max_files = 8"),
    ],
)
def test_limits(environ, site, less, more):
    """Limits that leave nothing are refused, both with their places."""
    site.write_text(f"[create]\n{more}\n")
    other = write(site.parent / "overlay.d" / "a.ini", f"[create]\n{less}\n")
    names = [text.partition(" ")[0] for text in (less, more)]
    assert caught(environ).what == (
        f"{other}, line 2: [create] {names[0]} is more than {names[1]} ({site}, line 2)"
    )


def test_lock_unknown(environ, site):
    """A lock on a key that does not exist is refused, with the line."""
    site.write_text("[site]\nlock = create.sise\n")
    error = caught(environ)
    assert error.what == f"{site}, line 2: [site] lock: there is no create.sise to lock"
    assert (error.hint, error.status) == ("did you mean create.size?", CONFIGURATION)


def test_user_wrong_value_of_a_locked_key(environ, site, home):
    """What a user's file says of a locked key is passed over, not checked."""
    site.write_text("[site]\nlock = create.size\n")
    write(home / ".config/overlay/overlay.ini", "[create]\nsize = big\n")
    assert configuration.load(environ, "/nowhere")["create.size"] is None


def test_wrong_environment(environ):
    """A wrong value of the environment is told with the variable's name."""
    environ["OVERLAY_CREATE_ALLOCATION"] = "holes"
    found = configuration.load(environ, "/nowhere")
    with pytest.raises(OverlayError) as error:
        found["create.allocation"]
    assert error.value.what == (
        "$OVERLAY_CREATE_ALLOCATION: [create] allocation: 'holes' is not one of reserve, sparse"
    )
    assert error.value.status == CONFIGURATION


def test_image_with_unset_variable(environ, site):
    """An image whose path needs a variable that is not set says so when it is asked for."""
    site.write_text("[images]\nx = $NO_SUCH_PLACE/x.sif\n")
    found = configuration.load(environ, "/nowhere")
    assert found.images()["x"] is None
    with pytest.raises(OverlayError) as error:
        found["images.x"]
    assert error.value.what == f"{site}, line 2: [images] x: $NO_SUCH_PLACE is not set"
    assert error.value.status == CONFIGURATION


def test_empty_environment(environ, site):
    """A variable that is set to nothing counts as one that is not set."""
    site.write_text("[create]\nallocation = sparse\nsize = 7\n")
    environ["OVERLAY_CREATE_ALLOCATION"] = environ["OVERLAY_CREATE_SIZE"] = ""
    found = configuration.load(environ, "/nowhere")
    assert (found["create.allocation"], found["create.size"]) == ("sparse", 7 << 20)


def test_unknown_variables(run, environ, scratch):
    """A variable that looks like a setting and is none is warned of; other ones are not."""
    known = [f"OVERLAY_SITE_{one.key.upper()}" for one in table.SETTINGS if one.section == "site"]
    variables = {
        "OVERLAY_CREATE_SISE": "5",
        "OVERLAY_SITE_XYZZY": "5",
        "OVERLAY_IMAGES_X": "/x",
        "OVERLAY_MY_OWN": "5",
        "OVERLAY_CREATE": "5",
        "OVERLAY_CREATE_MIN_SIZE": "1",
    }
    assert configuration.warnings(variables) == [
        "OVERLAY_CREATE_SISE is not a setting; did you mean OVERLAY_CREATE_SIZE?",
        f"OVERLAY_SITE_XYZZY is not a setting; known: {', '.join(known)}",
    ]
    result = run("list-overlays", "-q", scratch, variables={"OVERLAY_CREATE_SISE": "5"})
    assert result.stderr == (
        "list-overlays: OVERLAY_CREATE_SISE is not a setting; did you mean OVERLAY_CREATE_SIZE?\n"
    )


def test_variable():
    """Every name has a variable that a shell can set."""
    assert configuration.variable("create.min_size") == "OVERLAY_CREATE_MIN_SIZE"
    assert configuration.variable("images.centos-8.2") == "OVERLAY_IMAGES_CENTOS_8_2"


def test_comments_in_a_value(environ, site):
    """Comments may stand between the lines of a value, and blanks in quotes stay."""
    site.write_text("[binds]\npaths = '/a  b'\n  # the second\n  /c\n")
    assert configuration.load(environ, "/nowhere")["binds.paths"] == ("/a  b", "/c")


def test_templates(environ, site, run):
    """A template with a variable that is not set hurts only who asks for it."""
    site.write_text("[templates]\nt = $NO/a:/opt\nu = '/a b' $HOME/c\n")
    found = configuration.load(environ, "/nowhere")
    assert found.templates() == {"t": None, "u": ("/a b", f"{environ['HOME']}/c")}
    result = run("create-overlay", "-t", "t")
    assert (result.status, result.stderr) == (
        CONFIGURATION,
        f"create-overlay: error: {site}, line 2: [templates] t: $NO is not set\n",
    )
    listed = run("create-overlay", "--list-templates").stdout
    assert listed == f"t\t$NO/a:/opt\nu\t'/a b' {environ['HOME']}/c\n"


def test_unset_is_the_only_excuse(environ, site):
    """A wrong value is refused whatever words it consists of."""
    site.write_text("[create]\nsize = this is not set\n")
    assert caught(environ).what.startswith(f"{site}, line 2: [create] size: 'this is not set'")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("images.a", '"/a b.sif"', "/a b.sif"),
        ("images.a", "/it's b.sif", "/it's b.sif"),
        ("images.default", "'/a b.sif'", "/a b.sif"),
        ("create.margin", "5 %", 5),
        ("create.margin", "", 20),
        ("create.permissions", "0600", 0o600),
        ("create.permissions", "", None),
        ("create.allocation", "", "reserve"),
        ("safety.low", "", 5),
        ("safety.trust_locks", "", False),
        ("quota.timeout", "", 5),
        ("jobs.size", "", 10 << 30),
        ("site.message", "", None),
        ("site.message", "$5 {each} ${NO}, {user}: ~ # 1", "$5 {each} ${NO}, me: ~ # 1"),
        ("engine.commands", "", ()),
        ("engine.commands", " a\n 'b c'  d ", ("a", "b c", "d")),
        ("binds.paths", "/a $HOME/b {home}/c ~/d", ("/a", "/h/b", "/h/c", "/h/d")),
        ("binds.paths", "/a $NOT_SET/b ${NOT_SET} /c", ("/a", "/c")),
        ("binds.paths", "'/with space/{user}'", ("/with space/me",)),
        ("create.size", "", None),
        ("create.size", "1.5G", 1536 << 20),
        ("create.files", "2M", 2000000),
        ("create.allocation", "sparse", "sparse"),
        ("images.default", "", None),
        ("images.default", "${HOME}/x-$USER.sif", "/h/x-me.sif"),
        ("site.message", "100 % of %(x)s", "100 % of %(x)s"),
    ],
)
def test_values(name, text, value):
    """Every kind of value has its type; places stand for the caller's own."""
    found = configuration.Config({"HOME": "/h", "USER": "me"})
    found.put(name, text, Origin("test"))
    assert found[name] == value


def test_boolean():
    """Yes and no are read in all usual words."""
    setting = table.Setting("a", "b", BOOLEAN, "no", "help")
    read = [setting.convert(text, {}) for text in ("yes", "On", "1", "no", "FALSE", "0")]
    assert read == [True, True, True, False, False, False]
    with pytest.raises(ValueError, match="^'maybe' is not yes or no$"):
        setting.convert("maybe", {})


def test_defaults_convert():
    """Every default and every example is a value that its own setting takes."""
    environ = {"HOME": "/h", "USER": "me", "TMPDIR": "/t"}
    for setting in table.SETTINGS:
        for text in (setting.default, setting.example):
            if text is not None and (text or not setting.is_chosen):
                setting.convert(text, environ)


def test_examples_load(environ, site):
    """overlay.ini with every commented example made real is accepted."""
    from overlay.settings import reference

    lines = reference.site_ini().splitlines()
    examples = {
        f"# {setting.key} = {setting.example}": setting
        for setting in table.SETTINGS
        if setting.example and not setting.is_chosen
    }
    for line, setting in examples.items():
        place = lines.index(line)
        assert lines[place + 1].startswith(f"{setting.key} =")
        lines[place : place + 2] = [line[2:]]
    site.write_text("\n".join(lines))
    configuration.load(environ, "/nowhere")


@pytest.mark.parametrize("name", [one.name for one in table.SETTINGS if not one.is_chosen])
def test_read(name):
    """Every setting is read somewhere: a key that nothing obeys would be a promise."""
    package = Path(configuration.__file__).parent.parent
    assert any(f'"{name}"' in path.read_text() for path in package.rglob("*.py"))


def test_site_file(tmp_path):
    """An installed version takes the file that outlives it; a clone its own."""
    root = tmp_path / "1.0"
    own, kept = (
        write(root / "etc/overlay.ini", ""),
        write(tmp_path / "etc/overlay.ini", ""),
    )
    assert site_file(str(root)) == str(own)
    (root / ".installed").touch()
    assert site_file(str(root)) == str(kept)
    kept.unlink()
    assert site_file(str(root)) == str(own)
    own.unlink()
    package = os.path.dirname(os.path.dirname(configuration.__file__))
    assert site_file(str(root)) == os.path.join(package, "overlay.ini")


def test_site_file_of_a_package(tmp_path):
    """What a package of the distribution keeps in /etc is called by that name."""
    kept = write(tmp_path / "etc/overlay/overlay.ini", "")
    root = tmp_path / "usr/lib/overlay/1.0"
    root.mkdir(parents=True)
    (root / ".installed").touch()
    (root.parent / "etc").symlink_to("../../../etc/overlay")
    assert site_file(str(root)) == str(kept)


@pytest.mark.parametrize("where", ["1.0/etc", "etc"])
def test_own_keys_alone(environ, tmp_path, where):
    """Settings of the site are obeyed without an overlay.ini beside overlay.d."""
    root = tmp_path / "prefix/1.0"
    root.mkdir(parents=True)
    (root / ".installed").touch()
    write(tmp_path / "prefix" / where / "overlay.d/site.ini", "[create]\nsize = 77\n")
    without = {name: text for name, text in environ.items() if name != "OVERLAY_CONFIG"}
    assert configuration.load(without, str(root))["create.size"] == 77 << 20
    variables = {**environ, "OVERLAY_CONFIG": str(tmp_path / "prefix" / where / "overlay.ini")}
    with pytest.raises(OverlayError, match="is missing"):
        configuration.load(variables, str(root))


@pytest.mark.parametrize(
    ("package", "root"),
    [
        ("lib/overlay", "."),
        ("lib/python3.11/site-packages/overlay", "."),
        ("local/lib/python3.11/dist-packages/overlay", "local"),
        ("overlay", "."),
    ],
)
def test_tree(monkeypatch, package, root):
    """The tree is found from the package, wherever pip has put that."""
    monkeypatch.setattr(files, "_PACKAGE", f"/x/{package}")
    assert files.tree() == os.path.normpath(f"/x/{root}")


def test_names(environ):
    """All names, images included, come in the order of the sections."""
    names = configuration.load(environ, "/nowhere").names()
    order = list(table.SECTIONS)
    places = [order.index(name.partition(".")[0]) for name in names]
    assert places == sorted(places)
    assert "images.base" in names and "create.size" in names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("module = a/1", "module a/1\n"),
        ("module = none\ncommands = nosuch", ""),
        ("commands = nosuch 'no such'", "missing nosuch no such\n"),
        ("commands = nosuch sh", ""),
        ("commands = 'a", "warning {}, line 2: [engine] commands: quotes do not match (No closing"),
    ],
)
def test_answer_to_modulefiles(tmp_path, text, said):
    """What the modulefiles are told, a line each."""
    path = tmp_path / "overlay.ini"
    path.write_text(f"[engine]\n{text}\n")
    environ = {"OVERLAY_CONFIG": str(path), "PATH": os.environ["PATH"]}
    found = answer(environ, "/nowhere")
    assert found.startswith(said.format(path)) and found.count("\n") == bool(said)
