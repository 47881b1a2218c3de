"""The settings of a caller: loaded from all places, the later the stronger."""

from __future__ import annotations

import os

from overlay.errors import CONFIGURATION, MISSING, NOT_ALLOWED, OverlayError, quote, reason
from overlay.host import trust
from overlay.settings import table
from overlay.settings.files import Origin, nearest, read_file, site_file, user_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Config:
    """All settings, typed, each with its origin.

    environ  the environment that {user}, {home} and $VARIABLE in values refer to
    locks    what is locked, keys and whole sections, each with the Origin of the lock
    files    the site's files that were read, in order
    left_out lines about files that were not obeyed
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.files: list[str] = []
        self.left_out: list[str] = []
        # A user who could set these could lock, and speak, in the site's name.
        self.locks = {"site": Origin("default")}
        self._texts: dict[str, tuple[str, Origin]] = {}
        for setting in table.SETTINGS:
            if not setting.is_chosen:
                self._texts[setting.name] = (setting.default, Origin("default"))

    def put(self, name: str, text: str, origin: Origin) -> None:
        """Set one value as text. The last put wins; of those that add up, all count."""
        if name in table.ADDING_UP:
            text = f"{self.text(name)} {text}".strip()
        self._texts[name] = (text, origin)

    def origin(self, name: str) -> Origin:
        """Return the Origin of a setting."""
        return self._texts[name][1]

    def text(self, name: str) -> str:
        """Return the value of a setting as it was written, nothing in it replaced."""
        return self._texts[name][0]

    def lock(self, name: str) -> Origin | None:
        """Return the Origin of the lock on a setting, or None."""
        return self.locks.get(name) or self.locks.get(name.partition(".")[0])

    def hold(self, name: str, option: str, given: str | None) -> None:
        """Refuse an option of the command line that would set aside a locked setting.

        given  what the option stands for, as text or as what that stands for; empty or None
               when it was not given
        Raises OverlayError (NOT_ALLOWED). A lock on nothing, as on an empty size, leaves the
        choice to the user.
        """
        lock = self.lock(name)
        same = given == self.text(name) or given == self.get(name)
        if lock and given and not same and self.get(name) is not None:
            raise OverlayError(
                f"{option} is not for you to choose here: {name} is locked ({lock})",
                status=NOT_ALLOWED,
                hint=f"leave {option} out",
            )

    def __getitem__(self, name: str) -> Any:
        """Return the typed value of a setting such as "create.size".

        Empty sizes, counts and texts are None; lists are tuples. Raises OverlayError
        (CONFIGURATION) naming where the value was set and what is allowed.
        """
        text, origin = self._texts[name]
        setting = table.setting(name)
        if setting is None:
            raise KeyError(name)
        try:
            return setting.convert(text, self._known(name, text))
        except ValueError as error:
            raise OverlayError(
                f"{origin}: [{setting.section}] {name.partition('.')[2]}: {error}",
                status=CONFIGURATION,
            ) from None

    def _known(self, name: str, text: str) -> Mapping[str, str]:
        """Return the variables that a value may name.

        Of a locked one, who the caller is and where their home is are the system's to say: else
        USER=.. would set aside a rule for /scratch/{user}.
        """
        lock = self.lock(name)
        if not lock or lock.file is None or not set(text).intersection("{$~"):
            return self.environ
        import pwd  # asks a server on many sites

        try:
            user = pwd.getpwuid(os.getuid())
        except KeyError:
            return self.environ
        own = {"USER": user.pw_name, "LOGNAME": user.pw_name, "HOME": user.pw_dir}
        return {**self.environ, **own}

    @property
    def binds(self) -> tuple[str, ...]:
        """The directories of the host that are seen inside, each as it is written, once."""
        return tuple(dict.fromkeys((*self["binds.paths"], *self["binds.add"])))

    def get(self, name: str) -> Any:
        """Return the typed value of a setting, None where it is wrong or a variable not set."""
        try:
            return self[name]
        except OverlayError:
            return None

    def names(self) -> list[str]:
        """Return all names of settings, images included, in the order of SETTINGS."""
        order = {section: number for number, section in enumerate(table.SECTIONS)}
        return sorted(self._texts, key=lambda name: order[name.partition(".")[0]])

    def templates(self) -> dict[str, tuple[str, ...] | None]:
        """Return the site's templates as a dictionary from name to a tuple of SOURCE[:DEST]."""
        return self._chosen("templates")

    def images(self) -> dict[str, str | None]:
        """Return the site's images as a dictionary from name to path."""
        return self._chosen("images")

    def _chosen(self, section: str) -> dict[str, Any]:
        """Return what the site has in a section of names.

        A value is None where it cannot be had, as when a variable in it is not set: only
        who asks for that one needs to know, and config["SECTION.NAME"] tells them.
        """
        return {
            name.partition(".")[2]: self.get(name)
            for name in self._texts
            if name.startswith(f"{section}.") and name not in table.BY_NAME
        }


def load(
    environ: Mapping[str, str],
    root: str,
    notice: Callable[[str, str], object] | None = None,
    uid: int | None = None,
) -> Config:
    """Return the Config of a caller.

    environ  the caller's environment
    root     the tree that the commands run from; holds etc/overlay.ini
    notice   called with (line, "warning") for every file that is left out
    uid      the caller's; None for that of this process
    Raises OverlayError (CONFIGURATION, or MISSING when OVERLAY_CONFIG names no file).
    """
    config = Config(environ)
    uid = os.getuid() if uid is None else uid
    owners = {0, trust.installation()}
    if environ.get("OVERLAY_CONFIG"):
        owners.add(uid)
    site = environ.get("OVERLAY_CONFIG") or site_file(root)
    directory = os.path.join(os.path.dirname(site), "overlay.d")
    if os.path.isfile(site):
        read_file(config, site, owners=owners)
    elif environ.get("OVERLAY_CONFIG") or not os.path.isdir(directory):
        raise OverlayError(
            f"the configuration {quote(site)} is missing",
            status=MISSING,
            hint="unset OVERLAY_CONFIG"
            if environ.get("OVERLAY_CONFIG")
            else "ask the site's admin: the installation is not complete",
        )
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise OverlayError(
            f"cannot read {quote(directory)}: {reason(error)}", status=CONFIGURATION
        ) from None
    for name in names:
        if name.endswith(".ini") and not name.startswith("."):
            read_file(config, os.path.join(directory, name), owners=owners)
    check_locks(config)
    lock, image = config.lock("images.default"), config.get("images.default")
    if lock and image:  # else a user could give that name to another image
        config.locks.setdefault(f"images.{image}", lock)
    lock = config.lock("binds.paths")
    if lock:
        config.locks.setdefault("binds.add", lock)
    user = user_file(environ)
    if user and os.path.isfile(user):
        read_file(config, user, own=True, owners={0, uid})
    if notice:
        for line in config.left_out:
            notice(line, "warning")
    check_limits(config)
    for name in config.names():
        text = environ.get(variable(name))
        if text and not config.lock(name):
            config.put(name, text, Origin(f"${variable(name)}"))
    return config


def check_locks(config: Config, whole: bool = True) -> None:
    """Refuse locks on what does not exist. Raises OverlayError (CONFIGURATION).

    whole  whether all files of the site are read; else images may stand in another
    """
    for name, origin in config.locks.items():
        if name in table.SECTIONS or name in config.names():
            continue
        if not whole and name not in table.BY_NAME and table.setting(name):
            continue
        known = [setting.name for setting in table.SETTINGS if not setting.is_chosen]
        raise OverlayError(
            f"{origin}: [site] lock: there is no {quote(name)} to lock",
            status=CONFIGURATION,
            hint="blanks separate them, not commas"
            if "," in name
            else nearest(name, [*table.SECTIONS, *known], "{}"),
        )


def check_limits(config: Config) -> None:
    """Refuse limits that leave nothing. Raises OverlayError (CONFIGURATION).

    What the environment sets is not looked at: create-overlay, which alone needs it, tells.
    """
    for least, value, most in (
        ("create.min_size", "create.size", "create.max_size"),
        ("create.min_files", "create.files", "create.max_files"),
    ):
        for less, more in ((least, most), (least, value), (value, most)):
            low, high = config[less], config[more]
            if low and high and low > high:
                raise OverlayError(
                    f"{config.origin(less)}: [create] {less.partition('.')[2]} is more than"
                    f" {more.partition('.')[2]} ({config.origin(more)})",
                    status=CONFIGURATION,
                )


def variable(name: str) -> str:
    """Return the environment variable of a setting: create.size is OVERLAY_CREATE_SIZE."""
    plain = name.replace(".", "_")
    if not plain.isidentifier():  # the name of an image, which may hold anything
        plain = "".join(char if char.isalnum() else "_" for char in name)
    return f"OVERLAY_{plain.upper()}"


def warnings(environ: Mapping[str, str]) -> list[str]:
    """Return a line for every variable that looks like a setting's, and is none's."""
    ours = {name for name in environ if name.startswith("OVERLAY_")}
    found = []
    for name in sorted(ours - set(map(variable, table.BY_NAME))) if ours else ():
        section, _underscore, key = name[len("OVERLAY_") :].partition("_")
        # Which images and templates there are is the site's choice.
        if key and section.lower() in table.SECTIONS.keys() - table.CHOSEN:
            keys = [one.key.upper() for one in table.SETTINGS if one.section == section.lower()]
            hint = nearest(key.upper(), keys, f"OVERLAY_{section.upper()}_{{}}")
            found.append(f"{quote(name)} is not a setting; {hint}")
    return found
