"""Filling a new overlay: from sources, from a template, by a file of commands.

Everything is brought together before the image is made, in a staging directory on a disk
of the node and in trees that are read where they are; mke2fs then writes it in one go.
"""

import math
import os

from overlay import size
from overlay.create.build import build
from overlay.create.measure import Amount, measure
from overlay.create.place import copy_tree, make_place
from overlay.create.request import Content
from overlay.create.source import parse_source, unpack
from overlay.errors import MISSING, USAGE, OverlayError, quote
from overlay.host import namespace, permissions, places
from overlay.host.room import free_bytes
from overlay.plan import Step


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
    return [parse_source(text, hidden) for text in words]


def _hidden(config):
    """Return the directories of the host that cover what lies in their place inside."""
    hidden = [bind.split(":")[1] if ":" in bind else bind for bind in config["binds.paths"]]
    hidden += ["/proc", "/sys", "/dev", "/tmp", "/var/tmp"]
    if config.environ.get("HOME", "").strip("/"):
        hidden.append(config.environ["HOME"])
    return hidden


def collect(parsed, options, facts, config, output):
    """Bring everything together and return the Content; None when there is nothing.

    parsed  Sources
    facts   make.Facts with the staging directory
    With --dry-run nothing is done, and the steps stand in the Content.
    """
    if not parsed and options.file is None:
        return None
    environ = config.environ
    upper = os.path.join(facts.staging, "upper")
    content = Content(Amount(), in_namespace=namespace.available(environ))
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
                make_place(upper, source)
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
        make_place(upper, source)
        if source.kind == "directory":
            copy_tree(source.path, target, environ, through=facts.staging + ".source")
        else:
            output.notice(f"unpacking {quote(source.path)}")
            try:
                unpack(
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
        build(options, facts, config, content, output)
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
    more = measure(tree, environ)
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
    free, files = free_bytes(facts.scratch), room.f_favail or math.inf
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
