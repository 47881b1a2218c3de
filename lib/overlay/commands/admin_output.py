"""The options of what is printed, which the subcommands of overlay-admin share."""

from __future__ import annotations

from overlay.commands.arguments import add_json, add_verbosity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import _MutuallyExclusiveGroup

    from overlay.commands.arguments import Parser


def add_output(parser: Parser) -> _MutuallyExclusiveGroup:
    """Add the options of what is printed; return a group of those that exclude each other."""
    group = parser.add_argument_group("output")
    forms = group.add_mutually_exclusive_group()
    add_json(forms)
    add_verbosity(group, dry_run=False)
    return forms
