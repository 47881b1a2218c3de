"""create-overlay: make a new overlay."""

import os

from overlay import size
from overlay.commands.arguments import (
    Command,
    add_binds,
    add_container,
    add_json,
    add_sizes,
    add_verbosity,
)
from overlay.create import make
from overlay.create.policy import check_place, check_policy, check_room
from overlay.create.request import Creation, check_request
from overlay.errors import USAGE, OverlayError, printable, quote
from overlay.host import process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3_size
from overlay.quota.check import find_limits
from overlay.settings import config as configuration


def main(options, environ, root, output):
    """Create what the options ask for, and say what it is."""
    config = configuration.load(environ, root, output.notice)
    if options.list_templates:
        return _list_templates(config, output)
    _hold(options, config)
    parsed = content = None
    if _is_filled(options):
        from overlay.create import fill  # what an empty one does without

        parsed = fill.parse(options, config)
    with process.cleaning_up():
        _check_first(options, config)
        scratch = make.Facts(
            path="",
            tools={},
            scratch=scratch_directory(config),
            host=os.uname().nodename,
            pid=os.getpid(),
            environ=environ,
        )
        try:
            if not options.dry_run:
                make.make_staging(config, scratch)
            if parsed is not None:
                content = fill.collect(parsed, options, scratch, config, output)
            request = _request(options, config, content)
            check_policy(request, config)
            facts = make.gather(request, config, environ)
            check_place(facts.path, config, output.notice)
            check_room(request, facts.path, config, environ, output.notice)
            if options.dry_run:
                output.result(make.plan(request, config, facts).shell(), exact=True)
                return 0
            if content:
                output.notice(
                    f"writing {size.format_files(content.amount.files)},"
                    f" {size.format_size(content.amount.bytes)}"
                )
            created = make.run(request, config, facts, environ, output.notice)
        finally:
            make.remove_staging(scratch)
    if (options.json or not options.quiet) and config["quota.check"] != "off":
        created.limits, _failures = find_limits(os.path.dirname(created.path), config, environ)
    if options.json:
        import json

        output.result(json.dumps(created.as_dictionary()))
    elif not options.quiet:
        output.result(_summary(created))
    return 0


def _is_filled(options):
    """Return whether anything is said about what it is to be filled with."""
    given = (options.file, options.template, options.container)
    return bool(options.sources or options.binds or any(word is not None for word in given))


def _check_first(options, config):
    """Refuse what can be refused before anything is unpacked or built.

    All of it is asked again when the amounts are known that the content makes. The name may
    follow from these.
    """
    if _is_filled(options) and not (options.overlay or options.size and options.files):
        return
    files = _amount("-n", options.files, size.parse_count, config["create.files"] or 0)
    bytes_ = _amount("-s", options.size, size.parse_size, config["create.size"] or 0)
    if not (bytes_ and files or options.overlay):
        return
    request = Creation(
        bytes_, files, path=options.overlay, sparse=bool(options.sparse), force=options.force
    )
    if options.size and options.files:
        check_policy(request, config)
    facts = make.gather(request, config, config.environ)
    if facts.existing is not None:
        facts.existing.close()
    if config["scratch.outside"] == "refuse":
        check_place(facts.path, config, None)
    if _is_filled(options) and bytes_ and files:
        # What is only to be warned of is said later.
        check_room(request, facts.path, config, config.environ, lambda *_words: None)


def _hold(options, config):
    """Refuse options that would set aside what the site has locked."""
    config.hold("create.size", "-s", options.size)
    config.hold("create.files", "-n", options.files)
    if options.sparse is not None:
        option, given = ("--sparse", "sparse") if options.sparse else ("--reserve", "reserve")
        config.hold("create.allocation", option, given)
    config.hold("images.default", "-c", options.container)
    config.hold("binds.paths", "-b", options.binds)


def _request(options, config, content):
    """Return the Creation that the options, the site and the content make."""
    default_size, default_files = config["create.size"], config["create.files"]
    if content and options.files is None:
        default_files = content.amount.files + _margin(content.amount.files, config) + 1000
        default_files = max(default_files, config["create.min_files"] or 0)
    files = _amount("-n", options.files, size.parse_count, default_files)
    data = 0
    if content and options.size is None:
        data = content.amount.bytes + _margin(content.amount.bytes, config) + (8 << 20)
        default_size = ext3_size.smallest_size(files, data)
        default_size = default_size and max(default_size, config["create.min_size"] or 0)
    bytes_ = _amount("-s", options.size, size.parse_size, default_size)
    if options.usable and options.size is not None:
        bytes_ = ext3_size.smallest_size(files, bytes_) or bytes_
    request = Creation(
        bytes_,
        files,
        path=options.overlay,
        sparse=config["create.allocation"] == "sparse"
        if options.sparse is None
        else options.sparse,
        force=options.force,
        content=content,
    )
    plain = bool(options.files) and options.files.replace(".", "").isdecimal()
    check_request(request, plain_count=plain)
    return request


def _margin(amount, config):
    return amount * config["create.margin"] // 100


def _list_templates(config, output):
    """Print the site's templates, a line each."""
    templates = config.templates()
    if not templates:
        output.notice("the site has no templates")
    for name, words in sorted(templates.items()):
        # One that needs a variable which is not set here is shown as it is written.
        text = config.text(f"templates.{name}") if words is None else " ".join(map(quote, words))
        output.result(f"{quote(name)}\t{printable(text)}")
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
        raise OverlayError(
            f"{option}: {error}", status=USAGE, hint="create-overlay --help"
        ) from None


def _summary(created):
    """Return what a person wants to know of a new overlay."""
    path = created.path
    short = os.path.relpath(path)
    state = "reserved" if created.allocated >= created.size else "sparse"
    return (
        f"created {quote(path)}\n"
        f"  size   {size.format_size(created.size)}, {state}\n"
        f"  room   {size.format_size(created.superblock.available_bytes)} of data,"
        f" {size.format_files(created.superblock.free_inodes_count)}\n"
        + "".join(
            f"  left   {size.format_size(limits.left_bytes)}, {limits.name}\n"
            for limits in created.limits
            if limits.left_bytes is not None
        )
        + f"next: mount-overlay -o {quote(path if short.startswith(('..', '-')) else short)}"
    )


def _add_options(parser):
    parser.usage = (
        f"{parser.prog} -s SIZE -n FILES [-o NAME] [option ...]\n"
        f"       {parser.prog} --from SOURCE | -t NAME | -f FILE [-o NAME] [option ...]"
    )
    group = parser.add_argument_group("the overlay")
    add_sizes(
        group,
        "its size: MiB, or with a unit as in 500M, 20G",
        "how many files: thousands, or as in 700K, 2M",
    )
    group.add_argument(
        "-o",
        "--overlay",
        metavar="NAME",
        help="its name, to which .ext3 is added",
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
        help="take all disk blocks at once",
    )
    group.add_argument("--force", action="store_true", help="replace an overlay of that name")
    group.add_argument(
        "--usable",
        action="store_true",
        help="SIZE is the room for data; the file is larger",
    )
    group = parser.add_argument_group("filled at creation")
    group.add_argument(
        "--from",
        metavar="SOURCE[:DEST]",
        dest="sources",
        action="append",
        default=[],
        help="fill it with a directory, an archive or a squashfs file; -s and -n may be left out",
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
        help="fill it with what the commands of FILE make",
    )
    add_container(group, "for -f: the base image, by name or path")
    add_binds(group, "for -f: bind a path of the host: PATH[:INSIDE[:ro]]")
    group = parser.add_argument_group("output")
    add_json(group)
    add_verbosity(group, verbose=False)


def _add_conda_options(parser):
    _add_options(parser)
    parser.usage = f"{parser.prog} -s SIZE -n FILES [-o NAME] [option ...]"
    parser.set_defaults(template="conda")


_IN_PAGE = ("--reserve", "--usable", "--list-templates", "--bind", "--json")

PROGRAMS = {
    "create-overlay": Command(
        "Create an overlay: one file that holds as many files as you need.",
        "create-overlay -s 20G -n 2M -o env\n"
        "create-overlay -f install.txt -s 10G -n 200 -o env\n"
        "create-overlay --from dataset.tar.gz:/data -o dataset",
        _add_options,
        in_page=_IN_PAGE,
    ),
    "create-overlay-conda": Command(
        "Create an overlay with the site's conda in it.",
        "create-overlay-conda -s 7000 -n 700 -o env",
        _add_conda_options,
        in_page=_IN_PAGE,
    ),
}
