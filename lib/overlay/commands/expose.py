"""expose-overlay: programs in overlays as commands, a module, and a kernel of Jupyter."""

from __future__ import annotations

import os
import re
import sys

from overlay.commands.arguments import Command, add_binds, add_container, add_verbosity, parse_mixed
from overlay.errors import MISSING, USAGE, OverlayError, quote
from overlay.expose import choose, inside, listed, texts, write
from overlay.image import image as images
from overlay.launch.request import parse_overlay
from overlay.settings import config as configuration

_MOST_NAMED = 8  # files that are removed, in what is said of them

# The name of a module: both systems and every shell take it as it is.
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from overlay.commands.arguments import Parser
    from overlay.image.kind import Image
    from overlay.output import Output


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Write, or remove, what the options ask for. Raises OverlayError."""
    _take_directory(options)
    target = _target(options, environ)
    if options.remove:
        count = listed.remove(target)
        output.notice(f"removed {count} files from {quote(target)}")
        return 0
    # Wrong settings are told by us, not by a session.
    config = configuration.load(environ, root, output.notice)
    words, found = _session(options, environ, root)
    if options.kernel:
        written, programs = write.kernel(
            words, found.kernels, found.programs, directory=target, name=options.kernel
        )
        write.put(written, programs, target)
        output.notice(f"wrote the kernel {quote(options.kernel)} into {quote(target)}")
        return 0
    chosen = choose.programs(
        found.programs,
        found.places,
        named=options.programs,
        all_=options.all,
        engines=config["engine.commands"],
    )
    overlays = [os.path.abspath(parse_overlay(one).path) for one in options.overlays]
    name = options.name or _stem(overlays[0])
    about = texts.About(name, chosen, overlays, found.made)
    written, programs = write.commands(words, chosen, directory=target, about=about, ids=found.ids)
    gone = [name.partition("/")[2] for name in write.put(written, programs, target)]
    output.result(f"{len(chosen)} commands in {quote(os.path.join(target, 'bin'))}")
    if gone:
        names = f"{', '.join(map(quote, gone[:_MOST_NAMED]))}{', ...' if len(gone) > _MOST_NAMED else ''}"
        output.notice(f"{len(gone)} files of before are removed from it: {names}")
    output.notice(
        f"next: module use {quote(os.path.join(target, 'modulefiles'))}; module load {quote(name)}"
    )
    return 0


class _Found:
    """What is in overlays.

    programs, kernels  as inside.Inside has them
    places             where they were looked for
    made               how the overlays came to be, in lines
    ids                by which they are known inside
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self.programs: dict[str, str] = {}
        self.kernels: dict[str, str] = {}
        self.places = inside.directories(images)
        self.made = inside.made(images)
        self.ids = inside.ids(images)


def _session(options: Namespace, environ: Mapping[str, str], root: str) -> tuple[list[str], _Found]:
    """Return the words that start a session of the overlays, and what is in them."""
    if not options.overlays:
        # A word alone is the directory, unless it is a file.
        is_overlay = options.directory is not None and os.path.isfile(options.directory)
        raise OverlayError(
            "the directory for the commands is not named" if is_overlay else "no overlay is named",
            status=USAGE,
            hint=f"expose-overlay -o {quote(options.directory) if is_overlay else 'OVERLAY'} DIR",
        )
    words = [_start(root), "--share", "-q"]
    opened = []
    try:
        for text in options.overlays:
            overlay = parse_overlay(text)
            if overlay.mode == "rw":
                raise OverlayError(
                    f"{quote(text)}: exposed programs only read their overlays",
                    status=USAGE,
                    hint=f"-o {quote(overlay.path)}",
                )
            opened.append(images.look(overlay.path))
            words += ["-o", f"{os.path.abspath(overlay.path)}:ro"]
        found = _Found(opened)
    finally:
        for image in opened:
            image.close()
    if options.container:
        is_path = "/" in options.container
        words += ["-c", os.path.abspath(options.container) if is_path else options.container]
    for bind in options.binds:
        source, colon, rest = bind.partition(":")
        words += ["-b", f"{os.path.abspath(source)}{colon}{rest}"]
    if not found.places:
        raise OverlayError(
            f"{quote(options.overlays[0])} makes no environment ready whose programs could be exposed",
            status=MISSING,
            hint=f"update-overlay {quote(parse_overlay(options.overlays[0]).path)} --activate DIR",
        )
    looked = inside.look([_start(root), "--no-share", *words[2:], "--"], found.places, environ)
    found.programs, found.kernels = looked.programs, looked.kernels
    return words, found


def _start(root: str) -> str:
    """Return the path of run-overlay that stays the same when a newer version is installed."""
    stable = os.path.join(os.path.dirname(root), "bin", "run-overlay")
    # Beside a version that was installed alone another program of that name may lie.
    leads_to = os.path.dirname(os.path.dirname(os.path.realpath(stable)))
    beside = os.path.dirname(leads_to) == os.path.realpath(os.path.dirname(root))
    if beside and all(os.path.exists(os.path.join(one, ".installed")) for one in (root, leads_to)):
        return stable
    own = os.path.join(root, "bin", "run-overlay")
    return (
        own
        if os.access(own, os.X_OK)
        else os.path.join(os.path.dirname(sys.executable), "run-overlay")
    )


def _take_directory(options: Namespace) -> None:
    """Part the words without an option: overlays, and the directory as the last of them."""
    words, goes_elsewhere = options.words_apart, options.user or options.prefix
    options.directory = None if goes_elsewhere or not words else words.pop()
    if options.directory == "":
        raise OverlayError("the name of the directory is empty", status=USAGE)
    options.overlays = words + options.overlays if not options.remove else options.overlays


def _target(options: Namespace, environ: Mapping[str, str]) -> str:
    """Return the directory that is written into. Raises OverlayError (USAGE)."""
    if not options.kernel:
        if options.user or options.prefix:
            raise OverlayError(
                "--user and --prefix say where a kernel goes, and none is named",
                status=USAGE,
                hint="expose-overlay -o OVERLAY --kernel NAME --user; commands: expose-overlay -o"
                " OVERLAY DIR",
            )
        if options.directory is None:
            raise OverlayError(
                "the directory for the commands is not named",
                status=USAGE,
                hint="expose-overlay --remove DIR"
                if options.remove
                else "expose-overlay -o OVERLAY DIR, or --kernel NAME --user",
            )
        return _of_commands(os.path.abspath(str(options.directory)), options)
    if not options.kernel.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise OverlayError(
            f"--kernel: {quote(options.kernel)} cannot be the name of a kernel",
            status=USAGE,
            hint="letters, digits, - _ and .",
        )
    if options.user:
        data = environ.get("XDG_DATA_HOME") or os.path.join(
            environ.get("HOME", "/"), ".local/share"
        )
        top: str = environ.get("JUPYTER_DATA_DIR") or os.path.join(data, "jupyter")
    elif options.prefix or options.directory:
        top = os.path.join(options.prefix or options.directory, "share/jupyter")
    else:
        raise OverlayError(
            "--kernel: it is not said where the kernel goes",
            status=USAGE,
            hint="--user for yourself, --prefix DIR for everybody who uses the Jupyter of DIR",
        )
    return os.path.join(os.path.abspath(top), "kernels", options.kernel.lower())


def _of_commands(path: str, options: Namespace) -> str:
    """Return the path of a directory of commands. Raises OverlayError (USAGE) for no such one."""
    if not options.remove and (":" in path or not path.isprintable()):
        raise OverlayError(
            f"{quote(path)} cannot stand on PATH, where a : parts two directories",
            status=USAGE,
            hint="name a directory without : and control characters",
        )
    if options.name is not None and not _MODULE.fullmatch(options.name):
        raise OverlayError(
            f"--name: {quote(options.name)} cannot be the name of a module",
            status=USAGE,
            hint="letters, digits, - _ + and ., as in --name analysis or --name analysis/2.1",
        )
    return path


def _stem(path: str) -> str:
    """Return what a module of an overlay is called without --name."""
    name = os.path.basename(path).partition(".")[0]
    return name if _MODULE.fullmatch(name) else "overlay"


def _add_options(parser: Parser) -> None:
    parser.usage = (
        "expose-overlay -o OVERLAY [-o ...] [option ...] DIR\n"
        "       expose-overlay -o OVERLAY [-o ...] --kernel NAME {--user | --prefix DIR}\n"
        "       expose-overlay --remove DIR"
    )
    group = parser.add_argument_group("what")
    group.add_argument(
        "-o",
        "--overlay",
        metavar="OVERLAY",
        action="append",
        dest="overlays",
        default=[],
        help="an overlay; the first is on top; all are only read",
    )
    add_container(group)
    add_binds(group)
    group.add_argument(
        "--program",
        metavar="NAME",
        action="append",
        dest="programs",
        default=[],
        help="expose this program, and no others than those named so",
    )
    group.add_argument("--all", action="store_true", help="expose all, even what the host has too")
    group = parser.add_argument_group("where")
    group.add_argument(
        "words_apart", metavar="DIR", nargs="*", help="gets bin and modulefiles; made if needed"
    )
    group.add_argument(
        "--name", metavar="NAME", help="of the module; the overlay's name without it"
    )
    group.add_argument("--kernel", metavar="NAME", help="write a kernel of Jupyter of this name")
    places = group.add_mutually_exclusive_group()
    places.add_argument("--user", action="store_true", help="the kernel is for your own Jupyter")
    places.add_argument("--prefix", metavar="DIR", help="the kernel is for the Jupyter of DIR")
    group.add_argument("--remove", action="store_true", help="remove what was written into DIR")
    add_verbosity(parser.add_argument_group("output"), dry_run=False)


PROGRAMS = {
    "expose-overlay": Command(
        "Make the programs in an overlay commands of the host.",
        "expose-overlay -o env.ext3 ~/env\n"
        "expose-overlay -o env.ext3 --kernel env --user\n"
        "expose-overlay --remove ~/env",
        _add_options,
        parse_mixed,
        in_page=("--quiet", "--verbose", "--bind"),
    ),
}
