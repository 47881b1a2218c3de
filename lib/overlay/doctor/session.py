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
    """Yield the Check of a whole session: an overlay is made, and a command run in it.

    What only shows when all comes together shows here; it takes a second or two.
    """
    yield _try_session(node.environ, node.root)


def _try_session(environ: Mapping[str, str], root: str) -> Check:
    import shutil
    import tempfile

    name, why = "a session", "it is what all the rest is for"
    run = os.path.join(root, "bin", "run-overlay")
    run = run if os.path.exists(run) else "run-overlay"
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
