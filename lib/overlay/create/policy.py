"""What the site, its quotas and the disk say to a new overlay."""

import os

from overlay import size
from overlay.errors import NOT_ALLOWED, OverlayError, quote
from overlay.image import ext3
from overlay.quota.check import check_quota


def check_policy(creation, config):
    """Refuse what the site does not want. Raises OverlayError (NOT_ALLOWED)."""
    checks = (
        ("-s", creation.size, "min_size", "max_size", size.format_size, size.mebibytes),
        ("-n", creation.files, "min_files", "max_files", size.format_files, size.thousands),
    )
    for option, amount, least, most, words, number in checks:
        low, high = config[f"create.{least}"], config[f"create.{most}"]
        for limit, wrong, side in (
            (low, low and amount < low, "least"),
            (high, high and amount > high, "most"),
        ):
            if wrong:
                raise OverlayError(
                    f"{words(amount)} are not allowed here: {words(limit)} are the {side}"
                    f" ({config.origin('create.' + (least if side == 'least' else most))})",
                    status=NOT_ALLOWED,
                    hint=f"{option} {number(limit)}",
                )


def check_place(path, config, notice):
    """Warn of, or refuse, a place where the site does not want overlays.

    Raises OverlayError (NOT_ALLOWED).
    """
    places = [os.path.realpath(place) for place in config["scratch.locations"]]
    rule = config["scratch.outside"]
    if rule == "allow" or any(os.path.commonpath((path, place)) == place for place in places):
        return
    known = ", ".join(map(quote, config["scratch.locations"])) or "nowhere"
    what = f"{quote(path)} is not where overlays belong here: {known}"
    if rule == "refuse":
        raise OverlayError(
            what,
            status=NOT_ALLOWED,
            hint=f"cd {quote(config['scratch.locations'][0])}" if places else None,
        )
    notice(what, "warning")


def check_room(creation, path, config, environ, notice):
    """Refuse, or warn of, an overlay for which quotas or the disk have no room.

    As [quota] says; raises OverlayError (CANNOT_CREATE).
    """
    now = creation.size
    if creation.sparse:  # the journal, and what describes every 128 MiB
        now = ext3.JOURNAL + now // 8192 + size.MIB
        now += creation.content.amount.bytes if creation.content else 0
    found = check_quota(
        os.path.dirname(path),
        now_bytes=now,
        full_bytes=max(now, creation.size),
        files=1,
        config=config,
        environ=environ,
    )
    for words in found:
        notice(words, "warning")
