"""The command lines: one parser a command, from shared groups of options."""

import argparse
import os

from overlay import __version__
from overlay.errors import DATA_LOST, USAGE, OverlayError, reason

SUMMARIES = {
    "create-overlay": "Create an overlay: one file that holds as many files as you need.",
    "create-overlay-conda": "Create an overlay with the site's conda in it.",
    "mount-overlay": "Open a shell in which overlays are laid over the site's base image.",
    "run-overlay": "Run a file of commands, or one command, in overlays.",
    "check-overlay": "Check overlays, and repair them.",
    "pack-overlay": "Freeze overlays into one compressed read-only file.",
    "resize-overlay": "Give an overlay more room or more files, or less.",
    "show-overlay": "Show how full overlays are, who uses them, and what is inside.",
    "list-overlays": "List the overlays under directories.",
    "overlay-admin": "Show the settings, see whether a node is ready, count overlays by owner.",
}

EXAMPLES = {
    "create-overlay": "create-overlay -s 500 -n 700\ncreate-overlay -s 20G -n 2M -o env",
    "create-overlay-conda": "create-overlay-conda -s 7000 -n 700 -o env",
    "mount-overlay": "mount-overlay -o env.ext3\nmount-overlay -o work.ext3 -o env.ext3:ro",
    "run-overlay": "run-overlay -o env.ext3 -f commands.txt\n"
    "run-overlay -o env.ext3:ro -- python3 script.py --option",
    "check-overlay": "check-overlay env.ext3\ncheck-overlay --repair env.ext3",
    "pack-overlay": "pack-overlay env.ext3\npack-overlay work.ext3 env.ext3 -o all.sqsh",
    "resize-overlay": "resize-overlay env.ext3 -s +5G\nresize-overlay env.ext3 -n 2M",
    "show-overlay": "show-overlay env.ext3\nshow-overlay env.ext3 --files /opt/env",
    "list-overlays": "list-overlays\nlist-overlays --sort size /scratch/projects",
    "overlay-admin": "overlay-admin config --origin\noverlay-admin doctor /scratch\n"
    "overlay-admin report --older 180 /scratch",
}


def write_result(text):
    """Write text to standard output, now and whole.

    Past sys.stdout, which would find out only at the end of Python that nobody can read it.
    Raises OverlayError (DATA_LOST), or BrokenPipeError when the reader has gone.
    """
    data = text.encode(errors="surrogateescape")
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OverlayError(
            f"all is done, but the result cannot be printed: {reason(error)}", status=DATA_LOST
        ) from None


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises OverlayError (USAGE) instead of printing and ending."""

    def __init__(self, prog, description, epilog=None):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )

    def error(self, message):
        """Raise what argparse found wrong, as ours."""
        raise OverlayError(message, status=USAGE, hint=f"{self.prog} --help")

    def _check_value(self, action, value):
        """Say which words there are, the same in every version of Python."""
        if action.choices is not None and value not in action.choices:
            known = ", ".join(action.choices)
            raise argparse.ArgumentError(action, f"{value!r} is not one of {known}")

    def _print_message(self, message, file=None):
        """Print the help or the version the way that results are printed."""
        write_result(message)


def parser(program):
    """Return the Parser of a command."""
    examples = "".join(f"  {line}\n" for line in EXAMPLES[program].splitlines())
    made = Parser(program, SUMMARIES[program], f"examples:\n{examples}\nsee also: man {program}")
    _BUILDERS[program](made)
    group = made.add_argument_group("general")
    _help(group)
    group.add_argument(
        "-V",
        "--version",
        action="version",
        version=f"{program} {__version__}",
        help="show the version and exit",
    )
    return made


def _help(group):
    group.add_argument("-h", "--help", action="help", help="show this help and exit")


def parse(program, arguments):
    """Return the parsed options of a command line, as an argparse.Namespace.

    What stands behind the first "--" of run-overlay is its command, options included.
    Raises OverlayError (USAGE).
    """
    command = None
    if program == "run-overlay" and "--" in arguments:
        place = arguments.index("--")
        arguments, command = arguments[:place], arguments[place + 1 :]
    made = parser(program)
    # Names and options may mix: show-overlay a.ext3 --json b.ext3.
    mixed = program in ("show-overlay", "list-overlays") and "--" not in arguments
    options = (made.parse_intermixed_args if mixed else made.parse_args)(arguments)
    if program == "run-overlay":
        options.command = command
    if program == "show-overlay":
        _place_of_overlay(options)
    return options


def _place_of_overlay(options):
    """Take what stands behind --files or --du for an overlay where no other is named.

    Or where it is a file here: a path inside begins with /, though nobody need type that.
    """
    for name in ("files", "du"):
        value = getattr(options, name)
        if value and (
            not options.overlays or (not value.startswith("/") and os.path.lexists(value))
        ):
            options.overlays.append(value)
            setattr(options, name, "/")


def _verbosity(group, verbose=True, dry_run=True):
    group.add_argument("-q", "--quiet", action="store_true", help="print errors and warnings only")
    if verbose:
        group.add_argument("-v", "--verbose", action="store_true", help="say more")
    if not dry_run:
        return
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, as lines for a shell, and do nothing",
    )


def _json(group):
    group.add_argument("--json", action="store_true", help="print the result as JSON")


def _sizes(group, size, files):
    """Add -s and -n with their texts for --help."""
    group.add_argument("-s", "--size", metavar="SIZE", help=size)
    group.add_argument("-n", "--files", metavar="FILES", help=files)


def _container(group, text):
    group.add_argument("-c", "--container", metavar="NAME-or-PATH", help=text)


def _binds(group, text):
    group.add_argument(
        "-b", "--bind", metavar="SPEC", action="append", dest="binds", default=[], help=text
    )


def _directories(group, count, text):
    group.add_argument("directories", metavar="DIR", nargs=count, help=text)


def _create(parser):
    group = parser.add_argument_group("the overlay")
    _sizes(
        group,
        "its size: MiB, or with a unit as in 500M, 20G, 1.5T",
        "how many files it can hold: thousands, or with a unit as in 700K, 2M",
    )
    group.add_argument(
        "-o",
        "--overlay",
        metavar="NAME",
        help="its name; .ext3 is added unless it ends in .ext3 or .img"
        " (default: overlay-<size>M-<files>K.ext3)",
    )
    allocation = group.add_mutually_exclusive_group()
    allocation.add_argument(
        "--sparse",
        action="store_true",
        default=None,
        help="take disk blocks only as they are written",
    )
    allocation.add_argument(
        "--reserve",
        dest="sparse",
        action="store_false",
        help="take all disk blocks at once, without writing them",
    )
    group.add_argument(
        "--force", action="store_true", help="replace an overlay of that name and all in it"
    )
    group.add_argument(
        "--usable",
        action="store_true",
        help="SIZE is the room for data; the file is as much larger as its tables need",
    )
    group = parser.add_argument_group("filled at creation")
    group.add_argument(
        "--from",
        metavar="SOURCE[:DEST]",
        dest="sources",
        action="append",
        default=[],
        help="fill it with a directory, a tar archive or a squashfs file, whose content appears"
        " at DEST inside (default: /NAME of a directory, / for an archive); may be given several"
        " times; without -s and -n the overlay is as large as this needs, and some more",
    )
    group.add_argument(
        "-t", "--template", metavar="NAME", help="fill it with a template of the site"
    )
    group.add_argument(
        "--list-templates", action="store_true", help="list the site's templates and exit"
    )
    group.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="fill it with what the commands of FILE make, run in the base image on a local disk:"
        " much faster than in a mounted overlay",
    )
    _container(group, "the base image for -f: one of the site's names, or a path")
    _binds(group, "bind a path of the host for -f: PATH, or PATH:INSIDE[:ro]")
    group = parser.add_argument_group("output")
    _json(group)
    _verbosity(group, verbose=False)


def _create_conda(parser):
    _create(parser)
    parser.set_defaults(template="conda")


def _session(parser):
    group = parser.add_argument_group("overlays and base image")
    group.add_argument(
        "-o",
        "--overlay",
        metavar="NAME[:ro|:rw]",
        action="append",
        dest="overlays",
        default=[],
        help="an overlay; may be given several times, top layer first: the first is writable,"
        " the others are read-only",
    )
    _container(
        group, "the base image: one of the site's names, or the path of a .sif file or directory"
    )
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=float("inf"),
        help="wait until overlays that are in use are free; without SECONDS for ever",
    )
    group = parser.add_argument_group("inside")
    _binds(group, "bind a path of the host: PATH, or PATH:INSIDE[:ro]; may be given several times")
    group.add_argument("--nv", action="store_true", help="make NVIDIA GPUs usable")
    group.add_argument("--rocm", action="store_true", help="make AMD GPUs usable")
    group.add_argument("--fakeroot", action="store_true", help="be root inside")
    group.add_argument(
        "--engine-option",
        metavar="OPT",
        action="append",
        dest="engine_options",
        default=[],
        help="hand a word to the engine as it is, for example --engine-option=--no-home; may be"
        " given several times",
    )


def _jobs(parser):
    """Add the options for copies and layers on a disk of the node.

    Returns the group, and in it that of the options which exclude each other.
    """
    group = parser.add_argument_group("in jobs")
    group.add_argument(
        "--stage",
        action="store_true",
        help="copy the read-only overlays to a disk of the node first, once for all its tasks",
    )
    _sizes(
        group,
        "the size of that layer: MiB, or with a unit as in 500M, 20G",
        "how many files that layer can hold: thousands, or with a unit as in 700K, 2M",
    )
    layer = group.add_mutually_exclusive_group()
    layer.add_argument(
        "--discard-writes",
        action="store_true",
        help="use all overlays read-only; what is written inside is thrown away at the end",
    )
    return group, layer


def _seconds(text):
    """Return a number of seconds from the command line."""
    if not text.isascii() or not text.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def _mount(parser):
    parser.usage = "mount-overlay -o NAME[:ro|:rw] [-o NAME ...] [option ...]"
    _session(parser)
    _jobs(parser)
    _verbosity(parser.add_argument_group("output"))


def _run(parser):
    group = parser.add_argument_group("commands")
    group.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="run the commands of FILE with bash; - reads them from standard input",
    )
    # What stands behind -- is taken off before argparse sees it; this is for --help.
    parser.usage = (
        "run-overlay -o NAME[:ro|:rw] [-o NAME ...] [option ...] -f FILE\n"
        "       run-overlay -o NAME[:ro|:rw] [-o NAME ...] [option ...] -- COMMAND [ARG ...]"
    )
    _session(parser)
    group, layer = _jobs(parser)
    layer.add_argument(
        "--per-task",
        action="store_true",
        help="use all overlays read-only; what this task writes goes into an overlay of its own",
    )
    group.add_argument(
        "--keep",
        metavar="DIR",
        help="with --per-task: move that overlay to DIR at the end, instead of throwing it away",
    )
    _verbosity(parser.add_argument_group("output"))


def _check(parser):
    parser.usage = "check-overlay [option ...] OVERLAY ..."
    group = parser.add_argument_group("overlays")
    group.add_argument("overlays", metavar="OVERLAY", nargs="*", help="an overlay")
    group.add_argument(
        "--repair",
        action="store_true",
        help="repair what needs decisions, on a copy that replaces the overlay when it is sound",
    )
    group.add_argument(
        "--recover",
        action="store_true",
        help="first end the processes that a killed session has left behind",
    )
    group.add_argument(
        "--own",
        action="store_true",
        help="make everything inside yours: for a copy of somebody else's overlay",
    )
    _verbosity(parser.add_argument_group("output"), verbose=False, dry_run=False)


def _show(parser):
    parser.add_argument("overlays", metavar="OVERLAY", nargs="*", help="an overlay")
    group = parser.add_argument_group("what is inside")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--files",
        metavar="PATH",
        nargs="?",
        const="/",
        help="list the files below PATH, as ls -l does; without PATH all of them",
    )
    chosen.add_argument(
        "--du",
        metavar="PATH",
        nargs="?",
        const="/",
        help="list the largest directories below PATH, and how many files they hold",
    )
    _listing(parser)


def _list(parser):
    group = parser.add_argument_group("where, and in what order")
    _directories(
        group,
        "*",
        "a directory to look below (default: this one, and the site's scratch locations)",
    )
    group.add_argument(
        "--sort",
        metavar="KEY",
        choices=("size", "used", "files", "age", "name"),
        default="name",
        help="in which order: size, used, files: the largest first; age: the oldest first;"
        " name (the default)",
    )
    _listing(parser)


def _listing(parser):
    group = parser.add_argument_group("output")
    _json(group)
    group.add_argument(
        "-q", "--quiet", action="store_true", help="the result, errors and warnings only"
    )


def _pack(parser):
    parser.usage = "pack-overlay [option ...] OVERLAY ..."
    group = parser.add_argument_group("overlays")
    group.add_argument(
        "overlays",
        metavar="OVERLAY",
        nargs="*",
        help="an ext3 overlay; of several the first lies on top",
    )
    group.add_argument(
        "-o",
        "--output",
        metavar="NAME",
        help="the new file; .sqsh is added unless it ends so (default: OVERLAY with .sqsh)",
    )
    group.add_argument(
        "--compression",
        choices=("zstd", "gzip", "lz4", "xz"),
        help="what it is compressed with (default: the site's, zstd)",
    )
    group.add_argument(
        "--open",
        action="store_true",
        help="make everything readable for all users, and list what was not",
    )
    group.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare the new file with the original",
    )
    group.add_argument(
        "--remove", action="store_true", help="delete the original when all went well"
    )
    group.add_argument("--force", action="store_true", help="replace a file of that name")
    _verbosity(parser.add_argument_group("output"), verbose=False, dry_run=False)


def _resize(parser):
    group = parser.add_argument_group("the overlay")
    group.add_argument("overlay", metavar="OVERLAY", help="an ext3 overlay that nobody uses")
    _sizes(
        group,
        "its new size: MiB, or with a unit as in 20G; +5G is five more. Larger is quick and"
        " brings more files in proportion, smaller is made on a copy",
        "how many files it can hold: thousands, or with a unit as in 2M; +500K is so many"
        " more. All of it is written anew",
    )
    group = parser.add_argument_group("output")
    _json(group)
    _verbosity(group, verbose=False, dry_run=False)


def _admin(parser):
    commands = parser.add_subparsers(
        title="commands", dest="subcommand", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, (summary, build) in _ADMIN.items():
        made = commands.add_parser(
            name, help=summary[0].lower() + summary[1:-1], description=summary
        )
        build(made)
        _help(made.add_argument_group("general"))


def _admin_config(parser):
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--origin",
        action="store_true",
        help="show too where each value comes from, and whether the site has locked it",
    )
    group.add_argument(
        "--check",
        metavar="FILE",
        help="see whether FILE could stand as overlay.ini, and show nothing else",
    )
    _output(parser)


def _admin_doctor(parser):
    group = parser.add_argument_group("file systems")
    _directories(
        group,
        "*",
        "a directory whose file system is tried (default: the current one, and the site's"
        " places for overlays and temporary files)",
    )
    _output(parser)


def _admin_report(parser):
    group = parser.add_argument_group("overlays")
    _directories(group, "+", "a directory below which they lie")
    group.add_argument(
        "--older",
        metavar="DAYS",
        type=_days,
        default=90,
        help="count those as old in which nothing was written for so many days (default: 90)",
    )
    group = _output(parser, verbose=True)
    group.add_argument("--csv", action="store_true", help="print comma-separated values, in bytes")


def _days(text):
    """Return a number of days from the command line."""
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return int(text)


def _output(parser, verbose=False):
    """Add the options of what is printed; return a group of those that exclude each other."""
    group = parser.add_argument_group("output")
    forms = group.add_mutually_exclusive_group()
    _json(forms)
    _verbosity(group, verbose=verbose, dry_run=False)
    return forms


_ADMIN = {
    "config": ("Show every setting, or check a file of settings.", _admin_config),
    "doctor": ("See whether this node is ready for overlays.", _admin_doctor),
    "report": ("Count overlays and what they take, by owner.", _admin_report),
}

_BUILDERS = {
    "create-overlay": _create,
    "create-overlay-conda": _create_conda,
    "mount-overlay": _mount,
    "run-overlay": _run,
    "check-overlay": _check,
    "resize-overlay": _resize,
    "pack-overlay": _pack,
    "show-overlay": _show,
    "list-overlays": _list,
    "overlay-admin": _admin,
}
