"""Repairs that need decisions: e2fsck's answer to everything is yes, on a copy.

The original stays as it is unless the copy is sound, and then goes in one step.
"""

from overlay.errors import quote


def repaired(path, found, gone, kept):
    """Return what a repair did, with the files that lost their names, and the names that are gone.

    found  lines that describe new files in lost+found
    gone   of salvage.gone()
    kept   path of the image as it was; None when it is not kept
    """
    words = "repaired"
    if found:
        command = f"/sbin/debugfs -R 'rdump /lost+found .' {quote(path)}"
        words += f"; these files lost their names (to get them: {command}){found}"
    if gone:
        words += "\nthese names are gone" if found else "; these names are gone"
        if kept:
            words += f" (as it was, it is kept: {quote(kept)})"
        words += ":" + "".join(f"\n  {one.words}" for one in gone)
    return words
