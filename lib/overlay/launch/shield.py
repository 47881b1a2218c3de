"""What keeps links in a writable overlay from leading out of it, when others may write it as well.

They could make one between our last look and the start of fuse-overlayfs, which follows it. Our
launcher then has the kernel follow none there; of overlays that only the user may write it need
not, which saves a process.
"""

from __future__ import annotations

import os

# Its being there tells our launcher; the engine and what it starts inherit it: see stack.
DESCRIPTOR = 197

WHY = f"descriptor {DESCRIPTOR} tells that others may write the overlay: no link in it is followed"


def hand_over() -> bool:
    """Tell our launcher; return whether the descriptor is ours, to be closed at the end."""
    try:
        os.fstat(DESCRIPTOR)
        return False  # somebody else's is as good
    except OSError:
        pass
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, DESCRIPTOR)
        return True
    except OSError:
        return False  # a limit on open files
    finally:
        os.close(null)


def take_back() -> None:
    """Close the descriptor when the session has ended."""
    os.close(DESCRIPTOR)
