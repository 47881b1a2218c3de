"""The settings: what there is to set, where it may be set, and what it is set to.

SETTINGS is the only list of them; the parser, the checks, etc/overlay.ini and the manual
page overlay.ini(5) all follow it. Strongest first, a value comes from

    the OVERLAY_SECTION_KEY environment, the user's own overlay.ini,
    overlay.d/*.ini beside the site's file (the last name wins), the site's overlay.ini,
    the default

and what the site names in [site] lock is taken from the site's files alone. An option of
the command line comes before all of these; Config.hold() keeps it from what is locked.

A file that belongs to somebody else, or that everybody may write, is left out: it could name
programs that the caller would start.
"""

import configparser
import os
import shlex

from overlay import size, trust
from overlay.errors import CONFIGURATION, MISSING, NOT_ALLOWED, OverlayError, quote, reason


class Setting:
    """One key of overlay.ini.

    kind     text, path, list, paths, size, count, seconds, choice, boolean, percent, mode or names
             (a section in which the site chooses the keys: images are each a path, templates
             lists of sources)
    default  as it would stand in the file
    help     what it does, in sentences for overlay.ini and its manual page
    choices  the words that a choice allows
    example  a value for a key whose default is empty
    """

    __slots__ = ("choices", "default", "example", "help", "key", "kind", "section")

    def __init__(self, section, key, kind, default, help, *, choices=(), example=None):
        self.section = section
        self.key = key
        self.kind = kind
        self.default = default
        self.help = help
        self.choices = choices
        self.example = example

    @property
    def name(self):
        """The dotted name, as [site] lock and the messages use it."""
        return f"{self.section}.{self.key}"


SECTIONS = {
    "site": "What holds for everybody.",
    "engine": "The program that runs containers.",
    "images": "Base images that users choose by name with -c.",
    "binds": "Directories of the host that are seen inside.",
    "create": "New overlays.",
    "templates": "What users fill new overlays with.",
    "pack": "Packed overlays.",
    "launch": "What a session takes over from the host.",
    "safety": "What protects data.",
    "quota": "What create-overlay checks before it writes.",
    "jobs": "What a task writes into with --per-task and --discard-writes.",
    "scratch": "Where overlays and temporary files belong.",
}

SETTINGS = (
    Setting(
        "site",
        "lock",
        "list",
        "",
        "Keys, and whole sections, that stand as the site's files set them: neither options nor"
        " the environment nor the user's own overlay.ini change them. What several files lock adds"
        " up. A rule is as firm as the keys that it reads: quota rather than quota.check, and"
        " scratch rather than scratch.outside. In a locked value {user} and {home} are what the"
        " system says; $VARIABLE stays the caller's. A lock on binds.paths and launch.gpu holds for"
        " the engine's own options and variables for the same, such as APPTAINER_BIND. Policy, not"
        " security: who can run the engine by hand can do as he likes.",
        example="create.allocation images.default quota",
    ),
    Setting("site", "message", "text", "", "A line that mount-overlay shows at every start."),
    Setting(
        "engine",
        "commands",
        "list",
        "apptainer singularity",
        "Names or paths of the container engine; the first that is found is taken.",
    ),
    Setting(
        "engine",
        "module",
        "text",
        "",
        "The module that `module load overlay` loads for the engine. Empty: an engine must be"
        " on PATH when the module is loaded, or a line says so. none: nothing is checked.",
        example="apptainer/1.4",
    ),
    Setting(
        "images",
        "default",
        "path",
        "centos-8.2.2004",
        "The name of the image, or its path, that is used without -c. What has no / is a name.",
    ),
    Setting(
        "images",
        "*",
        "names",
        "",
        "Every other key is the name of an image, its value the path of a .sif file or an"
        " unpacked directory.",
        example="/share/apps/admin/singularity-images/centos-8.2.2004.sif",
    ),
    Setting(
        "binds",
        "paths",
        "paths",
        "/scratch /home",
        "Directories of the host, each as PATH or PATH:INSIDE[:ro]. Those that a machine does"
        " not have are skipped.",
    ),
    Setting(
        "create",
        "size",
        "size",
        "",
        "The size without -s. Empty: -s must be given. MiB, or with a unit: 500, 20G, 1.5T.",
        example="10G",
    ),
    Setting(
        "create",
        "files",
        "count",
        "",
        "The number of files without -n. Empty: -n must be given. Thousands, or with a unit:"
        " 700, 700K, 2M.",
        example="500K",
    ),
    Setting(
        "create",
        "directories",
        "list",
        "/opt",
        "Directories made in a new overlay that belong to its user, because the base image has"
        " them and would not let the user write there. Elsewhere users can make directories"
        " themselves.",
    ),
    Setting(
        "create",
        "allocation",
        "choice",
        "reserve",
        "reserve: the blocks of a new overlay are its own at once, so that it cannot run into a"
        " full disk or quota later. sparse: they are taken as they are written.",
        choices=("reserve", "sparse"),
    ),
    Setting(
        "create",
        "min_size",
        "size",
        "",
        "The smallest size that is allowed. Empty: what the file system needs.",
        example="100M",
    ),
    Setting("create", "max_size", "size", "", "The largest size that is allowed.", example="2T"),
    Setting(
        "create",
        "min_files",
        "count",
        "",
        "The smallest number of files that is allowed.",
        example="1K",
    ),
    Setting(
        "create",
        "max_files",
        "count",
        "",
        "The largest number of files that is allowed.",
        example="20M",
    ),
    Setting(
        "create",
        "permissions",
        "mode",
        "",
        "The permission bits of a new overlay, octal; its owner must be able to read and write it."
        " Empty: 0666 less the user's umask.",
        example="0600",
    ),
    Setting(
        "create",
        "margin",
        "percent",
        "20%",
        "How much more room and how many more files than its sources need an overlay gets that is"
        " filled at creation without -s or -n.",
    ),
    Setting(
        "templates",
        "*",
        "names",
        "",
        "Every key is the name of a template for create-overlay -t, its value one or more"
        " SOURCE[:DEST] as for --from.",
        example="/share/apps/overlay/templates/miniforge.tar.zst:/ext3",
    ),
    Setting(
        "pack",
        "compression",
        "choice",
        "zstd",
        "What pack-overlay compresses with: zstd packs tight and quickly, lz4 is the fastest, gzip"
        " is read by every engine, xz is the smallest.",
        choices=("zstd", "gzip", "lz4", "xz"),
    ),
    Setting(
        "launch",
        "gpu",
        "choice",
        "auto",
        "auto: --nv or --rocm is added where the machine has such a GPU. none: only when the"
        " user asks.",
        choices=("auto", "none"),
    ),
    Setting(
        "launch",
        "clear",
        "list",
        "BASH_ENV ENV BASH_FUNC_* PROMPT_COMMAND PS0 PYTHONPATH PYTHONHOME PYTHONSTARTUP"
        " PYTHONUSERBASE CONDA_* _CE_* MAMBA_* R_LIBS* R_HOME PERL5LIB PERL5OPT LD_PRELOAD",
        "Variables of the host that do not reach the inside, where they would name files and"
        " commands that are not there or that do not fit. A * stands for anything; BASH_FUNC_* are"
        " functions of bash. All others pass, but for those such as SSL_CERT_FILE and JAVA_HOME"
        " whose file is the host's and not seen inside.",
    ),
    Setting(
        "safety",
        "trust_locks",
        "boolean",
        "no",
        "Whether file locks on the site's shared file systems hold between nodes. Only then is an"
        " overlay that a killed session left unclean repaired by a session on another node."
        " Wrongly said it destroys overlays; `overlay-admin doctor` sees one node, and is not enough.",
    ),
    Setting(
        "safety",
        "low",
        "percent",
        "5%",
        "A writable session that has less than this left of its overlay's room for data, or of"
        " its number of files, starts with a warning. 0%: never.",
    ),
    Setting(
        "quota",
        "check",
        "choice",
        "refuse",
        "refuse: an overlay for which the user's quota or the file system has no room is not"
        " made. warn: it is tried all the same. off: nothing is asked.",
        choices=("refuse", "warn", "off"),
    ),
    Setting(
        "quota",
        "command",
        "list",
        "",
        "A program with its arguments that knows the quotas of the site, for file systems that"
        " are not asked otherwise (GPFS, BeeGFS and others). {user} and {path} stand for the"
        " user and the directory. It prints one line for every quota there is: bytes used, limit"
        " in bytes, files used, limit of files, and, if it likes, what the quota is called; - is"
        " not known, a limit of - or 0 is none. When it prints nothing, the file system is asked"
        " as without it.",
        example="/share/apps/admin/bin/quota-line {user} {path}",
    ),
    Setting(
        "quota",
        "timeout",
        "seconds",
        "5",
        "Seconds that programs which are asked for a quota may take, all together.",
    ),
    Setting(
        "quota",
        "on_failure",
        "choice",
        "warn",
        "warn: when a quota cannot be found out in that time, a line says so. refuse: then no"
        " overlay is made.",
        choices=("warn", "refuse"),
    ),
    Setting(
        "quota",
        "hint",
        "text",
        "",
        "What users are told when a quota is short, such as the site's command that shows what"
        " takes the room.",
        example="see what takes the room: myquota",
    ),
    Setting(
        "jobs",
        "size",
        "size",
        "10G",
        "The size of such a layer without -s. Its disk blocks are taken as they are written.",
    ),
    Setting(
        "jobs",
        "files",
        "count",
        "500K",
        "How many files it can hold without -n.",
    ),
    Setting(
        "scratch",
        "locations",
        "paths",
        "/scratch/{user}",
        "Where users keep overlays: list-overlays looks there.",
    ),
    Setting(
        "scratch",
        "outside",
        "choice",
        "allow",
        "What create-overlay does for a place that is not below [scratch] locations.",
        choices=("allow", "warn", "refuse"),
    ),
    Setting(
        "scratch",
        "local",
        "paths",
        "$SLURM_TMPDIR $TMPDIR /tmp",
        "Directories on a disk of the node for temporary files, for what --stage copies and for"
        " the layers of tasks; the first that is there and writable is taken.",
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}

# Sections in which the site chooses the names.
_CHOSEN = {setting.section for setting in SETTINGS if setting.kind == "names"}

_BOOLEANS = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


class Origin:
    """Where a value was set: a file and its line, the environment, or nowhere."""

    __slots__ = ("file", "line", "word")

    def __init__(self, word, file=None, line=None):
        self.word = word
        self.file = file
        self.line = line

    def __str__(self):
        if self.file is None:
            return self.word
        return f"{quote(self.file)}, line {self.line}" if self.line else quote(self.file)


class Config:
    """All settings, typed, each with its origin.

    environ  the environment that {user}, {home} and $VARIABLE in values refer to
    locks    what is locked, keys and whole sections, each with the Origin of the lock
    files    the site's files that were read, in order
    left_out lines about files that were not obeyed
    """

    def __init__(self, environ):
        self.environ = environ
        self.files = []
        self.left_out = []
        # A user who could set these could lock, and speak, in the site's name.
        self.locks = {"site": Origin("default")}
        self._texts = {}
        for setting in SETTINGS:
            if setting.kind != "names":
                self._texts[setting.name] = (setting.default, Origin("default"))

    def put(self, name, text, origin):
        """Set one value as text. The last put wins."""
        self._texts[name] = (text, origin)

    def origin(self, name):
        """Return the Origin of a setting."""
        return self._texts[name][1]

    def text(self, name):
        """Return the value of a setting as it was written, nothing in it replaced."""
        return self._texts[name][0]

    def lock(self, name):
        """Return the Origin of the lock on a setting, or None."""
        return self.locks.get(name) or self.locks.get(name.partition(".")[0])

    def hold(self, name, option, given):
        """Refuse an option of the command line that would set aside a locked setting.

        given  what the option stands for, as text; empty or None when it was not given
        Raises OverlayError (NOT_ALLOWED). A lock on nothing, as on an empty size, leaves the
        choice to the user.
        """
        lock = self.lock(name)
        if lock and given and given != self.text(name) and self.get(name) is not None:
            raise OverlayError(
                f"{option} is not for you to choose here: {name} is locked ({lock})",
                status=NOT_ALLOWED,
                hint=f"leave {option} out",
            )

    def __getitem__(self, name):
        """Return the typed value of a setting such as "create.size".

        Empty sizes, counts and texts are None; lists are tuples. Raises OverlayError
        (CONFIGURATION) naming where the value was set and what is allowed.
        """
        text, origin = self._texts[name]
        setting = _setting(name)
        try:
            return convert(setting, text, self._known(name, text))
        except ValueError as error:
            raise OverlayError(
                f"{origin}: [{setting.section}] {name.partition('.')[2]}: {error}",
                status=CONFIGURATION,
            ) from None

    def _known(self, name, text):
        """Return the variables that a value may name.

        Of a locked one, who the caller is and where his home is are the system's to say: else
        USER=.. would set aside a rule for /scratch/{user}.
        """
        lock = self.lock(name)
        if not lock or lock.file is None or not set(text).intersection("{$~"):
            return self.environ
        import pwd  # asks a server on many sites

        try:
            user = pwd.getpwuid(os.getuid())
        except KeyError:
            return self.environ
        own = {"USER": user.pw_name, "LOGNAME": user.pw_name, "HOME": user.pw_dir}
        return {**self.environ, **own}

    def get(self, name):
        """Return the typed value of a setting, None where it is wrong or a variable not set."""
        try:
            return self[name]
        except OverlayError:
            return None

    def names(self):
        """Return all names of settings, images included, in the order of SETTINGS."""
        order = {section: number for number, section in enumerate(SECTIONS)}
        return sorted(self._texts, key=lambda name: order[name.partition(".")[0]])

    def templates(self):
        """Return the site's templates as a dictionary from name to a tuple of SOURCE[:DEST]."""
        return self._chosen("templates")

    def images(self):
        """Return the site's images as a dictionary from name to path."""
        return self._chosen("images")

    def _chosen(self, section):
        """Return what the site has in a section of names.

        A value is None where it cannot be had, as when a variable in it is not set: only
        who asks for that one needs to know, and config["SECTION.NAME"] tells him.
        """
        return {
            name.partition(".")[2]: self.get(name)
            for name in self._texts
            if name.startswith(f"{section}.") and name not in _BY_NAME
        }


def _setting(name):
    """Return the Setting that a dotted name belongs to; None when there is none."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.partition(".")[0] + ".*")


def convert(setting, text, environ):
    """Return text as the type of a setting. Raises ValueError with a sentence."""
    kind = setting.kind
    if kind == "text":
        return expand(text, environ, unset="keep") or None
    if kind == "list":
        return _words(text)
    if kind == "paths":
        # A list of places loses those whose variable is not set: outside a job there is
        # no $SLURM_TMPDIR, and that is no mistake.
        found = (expand(word, environ, unset="none") for word in _words(text))
        return tuple(path for path in found if path)
    if kind == "names":
        if not text:
            raise ValueError("it is empty")
        if setting.section == "templates":
            return tuple(expand(word, environ) for word in _words(text))
        return expand(_path(text), environ)
    if kind == "path":
        return expand(_path(text), environ) if text else None
    text = text or setting.default
    if not text:
        return None
    if kind == "choice":
        if text not in setting.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(setting.choices)}")
        return text
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"{text!r} is not yes or no")
        return _BOOLEANS[text.lower()]
    if kind == "mode":
        if text.strip("01234567") or int(text, 8) > 0o777:
            raise ValueError(f"{text!r} is not a mode such as 0600")
        if int(text, 8) & 0o600 != 0o600:
            raise ValueError(f"with {text!r} its owner could not use it; 0600 is the least")
        return int(text, 8)
    if kind == "percent":
        number = text.removesuffix("%").rstrip()
        if not (number.isascii() and number.isdecimal() and int(number) <= 100):
            raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
        return int(number)
    if kind == "seconds":
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 3600):
            raise ValueError(f"{text!r} is not a number of seconds from 1 to 3600")
        return int(text)
    return size.parse_size(text) if kind == "size" else size.parse_count(text)


def _words(text):
    """Return the words of a list, quotes taken off. Raises ValueError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"quotes do not match ({error})") from None
    _no_comment(words)
    return tuple(words)


def _path(text):
    """Return a path that may stand in quotes, and have blanks without them. Raises ValueError."""
    if text[0] not in "'\"":
        _no_comment(text.split())
        return text
    words = _words(text)
    if len(words) != 1:
        raise ValueError("there is more than one path")
    return words[0]


def _no_comment(words):
    for word in words:
        if word.startswith(("#", ";")):
            raise ValueError(f"{word!r} begins a comment; those stand on lines of their own")


class _Unset(ValueError):
    """A variable in a value is not set; that is seen only where the value is used."""


def expand(text, environ, *, unset="refuse"):
    """Return text with {user}, {home}, $VARIABLE and ${VARIABLE} replaced.

    unset  what a variable that is not set does: "refuse" raises ValueError, "none" gives None,
           and "keep" leaves it as it is written, and all in braces that is not known
    """
    if "{" not in text and "$" not in text and not text.startswith("~"):
        return text
    import re

    known = {"user": environ.get("USER") or environ.get("LOGNAME"), "home": environ.get("HOME")}
    if text == "~" or text.startswith("~/"):
        text = "{home}" + text[1:]

    def value(match):
        name = match[1] or match[2] or match[3]
        found = known.get(name) if match[1] else environ.get(name)
        if not found and unset == "keep":
            return match[0]
        if match[1] and name not in known:
            raise ValueError(f"{match[0]} is not known; {{user}} and {{home}} are")
        if not found:
            raise _Unset(f"{match[0]} is not set")
        return found

    try:
        return re.sub(r"\{(\w+)\}|\$\{(\w+)\}|\$(\w+)", value, text)
    except _Unset:
        if unset == "refuse":
            raise
        return None


def load(environ, root, notice=None, uid=None):
    """Return the Config of a caller.

    environ  the caller's environment
    root     the tree that the commands run from; holds etc/overlay.ini
    notice   called with (line, "warning") for every file that is left out
    uid      the caller's; None for that of this process
    Raises OverlayError (CONFIGURATION, or MISSING when OVERLAY_CONFIG names no file).
    """
    config = Config(environ)
    uid = os.getuid() if uid is None else uid
    owners = {0, trust.installation()}
    if environ.get("OVERLAY_CONFIG"):
        owners.add(uid)
    site = environ.get("OVERLAY_CONFIG") or site_file(root)
    if not os.path.isfile(site):
        raise OverlayError(
            f"the configuration {quote(site)} is missing",
            status=MISSING,
            hint="unset OVERLAY_CONFIG"
            if environ.get("OVERLAY_CONFIG")
            else "ask the site's admin: the installation is not complete",
        )
    read_file(config, site, owners=owners)
    directory = os.path.join(os.path.dirname(site), "overlay.d")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise OverlayError(
            f"cannot read {quote(directory)}: {reason(error)}", status=CONFIGURATION
        ) from None
    for name in names:
        if name.endswith(".ini") and not name.startswith("."):
            read_file(config, os.path.join(directory, name), owners=owners)
    check_locks(config)
    lock, image = config.lock("images.default"), config.get("images.default")
    if lock and image:  # else a user could give that name to another image
        config.locks.setdefault(f"images.{image}", lock)
    user = user_file(environ)
    if user and os.path.isfile(user):
        read_file(config, user, own=True, owners={0, uid})
    if notice:
        for line in config.left_out:
            notice(line, "warning")
    check_limits(config)
    for name in config.names():
        text = environ.get(variable(name))
        if text and not config.lock(name):
            config.put(name, text, Origin(f"${variable(name)}"))
    return config


def check_locks(config, whole=True):
    """Refuse locks on what does not exist. Raises OverlayError (CONFIGURATION).

    whole  whether all files of the site are read; else images may stand in another
    """
    for name, origin in config.locks.items():
        if name in SECTIONS or name in config.names():
            continue
        if not whole and name not in _BY_NAME and _setting(name):
            continue
        known = [setting.name for setting in SETTINGS if setting.kind != "names"]
        raise OverlayError(
            f"{origin}: [site] lock: there is no {quote(name)} to lock",
            status=CONFIGURATION,
            hint="blanks separate them, not commas"
            if "," in name
            else _nearest(name, [*SECTIONS, *known], "{}"),
        )


def check_limits(config):
    """Refuse limits that leave nothing. Raises OverlayError (CONFIGURATION).

    What the environment sets is not looked at: create-overlay, which alone needs it, tells.
    """
    for key in ("size", "files"):
        for less, more in ((f"min_{key}", f"max_{key}"), (f"min_{key}", key), (key, f"max_{key}")):
            low, high = config[f"create.{less}"], config[f"create.{more}"]
            if low and high and low > high:
                raise OverlayError(
                    f"{config.origin(f'create.{less}')}: [create] {less} is more than {more}"
                    f" ({config.origin(f'create.{more}')})",
                    status=CONFIGURATION,
                )


def variable(name):
    """Return the environment variable of a setting: create.size is OVERLAY_CREATE_SIZE."""
    return "OVERLAY_" + "".join(char if char.isalnum() else "_" for char in name).upper()


def warnings(environ):
    """Return a line for every variable that looks like a setting's, and is none's."""
    known = set(map(variable, _BY_NAME))
    found = []
    for name in sorted(environ.keys() - known):
        prefix, _underscore, rest = name.partition("_")
        section, _underscore, key = rest.partition("_")
        # Which images and templates there are is the site's choice.
        if prefix == "OVERLAY" and key and section.lower() in SECTIONS.keys() - _CHOSEN:
            keys = [one.key.upper() for one in SETTINGS if one.section == section.lower()]
            hint = _nearest(key.upper(), keys, f"OVERLAY_{section.upper()}_{{}}")
            found.append(f"{quote(name)} is no setting; {hint}")
    return found


def site_file(root):
    """Return the site's file for a tree.

    An installed tree is PREFIX/VERSION; PREFIX/etc/overlay.ini, when there, belongs to the
    site and outlives every version. A clone, or a version alone, has etc/overlay.ini; a
    package in a virtual environment has it among its own files.
    """
    kept = os.path.join(os.path.dirname(root), "etc", "overlay.ini")
    own = os.path.join(root, "etc", "overlay.ini")
    if os.path.isfile(os.path.join(root, ".installed")) and os.path.isfile(kept):
        return kept
    if os.path.isfile(own):
        return own
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "overlay.ini")


def user_file(environ):
    """Return the path of the user's own overlay.ini (XDG base directories), or None."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # a relative one does not count, says their specification
        base = os.path.join(environ.get("HOME", ""), ".config")
    return os.path.join(base, "overlay", "overlay.ini") if os.path.isabs(base) else None


def read_file(config, path, own=False, owners=None):
    """Put the values of one file into config, and check them.

    own     whether it is the user's, who may not set what is locked: that is passed over
    owners  the uids whose file is obeyed, another is left out; None: whoever's
    Raises OverlayError (CONFIGURATION) with file, line and what is allowed.
    """
    try:
        content = _text(trust.read(path, owners))
    except trust.Distrusted as why:
        config.left_out.append(f"the settings in {quote(path)} are left out: {why}")
        return
    except OSError as error:
        raise OverlayError(
            f"cannot read {quote(path)}: {reason(error)}", status=CONFIGURATION
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _wrong(path, line, "it is not UTF-8 text") from None
    if not own:
        config.files.append(path)
    places = _places(path, content.split("\n"))
    parser = _parsed(path, content)
    for (section, key), line in places.items():
        text = parser.get(section, key)
        name = f"{section}.{key}"
        setting = _setting(name)
        if setting is None:
            keys = [setting.key for setting in SETTINGS if setting.section == section]
            raise _wrong(
                path, line, f"unknown key {quote(key)} in [{section}]", _nearest(key, keys, "{}")
            )
        if own and config.lock(name):
            continue
        if setting.kind in ("list", "paths", "names"):
            text = text.replace("\n", " ")
        try:
            value = convert(setting, text, config.environ)
        except _Unset:
            pass
        except ValueError as error:
            hint = "what is indented below a key belongs to its value" if "\n" in text else None
            raise _wrong(path, line, f"[{section}] {key}: {error}", hint) from None
        origin = Origin("file", path, line)
        if name == "site.lock":  # locks add up: no file takes away those of another
            for word in value:
                config.locks.setdefault(word, origin)
            text = f"{config.text(name)} {text}".strip()
        config.put(name, text, origin)


def _text(content):
    """Return the bytes of a file as text with lines that end in "\\n". Raises UnicodeDecodeError."""
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _parsed(path, content):
    """Return the ConfigParser of a file that _places() has found to be in order."""
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        default_section="",
    )
    parser.optionxform = str
    try:
        parser.read_string(content, path)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or 0
        raise _wrong(path, line, str(error).splitlines()[0]) from None
    return parser


def _places(path, lines):
    """Return where a file sets what, as a dictionary from (section, key) to a line's number.

    configparser tells no lines of what it has read, and passes over what stands behind a
    [section]: that, and what it would refuse, is refused here, with its line. Raises
    OverlayError (CONFIGURATION).
    """
    places, sections = {}, set()
    section = place = indent = None  # of the key whose value may go on in the next line
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if "\0" in line:
            raise _wrong(path, number, "a NUL byte stands here")
        if not text or text[0] in "#;":
            continue
        elif place and len(line) - len(line.lstrip()) > indent:
            continue  # goes on with the value of the key above
        elif text[0] == "[":
            section, place = _section(path, number, text), None
            if section in sections:
                raise _wrong(path, number, f"[{section}] stands here a second time")
            sections.add(section)
        elif section is None:
            raise _wrong(path, number, "a key stands before the first [section]")
        else:
            key, equals, _value = (part.strip() for part in text.partition("="))
            if not key or not equals:
                raise _wrong(path, number, "it is not `key = value`")
            place, indent = (section, key), len(line) - len(line.lstrip())
            if place in places:
                raise _wrong(path, number, f"{quote(key)} stands in [{section}] a second time")
            places[place] = number
    return places


def _section(path, number, text):
    """Return the section that a line begins. Raises OverlayError (CONFIGURATION)."""
    section, bracket, rest = text[1:].partition("]")
    if not bracket or not section:
        raise _wrong(path, number, "it is not `[section]`")
    if section not in SECTIONS:
        hint = _nearest(section, SECTIONS, "[{}]")
        raise _wrong(path, number, f"unknown section [{section}]", hint)
    if rest:
        hint = "keys and comments stand on lines of their own"
        raise _wrong(path, number, f"something stands behind [{section}]", hint)
    return section


def _wrong(path, line, what, hint=None):
    """Return the error for a line of a file."""
    return OverlayError(f"{quote(path)}, line {line}: {what}", status=CONFIGURATION, hint=hint)


def _nearest(word, known, form):
    """Return a hint with the known word that is most like the wrong one."""
    import difflib

    found = difflib.get_close_matches(word, known, 1, 0.5)
    if found:
        return f"did you mean {form.format(found[0])}?"
    return "known: " + ", ".join(form.format(name) for name in known)
