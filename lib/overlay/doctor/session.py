"""The doctor on all of it together: a session, tried."""

from __future__ import annotations

import os

from overlay.create import make
from overlay.create.request import Creation
from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check
from overlay.errors import OverlayError
from overlay.host import namespace, process
from overlay.host.scratch import scratch_directory
from overlay.settings import config as configuration
from overlay.settings.table import COMPRESSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node
    from overlay.settings.config import Config

_SESSION_PATIENCE = 60  # seconds for a session on a slow node
_TRIAL_SIZE = 16 << 20


def session(node: Node) -> Iterator[Check]:
    """Yield the Checks of a whole session: an overlay is made, and a command run in it; then packed.

    What only shows when all comes together shows here; it takes a second or two.
    """
    tried = list(_try_session(node.environ, node.root))
    yield from tried
    if tried[0].state == OK and process.which("mksquashfs", node.environ):
        yield _try_packed(node)
        squashfuse = node.engine.helper("squashfuse_ll", node.environ)
        if squashfuse and namespace.available(node.environ):
            yield _try_compressions(node, squashfuse)
    if tried[0].state == OK:
        from overlay.doctor.shared import shared

        yield from shared(node, _run_overlay(node.root))


def _try_packed(node: Node) -> Check:
    """Return the Check of a session that reads what is packed as the site has it packed."""
    import tempfile

    how = configuration.load(node.environ, node.root)["pack.compression"]
    name, why = "a packed overlay", "pack-overlay compresses so ([pack] compression)"
    advice = "choose another: [pack] compression = gzip is read everywhere"
    place = scratch_directory(node.config)
    with tempfile.TemporaryDirectory(prefix="overlay-doctor.", dir=place) as directory:
        pack, packed = _pack(directory, how, node.environ)
        read = [_run_overlay(node.root), "-q", "-o", f"{packed}:ro", "--", "cat", "/overlay-doctor"]
        try:
            for words in (pack, read):
                result = process.ask(words, node.environ, _SESSION_PATIENCE)
                if result.status:
                    said = process.last_line(result.errors, result.output)
                    return Check(name, PROBLEM, f"{how}: {said}", why, advice)
        except TimeoutError:
            hangs = f"{how}: {os.path.basename(words[0])} did not end"
            return Check(name, PROBLEM, f"{hangs} in {_SESSION_PATIENCE} seconds", why, advice)
    if result.output != "doctor\n" * 1000:
        return Check(name, PROBLEM, f"{how}: it does not hold what was packed", why, advice)
    return Check(name, OK, f"{how}: a command read it", why)


def _pack(directory: str, how: str, environ: Mapping[str, str]) -> tuple[list[str], str]:
    """Make a tree in a directory; return the words that pack it, and the path of what they make.

    how  the compression
    """
    tree, packed = os.path.join(directory, "tree"), os.path.join(directory, f"{how}.sqsh")
    os.makedirs(tree, exist_ok=True)
    with open(os.path.join(tree, "overlay-doctor"), "w", encoding="ascii") as file:
        file.write("doctor\n" * 1000)  # less would not be compressed
    tool = process.need("mksquashfs", environ)
    return [tool, tree, packed, "-comp", how, "-no-progress"], packed


# Mounts a squashfs file, and prints a line of the file in it.
_LOOK = '"$1" -o ro "$2" "$3" && read -r line <"$3/overlay-doctor" && echo "$line"'


def _try_compressions(node: Node, squashfuse: str) -> Check:
    """Return the Check of all compressions: packed overlays come from other nodes, too.

    squashfuse  the path of what the engine mounts them with
    """
    import tempfile

    read: list[str] = []
    unread: list[str] = []
    place = scratch_directory(node.config)
    with tempfile.TemporaryDirectory(prefix="overlay-doctor.", dir=place) as directory:
        mounted = os.path.join(directory, "mounted")
        os.mkdir(mounted)
        for how in COMPRESSIONS:
            pack, packed = _pack(directory, how, node.environ)
            look = ["/bin/sh", "-c", _LOOK, "sh", squashfuse, packed, mounted]
            wrapped = [str(word) for word in namespace.wrap(look, node.environ)]
            try:
                if process.ask(pack, node.environ, PATIENCE).status:
                    continue  # this node makes none such
                seen = process.ask(wrapped, node.environ, PATIENCE).output == "doctor\n"
            except TimeoutError:
                seen = False
            (read if seen else unread).append(how)
    name, why = "compressions", "overlays that were packed so, on whatever node, are read here"
    if unread:
        advice = f"install another squashfuse, or have nobody pack so: {', '.join(unread)}"
        return Check(name, WARNING, f"not read: {', '.join(unread)}", why, advice)
    return Check(name, OK, ", ".join(read), why)


def _run_overlay(root: str) -> str:
    """Return the program, of the tree that runs, or along PATH where it is installed otherwise."""
    run = os.path.join(root, "bin", "run-overlay")
    return run if os.path.exists(run) else "run-overlay"


# What a session is tried with: all of it is the shell's own, but for mkdir and rm. A file that is
# overwritten with something shorter, one that is removed, and a directory of so many names that a
# listing of it takes several turns.
_NAMES = 300
_WRITE = f"""
mkdir /overlay-doctor && cd /overlay-doctor || exit
number=0
while [ $number -lt {_NAMES} ]; do : >name$number && number=$((number + 1)) || exit; done
text=0123456789; text=$text$text$text$text; text=$text$text$text$text
echo $text$text$text$text >long && echo doctor >long && echo $text >gone && rm gone
"""
_READ = """
cd /overlay-doctor && read -r text <long && [ "$text" = doctor ] || echo long
[ ! -e gone ] || echo gone
for turn in 1 2; do set -- name*; echo $#; done
"""
_SEEN = f"{_NAMES}\n{_NAMES}\n"


def _try_session(environ: Mapping[str, str], root: str) -> Iterator[Check]:
    """Yield the Check of a session that writes, and one of another that has its overlay below."""
    import shutil
    import tempfile

    config = configuration.load(environ, root)
    directory = tempfile.mkdtemp(prefix="overlay-doctor.", dir=scratch_directory(config))
    try:
        yield from _try_sessions(_run_overlay(root), config, directory, environ)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _try_sessions(
    run: str, config: Config, directory: str, environ: Mapping[str, str]
) -> Iterator[Check]:
    name, why = "a session", "it is what all the rest is for"
    lower, upper = (os.path.join(directory, f"{one}.ext3") for one in ("doctor", "upper"))
    by_hand = "see what is said: run-overlay -o OVERLAY -- /bin/sh -c 'echo doctor >/doctor'"
    seen = []
    try:
        for overlays, script in (([lower], _WRITE + _READ), ([upper, lower], _READ)):
            # Not by create-overlay: the site's rules for what users make are not what is tried.
            request = Creation(_TRIAL_SIZE, 1000, path=overlays[0], sparse=True)
            make.make(request, config, lambda text: None)
            words = [word for one in overlays for word in ("-o", one)]
            words = [run, "-q", *words, "--", "/bin/sh", "-c", script]
            result = process.ask(words, environ, _SESSION_PATIENCE)
            if result.status:
                said = result.errors.strip().splitlines() or [f"status {result.status}"]
                said = [line for line in said if ": error: " in line or "FATAL" in line] or said
                ended = f"run-overlay ended with {result.status}: {said[-1]}"
                yield Check(name, PROBLEM, ended, why, by_hand)
                return
            seen.append(result)
    except OverlayError as error:
        yield Check(name, PROBLEM, error.what, why, error.hint)
        return
    except TimeoutError:
        hangs = f"{os.path.basename(run)} did not end in {_SESSION_PATIENCE} seconds"
        yield Check(name, PROBLEM, hangs, why, by_hand)
        return
    wrong = [result.output for result in seen if result.output != _SEEN]
    if wrong:
        advice = "use other versions of fuse2fs and fuse-overlayfs; or report this as a bug"
        yield Check(name, PROBLEM, _wrong(wrong[0]), why, advice)
        return
    yield Check(name, OK, "a command wrote a file in a new overlay", why)
    why = "else cp -a, tar and mv take files of two overlays for one, where they have hard links"
    apart = [line for line in seen[1].errors.splitlines() if "for one file: " in line]
    if apart:
        reason = apart[0].rpartition("for one file: ")[2]
        advice = "Linux 5.11 or newer, and an engine that finds its helpers along PATH"
        yield Check("stacks of overlays", WARNING, reason, why, advice)
    else:
        yield Check("stacks of overlays", OK, "the kernel tells their files apart", why)


def _wrong(output: str) -> str:
    """Return what is wrong by what the trial has printed."""
    lines = output.split()
    if "long" in lines:
        return "a file that was overwritten with something shorter is not what was written"
    if "gone" in lines:
        return "a file that was removed is still there"
    return f"of {_NAMES} names in a directory {' and then '.join(lines) or 'none'} are listed"
