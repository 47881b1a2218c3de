"""SETTINGS, the one table of all that can be set."""


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
        " security: whoever can run the engine by hand is not bound by it.",
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

BY_NAME = {setting.name: setting for setting in SETTINGS}

# Sections in which the site chooses the names.
CHOSEN = {setting.section for setting in SETTINGS if setting.kind == "names"}


def setting(name):
    """Return the Setting that a dotted name belongs to; None when there is none."""
    return BY_NAME.get(name) or BY_NAME.get(name.partition(".")[0] + ".*")
