"""Is this node ready? What can be tried is tried, not looked up.

examine() yields one Check after another, each with why it matters and what to do. The
versions among them are what a report of a bug should begin with.
"""

import contextlib
import errno
import os
import platform
import re
import stat
import sys

from overlay import __version__, creation, namespace, places, process, quota, session, size, trial
from overlay import config as configuration
from overlay import engine as engines
from overlay.errors import OverlayError, quote, reason

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_PATIENCE = 20  # seconds that a program may take to say its version
_NEARLY_FULL = 1  # percent of a file system
_SESSION_PATIENCE = 60  # seconds for a session on a slow node
_TRIAL_SIZE = 16 << 20


class Check:
    """One question and its answer.

    name    what was looked at; a directory's begins with its path
    state   OK, WARNING or PROBLEM
    found   what there is, in words
    why     what it is needed for, or what would go wrong
    advice  what to do; None when all is well
    """

    __slots__ = ("advice", "found", "name", "state", "why")

    def __init__(self, name, state, found, why, advice=None):
        self.name = name
        self.state = state
        self.found = found
        self.why = why
        self.advice = advice if state != OK else None

    def as_dictionary(self):
        """Return it for --json."""
        return {name: getattr(self, name) for name in ("name", "state", "found", "why", "advice")}


class Tool:
    """A program of the system.

    package   what brings it
    why       what it is needed for
    missing   the state without it
    option    what makes it say its version
    word      what stands before the number in what it says, a regular expression
    """

    def __init__(self, name, package, why, missing, option="--version", word=None):
        self.name = name
        self.package = package
        self.why = why
        self.missing = missing
        self.option = option
        self.word = word or name

    def version(self, path, environ):
        """Return its version as text, "unknown" when it does not say one, None when it fails."""
        try:
            said = process.ask([path, self.option], environ, _PATIENCE)
        except (OverlayError, TimeoutError):
            return None
        pattern = rf"(?:{self.word})\b.{{0,40}}?(\d+(?:\.\d+)+)"
        found = re.search(pattern, said.output + said.errors)
        return found[1] if found else "unknown" if said.status >= 0 and said.status < 126 else None


# What the engine starts; an engine that is installed setuid root can do without.
_HELPERS = (
    Tool("fuse2fs", "fuse2fs", "the engine mounts ext3 overlays with it", PROBLEM, "-V"),
    Tool("fuse-overlayfs", "fuse-overlayfs", "it lays a writable overlay over the base image", PROBLEM),
    Tool("squashfuse_ll", "squashfuse", "base images and squashfs overlays are mounted with it",
         PROBLEM, word="squashfuse"),
)  # fmt: skip

_TOOLS = (
    Tool("mke2fs", "e2fsprogs", "create-overlay makes overlays with it", PROBLEM, "-V"),
    Tool("e2fsck", "e2fsprogs", "an overlay that a killed session left unclean is repaired with it;"
         " without it nothing is mounted that is not clean", PROBLEM, "-V"),
    Tool("debugfs", "e2fsprogs", "deletions are tidied up, and files rescued, with it", WARNING, "-V"),
    Tool("resize2fs", "e2fsprogs", "overlays grow with it", WARNING, "-V"),
    Tool("fallocate", "util-linux", "create-overlay reserves disk blocks with it", PROBLEM,
         word="util-linux"),
    Tool("unshare", "util-linux", "the content of overlays is read with it, without mounting them"
         " for a session", PROBLEM, word="util-linux"),
    Tool("mksquashfs", "squashfs-tools", "overlays are packed with it", WARNING, "-version"),
    Tool("unsquashfs", "squashfs-tools", "squashfs files are listed and unpacked with it", WARNING,
         "-version"),
    Tool("zstd", "zstd", "create-overlay --from FILE.tar.zst", WARNING, word="Zstandard|zstd"),
)  # fmt: skip

# Versions that are known to be bad: program, first bad, first good again, why, what to do.
# Sources: the threads that are named.
BAD = (
    ("apptainer", (0,), (1, 1), PROBLEM,
     "it mounts ext3 overlays only when it is installed setuid root", "install 1.1 or newer"),
    ("apptainer", (1, 4, 3), (1, 4, 4), WARNING,
     "it starts no base image that the user may not write (apptainer/apptainer 3163)",
     "install 1.4.4 or newer"),
    ("fuse-overlayfs", (1, 16), (1, 17), WARNING,
     "large files that are rewritten in part were seen to be corrupted"
     " (containers/fuse-overlayfs 475)", "install another version"),
    ("mksquashfs", (0,), (4, 4), WARNING,
     "it can take a name in an overlay for a command, and pack-overlay refuses it",
     "install squashfs-tools 4.4 or newer"),
)  # fmt: skip

_LOCKS_WHY = "without locks two sessions can write one overlay at once, and that destroys it"

# What to do where locks fail, by the type of the file system.
_LOCKS_ADVICE = {
    "lustre": "mount it with -o flock",
    "nfs": "mount it without nolock, and see that rpc.statd runs here and on the server",
    "nfs4": "mount it without local_lock",
    "beegfs": "set tuneUseGlobalFileLocks = true in beegfs-client.conf",
    "fuse.glusterfs": "load the translator features/locks in the volume",
}


def examine(environ, root, directories=()):
    """Yield the Checks of this node.

    environ      the caller's environment
    root         the tree that the commands run from
    directories  those whose file systems are to be tried; without any, the current one and
                 the site's places for overlays and for temporary files
    """
    problems = 0
    for check in _parts(environ, root, directories):
        problems += check.state == PROBLEM
        yield check
    if not problems:
        yield from _guarded("a session", _session(environ, root))


def _parts(environ, root, directories):
    """Yield the Checks of everything by itself."""
    yield from _guarded("system", _system(environ))
    config, check = _settings(environ, root)
    yield check
    engine = _Engine(config, environ)
    yield from _guarded("engine", engine.checks)
    yield from _guarded("user namespaces", _namespaces(environ, engine))
    yield from _guarded("/dev/fuse", _fuse(engine))
    yield from _guarded("programs", _programs(environ, engine))
    yield from _guarded("base images", _images(config))
    yield from _guarded("binds", _binds(config))
    for directory, wanted in _directories(directories, config):
        yield from _guarded(quote(directory), _directory(directory, wanted, config, environ))
    yield from _guarded("Python", _python())
    yield from _guarded("modulefile", _modulefile(environ, root))


def _session(environ, root):
    """Yield the Check of a whole session: an overlay is made, and a command run in it.

    What only shows when all comes together shows here; it takes a second or two.
    """
    yield _try_session(environ, root)


def _try_session(environ, root):
    import shutil
    import tempfile

    name, why = "a session", "it is what all the rest is for"
    run = os.path.join(root, "bin", "run-overlay")
    run = run if os.path.exists(run) else "run-overlay"
    config = configuration.load(environ, root)
    directory = tempfile.mkdtemp(prefix="overlay-doctor.", dir=session.scratch_directory(config))
    overlay = os.path.join(directory, "doctor.ext3")
    inside = "echo doctor >/overlay-doctor && cat /overlay-doctor"
    by_hand = f"see what is said: run-overlay -o OVERLAY -- /bin/sh -c {quote(inside)}"
    words = [run, "-q", "-o", overlay, "--", "/bin/sh", "-c", inside]
    try:
        # Not by create-overlay: the site's rules for what users make are not what is tried.
        request = creation.Creation(_TRIAL_SIZE, 1000, path=overlay, sparse=True)
        creation.make(request, config, environ, lambda text: None)
        result = process.ask(words, environ, _SESSION_PATIENCE)
        if result.status:
            said = result.errors.strip().splitlines() or [f"status {result.status}"]
            said = [line for line in said if ": error: " in line or "FATAL" in line] or said
            ended = f"run-overlay ended with {result.status}: {said[-1]}"
            return Check(name, PROBLEM, ended, why, by_hand)
    except OverlayError as error:
        return Check(name, PROBLEM, error.what, why, error.hint)
    except TimeoutError:
        words = f"{os.path.basename(words[0])} did not end in {_SESSION_PATIENCE} seconds"
        return Check(name, PROBLEM, words, why, by_hand)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if result.output != "doctor\n":
        return Check(
            name, PROBLEM, "what was written in it is not there", why, "report this as a bug"
        )
    return Check(name, OK, "a command wrote a file in a new overlay", why)


def _guarded(name, checks):
    """Yield Checks; what goes wrong while they are made is one more, not the end of all."""
    try:
        yield from checks
    except Exception as error:  # whatever it is, the rest must be told
        words = error.what if isinstance(error, OverlayError) else str(error)
        yield Check(name, WARNING, words, "this could not be looked at", "see what is wrong there")


# ------------------------------------------------------------------ system and settings --


def _system(environ):
    yield Check("overlay", OK, __version__, "these commands")
    here = os.uname()
    yield Check("kernel", OK, f"{here.sysname} {here.release} {here.machine}", "mounts and locks")
    yield Check("distribution", OK, _distribution(), "the packages that hints name")
    if os.getuid() == 0:
        yield Check(
            "user",
            WARNING,
            "root",
            "root may do what users may not: some of what follows does not hold for them",
            "run overlay-admin doctor as an ordinary user",
        )
    if "SLURM_JOB_ID" in environ:
        yield Check("batch job", OK, f"Slurm {environ['SLURM_JOB_ID']}", "limits of the job hold")


def _distribution():
    """Return the name of the distribution, from os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = re.search(r'^PRETTY_NAME="?([^"\n]*)', file.read(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found[1]
    return "unknown"


def _settings(environ, root):
    """Return the Config and its Check; the defaults when it cannot be read."""
    why = "every command reads them, and stops when they are wrong"
    path = environ.get("OVERLAY_CONFIG") or configuration.site_file(root)
    try:
        config = configuration.load(environ, root)
        for name in config.names():
            if not name.startswith(("images.", "templates.")):
                config[name]
    except OverlayError as error:
        advice = (
            error.hint
            or "correct that line; to see that it is right: overlay-admin config --check FILE"
        )
        return configuration.Config(environ), Check("settings", PROBLEM, error.what, why, advice)
    if config.left_out:
        why = "who can write a file of settings chooses the programs that its readers start"
        advice = "give the file to root or to the owner of the installation, mode 0644"
        return config, Check("settings", WARNING, "; ".join(config.left_out), why, advice)
    shared = [file for file in config.files if os.stat(file).st_mode & stat.S_IWGRP]
    if shared:
        why = "whoever is in that group chooses the programs that all users start"
        words = f"the group may write {', '.join(map(quote, shared))}"
        advice = f"if that is not meant: chmod g-w {' '.join(map(quote, shared))}"
        return config, Check("settings", WARNING, words, why, advice)
    return config, Check("settings", OK, quote(path), why)


# --------------------------------------------------------------- engine and its helpers --


class _Engine:
    """The engine here: its path, name and version, whether it is setuid, where its helpers are."""

    def __init__(self, config, environ):
        self.found = None
        self.setuid = False
        self.helpers = ()
        self.checks = list(self._look(config, environ))

    def _look(self, config, environ):
        why = "it runs the containers that overlays are laid over"
        try:
            self.found = engines.find(config["engine.commands"], environ)
            name, numbers = self.found.version(environ)
        except OverlayError as error:
            yield Check("engine", PROBLEM, error.what, why, error.hint)
            return
        self.helpers = self.found.libexec()
        self.setuid = any(engines.is_setuid(f"{place}/starter-suid") for place in self.helpers)
        version = ".".join(map(str, numbers))
        words = (
            f"{name} {version}, {quote(self.found.path)}{', setuid root' if self.setuid else ''}"
        )
        bad = _bad(name, version)
        if bad and not (self.setuid and numbers < (1, 1)):
            yield Check("engine", bad[0], words, bad[1], bad[2])
        else:
            yield Check("engine", OK, words, why)
        way = self.found.takes_launchers(environ)
        if way == engines.PATH or (way and namespace.available(environ)):
            return
        if self.helper("fuse-overlayfs", environ) and self.helper("fuse2fs", environ):
            yield Check(
                "engine's helpers",
                WARNING,
                "it starts its own fuse-overlayfs, which run-overlay cannot adjust",
                "a full overlay then shows when a file is closed, or never, and deleted files can"
                " show again in overlays that are read-only",
                "let it find fuse-overlayfs and fuse2fs in /usr/bin or /usr/local/bin; or, where"
                " it has some of its own, let users have namespaces (unshare --user"
                " --map-current-user), and no setuid root engine",
            )

    def helper(self, name, environ):
        """Return the path of a helper as the engine finds it: its own, or along PATH."""
        for place in self.helpers:
            if os.access(f"{place}/{name}", os.X_OK) and os.path.isfile(f"{place}/{name}"):
                return f"{place}/{name}"
        return process.which(name, environ)


def _bad(name, version):
    """Return (state, why, advice) of a version that is known to be bad, or None."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    for program, first, good, state, why, advice in BAD:
        if program == name and numbers and first <= numbers < good:
            return state, why, advice
    return None


def _or_warning(engine):
    """Return the state of what only an engine that is not setuid root cannot do without."""
    return WARNING if engine.setuid else PROBLEM


def _namespaces(environ, engine):
    """Make a user namespace, by the kernel itself: the program for it may be what is missing."""
    why = "without root, the engine mounts in a user namespace"
    refused = _unshare()
    if refused is None:
        yield Check("user namespaces", OK, "one was made", why)
    else:
        yield Check(
            "user namespaces", _or_warning(engine), f"refused: {refused}", why, _who_refuses()
        )
        return
    program = process.which("unshare", environ)
    if not program:
        return  # told among the programs
    result = process.ask([program, *namespace.OPTIONS, "true"], environ, _PATIENCE)
    words = " ".join(namespace.OPTIONS)
    if result.status == 0:
        yield Check(
            "unshare options", OK, words, "the content of overlays is read in such a namespace"
        )
        return
    said = (result.errors.strip().splitlines() or [f"status {result.status}"])[0]
    yield Check(
        "unshare options",
        PROBLEM,
        f"{words}: {said}",
        "the content of overlays is read in such a namespace",
        "install util-linux 2.36 or newer" if "option" in said else _who_refuses(),
    )


def _unshare():
    """Return None when this user can have a user and a mount namespace, else why not."""
    import ctypes

    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        # CLONE_NEWUSER | CLONE_NEWNS of sched.h.
        os._exit(0 if libc.unshare(0x10020000) == 0 else ctypes.get_errno() or 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == errno.ENOSPC:  # user_namespaces(7)
        return "the limit of user namespaces is reached"
    return None if status == 0 else os.strerror(status)


def _who_refuses():
    """Return the setting of the kernel that keeps users from having namespaces, as advice."""
    for name, bad, good in (
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        try:
            with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as file:
                if file.read().strip() == bad:
                    return f"as root: sysctl -w {name}={good}"
        except OSError:
            pass
    return "see whether a container, seccomp or a security module refuses them here"


def _fuse(engine):
    why = "fuse2fs, fuse-overlayfs and squashfuse serve file systems through it"
    name, state = "/dev/fuse", _or_warning(engine)
    try:
        if not stat.S_ISCHR(os.stat(name).st_mode):
            yield Check(name, state, "it is no device", why, "as root: modprobe fuse")
            return
        os.close(os.open(name, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Check(name, state, "it is missing", why, "as root: modprobe fuse")
    except PermissionError:
        advice = "as root: chmod 666 /dev/fuse, and see which rule of udev sets it"
        yield Check(name, state, "you may not open it", why, advice)
    except OSError as error:
        yield Check(name, state, reason(error), why, "as root: modprobe fuse")
    else:
        yield Check(name, OK, "it opens", why)


def _programs(environ, engine):
    for tool in _HELPERS:
        path = engine.helper(tool.name, environ)
        if path is None and tool.name == "squashfuse_ll":
            path = engine.helper("squashfuse", environ)
        yield _program(tool, path, environ, _or_warning(engine))
    for tool in _TOOLS:
        yield _program(tool, process.which(tool.name, environ), environ, tool.missing)


def _program(tool, path, environ, missing):
    """Return the Check of one program."""
    if path is None:
        return Check(tool.name, missing, "it is missing", tool.why, f"install {tool.package}")
    version = tool.version(path, environ)
    if version is None:
        advice = f"see what it says: {quote(path)} {tool.option}; install {tool.package} anew"
        return Check(tool.name, missing, f"{quote(path)} does not run", tool.why, advice)
    bad = _bad(tool.name, version)
    words = f"{version}, {quote(path)}"
    return (
        Check(tool.name, bad[0], words, bad[1], bad[2])
        if bad
        else Check(tool.name, OK, words, tool.why)
    )


# --------------------------------------------------------------------- the site's files --


def _images(config):
    default = config["images.default"]
    why = "sessions start from it"
    if not default:
        yield Check("base image", OK, "no default: users name one with -c", why)
    names = dict.fromkeys([*([default] if default else []), *config.images()])
    for name in names:
        title = f"base image {quote(name)}"
        state = PROBLEM if name == default else WARNING
        try:
            path = session.find_container(name, config)
            words = _head(path)
        except OverlayError as error:
            advice = f"correct [images] {quote(name)} in overlay.ini, or put the image there"
            yield Check(title, state, error.what, why, advice)
            continue
        used = ", the default" if name == default and name != path else ""
        yield Check(title, OK, f"{words}, {quote(path)}{used}", why)


def _head(path):
    """Return what kind of image a file is. Raises OverlayError when nobody can start it."""
    if os.path.isdir(path):
        return "a directory"
    with open(path, "rb") as file:
        head = file.read(64)
    words = "SIF" if head[32:41] == b"SIF_MAGIC" else "squashfs" if head[:4] == b"hsqs" else None
    if words is None:
        raise OverlayError(f"{quote(path)} is no container image", status=0)
    return words


def _binds(config):
    why = "the site wants these directories of the host to be seen inside"
    for bind in config["binds.paths"]:
        source = bind.partition(":")[0]
        name = f"bind {quote(source)}"
        if os.path.exists(source):
            yield Check(name, OK, "it is there", why)
        else:
            yield Check(
                name,
                WARNING,
                "it is not there: sessions here go without it",
                why,
                "mount it, or take it out of [binds] paths",
            )
    yield from _links(config)


def _links(config):
    """Yield where a directory that users rely on leads out of what is bound."""
    points = [point for bind in config["binds.paths"] for point in places.parse_binds(bind)]
    view = places.View(points)
    home = config.environ.get("HOME", "")
    for path in dict.fromkeys(
        (home, *config["scratch.locations"], *(point[0] for point in points))
    ):
        way = places.follow(path) if path.startswith("/") else None
        if way and view.leads_out(way):
            yield Check(
                f"links of {quote(path)}",
                WARNING,
                f"it leads out of [binds] paths, to {quote(way.real)}",
                "sessions bind this one by itself; other links to that file system lead nowhere"
                " inside",
                f"add to [binds] paths: {quote(os.path.dirname(way.real))}",
            )


# ------------------------------------------------------------------------- file systems --


def _directories(named, config):
    """Return (directory, what it is wanted for) of the file systems to try, each once."""
    if named:
        return [(directory, "named") for directory in dict.fromkeys(named)]
    found, seen = [], set()
    for path in config["scratch.locations"]:
        found.append((path, "scratch"))
        if os.path.isdir(path):
            seen.add(os.stat(path).st_dev)
    with contextlib.suppress(OSError):  # it is closed to us, as after su(1)
        if os.stat(os.curdir).st_dev not in seen:
            found.append((os.getcwd(), "here"))
    return [*found, (session.scratch_directory(config), "local")]


_WANTED = {
    "named": "you have named it",
    "scratch": "users keep overlays there ([scratch] locations)",
    "local": "temporary files lie there ([scratch] local)",
    "here": "overlays in the current directory lie there",
}


def _directory(path, wanted, config, environ):
    """Yield what the file system of a directory can do."""
    name = quote(path)
    fallocate = process.which("fallocate", environ)

    def allocate(file):
        if not fallocate:
            return "the program fallocate is missing"
        result = process.ask([fallocate, "-l", str(trial.SIZE), file], environ, _PATIENCE)
        if result.status:
            return (result.errors.strip() or f"status {result.status}").rpartition(": ")[2]
        return None if os.stat(file).st_blocks * 512 >= trial.SIZE else "it reserves nothing"

    found = trial.of(path, allocate)
    if found.written:
        yield Check(
            f"{name}: writing",
            WARNING if wanted == "here" else PROBLEM,
            found.written,
            _WANTED[wanted],
            "make it, with the permissions that users need"
            if not os.path.isdir(path)
            else "name a directory that you may write in"
            if wanted == "named"
            else "give users a directory there that they may write in",
        )
        return
    full = found.room and found.free * 100 < found.room * _NEARLY_FULL
    type = found.mount.type if found.mount else "an unknown file system"
    yield Check(
        f"{name}: writing",
        WARNING if full else OK,
        f"{type}, {size.format_size(found.free)} free",
        _WANTED[wanted],
        "make room",
    )
    if wanted == "local":
        return  # overlays in use do not lie there
    yield _locks(name, type, found)
    if found.flock:
        yield Check(
            f"{name}: locks of directories",
            WARNING,
            found.flock,
            "overlays that are directories are locked with flock(2): two sessions could write one",
            "use image files here",
        )
    yield Check(
        f"{name}: allocation",
        WARNING if found.allocation else OK,
        found.allocation or "blocks can be reserved",
        "a new overlay whose blocks are reserved cannot run into a full disk or quota later",
        "overlays are sparse here, and users are told so; [create] allocation = sparse makes it"
        " the rule",
    )
    yield Check(
        f"{name}: extended attributes",
        WARNING if found.attributes else OK,
        found.attributes or "they are kept",
        "who wrote to an overlay last, and where, is noted there",
        f"mount it with user extended attributes; {type} may need an option for them",
    )
    yield from _quota(name, path, config, environ)


def _locks(name, type, found):
    """Return the Check of the locks of a file system."""
    advice = _LOCKS_ADVICE.get(type, "keep overlays that are written on another file system")
    if found.locks:
        why = "an overlay can stay in use for ever" if "stays" in found.locks else _LOCKS_WHY
        return Check(f"{name}: locks", PROBLEM, found.locks, why, advice)
    local = _locks_stay_here(found.mount) if found.mount else None
    if local:
        return Check(
            f"{name}: locks",
            PROBLEM,
            f"they hold on this node alone: {local}",
            "two nodes can write one overlay at once, and that destroys it",
            advice,
        )
    words = "they hold between two processes"
    if not found.mount or not found.mount.is_local:
        words += " of this node; between two nodes they are not tried"
    return Check(f"{name}: locks", OK, words, _LOCKS_WHY)


def _locks_stay_here(mount):
    """Return the option of a mount that keeps its locks on this node, or None.

    nfs(5): nolock, local_lock; mount.lustre(8): localflock; beegfs-client.conf:
    tuneUseGlobalFileLocks, which the client shows below /proc/fs/beegfs.
    """
    words = {
        "nfs": ("nolock", "local_lock=all", "local_lock=posix"),
        "nfs4": ("nolock", "local_lock=all", "local_lock=posix"),
        "lustre": ("localflock",),
    }
    for word in words.get(mount.type, ()):
        if word in mount.options:
            return word
    if mount.type == "beegfs":
        for option in mount.options:
            if option.startswith("cfgFile="):
                try:
                    with open(option[len("cfgFile=") :], encoding="utf-8") as file:
                        text = file.read()
                except (OSError, ValueError):
                    continue
                found = re.search(r"^\s*tuneUseGlobalFileLocks\s*=\s*(\w+)", text, re.MULTILINE)
                if not found or found[1].lower() not in ("true", "1", "yes", "on"):
                    return "tuneUseGlobalFileLocks is not set"
    return None


def _quota(name, path, config, environ):
    if config["quota.check"] == "off":
        yield Check(
            f"{name}: quota", OK, "[quota] check is off", "create-overlay asks for it first"
        )
        return
    limits, failures = quota.look(path, config, environ)
    sources = dict.fromkeys(limit.source for limit in limits)
    yield Check(
        f"{name}: quota",
        WARNING if failures else OK,
        "; ".join(failures) or ", ".join(map(str, sources)) or "no limit is known",
        "create-overlay asks for quota and free space before it writes",
        "name a program that knows in [quota] command",
    )


# ----------------------------------------------------------------------- our own things --


def _python():
    version = platform.python_version()
    yield Check(
        "Python", OK, f"{version}, {quote(sys.executable or 'unknown')}", "the commands run in it"
    )
    package = os.path.dirname(os.path.abspath(__file__))
    missing, stale = [], []
    for path in _sources(package):
        state = _compiled(path)
        if state:
            (missing if state == "missing" else stale).append(os.path.relpath(path, package))
    why = "without them every start of every command compiles anew"
    name = "precompiled files"
    if stale:
        yield Check(
            name,
            PROBLEM,
            f"{_some(stale)}: not the same as the source, and taken in its place",
            "what was changed in the source has no effect",
            "make install again",
        )
    elif missing and not _can_write(package):
        yield Check(
            name, WARNING, f"{_some(missing)}: none", why, "make install again, with this Python"
        )
    else:
        yield Check(name, OK, "they are there" if not missing else "made as they are needed", why)


def _sources(package):
    for directory, _directories, names in os.walk(package):
        yield from (os.path.join(directory, name) for name in sorted(names) if name.endswith(".py"))


def _compiled(path):
    """Return None when a module's bytecode is fit for use, else "missing" or "stale".

    The header of a .pyc file, PEP 552: magic number, flags, then the hash of the source, or
    its time and size. Bit 0 of the flags is set for a hash, bit 1 when it is compared.
    """
    from importlib import util

    try:
        with open(util.cache_from_source(path), "rb") as file:
            head = file.read(16)
        flags = int.from_bytes(head[4:8], "little")
        if len(head) < 16 or head[:4] != util.MAGIC_NUMBER:
            return "missing"
        with open(path, "rb") as file:
            source = file.read()
    except OSError:
        return "missing"
    if flags & 1:
        same = head[8:] == util.source_hash(source)
        return None if same else "missing" if flags & 2 else "stale"
    status = os.stat(path)
    recorded = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    same = head[8:] == b"".join(number.to_bytes(4, "little") for number in recorded)
    return None if same else "missing"


def _can_write(package):
    return os.access(package, os.W_OK) and not sys.dont_write_bytecode


def _some(names):
    """Return a few names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _modulefile(environ, root):
    """See that the modulefile of this version leads to this tree; ask the module system here.

    It finds the tree from its own place, so an installation must not be taken apart.
    """
    why = "module load overlay puts the commands on PATH"
    # An installation's modulefile has the name of the version.
    known = [(os.path.dirname(root), __version__), (root, "clone")]
    found = [(place, name) for place, name in known if _has_modulefile(place, name)]
    if not found:
        yield Check("modulefile", WARNING, "there is none for this tree", why, "make install")
        return
    place, name = found[0]
    directory = os.path.join(place, "modulefiles")
    below = os.path.join(place, name)
    tree = below if os.path.isdir(os.path.join(below, "bin")) else place
    if not os.path.exists(tree) or not os.path.samefile(tree, root):
        yield Check("modulefile", PROBLEM, f"it leads to {quote(tree)}", why, "make install again")
        return
    program = environ.get("LMOD_CMD") or environ.get("MODULES_CMD")
    if not program or not os.access(program, os.X_OK):
        yield Check(
            "modulefile", OK, f"module use {quote(directory)}; no module system to try it in", why
        )
        return
    loaded = ("_ModuleTable", "__LMOD", "__MODULES", "LOADEDMODULES", "_LMFILES_")
    clean = {name: value for name, value in environ.items() if not name.startswith(loaded)}
    known = [directory, *filter(None, environ.get("MODULEPATH", "").split(":"))]
    clean["MODULEPATH"] = ":".join(dict.fromkeys(known))
    result = process.ask([program, "bash", "load", f"overlay/{name}"], clean, _PATIENCE)
    if os.path.join(tree, "bin") in result.output:
        yield Check("modulefile", OK, f"module use {quote(directory)}; it loads", why)
        return
    lines = [line.strip() for line in result.errors.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), " ".join(lines[:1]))
    said = said or "it does not load"
    yield Check(
        "modulefile", PROBLEM, said, why, "see [engine] module, and what the module system says"
    )


def _has_modulefile(place, name):
    """Return whether there is a modulefile of a name, for either module system, below a place."""
    path = os.path.join(place, "modulefiles", "overlay", name)
    return os.path.exists(path) or os.path.exists(f"{path}.lua")
