"""SETTINGS, the one table of all that can be set."""

from __future__ import annotations

from overlay.settings.values import (
    BOOLEAN,
    COUNT,
    DAYS,
    IMAGE,
    LIST,
    MODE,
    NUMBER,
    PATH,
    PATHS,
    PERCENT,
    SECONDS,
    SIZE,
    SOURCES,
    TEXT,
    Kind,
    one_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


# What mksquashfs(1) knows and the engines can read.
COMPRESSIONS = ("zstd", "gzip", "lz4", "xz")


class Setting:
    """One key of overlay.ini.

    key      "*" where the site chooses the keys: the names of images and of templates
    kind     how its value is written
    default  as it would stand in the file
    help     what it does, in sentences for overlay.ini and its manual page
    example  a value for a key whose default is empty
    """

    __slots__ = ("default", "example", "help", "key", "kind", "section")

    def __init__(
        self,
        section: str,
        key: str,
        kind: Kind,
        default: str,
        help: str,
        *,
        example: str | None = None,
    ) -> None:
        self.section = section
        self.key = key
        self.kind = kind
        self.default = default
        self.help = help
        self.example = example

    @property
    def name(self) -> str:
        """The dotted name, as [site] lock and the messages use it."""
        return f"{self.section}.{self.key}"

    @property
    def is_chosen(self) -> bool:
        """Whether the site chooses the key."""
        return self.key == "*"

    def convert(self, text: str, environ: Mapping[str, str]) -> Any:
        """Return what a text stands for. Raises ValueError with a sentence."""
        if self.kind.defaults:
            text = text or self.default
            if not text:
                return None
        return self.kind.read(text, environ)


SECTIONS = {
    "site": "What holds for everybody.",
    "engine": "The program that runs containers.",
    "images": "Base images that users choose by name with -c.",
    "binds": "Directories of the host that are seen inside.",
    "create": "New overlays.",
    "templates": "What users fill new overlays with.",
    "pack": "Packed overlays.",
    "update": "Overlays brought up to date.",
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
        LIST,
        "",
        "Keys, or whole sections, that only the site's files set: options, the environment and the"
        " user's own overlay.ini do not change them. What several files lock adds up. Lock all"
        " keys that a rule needs: quota, not only quota.check; scratch, not only scratch.outside."
        " In a locked value {user} and {home} are what the system says, $VARIABLE is still the"
        " caller's. A lock on binds.paths or launch.gpu holds for the engine's own options and"
        " variables, too, such as APPTAINER_BIND and --home. Policy, not security: whoever can run the engine"
        " by hand is not bound by it.",
        example="create.allocation images.default quota",
    ),
    Setting("site", "message", TEXT, "", "A line that mount-overlay shows at every start."),
    Setting(
        "engine",
        "commands",
        LIST,
        "apptainer singularity",
        "Names or paths of the container engine; the first that is found is taken.",
    ),
    Setting(
        "engine",
        "module",
        TEXT,
        "",
        "The module that `module load overlay` loads for the engine. Empty: an engine must be"
        " on PATH when the module is loaded, or a line says so. none: nothing is checked.",
        example="apptainer/1.4",
    ),
    Setting(
        "images",
        "default",
        PATH,
        "centos-8.2.2004",
        "The name of the image, or its path, that is used without -c. What has no / is a name.",
    ),
    Setting(
        "images",
        "follow",
        one_of("yes", "warn", "no"),
        "yes",
        "Whether a session of an overlay that makes an environment ready goes on with the base image"
        " that this was made for, when -c names none: yes, only a line about it, or no. Where"
        " images.default is locked, only images that are named here are taken.",
    ),
    Setting(
        "images",
        "*",
        IMAGE,
        "",
        "Every other key is the name of an image, its value the path of a .sif file or an"
        " unpacked directory.",
        example="/share/apps/admin/singularity-images/centos-8.2.2004.sif",
    ),
    Setting(
        "binds",
        "paths",
        PATHS,
        "/scratch /home",
        "Directories of the host, each as PATH or PATH:INSIDE[:ro]. Those that a machine does"
        " not have are skipped.",
    ),
    Setting(
        "binds",
        "add",
        PATHS,
        "",
        "More of them, in the same form. What several files and the environment name adds up, so a"
        " file in overlay.d, or a user, can add one path to those of the site. Where binds.paths is"
        " locked, only the site's files can.",
        example="/data/reference:/reference:ro",
    ),
    Setting(
        "create",
        "size",
        SIZE,
        "",
        "The size without -s. Empty: -s must be given. MiB, or with a unit: 500, 20G, 1.5T.",
        example="10G",
    ),
    Setting(
        "create",
        "files",
        COUNT,
        "",
        "The number of files without -n. Empty: -n must be given. Thousands, or with a unit:"
        " 700, 700K, 2M.",
        example="500K",
    ),
    Setting(
        "create",
        "directories",
        LIST,
        "/opt",
        "Directories made in a new overlay that belong to its user, because the base image has"
        " them and would not let the user write there. Elsewhere users can make directories"
        " themselves.",
    ),
    Setting(
        "create",
        "allocation",
        one_of("reserve", "sparse"),
        "reserve",
        "reserve: the blocks of a new overlay are its own at once, so that it cannot run into a"
        " full disk or quota later. sparse: they are taken as they are written.",
    ),
    Setting(
        "create",
        "min_size",
        SIZE,
        "",
        "The smallest size that is allowed. Empty: what the file system needs.",
        example="100M",
    ),
    Setting("create", "max_size", SIZE, "", "The largest size that is allowed.", example="2T"),
    Setting(
        "create",
        "min_files",
        COUNT,
        "",
        "The smallest number of files that is allowed.",
        example="1K",
    ),
    Setting(
        "create",
        "max_files",
        COUNT,
        "",
        "The largest number of files that is allowed.",
        example="20M",
    ),
    Setting(
        "create",
        "permissions",
        MODE,
        "",
        "The permission bits of a new overlay, octal; its owner must be able to read and write it."
        " Empty: 0666 less the user's umask.",
        example="0600",
    ),
    Setting(
        "create",
        "margin",
        PERCENT,
        "20%",
        "How much more room and how many more files than its sources need an overlay gets that is"
        " filled at creation without -s or -n.",
    ),
    Setting(
        "templates",
        "*",
        SOURCES,
        "",
        "Every key is the name of a template for create-overlay -t, its value one or more"
        " SOURCE[:DEST] as for --from.",
        example="/share/apps/overlay/templates/miniforge.tar.zst:/ext3",
    ),
    Setting(
        "pack",
        "compression",
        one_of(*COMPRESSIONS),
        "zstd",
        "What pack-overlay compresses with: zstd packs tight and quickly, lz4 is the fastest, gzip"
        " is read by every engine, xz is the smallest.",
    ),
    Setting(
        "update",
        "versions",
        NUMBER,
        "1",
        "How many of the versions before update-overlay keeps without --versions, from 1 to 1000:"
        " NAME.~1~ and so on, each as large as the overlay, and the user's like it.",
    ),
    Setting(
        "launch",
        "gpu",
        one_of("auto", "none"),
        "auto",
        "auto: --nv or --rocm is added where the machine has such a GPU. none: only when the"
        " user asks.",
    ),
    Setting(
        "launch",
        "clear",
        LIST,
        "BASH_ENV ENV BASH_FUNC_* PROMPT_COMMAND PS0 PYTHONPATH PYTHONHOME PYTHONSTARTUP"
        " PYTHONUSERBASE CONDA_* _CE_* MAMBA_* R_LIBS* R_HOME PERL5LIB PERL5OPT LD_PRELOAD",
        "Variables of the host that do not reach the inside, where they would name files and"
        " commands that are not there or that do not fit. A * stands for anything; BASH_FUNC_* are"
        " functions of bash. All others pass, but for those such as SSL_CERT_FILE and JAVA_HOME"
        " whose file is the host's and not seen inside.",
    ),
    Setting(
        "launch",
        "user_site",
        one_of("keep", "hide"),
        "keep",
        "hide: what users have installed into their home directories does not come before what an"
        " overlay holds: ~/.local/lib/pythonX.Y of Python (PYTHONNOUSERSITE is set inside) and"
        " ~/R/…-library of R (R_LIBS_USER is). keep: it is found as on the host, where the home"
        " directory is seen inside.",
    ),
    Setting(
        "launch",
        "bashrc",
        BOOLEAN,
        "no",
        "Whether the shell of mount-overlay reads the user's ~/.bashrc, for aliases and functions."
        " It is the host's: what it adds to PATH, or activates, may not be there inside.",
    ),
    Setting(
        "launch",
        "share",
        one_of("no", "read"),
        "no",
        "read: sessions of one user on a node that only read, of the same overlays in the same way,"
        " are one: the first command starts it, the others join, as with --share. no: each has its"
        " own, unless --share is typed. For one command: --no-share.",
    ),
    Setting(
        "launch",
        "linger",
        SECONDS,
        "30",
        "Seconds that a shared session goes on after the last command in it has ended, for the"
        " next. It lets go at once when somebody wants to write one of its overlays.",
    ),
    Setting(
        "safety",
        "trust_locks",
        BOOLEAN,
        "no",
        "Whether file locks on the site's shared file systems hold between nodes. Only then is an"
        " overlay that a killed session left unclean repaired by a session on another node."
        " Wrongly said it destroys overlays; `overlay-admin doctor` sees one node, and is not enough.",
    ),
    Setting(
        "safety",
        "low",
        PERCENT,
        "5%",
        "A writable session that has less than this left of its overlay's room for data, or of"
        " its number of files, starts with a warning. 0%: never.",
    ),
    Setting(
        "quota",
        "check",
        one_of("refuse", "warn", "off"),
        "refuse",
        "refuse: an overlay for which the user's quota or the file system has no room is not"
        " made. warn: it is tried all the same. off: nothing is asked.",
    ),
    Setting(
        "quota",
        "command",
        LIST,
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
        SECONDS,
        "5",
        "Seconds that programs which are asked for a quota may take, all together.",
    ),
    Setting(
        "quota",
        "on_failure",
        one_of("warn", "refuse"),
        "warn",
        "warn: when a quota cannot be found out in that time, a line says so. refuse: then no"
        " overlay is made.",
    ),
    Setting(
        "quota",
        "hint",
        TEXT,
        "",
        "What users are told when a quota is short, such as the site's command that shows what"
        " takes the room.",
        example="see what takes the room: myquota",
    ),
    Setting(
        "jobs",
        "size",
        SIZE,
        "10G",
        "The size of such a layer without -s. Its disk blocks are taken as they are written.",
    ),
    Setting(
        "jobs",
        "files",
        COUNT,
        "500K",
        "How many files it can hold without -n.",
    ),
    Setting(
        "scratch",
        "locations",
        PATHS,
        "/scratch/{user}",
        "Where users keep overlays: list-overlays looks there.",
    ),
    Setting(
        "scratch",
        "purge",
        DAYS,
        "",
        "After how many days without use the site removes files in [scratch] locations. Nothing is"
        " removed by this: list-overlays and `overlay-admin report` show who is near it.",
        example="90d",
    ),
    Setting(
        "scratch",
        "outside",
        one_of("allow", "warn", "refuse"),
        "allow",
        "What create-overlay does for a place that is not below [scratch] locations.",
    ),
    Setting(
        "scratch",
        "local",
        PATHS,
        "$SLURM_TMPDIR $TMPDIR /tmp",
        "Directories on a disk of the node for temporary files, for what --stage copies and for"
        " the layers of tasks; the first that is there, writable, and in which nobody else could"
        " exchange them (chmod +t) is taken, for create-overlay -f the first of those that is not"
        " mounted noexec.",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}

# Of these the values of several files, and of the environment, add up.
ADDING_UP = ("site.lock", "binds.add")

# Sections in which the site chooses the names.
CHOSEN = {setting.section for setting in SETTINGS if setting.is_chosen}


def setting(name: str) -> Setting | None:
    """Return the Setting that a dotted name belongs to; None when there is none."""
    return BY_NAME.get(name) or BY_NAME.get(name.partition(".")[0] + ".*")
