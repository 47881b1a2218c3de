"""show-overlay: how full an overlay is, who uses it, and what is inside."""

from __future__ import annotations

import os
import stat
import time

from overlay import size
from overlay.commands.arguments import (
    Command,
    add_listing_output,
    add_overlays,
    parse_overlays,
    unnamed,
)
from overlay.errors import MISSING, USAGE, OverlayError, quote
from overlay.host.names import user_name
from overlay.image import contents, record
from overlay.image import image as images
from overlay.image.survey import Survey
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from overlay.commands.arguments import Parser
    from overlay.image.entry import Entry
    from overlay.image.kind import Image
    from overlay.output import Output

_BAR = 20  # characters
_MOST = 20  # directories that --du lists for a person
_MOST_ENTRIES = 10  # of a history that are shown to a person
_WIDEST = 40  # characters of a word in one
_CHUNK = 500  # lines that are printed at once

# What is said of a directory, by Survey.plain.
_DIRECTORIES = {
    None: "directory",
    "empty": "directory, without upper yet",
    "data": "directory with data in it, not an overlay; with :ro it is seen as a layer",
}


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show every overlay that is named; return the first status that is not 0."""
    if not options.overlays:
        raise unnamed("show-overlay", options.words[1:])
    low = configuration.load(environ, root, output.notice)["safety.low"]
    status, documents = 0, []
    for number, path in enumerate(options.overlays):
        try:
            found = images.look(path)
            try:
                if options.recipe:
                    _show_recipe(found, output)
                    continue
                if options.json:
                    documents.append(_document(found, options, environ, low))
                    continue
                if number and not options.quiet:
                    output.result("")
                _show(found, options, environ, low, output)
            finally:
                found.close()
        except OverlayError as error:
            output.error(error)
            documents.append({"path": path, "error": error.what})
            status = status or error.status
    if options.json:
        import json

        output.result(json.dumps(documents))
    return status


def _document(
    found: Image, options: Namespace, environ: Mapping[str, str], low: int
) -> dict[str, object]:
    """Return what there is to say of an overlay, for --json."""
    document = Survey(found, low=low).as_dictionary()
    document |= _carried(found)
    if options.files:
        document["entries"] = [
            entry.as_dictionary() for entry in contents.walk(found, options.files, environ)
        ]
    if options.du:
        usages = contents.directories(found, options.du, environ)
        document["directories"] = [usage.as_dictionary() for usage in usages]
    return document


def _show(
    found: Image, options: Namespace, environ: Mapping[str, str], low: int, output: Output
) -> None:
    """Print what there is to say of an overlay."""
    if not options.files and not options.du:
        rows = "".join(f"\n  {name:<8} {text}" for name, text in _rows_of_carried(found))
        survey = Survey(found, low=low)
        output.result(f"{quote(found.path)}\n{summary(survey, bars=os.isatty(1))}{rows}")
        return
    if len(options.overlays) > 1:
        output.result(f"{quote(found.path)}:")
    if options.du:
        _show_largest(found, options.du, environ, output)
        return
    lines, entry, last = [], None, ""
    for entry in contents.walk(found, options.files, environ):
        text = line(entry)
        # fuse-overlayfs marks a directory by two files that mean the same.
        if text == last:
            continue
        last = text
        lines.append(text)
        if len(lines) == _CHUNK:
            output.result("\n".join(lines))
            lines = []
    if lines:
        output.result("\n".join(lines))
    if entry is None:
        output.notice(f"there is nothing in {quote(options.files)}")


def _show_recipe(found: Image, output: Output) -> None:
    """Print the files of commands that an overlay was filled and updated with, as one."""
    from overlay.environment import history

    entries = [one for _number, entries in history.read(found).values() for one in entries]
    text = history.recipe(entries)
    if not text:
        raise OverlayError(
            f"{quote(found.path)} carries no commands that it was filled with",
            status=MISSING,
            hint=f"see how it was made: show-overlay --json {quote(found.path)}",
        )
    output.result(text, exact=not os.isatty(1))  # a terminal would obey what is in it


def _carried(found: Image) -> dict[str, object]:
    """Return what an overlay carries of itself, for --json."""
    from overlay.environment import history, note

    notes = note.read(found)
    return {
        "history": [
            {"id": name, "format": number, "entries": entries}
            for name, (number, entries) in history.read(found).items()
        ],
        "base": [
            {"id": one.id, "path": one.base.path, "size": one.base.size, "mark": one.base.mark}
            for one in notes
            if one.base
        ],
        "activated": [path for one in notes for path in one.directories],
    }


def _rows_of_carried(found: Image) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what an overlay carries of itself."""
    from overlay.environment import history, note

    shown = set()
    for one in note.read(found):
        if one.format > note.FORMAT:
            yield "carries", "what a newer version has written"
        if one.directories:
            names = " ".join(map(quote, one.directories))
            yield "ready", f"{names}: its programs are found in every session"
        if one.base and one.base.path not in shown:
            shown.add(one.base.path)
            yield "image", f"made for the base image {quote(one.base.path)}"
    yield from _rows_of_versions(found)
    for number, entries in history.read(found).values():
        if number > history.FORMAT:
            continue
        for entry in entries[-_MOST_ENTRIES:]:
            words = (entry.get("when"), entry.get("action"), entry.get("version"))
            when, action, version = (str(word)[:_WIDEST] if word else "?" for word in words)
            yield "made", f"{quote(when)}: {quote(action)}, by version {quote(version)}"


def _rows_of_versions(found: Image) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the versions before its updates that are kept of an overlay."""
    from overlay.safety import versions

    try:
        for name in versions.kept(os.path.realpath(found.path)):
            status = os.stat(name, follow_symlinks=False)
            room = size.format_size(status.st_blocks * 512)
            words = f"{quote(os.path.basename(name))}, {room} on disk, of {_date(status.st_mtime)}"
            yield "before", f"{words}; update-overlay --undo"
    except OSError:
        return  # the directory cannot be read


def _show_largest(found: Image, top: str, environ: Mapping[str, str], output: Output) -> None:
    usages = contents.directories(found, top, environ)
    lines = [
        f"{size.format_size(usage.room):>10}  {size.format_files(usage.files):>16}"
        f"  {quote(usage.path)}"
        for usage in usages[:_MOST]
    ]
    output.result("\n".join(lines))
    if len(usages) > _MOST:
        left = size.format_count(len(usages) - _MOST)
        output.notice(f"{left} smaller directories are not shown; --json has all")
    if found.is_compressed:
        output.notice("sizes are those before compression")


def line(entry: Entry) -> str:
    """Return an Entry as ls -l shows it."""
    if entry.note:
        return f"{'':62}{quote(entry.path)} ({entry.note})"
    length = "{}, {}".format(*entry.device) if entry.device else entry.size
    then = _date(entry.modified)
    links = "" if entry.links is None else entry.links
    text = (
        f"{stat.filemode(entry.mode)} {links:>3} {entry.owner:<8} {entry.group:<8} {length:>12}"
        f" {then} {quote(entry.path)}"
    )
    if entry.target is not None:
        text += f" -> {quote(entry.target)}"
    return text


def summary(survey: Survey, *, bars: bool = False) -> str:
    """Return the lines about one overlay.

    bars  whether to draw how full it is
    """
    rows = [("kind", _kind(survey))]
    if survey.room is not None:
        data = size.format_size
        rows.append(_level("room", survey.used or 0, survey.available or 0, data, bars))
        count = size.format_count
        rows.append(_level("files", survey.files_used or 0, survey.files_free or 0, count, bars))
        if survey.nearly_full:
            rows.append(("", "nearly full"))
    elif survey.files_used is not None:
        rows.append(("files", size.format_count(survey.files_used)))
    else:
        rows.append(("room", f"{size.format_size(survey.available or 0)} free on its file system"))
    rows.append(("owner", _owner(survey)))
    rows += [("state", words) for words in _state(survey)]
    if survey.written:
        rows.append(("written", _written(survey.written, survey.session)))
    rows.append(("in use", _use(survey)))
    return "\n".join(f"  {name:<8} {text}" for name, text in rows)


def _kind(survey: Survey) -> str:
    if survey.size is None or survey.allocated is None:
        return _DIRECTORIES[survey.plain]
    compression = f", {survey.compression}" if survey.compression else ""
    reserved = survey.allocated >= survey.size
    state = "" if reserved else f", {size.format_size(survey.allocated)} of it on disk"
    return f"{survey.kind}{compression}, {size.format_size(survey.size)}{state}"


def _level(
    name: str, used: int, free: int, form: Callable[[Any], str], bars: bool
) -> tuple[str, str]:
    """Return a row that tells how full something is."""
    # Rounded up, as df(1) does.
    percent = -(-100 * used // (used + free)) if used + free else 100
    filled = _BAR * percent // 100
    level = f"[{'#' * filled:.<{_BAR}}] {percent:>3}%" if bars else f"{percent}%"
    return name, f"{level} full: {form(used)} used, {form(free)} free"


def _owner(survey: Survey) -> str:
    outside = user_name(survey.owner)
    if survey.lacks_upper:
        return f"{outside}; it has no directory upper, and no session accepts it"
    if survey.owner_inside is None or survey.owner_inside == survey.owner:
        return outside
    return f"{outside}, but {user_name(survey.owner_inside)} inside: only they can write in it"


def _state(survey: Survey) -> list[str]:
    """Return in words what state it is in; nothing when there is nothing to tell."""
    words = []
    if survey.clean and survey.use != "writer":
        words.append("clean")
    elif survey.clean is False and survey.use != "writer":
        words.append(
            "not closed properly; the next session checks it, or: check-overlay"
            f" {quote(survey.path)}"
        )
    if survey.markers:
        words.append("has deletion markers, which make read-only sessions slower")
    return words


def _written(seconds: int, noted: Mapping[str, str]) -> str:
    """Return when it was written, and by whom, from what was noted of that session."""
    words = record.clock(seconds)
    if words[2] == ":":
        words = f"today {words}"
    session = record.describe({**noted, "started": ""})
    if not session:
        return words
    image = noted.get("image", "")
    return f"{words} by {session}" + (f", in {quote(image)}" if image.startswith("/") else "")


def _use(survey: Survey) -> str:
    if not survey.use:
        return "no"
    words = "a session is writing to it" if survey.use == "writer" else "sessions are reading it"
    if survey.left_behind:
        pids = ", ".join(str(user.pid) for user in survey.users)
        return (
            f"processes that a killed session left hold it ({pids}): check-overlay --recover"
            f" {quote(survey.path)}"
        )
    people = [user for user in survey.users if not user.is_server]
    for user in people[:3]:
        words += f"\n{'':11}process {user.pid} since {record.clock(user.started)}:"
        words += f" {quote(user.command)}"
    if len(people) > 3:
        words += f"\n{'':11}and {len(people) - 3} more"
    return words


def _date(seconds: float) -> str:
    """Return a time as ls --time-style=long-iso shows it; seconds come from the image."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _add_options(parser: Parser) -> None:
    parser.usage = "show-overlay OVERLAY ... [option ...]"
    add_overlays(parser)
    group = parser.add_argument_group("what is inside")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--files",
        metavar="PATH",
        nargs="?",
        const="/",
        help="list the files below PATH (default: all), as ls -l does",
    )
    chosen.add_argument(
        "--du",
        metavar="PATH",
        nargs="?",
        const="/",
        help="list the largest directories below PATH (default: /)",
    )
    chosen.add_argument(
        "--recipe",
        action="store_true",
        help="print the commands that it was filled with, for create-overlay -f",
    )
    add_listing_output(parser)


def _parse(parser: Parser, words: Sequence[str]) -> Namespace:
    """Take what stands behind --files or --du for an overlay where no other is named.

    Or where it is a file here: a path inside begins with /, though nobody need type that.
    """
    options = parse_overlays(parser, words)
    for name in ("files", "du"):
        value = getattr(options, name)
        if (
            value not in (None, "/")
            and _is_here(value)
            and (not options.overlays or not value.startswith("/"))
        ):
            inside = [word for word in options.overlays if _is_inside(word)]
            options.overlays = [word for word in options.overlays if word not in inside[:1]] + [
                value
            ]
            setattr(options, name, (inside or ["/"])[0])
    inside = [word for word in options.overlays[1:] if _is_inside(word)]
    if inside:
        overlay = quote(options.overlays[0])
        raise OverlayError(
            f"{quote(inside[0])} is not an overlay",
            status=USAGE,
            hint=f"if it is inside: show-overlay {overlay} --files {quote(inside[0])}",
        )
    return options


def _is_here(word: str) -> bool:
    """Return whether a word names something on the host, as it stands or but for its ending."""
    return os.path.lexists(word) or os.path.exists(word + ".ext3")


def _is_inside(word: str) -> bool:
    """Return whether a word can only be a path inside an overlay."""
    return word.startswith("/") and not os.path.isfile(word) and not os.path.isdir(word + "/upper")


PROGRAMS = {
    "show-overlay": Command(
        "Show how full overlays are, who uses them, and what is inside.",
        "show-overlay env.ext3\nshow-overlay env.ext3 --files /opt/env",
        _add_options,
        _parse,
        in_page=("--overlay",),
    ),
}
