"""Quotas of a server of NFS, from quota(1), which asks its rpc.rquotad."""

from __future__ import annotations

import time

from overlay.host import process
from overlay.quota.columns import row
from overlay.quota.limits import Limits, Unknown, failure, owner_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.quota.limits import Place


def limits(place: Place) -> list[Limits]:
    """Ask quota(1). Without it, or when the server has no service for it, nothing is known.

    It ends with 1 when the user is over a limit, on an error, and when there is no quota:
    only its text tells which.
    """
    program = process.which("quota", place.environ)
    if program is None:
        return []
    options = ["-Q", "-w", "-p", "--show-mntpoint", "-u", "-g", "-f"]
    result = place.ask([program, *options, place.mount.point])
    try:
        found = parse_quota(result.output, place, time.time())
    except ValueError:
        raise Unknown("the answer of quota is not understood") from None
    if not found and result.status and result.errors.strip():
        raise Unknown(failure(program, result))
    return found


def parse_quota(text: str, place: Place, now: float) -> list[Limits]:
    """Return the Limits of a place in the output of `quota -w -p --show-mntpoint -u -g`.

    A title such as "Disk quotas for user alice (uid 1001):" ends with "none", or a head
    and a row for each file system follow: device and mount point, then eight columns.
    now  seconds since the epoch; -p gives the end of grace so. Raises ValueError.
    """
    owners = {("uid", place.user): "user", ("gid", place.group): "group"}
    names = owner_names(place)
    found: list[Limits] = []
    kind = None
    for line in text.splitlines():
        if line.startswith("Disk quotas for "):
            title, _bracket, number = line.rpartition(":")[0].rpartition("(")
            what, _blank, number = number.rstrip(")").partition(" ")
            kind = owners.get((what, int(number)))
        elif kind and line.split()[:1] != ["Filesystem"]:
            where, *columns = line.rsplit(None, 8)
            if len(columns) < 8:
                raise ValueError(line)
            if where.strip().endswith(" " + place.mount.point):
                found.append(Limits(kind, "quota", names[kind], *row(columns, now)))
    return found
