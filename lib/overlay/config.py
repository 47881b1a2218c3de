"""The settings: what there is to set, where it may be set, and what it is set to.

SETTINGS is the only list of them; the parser, the checks, etc/overlay.ini and the manual
page overlay.ini(5) all follow it. Strongest first, a value comes from

    the OVERLAY_SECTION_KEY environment, the user's own overlay.ini,
    overlay.d/*.ini beside the site's file (the last name wins), the site's overlay.ini,
    the default

and what the site names in [site] lock is taken from the site's files alone. Files are
read with configparser, without interpolation.
"""

import configparser
import os
import shlex

from overlay import size
from overlay.errors import CONFIGURATION, MISSING, OverlayError, quote, reason


class Setting:
    """One key of overlay.ini.

    kind     text, path, list, paths, size, count, seconds, choice, boolean, percent, mode or names
             (a section in which the site chooses the keys, each a path)
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
        "Keys that stand as the site's files set them: neither the environment nor the user's"
        " own overlay.ini changes them. Policy, not security: who can run the engine by hand"
        " can do as he likes.",
        example="create.allocation images.default",
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
        "text",
        "centos-8.2.2004",
        "The name of the image, or its path, that is used without -c.",
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
    Setting("create", "min_files", "count", "", "The least files that are allowed.", example="1K"),
    Setting("create", "max_files", "count", "", "The most files that are allowed.", example="20M"),
    Setting(
        "create",
        "permissions",
        "mode",
        "",
        "The permission bits of a new overlay, octal. Empty: 0666 less the user's umask.",
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
        "BASH_ENV ENV PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE CONDA_* _CE_* R_LIBS*"
        " R_HOME PERL5LIB PERL5OPT LD_PRELOAD",
        "Variables of the host that do not reach the inside, where they would name files that"
        " are not there or that do not fit. A * stands for anything. All others pass.",
    ),
    Setting(
        "safety",
        "trust_locks",
        "boolean",
        "no",
        "Whether file locks on the site's shared file systems hold between nodes. Only then is an"
        " overlay that a killed session left unclean repaired by a session on another node;"
        " `overlay-admin doctor` tests a file system.",
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
    """

    def __init__(self, environ):
        self.environ = environ
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

    def __getitem__(self, name):
        """Return the typed value of a setting such as "create.size".

        Empty sizes, counts and texts are None; lists are tuples. Raises OverlayError
        (CONFIGURATION) naming where the value was set and what is allowed.
        """
        text, origin = self._texts[name]
        setting = _BY_NAME.get(name) or _BY_NAME[name.partition(".")[0] + ".*"]
        try:
            return convert(setting, text, self.environ)
        except ValueError as error:
            raise OverlayError(
                f"{origin}: [{setting.section}] {name.partition('.')[2]}: {error}",
                status=CONFIGURATION,
            ) from None

    def names(self):
        """Return all names of settings, images included, in the order of SETTINGS."""
        order = {section: number for number, section in enumerate(SECTIONS)}
        return sorted(self._texts, key=lambda name: order[name.partition(".")[0]])

    def templates(self):
        """Return the site's templates as a dictionary from name to a list of SOURCE[:DEST]."""
        return {
            name.partition(".")[2]: [expand(word, self.environ) for word in shlex.split(text)]
            for name, (text, _origin) in self._texts.items()
            if name.startswith("templates.")
        }

    def images(self):
        """Return the site's images as a dictionary from name to path.

        The path is None where a variable in it is not set: only who asks for that image
        needs to know.
        """
        return {
            name.partition(".")[2]: expand(text, self.environ, strict=False)
            for name, (text, _origin) in self._texts.items()
            if name.startswith("images.") and name != "images.default"
        }


def convert(setting, text, environ):
    """Return text as the type of a setting. Raises ValueError with a sentence."""
    kind = setting.kind
    if kind in ("list", "paths"):
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"quotes do not match ({error})") from None
        if kind == "list":
            return tuple(words)
        # A list of places loses those whose variable is not set: outside a job there is
        # no $SLURM_TMPDIR, and that is no mistake.
        return tuple(
            path for word in words for path in [expand(word, environ, strict=False)] if path
        )
    if kind == "choice":
        if text not in setting.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(setting.choices)}")
        return text
    if kind == "boolean":
        states = configparser.ConfigParser.BOOLEAN_STATES
        if text.lower() not in states:
            raise ValueError(f"{text!r} is not yes or no")
        return states[text.lower()]
    if not text:
        return None
    if kind == "mode":
        if not text or text.strip("01234567") or int(text, 8) > 0o777:
            raise ValueError(f"{text!r} is not a mode such as 0600")
        return int(text, 8)
    if kind == "percent":
        number = text[:-1] if text.endswith("%") else text
        if not (number.isascii() and number.isdecimal() and int(number) <= 100):
            raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
        return int(number)
    if kind == "seconds":
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 3600):
            raise ValueError(f"{text!r} is not a number of seconds from 1 to 3600")
        return int(text)
    if kind == "size":
        return size.parse_size(text)
    if kind == "count":
        return size.parse_count(text)
    return expand(text, environ)


def expand(text, environ, *, strict=True):
    """Return text with {user}, {home}, $VARIABLE and ${VARIABLE} replaced.

    A variable that is not set raises ValueError, or gives None when not strict.
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
        if match[1] and name not in known:
            raise ValueError(f"{match[0]} is not known; {{user}} and {{home}} are")
        if not found:
            raise KeyError(match[0])
        return found

    try:
        return re.sub(r"\{(\w+)\}|\$\{(\w+)\}|\$(\w+)", value, text)
    except KeyError as error:
        if strict:
            raise ValueError(f"{error.args[0]} is not set") from None
        return None


def load(environ, root):
    """Return the Config of a caller.

    environ  the caller's environment
    root     the tree that the commands run from; holds etc/overlay.ini
    Raises OverlayError (CONFIGURATION, or MISSING when OVERLAY_CONFIG names no file).
    """
    config = Config(environ)
    site = environ.get("OVERLAY_CONFIG") or site_file(root)
    if not os.path.isfile(site):
        raise OverlayError(
            f"the configuration {quote(site)} is missing",
            status=MISSING,
            hint="unset OVERLAY_CONFIG"
            if environ.get("OVERLAY_CONFIG")
            else "ask the site's admin: the installation is not complete",
        )
    read_file(config, site)
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
            read_file(config, os.path.join(directory, name))
    locked = frozenset(config["site.lock"]) | {"site.lock", "site.message"}
    for name in locked - config._texts.keys():
        _unknown_name(config.origin("site.lock"), name)
    user = user_file(environ)
    if user and os.path.isfile(user):
        read_file(config, user, locked)
    for name in list(config._texts):
        text = environ.get(variable(name))
        if text is not None and name not in locked:
            config.put(name, text, Origin(f"${variable(name)}"))
    return config


def variable(name):
    """Return the environment variable of a setting: create.size is OVERLAY_CREATE_SIZE."""
    return "OVERLAY_" + name.replace(".", "_").upper()


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
    base = environ.get("XDG_CONFIG_HOME")
    if not base and environ.get("HOME"):
        base = os.path.join(environ["HOME"], ".config")
    return os.path.join(base, "overlay", "overlay.ini") if base else None


def read_file(config, path, locked=()):
    """Put the values of one file into config, and check them.

    locked  names that this file may not set; they are passed over
    Raises OverlayError (CONFIGURATION) with file, line and what is allowed.
    """
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
        default_section="",
    )
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
        parser.read_file(lines, path)
    except OSError as error:
        raise OverlayError(
            f"cannot read {quote(path)}: {reason(error)}", status=CONFIGURATION
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _wrong(path, line, "it is not UTF-8 text") from None
    except configparser.MissingSectionHeaderError as error:
        raise _wrong(path, error.lineno, "a key stands before the first [section]") from None
    except configparser.DuplicateSectionError as error:
        raise _wrong(path, error.lineno, f"[{error.section}] stands here a second time") from None
    except configparser.DuplicateOptionError as error:
        raise _wrong(
            path, error.lineno, f"{quote(error.option)} stands in [{error.section}] a second time"
        ) from None
    except configparser.ParsingError as error:
        raise _wrong(path, error.errors[0][0], "it is not `key = value`") from None
    for section in parser.sections():
        if section not in SECTIONS:
            raise _wrong(
                path,
                _line(lines, section),
                f"unknown section [{section}]",
                _nearest(section, SECTIONS, "[{}]"),
            )
        for key, text in parser.items(section):
            name = f"{section}.{key}"
            line = _line(lines, section, key)
            if name not in _BY_NAME and f"{section}.*" not in _BY_NAME:
                keys = [setting.key for setting in SETTINGS if setting.section == section]
                raise _wrong(
                    path,
                    line,
                    f"unknown key {quote(key)} in [{section}]",
                    _nearest(key, keys, "{}"),
                )
            if name in locked:
                continue
            setting = _BY_NAME.get(name) or _BY_NAME[f"{section}.*"]
            text = " ".join(text.split()) if setting.kind in ("list", "paths") else text
            try:
                convert(setting, text, config.environ)
            except ValueError as error:
                if "is not set" not in str(error):
                    raise _wrong(path, line, f"[{section}] {key}: {error}") from None
            config.put(name, text, Origin("file", path, line))


def _wrong(path, line, what, hint=None):
    """Return the error for a line of a file."""
    return OverlayError(f"{quote(path)}, line {line}: {what}", status=CONFIGURATION, hint=hint)


def _unknown_name(origin, name):
    known = [setting.name for setting in SETTINGS]
    raise OverlayError(
        f"{origin}: [site] lock: there is no {quote(name)} to lock",
        status=CONFIGURATION,
        hint=_nearest(name, known, "{}"),
    )


def _nearest(word, known, form):
    """Return a hint with the known word that is most like the wrong one."""
    import difflib

    found = difflib.get_close_matches(word, known, 1, 0.5)
    if found:
        return f"did you mean {form.format(found[0])}?"
    return "known: " + ", ".join(form.format(name) for name in known)


def _line(lines, section, key=None):
    """Return the number of the line where a section, or a key in it, stands."""
    inside = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("["):
            inside = text == f"[{section}]" or text.startswith(f"[{section}]")
            if inside and key is None:
                return number
        elif inside and key is not None and text.partition("=")[0].strip() == key:
            return number
    return 0
