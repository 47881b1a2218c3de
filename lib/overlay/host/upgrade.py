"""What lasts may outlive the version that it was started with: an upgrade takes its files away."""

from __future__ import annotations

import os
import sys


def hold() -> None:
    """Import all modules of the packages that are in use, so that none is missing later on.

    It takes some tenths of a second, which a build has while it waits for its commands.
    """
    for package, module in list(sys.modules.items()):
        if package != "overlay" and not package.startswith("overlay."):
            continue
        for place in getattr(module, "__path__", ()):
            for name in sorted(os.listdir(place)):
                if name.endswith(".py") and name != "__init__.py":
                    __import__(f"{package}.{name[: -len('.py')]}")
