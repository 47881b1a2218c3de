"""create-overlay: make a new overlay."""

import os

from overlay import config as configuration
from overlay import creation, process, size
from overlay.errors import USAGE, OverlayError, quote


def main(options, environ, root, output):
    """Create what the options ask for, and say what it is."""
    config = configuration.load(environ, root)
    request = creation.Creation(
        _amount("-s", options.size, size.parse_size, config["create.size"]),
        _amount("-n", options.files, size.parse_count, config["create.files"]),
        path=options.overlay,
        sparse=config["create.allocation"] == "sparse" if options.sparse is None else options.sparse,
        force=options.force,
    )
    plain = bool(options.files) and options.files.replace(".", "").isdecimal()
    creation.check_request(request, plain_count=plain)
    facts = creation.gather(request, config, environ)
    if options.dry_run:
        output.result(creation.plan(request, config, facts).shell())
        return 0
    with process.cleaning_up():
        created = creation.run(request, config, facts, environ, output.notice)
    if options.json:
        import json

        output.result(json.dumps(created.as_dictionary()))
    elif not options.quiet:
        output.result(_summary(created, environ))
    return 0


def _amount(option, text, parse, default):
    """Return the amount that an option gives, or the site's."""
    if text is None:
        if default is None:
            missing = "size" if option == "-s" else "number of files"
            raise OverlayError(
                f"the {missing} is missing ({option})",
                status=USAGE,
                hint="for 500 MB and 700 thousand files: create-overlay -s 500 -n 700",
            )
        return default
    try:
        return parse(text)
    except ValueError as error:
        raise OverlayError(f"{option}: {error}", status=USAGE, hint="create-overlay --help") from None


def _summary(created, environ):
    """Return what a person wants to know of a new overlay."""
    path = created.path
    short = os.path.relpath(path)
    state = "reserved" if created.allocated >= created.size else "sparse"
    return (
        f"created {quote(path)}\n"
        f"  size   {size.format_size(created.size)}, {state}\n"
        f"  room   {size.format_size(created.superblock.available_bytes)} of data,"
        f" {size.format_files(created.superblock.free_inodes_count)}\n"
        f"next: mount-overlay -o {quote(short if not short.startswith('..') else path)}"
    )
