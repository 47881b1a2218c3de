"""What is to be known of the machine before a session is planned: gather() asks, and changes nothing."""

import os

from overlay.errors import DAMAGED, MISSING, NOT_ALLOWED, USAGE, OverlayError, quote
from overlay.host import places, process
from overlay.host.room import free_bytes
from overlay.host.scratch import scratch_directory
from overlay.image import image as images
from overlay.launch import engines
from overlay.launch.launchers import is_fakeroot
from overlay.launch.request import find_container, read_commands

# Variables that name directories which the commands rely on.
NAMED = ("HOME", "TMPDIR", "SLURM_TMPDIR")

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

GPUS = {"nv": "/dev/nvidiactl", "rocm": "/dev/kfd"}


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
        command_here=False,
        scratch="/tmp",
        room=None,
        launchers=None,
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
        self.command_here = command_here  # whether the host has the command, where it is a path
        self.scratch = scratch  # a node-local directory for temporary files
        self.room = room  # bytes left on the file system of the first overlay, or None
        self.launchers = launchers  # Launchers: how ours come before its helpers; None: not at all
        self.plain_directory = plain_directory  # the first is one that was no overlay yet
        self.data = data  # whether it holds something all the same
        self.foreign_group = foreign_group  # of the first, where it cannot be written: a gid
        self.unshare = unshare  # path of unshare(1), where that group is to be had by it
        self.cwd_in_overlay = cwd_in_overlay  # whether an overlay has a directory of its name
        self.cwd_is_mine = cwd_is_mine  # whether the caller may write there
        self.ways = ways or {}  # the Ways of PWD and of NAMED, by the name of the variable
        self.bound = bound  # those of what is bound under its own name
        self.locations = locations  # those of the user's directories for overlays
        self.limits = limits  # bytes of a file, seconds of processor time that a server may take
        self.files = files or {}  # the Ways of _FILES that no overlay has, by the variable's name
        self.passwd_home = passwd_home  # the home directory that the engine mounts, where it counts
        self.markers = markers  # whether a layer of a read-only session has deletion markers


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
    launchers = engine.launchers(environ)
    return Facts(
        images=found,
        engine=engine,
        base=base,
        cwd=cwd,
        environ=environ,
        uid=os.getuid(),
        gid=os.getegid(),
        binds=binds,
        gpus=[name for name, device in GPUS.items() if detect and os.path.exists(device)],
        commands=commands,
        command_here=_is_here(session.command),
        scratch=scratch_directory(config),
        room=_room(found[0]),
        launchers=launchers,
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


def _is_here(command):
    """Return whether the host has a command, where that is a path."""
    return bool(command) and "/" in command[0] and os.path.exists(command[0])


def _ways(environ, cwd):
    """Return the Ways of the directories that variables name, by the name of the variable."""
    named = {name: environ.get(name, "") for name in NAMED}
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
    if not image.is_file and os.path.isdir(base):
        return None
    return image.group


def _room(image):
    """Return the bytes that an ordinary user has left on the file system of an image."""
    try:
        return free_bytes(image.descriptor)
    except OSError:
        return None


def decide_writable(session, facts):
    """Return (whether the first overlay is to be written, why it is not or None).

    Raises OverlayError: NOT_ALLOWED when the user insists with :rw on what cannot be, DAMAGED
    for a directory with data: the engine would put upper/ and work/ among them, and show upper/.
    """
    (path, mode), first = session.overlays[0], facts.images[0]
    if mode == "ro":
        return False, None
    hint = f"to look into it: -o {quote(path)}:ro; to change it, work on a copy of your own"
    if first.never_writable:
        why, hint = first.never_writable, None
    elif not first.writable:
        why = "you may not write it" if first.status.st_uid == facts.uid else "it is not yours"
    elif first.upper not in (None, facts.uid) and facts.uid != 0 and not session.fakeroot:
        why = f"what is inside belongs to another user (uid {first.upper})"
        hint = f"when it is a copy of yours, make it all yours: check-overlay --own {quote(path)}"
    elif (
        facts.foreign_group is not None
        and not (first.is_file and facts.unshare)
        and not is_fakeroot(session, facts)
    ):
        from overlay.host.names import group_name  # asks a server on many sites

        name, own = quote(group_name(facts.foreign_group)), quote(group_name(facts.gid))
        inside = " ".join(quote(os.path.join(path, name)) for name in ("upper", "work"))
        why = f"what is inside belongs to the group {name}, and your group is {own}"
        hint = f"to write it: sg {name} -c '{session.program} …'"
        if not first.is_file:
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
