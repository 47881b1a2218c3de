"""What a session decides: every row is what the user asked, what the machine is, what is run."""

import fnmatch
import os
import types

import pytest
from overlay.api import launch
from overlay.errors import DAMAGED, MISSING, NOT_ALLOWED, USAGE, OverlayError
from overlay.host import private
from overlay.host.places import Way
from overlay.host.scratch import scratch_directory
from overlay.image.directory_image import DirectoryImage
from overlay.image.ext3_image import PlannedImage
from overlay.image.image import look
from overlay.image.squashfs_image import SquashfsImage
from overlay.launch import engine as engines
from overlay.launch.belonging import Belonging
from overlay.launch.engine import Launchers
from overlay.launch.engines.apptainer import Apptainer
from overlay.launch.facts import Facts, Opened, decide_writable, gather
from overlay.launch.inside import command_line
from overlay.launch.learned import Learned, learn
from overlay.launch.plan import _matches, make_plan
from overlay.launch.request import (
    CommandFile,
    Overlay,
    Session,
    check_twice,
    find_container,
    parse_overlay,
    read_commands,
)

UID = 1000
GID = 100
PREFIX = ["/e/apptainer"]
KINDS = {kind.kind: kind for kind in (PlannedImage, SquashfsImage, DirectoryImage)}


def image(
    path="a.ext3",
    kind="ext3",
    *,
    writable=True,
    owner=UID,
    upper=UID,
    root=UID,
    inode=None,
):
    """Return an Image as look() would have found it."""
    status = types.SimpleNamespace(
        st_dev=1,
        st_ino=inode or hash(path),
        st_uid=owner,
        st_size=1 << 24,
        st_blocks=1 << 15,
    )
    found = KINDS[kind](path, status, -1, writable)
    found.upper = upper if kind == "ext3" else None
    return found


def facts(*images, **options):
    """Return Facts of a machine where nothing is special."""
    known = {
        "engine": Apptainer("/e/apptainer"),
        "belonging": Belonging("/i/base.sif"),
        "cwd": "/tmp/here",
        "environ": {"HOME": "/home/me"},
        "uid": UID,
        "gid": GID,
    }
    opened = [Opened(Overlay(one.path), one) for one in images]
    return Facts(overlays=opened, **{**known, **options})


def settled(request, found):
    """Let Facts be what gather() would have made of them for a request."""
    check_twice(found.images)
    found.told = found.engine.told(request.options, found.environ)
    for one, named in zip(found.overlays, request.overlays):
        one.mode = named.mode
    found.overlays[0].written, found.overlays[0].why = decide_writable(request, found)


def decided(settings, request, found):
    """Return the plan of a session; what its engine takes of our launchers can be had."""
    settled(request, found)
    learned = Learned(launchers=found.launchers, commands=found.commands)
    return make_plan(request, settings(), found, learned)


def modes(*images, **options):
    """Return a Session that names these images, with the mode after each path's colon."""
    return Session([parse_overlay(text) for text in images], **options)


def after(option, plan):
    """Return what stands behind each of an option in the words for the engine."""
    words = plan.final.arguments
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def overlays(plan):
    """Return the overlays as the engine is told them."""
    return after("--overlay", plan)


@pytest.mark.parametrize(
    ("named", "images", "expected", "notices"),
    [
        (["a"], [image("a")], ["a"], []),
        (["a:rw"], [image("a")], ["a"], []),
        (["a:ro"], [image("a")], ["a:ro"], []),
        (["a", "b"], [image("a"), image("b")], ["b:ro", "a"], []),
        (
            ["a", "b:ro", "c"],
            [image("a"), image("b"), image("c")],
            ["c:ro", "b:ro", "a"],
            [],
        ),
        (["a:ro", "b"], [image("a"), image("b")], ["b:ro", "a:ro"], []),
        (["d"], [image("d", "directory")], ["d"], []),
        (
            ["a"],
            [image("a", writable=False)],
            ["a:ro"],
            ["a is mounted read-only: you may not write it"],
        ),
        (
            ["a", "b"],
            [image("a", writable=False, owner=7), image("b")],
            ["b:ro", "a:ro"],
            ["a is mounted read-only: it is not yours"],
        ),
        (
            ["my file"],
            [image("my file", "squashfs", writable=False)],
            ["my file:ro"],
            [],
        ),
        (
            ["a"],
            [image("a", upper=70007, owner=7)],
            ["a:ro"],
            ["a is mounted read-only: what is inside belongs to another user (70007)"],
        ),
        (
            ["a"],
            [image("a", upper=70007)],
            ["a:ro"],
            [
                "a is mounted read-only: what is inside belongs to another user (70007);"
                " to make all inside yours: check-overlay --own a"
            ],
        ),
    ],
)
def test_layers(settings, named, images, expected, notices):
    """The first is writable where it can be, the rest never; why not is said."""
    plan = decided(settings, modes(*named, command=["true"]), facts(*images))
    assert overlays(plan) == expected
    assert [text for _level, text in plan.notices] == notices


@pytest.mark.parametrize(
    ("named", "images", "status", "sentence", "hint"),
    [
        (
            ["a", "a"],
            [image("a"), image("a")],
            USAGE,
            "a is named twice",
            "name every overlay once",
        ),
        (
            ["a", "link"],
            [image("a", inode=5), image("link", inode=5)],
            USAGE,
            "link is named twice, as a too",
            "name every overlay once",
        ),
        (
            ["x", "a:ro", "./a:ro"],
            [image("x"), image("a", inode=5), image("./a", inode=5)],
            USAGE,
            "./a is named twice, as a too",
            "name every overlay once",
        ),
        (
            ["a:rw"],
            [image("a", writable=False, owner=7)],
            NOT_ALLOWED,
            "a cannot be mounted writable: it is not yours",
            "to look into it: -o a:ro; to change it, work on a copy of your own",
        ),
        (
            ["a:rw"],
            [image("a", writable=False)],
            NOT_ALLOWED,
            "a cannot be mounted writable: you may not write it",
            "to look into it: -o a:ro; to change it, work on a copy of your own",
        ),
        (
            ["a:rw"],
            [image("a", upper=70007)],
            NOT_ALLOWED,
            "a cannot be mounted writable: what is inside belongs to another user (70007)",
            "to make all inside yours: check-overlay --own a",
        ),
        (
            ["a:rw"],
            [image("a", "squashfs", writable=False)],
            NOT_ALLOWED,
            "a cannot be mounted writable: a squashfs file cannot be written",
            "to write above it: -o NEW -o a; to change what is in it: update-overlay a",
        ),
        (
            ["a:ro"],
            [image("a", upper=None)],
            DAMAGED,
            "a holds no upper directory: it was not made as an overlay",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            ["a", "b"],
            [image("a"), image("b", upper=None)],
            DAMAGED,
            "b holds no upper directory: it was not made as an overlay",
            "make one: create-overlay -s SIZE -n FILES",
        ),
        (
            ["a"],
            [image("a", upper=None)],
            DAMAGED,
            "a holds no upper directory: it was not made as an overlay",
            "make one: create-overlay -s SIZE -n FILES",
        ),
    ],
)
def test_refused(settings, named, images, status, sentence, hint):
    """What cannot be is refused in a sentence, with its own status."""
    with pytest.raises(OverlayError) as error:
        decided(settings, modes(*named, command=["true"]), facts(*images))
    assert (error.value.what, error.value.hint) == (sentence, hint)
    assert error.value.status == status


def test_fakeroot_writes_what_belongs_to_others(settings):
    """As root inside, another owner of upper/ is no obstacle."""
    plan = decided(
        settings,
        modes("a", fakeroot=True, command=["true"]),
        facts(image("a", upper=0)),
    )
    assert overlays(plan) == ["a"]


@pytest.mark.parametrize(
    ("mode", "base", "marked", "entered"),
    [
        ("a", False, False, ["writable"]),
        ("a", True, False, ["writable", "base"]),
        ("a:ro", False, True, ["read-only"]),
        ("a:ro", True, False, None),
    ],
)
def test_own_helpers_of_the_engine(settings, monkeypatch, mode, base, marked, entered):
    """Our launchers cover an engine's own helpers where data or the view depend on them."""
    monkeypatch.setattr("overlay.launch.learned.markers.present", lambda *_args, **_known: marked)
    monkeypatch.setattr("overlay.launch.stack.look", lambda *_known, remember: (None, None))
    monkeypatch.setattr("overlay.host.process.succeeds", lambda *_arguments: True)
    found = facts(image("a"), launchers=Launchers("/usr/libexec/apptainer/bin", base=base))
    request = modes(mode, command=["true"])
    settled(request, found)
    arguments = make_plan(request, settings(), found, learn(request, found)).final.arguments
    if entered is None:
        assert arguments[:2] == [*PREFIX, "-q"]
        return
    enter = f"{engines.LAUNCHERS}/namespace/enter"
    places = ":".join(f"{engines.LAUNCHERS}/{name}" for name in entered)
    expected = [enter, "/usr/libexec/apptainer/bin", places, *PREFIX, "-q"]
    assert arguments[:5] == expected


@pytest.mark.parametrize(("fakeroot", "taken"), [(False, True), (True, False)])
def test_own_helpers_and_fakeroot(monkeypatch, fakeroot, taken):
    """With --fakeroot the namespace of our launchers would be in the way."""
    monkeypatch.setattr("overlay.host.process.succeeds", lambda *_arguments: True)
    found = facts(image("a"), uid=0, launchers=Launchers("/usr/libexec/apptainer/bin"))
    request = modes("a", fakeroot=fakeroot)
    settled(request, found)
    assert (learn(request, found).launchers is found.launchers) == taken


@pytest.mark.parametrize("own", ["--writable-tmpfs", "--writable-tmpfs=true", None])
def test_layer_in_memory(settings, own):
    """A layer that the user asks the engine for stays writable, over read-only overlays too."""
    environ = {} if own else {"APPTAINER_WRITABLE_TMPFS": "1"}
    found = facts(image("a"), launchers=Launchers(), environ=environ)
    request = modes("a:ro", command=["true"], options=[own] if own else [])
    assert decided(settings, request, found).final.path_first.endswith("/writable")
    found = facts(image("a"), launchers=Launchers())
    plain = decided(settings, modes("a:ro", command=["true"]), found)
    assert plain.final.path_first.endswith("/read-only")


@pytest.mark.parametrize("name", ["plain", "a:b", "a,b", "a\\b"])
def test_scratch_directory(settings, scratch, name):
    """Names that the engine or mount(8) would take apart are passed over."""
    (scratch / name).mkdir()
    config = settings(scratch_local=f'"{scratch / name}"'.replace("\\", "\\\\"))
    assert config["scratch.local"] == (str(scratch / name),)
    expected = str(scratch / name) if name == "plain" else "/tmp"
    assert scratch_directory(config) == expected


@pytest.mark.parametrize(
    ("above", "mode", "words"),
    [
        (0o755, 0o700, None),
        (0o755, 0o1777, None),
        (0o755, 0o777, "everybody may exchange"),
        (0o755, 0o2770, "its group may exchange"),
        (0o755, 0o3770, None),
        (0o777, 0o700, "everybody may exchange what is in"),
        (0o1777, 0o700, None),
    ],
)
def test_scratch_that_others_rule(settings, scratch, above, mode, words, monkeypatch):
    """Where others could exchange what is ours another directory is taken, or none."""
    monkeypatch.setattr(private, "_is_private_group", lambda gid: False)
    path = scratch / "above" / "place"
    path.mkdir(parents=True)
    path.parent.chmod(above)
    path.chmod(mode)
    expected = "/tmp" if words else str(path)
    assert scratch_directory(settings(scratch_local=f"'{path}'")) == expected
    if words is None:
        assert os.path.isdir(private.make(str(path)))
        return
    with pytest.raises(OverlayError) as error:
        private.make(str(path))
    assert words in error.value.what and error.value.hint.startswith(private.HINT)
    assert not os.listdir(path)


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [("mine", [], None), ("mine", ["other"], "its group"), ("users", [], "its group")],
)
def test_scratch_of_ones_own_group(tmp_path, name, members, words, monkeypatch):
    """The group that a system gives to each user alone is nobody else's."""
    group = types.SimpleNamespace(gr_name=name, gr_mem=members)
    monkeypatch.setattr("grp.getgrgid", lambda gid: group)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: types.SimpleNamespace(pw_name="mine"))
    tmp_path.chmod(0o770)
    found = private.others_rule(str(tmp_path))
    assert found is None if words is None else words in found


def test_gather_closes(settings, make_image, base, recorder, monkeypatch):
    """When something is missing, the images looked at before are closed again."""
    path = make_image()
    before = os.listdir("/proc/self/fd")
    for overlays in ([(str(path), "rw"), ("/none.ext3", None)], [(str(path), "rw")]):
        request = Session([Overlay(*one) for one in overlays], container="/none.sif")
        with pytest.raises(OverlayError):
            gather(request, settings())
    assert os.listdir("/proc/self/fd") == before


def test_another_file(settings, make_image, base, recorder, monkeypatch):
    """When another file has taken the place of one that was waited for, all is asked anew."""
    path = str(make_image())
    before = os.listdir("/proc/self/fd")

    def replaced(found, *_arguments, **_options):
        found[0].close()
        os.unlink(path)
        os.mkdir(path)
        found[0] = look(path, write=True)

    monkeypatch.setattr("overlay.safety.guard.acquire", replaced)
    started = []
    monkeypatch.setattr(
        "overlay.host.foreground.stay", lambda step, *_more, **_keep: started.append(step) or 0
    )
    launch([(path, None)], command=["true"], container=str(base), config=settings())
    assert path in started[0].arguments and sorted(os.listdir(path)) == ["upper", "work"]
    assert os.listdir("/proc/self/fd") == before


BASE = ["--overlay", "a.ext3"]


@pytest.mark.parametrize(
    ("options", "known", "expected"),
    [
        ({}, {}, ["-q", "shell", *BASE, "/i/base.sif"]),
        (
            {"command": ["ls", "-l"]},
            {},
            ["-q", "exec", *BASE, "/i/base.sif", *command_line(["ls", "-l"], "run-overlay")],
        ),
        (
            {"command": ["a b", ""], "program": "x"},
            {},
            ["-q", "exec", *BASE, "/i/base.sif", *command_line(["a b", ""], "x")],
        ),
        (
            {"commands": "-"},
            {"commands": CommandFile("-", regular=False, descriptor=9)},
            ["-q", "exec", *BASE, "/i/base.sif", "bash", "--", "/dev/fd/9"],
        ),
        (
            {"commands": "f.txt"},
            {"commands": CommandFile("f.txt")},
            [
                "-q",
                "exec",
                *BASE,
                "--bind",
                "/tmp/here/f.txt:/tmp/here/f.txt:ro",
                "/i/base.sif",
                "bash",
                "--",
                "f.txt",
            ],
        ),
        (
            {"commands": "-f"},
            {"commands": CommandFile("-f")},
            [
                "-q",
                "exec",
                *BASE,
                "--bind",
                "/tmp/here/-f:/tmp/here/-f:ro",
                "/i/base.sif",
                "bash",
                "--",
                "-f",
            ],
        ),
        (
            {"commands": "/else/a,b"},
            {"commands": CommandFile("/else/a,b")},
            [
                "-q",
                "exec",
                *BASE,
                "--mount",
                'type=bind,"source=/else/a,b","destination=/else/a,b",ro',
                "/i/base.sif",
                "bash",
                "--",
                "/else/a,b",
            ],
        ),
        (
            {"commands": "/dev/fd/63"},
            {"commands": CommandFile("/dev/fd/63", regular=False)},
            ["-q", "exec", *BASE, "/i/base.sif", "bash", "--", "/dev/fd/63"],
        ),
        (
            {"binds": ["/x:/y"]},
            {"binds": ["/scratch", "/home"]},
            [
                "-q",
                "shell",
                *BASE,
                "--bind",
                "/scratch",
                "--bind",
                "/home",
                "--bind",
                "/x:/y",
                "/i/base.sif",
            ],
        ),
        ({"gpus": ["nv"]}, {}, ["-q", "shell", *BASE, "--nv", "/i/base.sif"]),
        (
            {},
            {"gpus": ["nv", "rocm"]},
            ["-q", "shell", *BASE, "--nv", "--rocm", "/i/base.sif"],
        ),
        (
            {"gpus": ["rocm"]},
            {"gpus": ["rocm"]},
            ["-q", "shell", *BASE, "--rocm", "/i/base.sif"],
        ),
        (
            {"fakeroot": True, "options": ["--no-home", "--pwd", "/x"]},
            {},
            ["-q", "shell", *BASE, "--fakeroot", "--no-home", "--pwd", "/x", "/i/base.sif"],
        ),
    ],
)
def test_words(settings, options, known, expected):
    """What the user asked for is what the engine is told, word by word."""
    plan = decided(settings, modes("a.ext3", **options), facts(image(), **known))
    assert plan.final.arguments == PREFIX + expected


@pytest.mark.parametrize(
    ("cwd", "inside"),
    [
        ("/usr/lib", True),
        ("/opt", True),
        ("/etc/x", True),
        ("/usrlocal", False),
        ("/home/me", False),
        ("/", False),
    ],
)
def test_directory_of_the_container(settings, cwd, inside):
    """In a directory that the image has too, the host's is not laid over it."""
    plan = decided(settings, modes("a.ext3", command=["true"]), facts(image(), cwd=cwd))
    words = plan.final.arguments
    assert ("--no-mount" in words) == inside
    expected = f"the host's {cwd} is not seen inside: it is a directory of the container"
    assert [text for _level, text in plan.notices] == ([expected] if inside else [])


@pytest.mark.parametrize(
    ("bind", "inside"),
    [("/usr", False), ("/usr/lib:/usr/lib:ro", False), ("/usr/lib:/elsewhere", True)],
)
def test_directory_that_is_bound(settings, bind, inside):
    """What the user binds to its own place is seen there."""
    request = modes("a.ext3", command=["true"], binds=[bind])
    plan = decided(settings, request, facts(image(), cwd="/usr/lib"))
    assert ("--no-mount" in plan.final.arguments) == inside


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"ways": {"TMPDIR": Way("/local/1")}}, ["/local/1"]),
        ({"ways": {"TMPDIR": Way("/tmp/1")}}, []),
        ({"ways": {"TMPDIR": Way("/local/1"), "SLURM_TMPDIR": Way("/local/1")}}, ["/local/1"]),
        ({"ways": {"HOME": Way("/u/me"), "TMPDIR": Way("/u/me/t")}}, ["/u/me"]),
        ({"ways": {"HOME": Way("/u/me")}, "passwd_home": "/u/me"}, []),
        ({"ways": {"HOME": Way("/u/me")}, "passwd_home": "/u/other"}, ["/u/me"]),
        ({"ways": {"HOME": Way("/usr")}}, []),
        ({"cwd": "/data/here"}, ["/data/here"]),
        ({"cwd": "/data/he:re"}, []),
        ({"cwd": "/developers/me"}, ["/developers/me"]),
        ({"cwd": "/"}, []),
        ({"cwd": "/d/x", "ways": {"HOME": Way("/d")}}, ["/d"]),
        # A link in what is bound: what it leads to is bound.
        (
            {
                "binds": ["/home"],
                "ways": {"HOME": Way("/home/me", [("/home/me", "/home/me")], "/g/me")},
            },
            ["/g/me", "/home"],
        ),
        # A link that is not seen inside: both names are bound.
        (
            {"ways": {"TMPDIR": Way("/l/t", [("/l", "/l/t")], "/g/t")}},
            ["/g/t", "/g/t:/l/t"],
        ),
        # What is bound is a link itself.
        (
            {"binds": ["/l"], "bound": [Way("/l", [("/l", "/l")], "/g")]},
            ["/g", "/l"],
        ),
        # The shell's name of the current directory.
        (
            {
                "binds": ["/home"],
                "cwd": "/g/p",
                "environ": {"HOME": "/home/me", "PWD": "/home/me/p"},
                "ways": {"PWD": Way("/home/me/p", [("/home/me/p", "/home/me/p")], "/g/p")},
            },
            ["/g/p", "/home"],
        ),
    ],
)
def test_directories(settings, known, expected):
    """What the commands rely on is bound where it would not be seen, under both names."""
    plan = decided(settings, modes("a.ext3", command=["true"]), facts(image(), **known))
    assert after("--bind", plan) == expected


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, ["/u/me", "/l/t", "/data/here"]),
        (["--containall"], {}, []),
        ([], {"APPTAINER_CONTAIN": "1"}, []),
        (["--no-home"], {}, ["/l/t", "/data/here"]),
        (["--home=/x"], {}, ["/l/t", "/data/here"]),
        (["--no-mount", "home,cwd"], {}, ["/l/t"]),
        (["--no-mount=cwd"], {}, ["/u/me", "/l/t"]),
        ([], {"APPTAINER_NO_MOUNT": "tmp,cwd"}, ["/u/me", "/l/t"]),
    ],
)
def test_options_that_keep_directories_out(settings, options, variables, expected):
    """What the user keeps out with the engine's own options is not bound by us."""
    request = modes("a.ext3", command=["true"], options=options)
    known = {"ways": {"HOME": Way("/u/me"), "TMPDIR": Way("/l/t")}, "cwd": "/data/here"}
    found = facts(image(), environ={"HOME": "/u/me", **variables}, **known)
    assert after("--bind", decided(settings, request, found)) == expected


def test_name_of_the_shell_is_not_passed_on(settings):
    """The engine gets the current directory's own name, not the shell's."""
    found = facts(image(), cwd="/g/p", environ={"HOME": "/home/me", "PWD": "/home/me/p"})
    plan = decided(settings, modes("a.ext3", command=["true"]), found)
    assert plan.final.variables == {"PWD": "/g/p"}
    found = facts(image(), cwd="/g/p", environ={"HOME": "/home/me", "PWD": "/g/p"})
    assert not decided(settings, modes("a.ext3", command=["true"]), found).final.variables


@pytest.mark.parametrize(
    ("mine", "bound", "sentence"),
    [
        (
            True,
            ["/data/here"],
            "/data/here is the host's inside; an overlay has a directory of"
            " this name, which is not seen from here",
        ),
        (False, [], "the host's /data/here is not seen inside: it is a directory of the container"),
    ],
)
def test_directory_that_an_overlay_has_too(settings, mine, bound, sentence):
    """The host's is seen where the caller can write it; else the overlay's."""
    found = facts(image(), cwd="/data/here", cwd_in_overlay=True, cwd_is_mine=mine)
    plan = decided(settings, modes("a.ext3", command=["true"]), found)
    assert after("--bind", plan) == bound
    assert plan.notices == [("notice", sentence)]


@pytest.mark.parametrize(
    ("way", "binds", "target"),
    [
        (Way("/home/me/j"), ["/home"], "/home/me/j"),
        (Way("/home/me/p/j", [("/home/me/p", "/home/me/p/j")], "/g/p/j"), ["/home"], "/g/p/j"),
        (Way("/l/j", [("/l", "/l/j")], "/g/j"), ["/home"], "/l/j"),
        (Way("/l/j", [("/l", "/l/j")], "/g/j"), ["/l"], "/l/j"),
    ],
)
def test_place_of_the_command_file(settings, way, binds, target):
    """The file is mounted where its name leads to inside."""
    commands = CommandFile(way.name, way=way)
    found = facts(image(), commands=commands, binds=binds)
    plan = decided(settings, modes("a.ext3", commands=way.name), found)
    assert f"{way.real}:{target}:ro" in after("--bind", plan)


def test_cleared(settings):
    """Variables that would mislead do not pass, nor overlays nobody named; the rest does."""
    environ = {
        "HOME": "/home/me",
        "PYTHONPATH": "/x",
        "CONDA_PREFIX": "/c",
        "_CE_CONDA": "",
        "R_LIBS_USER": "/r",
        "BASH_ENV": "/b",
        "LD_PRELOAD": "/l",
        "APPTAINER_OVERLAY": "evil",
        "SINGULARITY_OVERLAYIMAGE": "evil",
        "KEPT": "1",
        "MYCONDA_X": "1",
    }
    plan = decided(settings, modes("a.ext3", command=["x"]), facts(image(), environ=environ))
    cleared = [
        "BASH_ENV",
        "CONDA_PREFIX",
        "LD_PRELOAD",
        "PYTHONPATH",
        "R_LIBS_USER",
        "_CE_CONDA",
    ]
    left = plan.final.environment(environ)
    assert sorted(left) == ["HOME", "KEPT", "MYCONDA_X"]
    assert plan.notices == [("detail", "not passed on from the host: " + " ".join(cleared))]


@pytest.mark.parametrize(
    ("way", "passes"),
    [
        (Way("/home/me/ca.pem"), True),
        (Way("/tmp/ca.pem"), True),
        (Way("/etc/ssl/ca.pem"), False),
        (Way("/home/me/ca.pem", [("/home/me", "/home/me/ca.pem")], "/g/me/ca.pem"), False),
        (Way("/l/ca.pem", [("/l", "/l/ca.pem")], "/home/me/ca.pem"), False),
        (Way("/tmp/ca.pem", [("/tmp", "/tmp/ca.pem")], "/g/tmp/ca.pem"), True),
    ],
)
def test_files_that_are_not_seen(settings, way, passes):
    """A variable that names a file of the host passes where that is seen inside."""
    environ = {"HOME": "/home/me", "SSL_CERT_FILE": way.name}
    found = facts(image(), environ=environ, binds=["/home"], files={"SSL_CERT_FILE": way})
    plan = decided(settings, modes("a.ext3", command=["x"]), found)
    assert ("SSL_CERT_FILE" in plan.final.environment(environ)) == passes


@pytest.mark.parametrize("pattern", ["A", "A*", "*", "*A", "A*B", "?B", "[AB]B", "A?*", "", "A.B"])
def test_clear_matches(pattern):
    """A pattern of [launch] clear is one of the shell's."""
    for name in ("A", "AB", "BA", "AxB", "", "a", "A.B", "A*", "[AB]B", "BASH_FUNC_x%%"):
        assert _matches(name, pattern) == fnmatch.fnmatchcase(name, pattern), name


def test_clear_is_the_sites_choice(settings):
    """With nothing in [launch] clear everything passes but foreign overlays."""
    environ = {"HOME": "/h", "PYTHONPATH": "/x", "APPTAINER_OVERLAY": "evil"}
    found = facts(image(), environ=environ)
    config = settings()
    config.put("launch.clear", "", config.origin("launch.clear"))
    plan = decided(lambda: config, modes("a.ext3", command=["x"]), found)
    assert plan.final.environment(environ) == {"HOME": "/h", "PYTHONPATH": "/x"}


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("a.ext3", "[a.ext3] \\w> "),
        ("/x/my file.ext3", "[my?file.ext3] \\w> "),
        ("$(id)`id`\\h.img", "[??id??id??h.img] \\w> "),
        ("dir/", "[dir] \\w> "),
    ],
)
def test_prompt(settings, path, prompt):
    """The shell's prompt names the overlay, and no name is a command in it."""
    plan = decided(settings, modes(path), facts(image(path)))
    assert plan.final.variables == {"APPTAINERENV_PS1": prompt}


def test_shell_says_what_is_mounted(settings, site):
    """A shell starts with what is mounted how, and the site's line."""
    site.write_text("[site]\nmessage = Maintenance on Monday\n")
    plan = decided(settings, modes("a", "b b"), facts(image("a"), image("b b")))
    assert plan.notices == [
        ("notice", "a (writable) over 'b b' (read-only) over base.sif"),
        ("message", "Maintenance on Monday"),
    ]


def test_windows_line_ends(settings):
    """A file with Windows line ends runs from a copy that is removed; the name stays."""
    commands = CommandFile("my file", text=b"echo\n")
    found = facts(image(), commands=commands, scratch="/scr")
    plan = decided(settings, modes("a.ext3", commands="my file"), found)
    own = f"/scr/overlay-{os.getuid()}"
    copy = f"{own}/commands.{os.uname().nodename}.{os.getpid()}"
    sentence = "'my file' has Windows line ends or a byte order mark; they are left out"
    assert plan.notices == [("notice", sentence)]
    assert plan.before[0].arguments == ["mkdir", "-p", "-m", "700", own]
    assert plan.before[1].output == copy
    assert [step.arguments for step in plan.after] == [["rm", "-f", copy]]
    words = plan.final.arguments
    assert words[words.index("--bind") + 1] == f"{copy}:/tmp/here/my file:ro"
    assert words[-3:] == ["bash", "--", "my file"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", None)),
        ("a:ro", ("a", "ro")),
        ("a:rw", ("a", "rw")),
        ("-a,b 'c\".ext3:ro", ("-a,b 'c\".ext3", "ro")),
        ("ro", ("ro", None)),
        ("größe", ("größe", None)),
    ],
)
def test_parse_overlay(text, expected):
    """An overlay is a name and, after a colon, how it is mounted."""
    found = parse_overlay(text)
    assert (found.path, found.mode) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the name of an overlay is empty"),
        (":ro", "the name of an overlay is empty"),
        (
            "a:RO",
            "a:RO: a colon in the name of an overlay would be misread by the engine",
        ),
        ("a:", "a:: a colon in the name of an overlay would be misread by the engine"),
        (
            "a:b.ext3",
            "a:b.ext3: a colon in the name of an overlay would be misread by the engine",
        ),
        (
            "a:b:ro",
            "a:b: colons, control characters and bytes that are not UTF-8 in"
            + " the name of an overlay would be misread by the engine",
        ),
        (
            "a\nb",
            "$'a\\x0ab': colons, control characters and bytes that are not UTF-8 in"
            + " the name of an overlay would be misread by the engine",
        ),
    ],
)
def test_parse_overlay_refuses(text, sentence):
    """A name that the engine would misread is refused in a sentence."""
    with pytest.raises(OverlayError) as error:
        parse_overlay(text)
    assert (error.value.what, error.value.status) == (sentence, USAGE)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"echo\n", None),
        (b"", None),
        (b"a\r\nb\r\n", b"a\nb\n"),
        (b"printf 'a\rb'\n", None),
        (b"printf 'a\rb'\r\n", b"printf 'a\rb'\n"),
        (b"\xef\xbb\xbfecho\n", b"echo\n"),
        (b"echo \xff\xfe\n\0\0", None),
    ],
)
def test_read_commands(scratch, data, text):
    """Only Windows line ends and a byte order mark are taken out of a command file."""
    path = scratch / "commands"
    path.write_bytes(data)
    found = read_commands(str(path))
    assert (found.regular, found.text) == (True, text)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none", "cannot read the command file none: No such file or directory"),
        ("directory", "the command file directory is a directory"),
        ("file/x", "cannot read the command file file/x: Not a directory"),
        ("a\0b", "cannot read the command file $'a\\x00b': it is not a file name"),
    ],
)
def test_read_commands_refuses(scratch, monkeypatch, name, sentence):
    """A command file that cannot be read is told with the reason."""
    monkeypatch.chdir(scratch)
    (scratch / "directory").mkdir()
    (scratch / "file").touch()
    with pytest.raises(OverlayError) as error:
        read_commands(name)
    assert (error.value.what, error.value.status) == (sentence, MISSING)


@pytest.mark.parametrize(
    ("data", "sentence", "hint"),
    [
        (
            b"\xff\xfee\0c\0",
            "c.txt is UTF-16, as Windows writes it, and bash reads UTF-8",
            "iconv -f UTF-16 -t UTF-8 c.txt >c.utf8",
        ),
        (
            b"\x7fELF\2\0",
            "c.txt is not a text, and -f runs bash commands",
            "name a text file of bash commands, one a line",
        ),
    ],
)
def test_read_commands_binary(scratch, monkeypatch, data, sentence, hint):
    """What bash would take for a program is told at once, by what bash looks at."""
    monkeypatch.chdir(scratch)
    (scratch / "c.txt").write_bytes(data)
    with pytest.raises(OverlayError) as error:
        read_commands("c.txt")
    assert (error.value.what, error.value.status, error.value.hint) == (sentence, USAGE, hint)


def test_read_commands_pipe(scratch):
    """A pipe is left to the shell inside: nothing of it is read here."""
    reader, writer = os.pipe()
    os.write(writer, b"echo\n")
    found = read_commands(f"/dev/fd/{reader}")
    assert (found.regular, found.text) == (False, None)
    assert os.read(reader, 9) == b"echo\n"
    os.close(reader)
    os.close(writer)
    assert read_commands("-").descriptor is not None  # and so is standard input


@pytest.mark.parametrize(
    ("spec", "sentence", "hint"),
    [
        ("nope", "there is no base image named nope", "known names: base"),
        (
            "docker://debian",
            "docker://debian is not a file of this machine",
            "fetch it first: apptainer pull image.sif docker://debian",
        ),
        (
            "/no/such.sif",
            "the base image /no/such.sif cannot be used: No such file or directory",
            "choose another with -c NAME-or-PATH; known names: base",
        ),
    ],
)
def test_find_container_refuses(settings, spec, sentence, hint):
    """A base image that is not there is told with what there is."""
    with pytest.raises(OverlayError) as error:
        find_container(spec, settings())
    assert (error.value.what, error.value.hint) == (sentence, hint)
    assert error.value.status == MISSING


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_how_to_fetch(settings, tmp_path, name):
    """An image that lies elsewhere is fetched with the engine that is here."""
    program = tmp_path / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(OverlayError) as error:
        find_container("docker://debian", settings(engine_commands=str(program)))
    hint = f"fetch it first: {name} pull image.sif docker://debian"
    assert (error.value.status, error.value.hint) == (MISSING, hint)


def test_find_container(settings, base, site):
    """A name of the site's list, a path, or the default."""
    for spec in ("base", str(base), None):
        assert find_container(spec, settings()) == str(base)
    site.write_text(f"[images]\ndefault = {base}\n")
    assert find_container(None, settings()) == str(base)


def test_default_container_is_missing(settings, site):
    """A default that is gone is told with the line that names it."""
    site.write_text("[images]\ndefault = x\nx = /no/x.sif\n")
    with pytest.raises(OverlayError) as error:
        find_container(None, settings())
    assert error.value.what == (
        f"the base image /no/x.sif ({site}, line 2: [images] default) cannot be used:"
        " No such file or directory"
    )
