"""What files are called while they are written."""

import os

PARTIAL = ".overlay-partial."


def partial_name(path, host, pid):
    """Return the name of an unfinished file that is going to be path, without its last part."""
    return os.path.join(os.path.dirname(path), f"{PARTIAL}{host}.{pid}")


def is_partial(name):
    """Return whether a file is called as unfinished ones are."""
    return name.startswith(PARTIAL)
