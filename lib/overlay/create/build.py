"""Filling a new overlay with what a file of commands makes, run in the base image."""

import itertools
import os
import time

from overlay.errors import CANNOT_CREATE, INTERRUPTED, OverlayError, quote, reason
from overlay.host import private, process
from overlay.image.partial import is_partial, partial_name
from overlay.launch import engines
from overlay.launch.facts import gather
from overlay.launch.launchers import settle_launchers
from overlay.launch.plan import make_plan
from overlay.launch.request import Session, find_container, read_input
from overlay.plan import Step

_UNUSED = 7 * 86400  # seconds after which an unpacked base image is removed


def build(options, facts, config, content, output):
    """Run a file of commands in the base image, with the staging directory as its overlay.

    Over an unpacked base image and a directory, both on a local disk, the engine takes the
    kernel's overlayfs: files are made there as fast as on the disk itself.
    Raises OverlayError when a command fails; what was printed is then in a log file.
    """
    environ = config.environ
    request = Session(
        [(facts.staging, "rw")],
        container=options.container,
        binds=options.binds,
        commands=options.file,
        program=output.program,
    )
    base = find_container(options.container, config)
    if options.dry_run:
        binds = [word for bind in options.binds for word in ("-b", bind)]
        words = ["run-overlay", "-o", facts.staging, "-c", base, *binds, "-f", options.file]
        content.steps.append(Step(words))
        return
    request.container = unpacked(base, facts, config, output)
    found = gather(request, config, environ)
    read_input(found, output.notice)
    settle_launchers(request, found, True)
    plan = make_plan(request, config, found)
    log = os.path.abspath(_log_name(options))
    try:
        for step in plan.before:
            step.action()
        with _new_file(log) as file:
            log = file.name
            output.notice(
                f"running the commands of {quote(options.file)};"
                f" what they print goes to {quote(log)}, too"
            )
            status = process.stay(
                plan.final, environ, file, [one.descriptor for one in found.images]
            )
    except OSError as error:
        raise OverlayError(
            f"cannot write {quote(log)}: {reason(error)}", status=CANNOT_CREATE
        ) from None
    finally:
        for step in plan.after:
            step.action()
        for image in found.images:
            image.close()
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status in (-1, -15):  # we got the signal, too, and handed it on
        raise process.cleaning_up.Ended(-status)
    if status:
        ended = f"status {status}" if status > 0 else f"signal {-status}"
        raise OverlayError(
            f"the commands of {quote(options.file)} ended with {ended}; no overlay was made",
            status=CANNOT_CREATE if status != INTERRUPTED else INTERRUPTED,
            hint=f"see what they printed: less {quote(log)}",
        )
    os.unlink(log)
    _settle(facts.staging, request.container)


def _log_name(options):
    if options.overlay is None:
        return os.path.basename(options.file) + ".log"
    return os.path.splitext(options.overlay)[0] + ".log"


def _new_file(path):
    """Open a new file, with a number behind its name when there is one of that name."""
    for number in itertools.count(1):
        try:
            return open(path if number == 1 else f"{path}.{number}", "xb")
        except FileExistsError:
            continue


def unpacked(base, facts, config, output):
    """Return a directory with the content of a base image, unpacked once a node and user.

    Known by the image's identity, and the caller's group, to whom it belongs; made in a
    directory of this process, then renamed, so that two builds at once do no harm. What
    killed ones have left is removed.
    """
    if os.path.isdir(base):
        return base
    parent = os.path.join(private.make(facts.scratch), "base")
    real = os.path.realpath(base)  # a link may lead to another image meanwhile
    try:
        identity = private.identity(os.stat(real))
        place = os.path.join(parent, f"{identity}.{os.getegid()}")
        os.makedirs(parent, exist_ok=True)
        _remove_unfinished(parent, facts)
        if os.path.isdir(place):
            os.utime(place)  # it is in use, and not to be removed
            return place
    except OSError as error:
        raise OverlayError(
            f"cannot use {quote(parent)}: {reason(error)}", status=CANNOT_CREATE, hint="set TMPDIR"
        ) from None
    engine = engines.find(config["engine.commands"], config.environ)
    output.notice(f"unpacking the base image {quote(base)} (once on this node)")
    partial = partial_name(place, facts.host, facts.pid)
    tree = os.path.join(partial, "tree")
    # The engine's own temporary files go there too: it leaves them behind when it is killed.
    words, own = engine.unpack(real, tree, partial)
    try:
        os.mkdir(partial, 0o700)
        result = process.ask(words, {**config.environ, **own}, None)
        if result.status:
            words = process.last_line(result.errors)
            raise OverlayError(
                f"cannot unpack the base image {quote(base)}: {words}", status=CANNOT_CREATE
            )
        if private.identity(os.stat(real)) != identity:
            raise OverlayError(
                f"the base image {quote(base)} was changed while it was unpacked",
                status=CANNOT_CREATE,
                hint="try again when nobody writes to it",
            )
        try:
            os.utime(tree)  # the image's own time would be old
            os.rename(tree, place)
        except OSError:
            if not os.path.isdir(place):  # else another build was first
                raise
    except OSError as error:
        raise OverlayError(
            f"cannot unpack the base image {quote(base)}: {reason(error)}", status=CANNOT_CREATE
        ) from None
    finally:
        private.remove(partial)
    return place


def _remove_unfinished(parent, facts):
    """Remove what killed runs of this host have begun to unpack, and images not used for long.

    Of those, programs that tidy by age (tmpfiles.d(5)) may have taken a part already.
    """
    prefix = partial_name("", facts.host, "")
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        unfinished = is_partial(name)
        killed = name.startswith(prefix) and not os.path.exists(f"/proc/{name[len(prefix) :]}")
        if killed or (not unfinished and os.stat(path).st_mtime < time.time() - _UNUSED):
            private.remove(path)


def _settle(staging, base):
    """Make of the kernel's overlay directory what reads the same in an image.

    A directory that replaces one of the base image is marked by an attribute that counts in
    no image; the file that fuse-overlayfs knows says the same. In all other directories
    the attribute means nothing.
    """
    work = os.path.join(staging, "work")
    for name in os.listdir(work):
        os.chmod(os.path.join(work, name), 0o700)
        private.remove(os.path.join(work, name))
    upper = os.path.join(staging, "upper")
    for directory, names, _files in os.walk(upper):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            below = os.path.join(base, os.path.relpath(path, upper))
            try:
                opaque = os.getxattr(path, "user.overlay.opaque") == b"y"
                if opaque:
                    os.removexattr(path, "user.overlay.opaque")
            except OSError:
                continue
            if opaque and os.path.isdir(below) and not os.path.islink(below):
                with open(os.path.join(path, ".wh..wh..opq"), "xb"):
                    pass
