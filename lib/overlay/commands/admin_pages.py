"""overlay-admin pages: documentation for a site's users, with what this site has filled in."""

from __future__ import annotations

import os

from overlay.commands.arguments import add_verbosity
from overlay.errors import cannot, quote, reason
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from overlay.commands.arguments import Parser
    from overlay.output import Output

SUMMARY = "Write documentation for the users of this site."


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Write the pages into a directory. Raises OverlayError (CANNOT_CREATE)."""
    from overlay.pages import fill, forms, site
    from overlay.safety import generated

    values = site.values(configuration.load(environ, root, output.notice))
    texts = {name: fill.page(name, values) for name in fill.NAMES}
    titles = {name: fill.title(text) for name, text in texts.items() if name != "index"}
    form, comment = forms.FORMS[options.format], forms.COMMENTS[options.format]
    try:
        os.makedirs(options.directory, exist_ok=True)
    except OSError as error:
        raise cannot(options.directory, reason(error)) from None
    written = {
        os.path.join(options.directory, f"{name}.{options.format}"): f"{comment}\n\n"
        + form(text, titles)
        for name, text in texts.items()
    }
    generated.write(written, comment, "DIR")
    output.notice(f"wrote {len(written)} pages into {quote(options.directory)}; begin with index")
    return 0


def add_options(parser: Parser) -> None:
    """Add the options."""
    group = parser.add_argument_group("pages")
    group.add_argument("directory", metavar="DIR", help="where they are written; made if needed")
    group.add_argument(
        "--format",
        metavar="FORM",
        choices=("md", "rst"),
        default="md",
        help="md for MkDocs (the default), rst for Sphinx",
    )
    add_verbosity(parser.add_argument_group("output"), dry_run=False)
