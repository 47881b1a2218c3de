"""Filling a new overlay: from sources, from a template, by a file of commands.

Everything is brought together before the image is made, in a staging directory on a disk
of the node and in trees that are read where they are; mke2fs then writes it in one go.
"""

import itertools
import math
import os
import time

from overlay import (
    creation,
    namespace,
    permissions,
    places,
    private,
    process,
    replace,
    session,
    size,
    sources,
)
from overlay import engine as engines
from overlay.errors import (
    CANNOT_CREATE,
    INTERRUPTED,
    MISSING,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.plan import Step

_UNUSED = 7 * 86400  # seconds after which an unpacked base image is removed


def parse(options, config):
    """Return the Sources that the options name, those of a template first.

    Raises OverlayError for a template or source that is not there.
    """
    words = list(options.sources)
    if options.template is not None:
        templates = config.templates()
        if options.template not in templates:
            known = ", ".join(map(quote, sorted(templates))) or "none"
            raise OverlayError(
                f"there is no template {quote(options.template)}",
                status=MISSING,
                hint=f"templates of this site: {known}"
                if known != "none"
                else "this site has none; fill it from a directory or archive: --from SOURCE",
            )
        # Read by its name: what is wrong with it, such as a variable that is not set, is told.
        words = [*config[f"templates.{options.template}"], *words]
    if options.file is None and (options.container is not None or options.binds):
        raise OverlayError(
            "-c and -b are for the commands of -f, and there is no -f",
            status=USAGE,
            hint="create-overlay --help",
        )
    hidden = _hidden(config)
    return [sources.parse(text, hidden) for text in words]


def _hidden(config):
    """Return the directories of the host that cover what lies in their place inside."""
    hidden = [bind.split(":")[1] if ":" in bind else bind for bind in config["binds.paths"]]
    hidden += ["/proc", "/sys", "/dev", "/tmp", "/var/tmp"]
    if config.environ.get("HOME", "").strip("/"):
        hidden.append(config.environ["HOME"])
    return hidden


def collect(parsed, options, facts, config, output):
    """Bring everything together and return the creation.Content; None when there is nothing.

    parsed  Sources
    facts   creation.Facts with the staging directory
    With --dry-run nothing is done, and the steps stand in the Content.
    """
    if not parsed and options.file is None:
        return None
    environ = config.environ
    upper = os.path.join(facts.staging, "upper")
    content = creation.Content(sources.Amount(), in_namespace=namespace.available(environ))
    bindable = []
    if options.file is None and content.in_namespace:
        place = os.path.dirname(os.path.realpath(options.overlay or "x"))
        bindable = _bindable(parsed, place, environ)
    limit, most = _limit(options, facts)
    for source in parsed:
        if source.kind == "squashfs":
            content.made_of.append(permissions.Access(source.path))
        target = os.path.join(upper, source.dest.lstrip("/")).rstrip("/")
        if source in bindable:
            content.binds.append((os.path.abspath(source.path), source.dest.lstrip("/")))
            if options.dry_run:
                content.steps.append(Step(["mkdir", "-p", target]))
            else:
                sources.make_place(upper, source)
            continue
        content.steps.append(_step(source, target))
        if options.dry_run:
            if options.size is None or options.files is None:
                raise OverlayError(
                    "--dry-run cannot know how large an archive is",
                    status=USAGE,
                    hint="give -s and -n",
                )
            continue
        sources.make_place(upper, source)
        if source.kind == "directory":
            sources.copy(source.path, target, environ, through=facts.staging + ".source")
        else:
            output.notice(f"unpacking {quote(source.path)}")
            try:
                sources.unpack(
                    source,
                    target,
                    limit=limit,
                    environ=environ,
                    files=most,
                    tick=lambda count: output.progress(f"{count:,} files"),
                )
            finally:
                output.progress("")
        # The mode of a source's top, taken over, could close all of the overlay.
        os.chmod(upper, 0o755)
    if options.file is not None:
        _build(options, facts, config, content, output)
    for place in _hidden(config) if parsed else ():
        if _holds_something(os.path.join(upper, place.lstrip("/"))):
            output.notice(
                f"what is put in {quote(place)} is not seen in sessions: the host's covers it",
                "warning",
            )
    if not options.dry_run:
        _add(content.amount, upper, "", environ)
    for directory, place in content.binds:
        _add(content.amount, directory, place, environ)
    return content


def _holds_something(directory):
    try:
        return bool(os.listdir(directory))
    except OSError:
        return False  # it is not there, or closed to everybody


def _add(amount, tree, place, environ):
    """Add a tree that will lie at a place below upper/ in the image to what there is to write."""
    more = sources.measure(tree, environ)
    amount.files += more.files
    amount.bytes += more.bytes
    for path, time_ in more.times.items():
        inside = os.path.join(
            b"upper", os.fsencode(place), os.path.relpath(path, os.fsencode(tree))
        )
        amount.times[inside] = time_


def _limit(options, facts):
    """Return the bytes and files that archives may unpack to: of the overlay, or of scratch."""
    room = os.statvfs(facts.scratch)
    free, files = room.f_bavail * room.f_frsize, room.f_favail or math.inf
    if options.size is not None:
        free = min(free, size.parse_size(options.size))
    if options.files is not None:
        files = min(files, size.parse_count(options.files))
    return free, files


def _bindable(parsed, place, environ):
    """Return the directories that can be read where they are.

    place  the directory of the new overlay; a source that it lies in is copied, because the
           overlay would be written into itself

    One whose place is /, or below or above another source's, is copied: it would hide the
    other, or a place for the other would have to be made in it. So is one that overlaps
    another source itself: mke2fs would make one file of two with several names. And so is, where
    the kernel cannot be told to follow no link, one that others can write: mke2fs would follow
    a link that they put in the place of a file meanwhile.
    """
    found = []
    for source in parsed:
        rest = [other for other in parsed if other is not source]
        apart = not any(
            _nested(source.dest, other.dest)
            or _nested(os.path.realpath(source.path), os.path.realpath(other.path))
            for other in rest
        )
        inside = places.is_below(place, [os.path.realpath(source.path)])
        if source.kind == "directory" and source.dest != "/" and apart and not inside:
            found.append(source)
    if not all(map(_is_mine, found)) and not namespace.blocks_links(environ):
        found = list(filter(_is_mine, found))
    return found


def _is_mine(source):
    """Return whether nobody but the caller can write in the top of a source."""
    status = os.stat(source.path)
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _nested(one, other):
    """Return whether one of two absolute paths is the other or lies in it."""
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _step(source, target):
    """Return the Step that a person would type to put a source in its place."""
    if source.kind == "directory":
        words = ["cp", "-a", "--remove-destination", "--", source.path + "/.", target]
    elif source.kind == "tar":
        words = ["tar", "-C", target, "-xf", source.path]
    else:
        words = ["unsquashfs", "-n", "-f", "-d", target, source.path]
    return Step(words)


def _build(options, facts, config, content, output):
    """Run a file of commands in the base image, with the staging directory as its overlay.

    Over an unpacked base image and a directory, both on a local disk, the engine takes the
    kernel's overlayfs: files are made there as fast as on the disk itself.
    Raises OverlayError when a command fails; what was printed is then in a log file.
    """
    environ = config.environ
    request = session.Session(
        [(facts.staging, "rw")],
        container=options.container,
        binds=options.binds,
        commands=options.file,
        program=output.program,
    )
    base = session.find_container(options.container, config)
    if options.dry_run:
        binds = [word for bind in options.binds for word in ("-b", bind)]
        words = ["run-overlay", "-o", facts.staging, "-c", base, *binds, "-f", options.file]
        content.steps.append(Step(words))
        return
    request.container = unpacked(base, facts, config, output)
    found = session.gather(request, config, environ)
    session.read_input(found, output.notice)
    session.settle_launchers(request, found, True)
    plan = session.plan(request, config, found)
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

    Known by the image's name, size and time, and the caller's group, to whom it belongs; made
    in a directory of this process, then renamed, so that two builds at once do no harm. What
    killed ones have left is removed.
    """
    if os.path.isdir(base):
        return base
    status = os.stat(base)
    parent = os.path.join(private.make(facts.scratch), "base")
    name = f"{os.path.basename(base)}.{status.st_size}.{status.st_mtime_ns}.{os.getegid()}"
    place = os.path.join(parent, name)
    try:
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
    partial = replace.partial_name(place, facts.host, facts.pid)
    tree = os.path.join(partial, "tree")
    # The engine's own temporary files go there too: it leaves them behind when it is killed.
    own = {f"{name}_TMPDIR": partial for name in ("APPTAINER", "SINGULARITY")}
    try:
        os.mkdir(partial, 0o700)
        words = [engine.path, "build", "--sandbox", tree, base]
        result = process.ask(words, {**config.environ, **own}, None)
        if result.status:
            words = result.errors.strip().splitlines() or ["it failed"]
            raise OverlayError(
                f"cannot unpack the base image {quote(base)}: {words[-1]}", status=CANNOT_CREATE
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
    prefix = replace.partial_name("", facts.host, "")
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        unfinished = replace.is_partial(name)
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
