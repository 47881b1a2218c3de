"""overlay-admin: for the site's admin; one module for each subcommand."""

from __future__ import annotations

from importlib import import_module

from overlay.commands.arguments import Command, Parser, add_help

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from types import ModuleType

    from overlay.output import Output

_SUBCOMMANDS = ("config", "doctor", "report", "sessions", "pages")


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Run the subcommand that was named."""
    status: int = _module(options.subcommand).main(options, environ, root, output)
    return status


def _module(name: str) -> ModuleType:
    """Return the module of a subcommand: SUMMARY, add_options() and main()."""
    return import_module(f"overlay.commands.admin_{name}")


def _add_options(parser: Parser) -> None:
    commands = parser.add_subparsers(
        title="commands", dest="subcommand", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name in _SUBCOMMANDS:
        module = _module(name)
        summary = module.SUMMARY
        made = commands.add_parser(
            name, help=summary[0].lower() + summary[1:-1], description=summary
        )
        module.add_options(made)
        add_help(made.add_argument_group("general"))


PROGRAMS = {
    "overlay-admin": Command(
        "Show the settings, see whether a node is ready, count overlays, write pages.",
        "overlay-admin config --origin\n"
        "overlay-admin doctor /scratch\n"
        "overlay-admin report --older 180 /scratch",
        _add_options,
    ),
}
