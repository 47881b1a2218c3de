"""The doctor on all of it together: a session, tried."""

from __future__ import annotations

import os

from overlay.create import make
from overlay.create.request import Creation
from overlay.doctor.check import OK, PROBLEM, Check
from overlay.errors import OverlayError, quote
from overlay.host import process
from overlay.host.scratch import scratch_directory
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node

_SESSION_PATIENCE = 60  # seconds for a session on a slow node
_TRIAL_SIZE = 16 << 20


def session(node: Node) -> Iterator[Check]:
    """Yield the Checks of a whole session: an overlay is made, and a command run in it; then packed.

    What only shows when all comes together shows here; it takes a second or two.
    """
    tried = _try_session(node.environ, node.root)
    yield tried
    if tried.state == OK and process.which("mksquashfs", node.environ):
        yield _try_packed(node)


def _try_packed(node: Node) -> Check:
    """Return the Check of a session that reads what is packed as the site has it packed."""
    import tempfile

    how = configuration.load(node.environ, node.root)["pack.compression"]
    name, why = "a packed overlay", "pack-overlay compresses so ([pack] compression)"
    advice = "choose another: [pack] compression = gzip is read everywhere"
    place = scratch_directory(node.config)
    with tempfile.TemporaryDirectory(prefix="overlay-doctor.", dir=place) as directory:
        tree, packed = os.path.join(directory, "tree"), os.path.join(directory, "doctor.sqsh")
        os.mkdir(tree)
        with open(os.path.join(tree, "overlay-doctor"), "w", encoding="ascii") as file:
            file.write("doctor\n")
        pack = [
            process.need("mksquashfs", node.environ),
            tree,
            packed,
            "-comp",
            how,
            "-no-progress",
        ]
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
    if result.output != "doctor\n":
        return Check(name, PROBLEM, f"{how}: it does not hold what was packed", why, advice)
    return Check(name, OK, f"{how}: a command read it", why)


def _run_overlay(root: str) -> str:
    """Return the program, of the tree that runs, or along PATH where it is installed otherwise."""
    run = os.path.join(root, "bin", "run-overlay")
    return run if os.path.exists(run) else "run-overlay"


def _try_session(environ: Mapping[str, str], root: str) -> Check:
    import shutil
    import tempfile

    name, why = "a session", "it is what all the rest is for"
    run = _run_overlay(root)
    config = configuration.load(environ, root)
    directory = tempfile.mkdtemp(prefix="overlay-doctor.", dir=scratch_directory(config))
    overlay = os.path.join(directory, "doctor.ext3")
    inside = "echo doctor >/overlay-doctor && cat /overlay-doctor"
    by_hand = f"see what is said: run-overlay -o OVERLAY -- /bin/sh -c {quote(inside)}"
    words = [run, "-q", "-o", overlay, "--", "/bin/sh", "-c", inside]
    try:
        # Not by create-overlay: the site's rules for what users make are not what is tried.
        request = Creation(_TRIAL_SIZE, 1000, path=overlay, sparse=True)
        make.make(request, config, lambda text: None)
        result = process.ask(words, environ, _SESSION_PATIENCE)
        if result.status:
            said = result.errors.strip().splitlines() or [f"status {result.status}"]
            said = [line for line in said if ": error: " in line or "FATAL" in line] or said
            ended = f"run-overlay ended with {result.status}: {said[-1]}"
            return Check(name, PROBLEM, ended, why, by_hand)
    except OverlayError as error:
        return Check(name, PROBLEM, error.what, why, error.hint)
    except TimeoutError:
        hangs = f"{os.path.basename(run)} did not end in {_SESSION_PATIENCE} seconds"
        return Check(name, PROBLEM, hangs, why, by_hand)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if result.output != "doctor\n":
        return Check(
            name, PROBLEM, "what was written in it is not there", why, "report this as a bug"
        )
    return Check(name, OK, "a command wrote a file in a new overlay", why)
