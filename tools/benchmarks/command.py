"""The command line of tools/benchmark."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from benchmarks import markdown, picture, results
from benchmarks.ground import Failed, Ground

PARTS = ("launch", "create", "files", "build", "update", "grow", "pack", "share", "expose")

DESCRIPTION = """\
Measures the commands side by side with the ways that they replace, in one run, and
prints a table: what, the other way, its time, ours, and their ratio."""

EPILOG = """\
PARTs, all without any:

{parts}

Run it as an ordinary user, on a quiet machine. It needs 8 GB in TMPDIR, or /tmp, and
a network at its beginning, for the packages that pip installs. In the environment:

  BENCH_SCALE         1 without it; 0.05 makes everything twenty times smaller
  OVERLAY_WORK        where the base image is (images/base.sif), /opt/overlay-work
  BENCHMARK_PACKAGES  what pip installs; BENCHMARK_ONE_MORE: what is added later;
                      BENCHMARK_MODULES: what the tasks import, with commas
  BENCHMARK_WHEELS    a directory with all that they need: no network"""


def _parts() -> str:
    """Return a list of the parts, from the first lines of their modules."""
    lines = []
    for name in PARTS:
        module = importlib.import_module(f"benchmarks.parts.{name}")
        lines.append(f"  {name:8}{(module.__doc__ or '').splitlines()[0].rstrip('.')}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/benchmark",
        description=DESCRIPTION,
        epilog=EPILOG.format(parts=_parts()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", metavar="PART", nargs="*", help="what is measured")
    parser.add_argument(
        "--slow",
        metavar="DIRECTORY",
        help="measure on this file system, too (tools/slow-filesystem makes a slow one)",
    )
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="measure nothing; read what --json wrote"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the tables there, not to the terminal"
    )
    parser.add_argument("--page", metavar="FILE", help="write docs/performance.md there")
    parser.add_argument("--svg", metavar="DIRECTORY", help="write the charts there")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, or read what was measured; write it down. Return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    wrong = set(options.parts) - set(PARTS)
    if wrong:
        parser.error(f"{min(wrong)} is not a part: {', '.join(PARTS)}")
    try:
        found = _read(options.source) if options.source else _measure(options)
    except (Failed, OSError, ValueError) as error:
        print(f"tools/benchmark: error: {error}", file=sys.stderr)
        return 1
    _write(found, options)
    return 0


def _read(path: str) -> results.Results:
    """Return what another run has written."""
    with open(path, encoding="utf-8") as file:
        try:
            return results.from_json(file.read())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _measure(options: argparse.Namespace) -> results.Results:
    """Measure all parts in directories of our own, which are removed."""
    if os.getuid() == 0:
        raise Failed("run it as an ordinary user: tools/as-user USER tools/benchmark")
    text = os.environ.get("BENCH_SCALE", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = 0
    if not 0 < scale <= 10:
        raise Failed(f"BENCH_SCALE: {text} is not a number above 0")
    # What is ended from outside removes what it has made, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    made = [tempfile.mkdtemp(prefix="overlay-benchmark.")]
    try:
        if options.slow:
            made.append(
                tempfile.mkdtemp(prefix="overlay-benchmark.", dir=os.path.abspath(options.slow))
            )
        before = os.getcwd()
        os.chdir(made[0])
        try:
            ground = Ground(made[0], made[1] if options.slow else None, scale)
            for name in options.parts or PARTS:
                importlib.import_module(f"benchmarks.parts.{name}").measure(ground)
        finally:
            os.chdir(before)
        return ground.results
    finally:
        for directory in made:
            # pip and the commands leave directories that are not writable.
            subprocess.run(["chmod", "-R", "u+rwX", directory], check=False)
            shutil.rmtree(directory, ignore_errors=True)


def _write(found: results.Results, options: argparse.Namespace) -> None:
    """Write results in all forms that are asked for."""
    if options.json:
        _put(options.json, results.to_json(found))
    if options.page:
        _put(options.page, markdown.page(found))
    if options.svg:
        for name, text in picture.charts(found).items():
            _put(os.path.join(options.svg, name), text)
    if options.markdown:
        _put(options.markdown, markdown.tables(found))
    elif not (options.json or options.page or options.svg):
        print(markdown.tables(found), end="")


def _put(path: str, text: str) -> None:
    """Write a file, whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
