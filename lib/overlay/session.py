"""A session in overlays: what mount-overlay and run-overlay ask for, and the plan for it.

gather() asks all the read-only questions, plan() decides, and decides from what it is
handed alone.
"""

import fnmatch
import os
import stat

from overlay import engine as engines
from overlay import image as images
from overlay import places, private, process, size
from overlay.errors import (
    CANNOT_CREATE,
    CONFIGURATION,
    DAMAGED,
    MISSING,
    NOT_ALLOWED,
    UNAVAILABLE,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.plan import Plan, Step

# Where the host's files show inside whatever the site binds.
_ALWAYS_VISIBLE = ("/tmp", "/var/tmp", "/proc", "/sys", "/dev")

# Variables that name directories which the commands rely on.
_NAMED = ("HOME", "TMPDIR", "SLURM_TMPDIR")

# Variables of widespread programs that name a file or directory: of the manuals of OpenSSL,
# curl(1), requests, pip, git-config(1), Node.js, the AWS and Google command lines, the XDG Base
# Directory Specification, venv, ncurses(3X), locale(7), Xsecurity(7), and of Java, R and Perl
# installations.
_FILES = (
    "AWS_CA_BUNDLE",
    "CARGO_HOME",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GOROOT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "JAVA_HOME",
    "LOCPATH",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "RUSTUP_HOME",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERMINFO",
    "VIRTUAL_ENV",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
)

# What names the standard input in the place of a file of commands.
_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")

# The descriptor on which bash finds commands that we have read, where it is free: low, so that
# every shell can name it in what --dry-run prints, and none that scripts use by habit (3, 4).
_COMMANDS = 9

# Options of both engines that keep the host's directories out: apptainer-exec(1).
_CONTAINED = frozenset(("-c", "--contain", "-C", "--containall"))

_GPUS = {"nv": "/dev/nvidiactl", "rocm": "/dev/kfd"}

# Run by a shell inside, so that a missing command is 127 and one that is no program 126.
_EXEC = (
    'case $1 in */*) ;; *) command -v -- "$1" >/dev/null ||'
    ' { echo "$0: $1: command not found" >&2; exit 127; } ;; esac; exec "$@"'
)


class Session:
    """What the user asked for.

    overlays    (path, mode) in the order of the layers, top first; mode "rw", "ro" or None
    container   name or path of the base image, None for the site's default
    binds       bind specifications of the user's own, as the engine takes them
    gpus        "nv", "rocm": GPU support asked for by name
    fakeroot    whether to be root inside
    options     further options of the engine, word by word
    commands    a file of commands, "-" for standard input; None when there is none
    command     one command and its arguments, a list; None when there is none
    program     the name of the calling program, for the messages of the shell inside
    title       the overlay that the prompt of a shell names; None for the first
    verbose     whether the engine says more than warnings and errors

    With neither commands nor command it is an interactive shell.
    """

    def __init__(
        self,
        overlays,
        *,
        container=None,
        binds=(),
        gpus=(),
        fakeroot=False,
        options=(),
        commands=None,
        command=None,
        program="run-overlay",
        title=None,
        verbose=False,
    ):
        self.overlays = list(overlays)
        self.container = container
        self.binds = list(binds)
        self.gpus = list(gpus)
        self.fakeroot = fakeroot
        self.options = list(options)
        self.commands = commands
        self.command = command
        self.program = program
        self.title = title
        self.verbose = verbose


class Facts:
    """What gather() found; see there."""

    def __init__(
        self,
        *,
        images,
        engine,
        base,
        cwd,
        environ,
        uid,
        gid,
        binds=(),
        gpus=(),
        commands=None,
        scratch="/tmp",
        room=None,
        launchers=None,
        squashfuse=False,
        plain_directory=False,
        data=False,
        foreign_group=None,
        unshare=None,
        markers=False,
        cwd_in_overlay=False,
        cwd_is_mine=False,
        ways=None,
        bound=(),
        locations=(),
        passwd_home=None,
        files=None,
        limits=(None, None),
    ):
        self.images = images  # an Image for each overlay, in order
        self.engine = engine  # an Engine
        self.base = base  # path of the base image
        self.cwd = cwd
        self.environ = environ
        self.uid = uid
        self.gid = gid
        self.binds = binds  # those of the site's binds whose source exists
        self.gpus = gpus  # "nv", "rocm": those that this machine has
        self.commands = commands  # a CommandFile, or None
        self.scratch = scratch  # a node-local directory for temporary files
        self.room = room  # bytes left on the file system of the first overlay, or None
        self.launchers = launchers  # how ours come before its helpers: takes_launchers()
        self.squashfuse = squashfuse  # whether there is one for base images: has_squashfuse()
        self.plain_directory = plain_directory  # whether the first is one that was no overlay yet
        self.data = data  # whether it holds something all the same
        self.foreign_group = foreign_group  # of the first, where it cannot be written: a gid
        self.unshare = unshare  # path of unshare(1), where that group is to be had by it
        self.cwd_in_overlay = cwd_in_overlay  # whether an overlay has a directory of its name
        self.cwd_is_mine = cwd_is_mine  # whether the caller may write there
        self.ways = ways or {}  # the Ways of PWD and of _NAMED, by the name of the variable
        self.bound = bound  # those of what is bound under its own name
        self.locations = locations  # those of the user's directories for overlays
        self.limits = limits  # bytes of a file, seconds of processor time that a server may take
        self.files = files or {}  # the Ways of _FILES that no overlay has, by the variable's name
        self.passwd_home = passwd_home  # the home directory that the engine mounts, where it counts
        self.markers = markers  # whether a layer of a read-only session has deletion markers


class CommandFile:
    """A file of commands.

    path     as the user named it
    regular  whether it can be bound: not a pipe or a descriptor of the caller's
    text     its bytes without carriage returns and byte order mark, when it had such
    way      how the host gets to it
    descriptor  where bash finds the commands that were read from standard input, else None
    """

    def __init__(self, path, regular=True, text=None, way=None, descriptor=None):
        self.path = path
        self.regular = regular
        self.text = text
        self.way = way
        self.descriptor = descriptor


def parse_overlay(text):
    """Return (path, mode) of NAME[:ro|:rw]. Raises OverlayError (USAGE) for another form."""
    path, colon, mode = text.rpartition(":")
    if not colon:
        path, mode = text, None
    elif mode not in ("ro", "rw"):
        raise OverlayError(
            f"{quote(text)}: a colon in the name of an overlay would be misread by the engine",
            status=USAGE,
            hint="overlays are named NAME, NAME:ro or NAME:rw; give it another name, or make a link"
            f" to it: ln -s {quote(text)} NAME",
        )
    if not path:
        raise OverlayError("the name of an overlay is empty", status=USAGE)
    if ":" in path or not path.isprintable():
        raise OverlayError(
            f"{quote(path)}: colons, control characters and bytes that are no UTF-8 in the name of"
            " an overlay would be misread by the engine",
            status=USAGE,
            hint=f"rename the file, or make a link to it: ln -s {quote(path)} NAME",
        )
    return path, mode


def find_container(spec, config):
    """Return the path of a base image, given by name, by path, or None for the default.

    Raises OverlayError (MISSING, or DAMAGED for something that is no container image).
    """
    known = config.images()
    origin = None
    if spec is None:
        spec = config["images.default"]
        origin = config.origin("images.default")
        if not spec:
            raise OverlayError(
                f"{origin}: [images] default is empty, and there is no -c",
                status=CONFIGURATION,
                hint="name a base image: -c PATH",
            )
    path = known.get(spec, spec)
    if path is None:
        return config[f"images.{spec}"]  # raises: a variable in it is not set
    where = f" ({origin}: [images] default)" if origin else ""
    # A setting's word is a name: what lies in the current directory is not the site's choice.
    if spec not in known and "/" not in spec and (origin or not os.path.exists(spec)):
        if "://" in spec:
            hint = f"fetch it first: apptainer pull image.sif {quote(spec)}"
        else:
            hint = (
                "known names: " + ", ".join(map(quote, sorted(known))) if known else "give a path"
            )
        raise OverlayError(
            f"there is no base image named {quote(spec)}{where}", status=MISSING, hint=hint
        )
    if "://" in spec:
        raise OverlayError(
            f"{quote(spec)} is no file of this machine",
            status=MISSING,
            hint=f"fetch it first: apptainer pull image.sif {quote(spec)}",
        )
    try:
        with_content = os.stat(path)
    except OSError as error:
        others = ", ".join(map(quote, sorted(known)))
        raise OverlayError(
            f"the base image {quote(path)}{where} cannot be used: {reason(error)}",
            status=MISSING,
            hint=f"choose another with -c NAME-or-PATH; known names: {others}"
            if known
            else "choose another with -c PATH",
        ) from None
    if not (stat.S_ISREG(with_content.st_mode) or stat.S_ISDIR(with_content.st_mode)):
        raise OverlayError(
            f"the base image {quote(path)}{where} is neither a file nor a directory",
            status=DAMAGED,
        )
    if not os.access(path, os.R_OK):
        raise OverlayError(f"you may not read the base image {quote(path)}{where}", status=MISSING)
    if stat.S_ISREG(with_content.st_mode) and with_content.st_size == 0:
        raise OverlayError(f"the base image {quote(path)} is empty", status=DAMAGED)
    return path


def read_commands(path):
    """Return the CommandFile at a path; standard input is not read yet: see read_input().

    Raises OverlayError (MISSING) when it is not there, not readable, or a directory.
    """
    if path in _STDIN:
        return CommandFile(path, regular=False, descriptor=_COMMANDS)
    try:
        # A pipe is left alone: who writes to it may wait for one reader, and would be lost.
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            return CommandFile(path, regular=False)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else "it is no file name"
        raise OverlayError(
            f"cannot read the command file {quote(path)}: {words}",
            status=MISSING,
            hint="to run one command instead of a file: run-overlay -o OVERLAY -- COMMAND",
        ) from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OverlayError(f"the command file {quote(path)} is a directory", status=MISSING)
    with open(descriptor, "rb") as file:
        text = file.read()
    plain = _plain(text)
    return CommandFile(path, text=plain if plain != text else None)


def _plain(text):
    """Return commands without what Windows puts into them: carriage returns, a byte order mark."""
    return text.replace(b"\r\n", b"\n").removeprefix(b"\xef\xbb\xbf")


def read_input(facts, notice):
    """Read the commands to their end, where they come from standard input, which is then empty.

    Else the programs among them, which read standard input as well, would take away those
    that follow. They are kept in memory, in a file that has no name, and that what we start or
    become inherits.
    notice  called with a line for the user
    Raises OverlayError (MISSING) when standard input cannot be read.
    """
    commands = facts.commands
    if commands is None or commands.descriptor is None:
        return
    import fcntl

    if os.isatty(0):
        notice("reading commands from the terminal; Ctrl-D ends them")
    try:
        with open(0, "rb", closefd=False) as file:
            text = file.read()
    except OSError as error:
        raise OverlayError(
            f"cannot read the commands from standard input: {reason(error)}",
            status=MISSING,
            hint="run-overlay -o OVERLAY -f FILE",
        ) from None
    plain = _plain(text)
    commands.text = plain if plain != text else None
    memory = os.memfd_create("commands", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memory, "wb", closefd=False) as file:
        file.write(plain)
    # Nobody changes it while bash reads: fcntl(2), "File Sealing". Numbers: linux/fcntl.h.
    fcntl.fcntl(memory, 1033, 0x1 | 0x2 | 0x4 | 0x8)
    commands.descriptor = fcntl.fcntl(memory, fcntl.F_DUPFD, _COMMANDS)
    os.close(memory)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)


def gather(session, config, environ):
    """Return the Facts for a session: every question to the machine, none of them a change.

    Raises OverlayError for what cannot work whatever is decided.
    """
    if not session.overlays:
        raise OverlayError(
            "no overlay is named", status=USAGE, hint=f"{session.program} -o OVERLAY"
        )
    for _path, mode in session.overlays[1:]:
        if mode == "rw":
            raise OverlayError(
                "only the first overlay can be writable",
                status=USAGE,
                hint="name the one to write in first, and the others without :rw",
            )
    found = []
    try:
        for number, (path, mode) in enumerate(session.overlays):
            found.append(images.look(path, write=number == 0 and mode != "ro"))
        return _gather(session, config, environ, found)
    except BaseException:
        for image in found:
            image.close()
        raise


def _gather(session, config, environ, found):
    commands = read_commands(session.commands) if session.commands is not None else None
    base = find_container(session.container, config)
    engine = engines.find(config["engine.commands"], environ)
    cwd = os.getcwd()
    places.check_current(cwd)
    for bind in session.binds:
        source = bind.partition(":")[0]
        # What holds one of these is the engine's to read.
        if not set(bind).intersection(",\\") and not os.path.exists(source):
            raise OverlayError(
                f"there is no {quote(source)} to bind",
                status=MISSING,
                hint="-b SOURCE[:DESTINATION[:ro]]",
            )
    binds = []
    for bind in config["binds.paths"]:
        source, _colon, rest = bind.partition(":")
        if os.path.exists(source):
            binds.append(bind)
    if commands:
        commands.way = places.follow(os.path.join(cwd, commands.path))
    foreign_group = _foreign_group(found[0], engine, base)
    detect = config["launch.gpu"] == "auto"
    launchers = engine.takes_launchers(environ)
    return Facts(
        images=found,
        engine=engine,
        base=base,
        cwd=cwd,
        environ=environ,
        uid=os.getuid(),
        gid=os.getegid(),
        binds=binds,
        gpus=[name for name, device in _GPUS.items() if detect and os.path.exists(device)],
        commands=commands,
        scratch=scratch_directory(config),
        room=_room(found[0]),
        launchers=launchers,
        squashfuse=bool(launchers) and engine.has_squashfuse(launchers, environ),
        plain_directory=found[0].is_plain_directory,
        data=found[0].is_data,
        foreign_group=foreign_group,
        unshare=foreign_group and process.which("unshare", environ),
        cwd_in_overlay=any(image.holds(cwd) for image in found),
        cwd_is_mine=os.access(cwd, os.W_OK | os.X_OK),
        ways=_ways(environ, cwd),
        bound=_linked(_sources(session, binds)),
        locations=_linked(config.get("scratch.locations") or ()),
        passwd_home=_passwd_home(environ, binds),
        files=_files(environ, found),
        limits=_limits(launchers),
    )


def _ways(environ, cwd):
    """Return the Ways of the directories that variables name, by the name of the variable."""
    named = {name: environ.get(name, "") for name in _NAMED}
    logical = environ.get("PWD", "")
    try:
        # A shell's name for the current directory; it may be an old one.
        if logical != cwd and os.path.samefile(logical, cwd):
            named["PWD"] = logical
    except (OSError, ValueError):
        pass
    found = {
        name: places.follow(path)
        for name, path in named.items()
        if path.startswith("/") and os.path.isdir(path)
    }
    return {name: way for name, way in found.items() if way}


def _files(environ, found):
    """Return the Ways of the files of the host that variables name, by the variable's name.

    Those that an overlay has are meant for the inside; so are those that the host has not.
    """
    ways = {}
    for name in _FILES:
        path = environ.get(name, "")
        if path.startswith("/") and not any(image.holds(path) for image in found):
            way = places.follow(path)
            if way:
                ways[name] = way
    return ways


def _limits(launchers):
    """Return what a server of the engine may take: (bytes of a file, seconds), None without limit.

    Our launchers set aside what soft limits say; those are for the commands.
    """
    import resource

    found = []
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        limit = resource.getrlimit(kind)[1 if launchers else 0]
        found.append(None if limit == resource.RLIM_INFINITY else limit)
    return tuple(found)


def _sources(session, binds):
    """Yield what is bound under its own name."""
    for bind in (*binds, *session.binds):
        for source, target in places.parse_binds(bind):
            if source == target and source.startswith("/"):
                yield source


def _linked(paths):
    """Return the Ways of those paths that lead through links."""
    ways = map(places.follow, paths)
    return [way for way in ways if way and way.links]


def _passwd_home(environ, binds):
    """Return the home directory that the engine will mount: that of the password database.

    None where HOME is seen anyway: the database may be on a server.
    """
    bound = [target for bind in binds for source, target in places.parse_binds(bind)]
    if places.is_below(environ.get("HOME", ""), bound):
        return None
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _foreign_group(image, engine, base):
    """Return the gid of an overlay's files that an engine without root could not write, or None.

    Its namespace knows one group, the caller's own; what belongs to any other, in an overlay
    that a FUSE server shows, is nobody's, and the kernel lets nobody write that
    (user_namespaces(7)). So it is after newgrp(1), and in directories that hand on their group.
    The kernel's overlayfs, which needs an unpacked base image, knows better.
    """
    if image.group in (None, os.getegid()) or os.getuid() == 0 or engine.is_setuid():
        return None
    if image.kind == "directory" and os.path.isdir(base):
        return None
    return image.group


def check_fakeroot(session, facts):
    """Refuse --fakeroot where it cannot be had, after newgrp(1). Raises OverlayError (UNAVAILABLE).

    newgidmap(1), by which an engine without root gets a range of ids from subgid(5), takes no
    callers whose group is not that of their login.
    """
    if facts.uid == 0 or not _is_fakeroot(session, facts):
        return
    import pwd  # asks a server on many sites

    try:
        user, group = pwd.getpwuid(facts.uid), os.getgid()
    except KeyError:
        return
    if group == user.pw_gid or facts.engine.is_setuid():
        return
    try:
        with open("/etc/subgid", encoding="utf-8", errors="replace") as file:
            ranges = [line.partition(":")[0] for line in file]
    except OSError:
        return
    if user.pw_name in ranges or str(facts.uid) in ranges:
        own = group_name(user.pw_gid)
        raise OverlayError(
            f"--fakeroot cannot be had while your group is {group_name(group)}: newgidmap wants"
            f" that of your login, {own}",
            status=UNAVAILABLE,
            hint=f"leave the shell of newgrp: exit; or: sg {own} -c '{session.program} …'",
        )


def group_name(gid):
    """Return the name of a group, or its number when it has none here."""
    import grp  # asks a server on many sites, and only for a message

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _room(image):
    """Return the bytes that an ordinary user has left on the file system of an image."""
    try:
        status = os.statvfs(image.descriptor)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def scratch_directory(config):
    """Return the first usable directory of [scratch] local; /tmp when none is.

    One where somebody else has made what would be ours comes last.
    """
    usable = [path for path in config["scratch.local"] if _is_usable(path)] + ["/tmp"]
    return next((path for path in usable if not private.is_taken(path)), usable[0])


def _is_usable(path):
    # The engine and mount(8) would read a name with one of these as several.
    plain = not set(path).intersection(":,\\")
    return plain and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def plan(session, config, facts):
    """Return the Plan of a session. Pure: all it knows of the machine is in facts.

    Raises OverlayError: USAGE for the same overlay twice, NOT_ALLOWED for :rw on one that
    cannot be written, DAMAGED for an image that was not made as an overlay.
    """
    notices, before, after = [], [], []
    check_twice(facts.images)
    writable, why = decide_writable(session, facts)
    if why:
        notices.append(("notice", f"{quote(facts.images[0].path)} is mounted read-only: {why}"))
    layers = []
    for number, found in enumerate(facts.images):
        if found.kind == "ext3" and found.upper is None:
            raise OverlayError(
                f"{quote(found.path)} holds no upper directory: it was not made as an overlay",
                status=DAMAGED,
                hint="make one with: create-overlay -s SIZE -n FILES",
            )
        layers.append((found.path, writable and number == 0))
    view, inside_only, needed = _view(session, facts)
    flags = [f"--{gpu}" for gpu in _GPUS if gpu in session.gpus or gpu in facts.gpus]
    if session.fakeroot:
        flags.append("--fakeroot")
    if inside_only:
        flags += ["--no-mount", "cwd"]
        notices.append(
            (
                "notice",
                f"the host's {quote(facts.cwd)} is not seen inside: it is a directory of"
                " the container",
            )
        )
    elif facts.cwd_in_overlay and facts.cwd in (bind[0] for bind in needed):
        words = f"{quote(facts.cwd)} is the host's inside; an overlay has a directory of this name"
        notices.append(("notice", f"{words}, which is not seen from here"))
    if not writable and facts.markers:
        # Only fuse-overlayfs knows the markers, and the engine takes it only for a writable
        # stack: an empty layer on top, which our launcher then makes read-only.
        flags.append("--writable-tmpfs")
        if not facts.launchers:
            notices.append(
                ("warning", "what is written inside is thrown away at the end of the session")
            )
    if writable and facts.plain_directory:
        path = facts.images[0].path
        words = f"{quote(path)} is a directory; what is written goes to {quote(path + '/upper')}"
        notices.append(("notice", words))
        before.append(_make_upper(path, facts.gid))
    flags += session.options
    binds = [*needed, *facts.binds, *session.binds]
    away = inside_only or _is_contained(session, facts)
    command = _command(session, facts, view, binds, before, after, notices, away)
    launch = engines.Launch(
        facts.base, layers, binds=binds, flags=flags, command=command, quiet=not session.verbose
    )
    unset = _cleared(config, facts, view, notices)
    variables = {}
    if facts.environ.get("PWD", facts.cwd) != facts.cwd:
        # Where it finds a name of the shell's inside, the engine does not mount what is there.
        variables["PWD"] = facts.cwd
    if command is None:
        variables |= _prompt(facts.engine, session.title or facts.images[0].path)
        notices.append(("notice", describe(layers, facts)))
        if config["site.message"]:
            notices.append(("message", config["site.message"]))
    if writable and facts.images[0].superblock:
        _check_limits(facts.images[0], facts, notices)
        _warn_of_room(facts.images[0], config, facts, notices)
    arguments, path_first = launch.arguments(facts.engine), None
    launchers = _launchers(session, facts, writable)
    if facts.launchers == engines.PATH:
        path_first = launchers
    elif facts.launchers and needs_launchers(writable, facts):
        arguments = engines.enter(arguments, facts.launchers, launchers)
    if writable and facts.foreign_group is not None and not _is_fakeroot(session, facts):
        own, theirs = map(group_name, (facts.gid, facts.foreign_group))
        words = (
            f"inside, your group {quote(own)} is called {quote(theirs)}, as that of the files there"
        )
        notices.append(("detail", words))
        arguments = engines.in_group(arguments, facts.unshare, facts.uid, facts.foreign_group)
    final = Step(
        arguments,
        unset=unset,
        variables=variables,
        path_first=path_first,
        commands=facts.commands.descriptor if facts.commands else None,
    )
    return Plan(final, notices=notices, before=before, after=after, writable=writable)


def _make_upper(path, group):
    """Return the Step that makes upper/ and work/ in an empty directory.

    The engine would make them with the directory's own group, where that is handed on, and
    could write nothing there: see _foreign_group().
    """
    names = [os.path.join(path, name) for name in ("work", "upper")]

    def make():
        try:
            for name in names:
                os.mkdir(name, 0o755)
                os.chown(name, -1, group)
                os.chmod(name, 0o755)  # not the bit that hands on the group
        except FileExistsError:
            pass  # another session was first
        except OSError as error:
            raise OverlayError(
                f"cannot make {quote(names[-1])}: {reason(error)}", status=CANNOT_CREATE
            ) from None

    return Step(["install", "-d", "-m", "00755", "-g", str(group), *names], action=make)


def needs_launchers(writable, facts):
    """Return whether data or the view depend on our launchers; else they save time only."""
    return writable or facts.markers


def settle_launchers(session, facts, writable):
    """Do without our launchers where they would take a namespace that cannot be had.

    With --fakeroot the engine asks for ids that such a namespace has not. Starts a process
    for an engine with helpers of its own, and for a session that needs ours.
    """
    if facts.launchers in (None, engines.PATH) or not needs_launchers(writable, facts):
        return
    true = engines.enter(["true"], facts.launchers, _launchers(session, facts, writable))
    if _is_fakeroot(session, facts) or not process.succeeds(true, facts.environ):
        facts.launchers = None


def _is_fakeroot(session, facts):
    """Return whether the engine will take a range of ids, by whatever way it is told to."""
    told = session.fakeroot or {"--fakeroot", "-f"}.intersection(session.options)
    return told or f"{facts.engine.prefix}_FAKEROOT" in facts.environ


def _launchers(session, facts, writable):
    """Return the directories of our launchers for a session, with colons between.

    An empty layer in memory that the user asks the engine for stays writable.
    """
    told = any(word.startswith("--writable-tmpfs") for word in session.options)
    told = told or f"{facts.engine.prefix}_WRITABLE_TMPFS" in facts.environ
    names = ["writable" if writable or told else "read-only"]
    if facts.squashfuse:
        names.append("base")
    return ":".join(os.path.join(engines.LAUNCHERS, name) for name in names)


def _view(session, facts):
    """Return what of the host is seen inside, and what has to be bound for that.

    (a places.View, whether the current directory is the container's, (source, target,
    read-only) of binds)
    """
    if _is_contained(session, facts):
        return places.View(_bound(session, facts)), False, []
    points = [(path, path) for path in _ALWAYS_VISIBLE]
    if facts.passwd_home and not session.fakeroot:
        points.append((facts.passwd_home, facts.passwd_home))
    view = places.View(points + _bound(session, facts))
    ways = [facts.ways[name] for name in _NAMED if name in facts.ways]
    if _has_own_home(session, facts):
        ways = [way for way in ways if way is not facts.ways.get("HOME")]
    needed = [bind for way in ways for bind in view.needed(way, system=True)]
    inside_only = _is_inside_only(facts, view)
    if not inside_only and not _is_without(session, facts, "cwd"):
        needed += _cwd_binds(facts, view)
    for way in (*facts.bound, *filter(view.leads_out, facts.locations)):
        needed += view.needed(way)
    return view, inside_only, needed


def _bound(session, facts):
    """Return (source, target) of the binds of the site and of the user."""
    texts = (*facts.binds, *session.binds)
    return [point for text in texts for point in places.parse_binds(text)]


def _cwd_binds(facts, view):
    """Return the binds for the current directory, under its own name and the shell's.

    The engine would mount it as well, but not where its name begins with /dev or /proc, and
    after all else, over what is bound in it.
    """
    if facts.cwd == "/":
        return []
    here = (facts.cwd, facts.cwd, False)
    # Some engines cannot bind such a name, and mount the current directory all the same.
    binds = [] if view.shows(facts.cwd) or engines.needs_mount(here) else [here]
    view.add(facts.cwd)
    return binds + (view.needed(facts.ways["PWD"]) if "PWD" in facts.ways else [])


def _is_contained(session, facts):
    """Return whether the user keeps the host's directories out, by whatever way he says it."""
    prefix = facts.engine.prefix
    told = (f"{prefix}_CONTAIN", f"{prefix}_CONTAINALL")
    return not _CONTAINED.isdisjoint(session.options) or not facts.environ.keys().isdisjoint(told)


def _is_without(session, facts, what):
    """Return whether the user tells the engine not to mount the home or the cwd: --no-mount."""
    lists = [facts.environ.get(f"{facts.engine.prefix}_NO_MOUNT", "")]
    for word, following in zip(session.options, [*session.options[1:], ""]):
        option, equals, value = word.partition("=")
        if option == "--no-mount":
            lists.append(value if equals else following)
    return any(what in text.split(",") for text in lists)


def _has_own_home(session, facts):
    """Return whether the user says to the engine what the home directory is, or that none is."""
    named = any(word.partition("=")[0] in ("-H", "--home", "--no-home") for word in session.options)
    told = (f"{facts.engine.prefix}_{word}" for word in ("HOME", "NO_HOME"))
    return (
        named or _is_without(session, facts, "home") or any(name in facts.environ for name in told)
    )


def _is_inside_only(facts, view):
    """Return whether the current directory means the container's, which the host's would hide.

    One of an overlay gives way where the caller may write the host's: what is written from
    there would otherwise end up in the overlay.
    """
    if view.shows(facts.cwd):
        return False
    hidden = facts.cwd_in_overlay and not facts.cwd_is_mine
    return hidden or places.is_below(facts.cwd, places.SYSTEM) or facts.cwd == "/opt"


def needed_features(session, final):
    """Return the features in the planned final Step that not every version of an engine has."""
    features = {
        "--fakeroot with an overlay": session.fakeroot,
        "--mount": "--mount" in final.arguments,
    }
    return [feature for feature, needed in features.items() if needed]


def check_twice(found):
    """Refuse one overlay under two names. Raises OverlayError (USAGE)."""
    seen = {}
    for image in found:
        if image.identity in seen:
            other = seen[image.identity]
            raise OverlayError(
                f"{quote(image.path)} is named twice"
                + ("" if other == image.path else f", as {quote(other)} too"),
                status=USAGE,
                hint="name every overlay once",
            )
        seen[image.identity] = image.path


def decide_writable(session, facts):
    """Return (whether the first overlay is to be written, why it is not or None).

    Raises OverlayError: NOT_ALLOWED when the user insists with :rw on what cannot be, DAMAGED
    for a directory with data: the engine would put upper/ and work/ among them, and show upper/.
    """
    (path, mode), first = session.overlays[0], facts.images[0]
    if mode == "ro":
        return False, None
    hint = f"to look into it: -o {quote(path)}:ro; to change it, work on a copy of your own"
    if first.kind == "squashfs":
        why, hint = "a squashfs file cannot be written", None
    elif not first.writable:
        why = "you may not write it" if first.status.st_uid == facts.uid else "it is not yours"
    elif (
        first.kind == "ext3"
        and first.upper not in (None, facts.uid)
        and facts.uid != 0
        and not session.fakeroot
    ):
        why = f"what is inside belongs to another user (uid {first.upper})"
        hint = f"when it is a copy of yours, make it all yours: check-overlay --own {quote(path)}"
    elif (
        facts.foreign_group is not None
        and not (first.kind == "ext3" and facts.unshare)
        and not _is_fakeroot(session, facts)
    ):
        name, own = quote(group_name(facts.foreign_group)), quote(group_name(facts.gid))
        inside = " ".join(quote(os.path.join(path, name)) for name in ("upper", "work"))
        why = f"what is inside belongs to the group {name}, and your group is {own}"
        hint = f"to write it: sg {name} -c '{session.program} …'"
        if first.kind == "directory":
            hint += f"; or make it all your group's: chgrp -R {own} {inside}"
    elif facts.data:
        raise OverlayError(
            f"{quote(path)} is a directory with data in it, not an overlay; only an empty"
            " directory can become one",
            status=DAMAGED,
            hint=f"to see the data inside: -b {quote(os.path.abspath(path) + ':/data')}; to make an"
            f" overlay of them: create-overlay --from {quote(path)}:/data",
        )
    else:
        return True, None
    if mode == "rw":
        raise OverlayError(
            f"{quote(path)} cannot be mounted writable: {why}", status=NOT_ALLOWED, hint=hint
        )
    if hint and ("--own" in hint or hint.startswith("to write it")):
        why += f"; {hint}"
    return False, why


def _check_limits(image, facts, notices):
    """Refuse, or warn of, limits of this shell that would end the server of a writable image.

    Raises OverlayError (NOT_ALLOWED).
    """
    most, seconds = facts.limits
    if most is not None and most < image.status.st_size:
        raise OverlayError(
            f"{quote(image.path)} cannot be written here: files may have {size.format_size(most)}"
            f" (ulimit -f), and it has {size.format_size(image.status.st_size)}",
            status=NOT_ALLOWED,
            hint=f"in a shell without that limit, or read-only: -o {quote(image.path)}:ro",
        )
    if seconds is not None:
        words = f"the limit of {seconds} s of processor time (ulimit -t) holds for the overlay's"
        notices.append(
            ("warning", f"{words} server, too; what is being written when it ends is lost")
        )


def _warn_of_room(image, config, facts, notices):
    """Warn when a writable image, or a sparse one's file system, is nearly full."""
    low = config["safety.low"]
    superblock = image.superblock
    data, files = superblock.available_bytes, superblock.free_inodes_count
    whole = superblock.size
    if data * 100 < whole * low or files * 100 < superblock.inodes_count * low:
        notices.append(
            (
                "warning",
                f"{quote(image.path)} is nearly full: {size.format_size(data)} and"
                f" {size.format_files(files)} left; for more: resize-overlay {quote(image.path)}"
                + (" -s +SIZE" if data * 100 < whole * low else " -n +FILES")
                # fuse2fs wants five free blocks before it renames, and so before it deletes.
                + (
                    "; to delete a file, empty it first: truncate -s 0 FILE"
                    if data < 1 << 15
                    else ""
                ),
            )
        )
    growth = min(image.status.st_size - image.status.st_blocks * 512, data)
    if facts.room is not None and growth > facts.room:
        notices.append(
            (
                "warning",
                f"{quote(image.path)} is sparse and may still grow by {size.format_size(growth)},"
                f" but its file system has {size.format_size(facts.room)} left",
            )
        )


def _command(session, facts, view, binds, before, after, notices, away):
    """Return what runs inside, None for a shell; add the binds and steps that it needs.

    away  whether what runs inside begins in another directory
    """
    if session.command is not None:
        return ["/bin/sh", "-c", _EXEC, session.program, *session.command]
    if session.commands is None:
        return None
    commands = facts.commands
    if commands.text is not None:
        words = "has" if commands.descriptor is None else "have"
        name = quote(commands.path) if commands.descriptor is None else "the commands"
        notices.append(
            (
                "notice",
                f"{name} {words} Windows line ends or a byte order mark; they are left out",
            )
        )
    if commands.descriptor is not None:
        return ["bash", "--", f"/dev/fd/{commands.descriptor}"]
    if not commands.regular:
        # A pipe such as <(…) has no name to bind; its descriptor is inherited.
        return ["bash", "--", commands.path]
    path = os.path.join(facts.cwd, commands.path)
    way = commands.way or places.Way(path)
    source = way.real
    if commands.text is not None:
        place = private.name(facts.scratch)
        source = os.path.join(place, f"commands.{os.uname().nodename}.{os.getpid()}")
        text = commands.text
        before.append(
            Step(["mkdir", "-p", "-m", "700", place], action=lambda: private.make(facts.scratch))
        )
        before.append(
            Step(
                ["sed", r"1s/^\xef\xbb\xbf//; s/\r$//", way.real],
                output=source,
                action=lambda: private.put(facts.scratch, source, text),
                why="the commands without the carriage returns of Windows",
            )
        )
        after.append(
            Step(["rm", "-f", source], action=lambda: private.leave(facts.scratch, source))
        )
    binds.append((source, view.place_of(way), True))
    if way.links and ".." in path.split("/"):
        return ["bash", "--", view.place_of(way)]  # not all on the way may be there inside
    return ["bash", "--", path if away else commands.path]


def _cleared(config, facts, view, notices):
    """Return the names of the caller's variables that the session does not get."""
    patterns, environ = config["launch.clear"], facts.environ
    cleared = [
        name
        for name in sorted(environ)
        if (name in facts.files and not view.leads_to(facts.files[name]))
        or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if cleared:
        notices.append(("detail", "not passed on from the host: " + " ".join(cleared)))
    # These would add overlays that nobody named on this command line, or set aside the site's lock.
    foreign = [*engines.FOREIGN]
    for setting, names in engines.SETTING_ASIDE.items():
        foreign += names if config.lock(setting) else ()
    return cleared + [name for name in foreign if name in environ]


def _prompt(engine, path):
    """Return the variables that make the shell's prompt name the overlay."""
    name = os.path.basename(path.rstrip("/"))
    plain = "".join(char if char.isalnum() or char in "-_.+@%=" else "?" for char in name)
    return {engine.variable("PS1"): f"[{plain}] \\w> "}


def describe(layers, facts):
    """Return the line that says what is mounted how, and what room is left."""
    words = []
    for (path, writable), found in zip(layers, facts.images):
        state = "writable" if writable else "read-only"
        if writable and found.superblock:
            state += (
                f", {size.format_size(found.superblock.available_bytes)} and"
                f" {size.format_files(found.superblock.free_inodes_count)} free"
            )
        words.append(f"{quote(path)} ({state})")
    words.append(quote(os.path.basename(facts.base.rstrip("/"))))
    return " over ".join(words)
