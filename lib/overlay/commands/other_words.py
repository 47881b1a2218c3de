"""What other programs call things: hints for options that people know from elsewhere.

Each hint stands with the words it is for. One that is an option alone was meant by them. In a
hint {overlay} stands for the overlay that was named, {line} for the line without the word, and
{read_only} for that with :ro behind its first overlay, {elsewhere} for that begun in another
directory, {word} for the word itself, and {given} for what stood behind it.
"""

from __future__ import annotations

SETTINGS = "settings stand in files, yours in ~/.config/overlay/overlay.ini: man overlay.ini"

_READ_ONLY_WORDS = "-r -ro --ro --readonly --read-only"
_NO_NEED = "nothing need be said for that: {line}"

_SESSION = {
    "to open it read-only: {read_only}": _READ_ONLY_WORDS,
    "the first overlay is written, unless :ro stands behind its name: {line}":
        "-w -rw --rw --write --writable",
    "one command: run-overlay -o {overlay} -- {given}": "--command --exec",
    "a session ends with its shell: exit": "-u --umount --unmount",
    "variables of this shell are seen inside: export {given}; {line}": "-e --env",
    "it begins where you are; to change that: {elsewhere}": "--pwd --cwd --workdir",
    "list-overlays .": "-l --list",
    "words for the engine: --engine-option={word}":
        "-C --cleanenv --contain --containall --no-home --no-mount --home --writable-tmpfs --pid --ipc",
    _NO_NEED: "-it -ti -t --tty --interactive --rm",
    "--nv": "--gpu --gpus --cuda --nvidia",
    "-c": "-i --image",
    "-b": "-B --volume --mount",
}  # fmt: skip

_OTHER_WORDS = {
    "mount-overlay": _SESSION,
    "run-overlay": _SESSION,
    "create-overlay": {
        "that is said when it is opened: mount-overlay -o {overlay}:ro": _READ_ONLY_WORDS,
        _NO_NEED: "-y --yes --ext3 --type --fs",
        "where it goes inside stands behind a colon: --from SOURCE:{given}": "--to --into --dest --target",
        "-o": "-p --prefix --name --output --path",
        "-n": "-i -N --inodes --count --number",
        "-c": "--image --base",
        "-f": "-r --script --requirement --requirements",
        "--from": "-d --source --dir --archive --copy",
        "--set": "-e --env",
        "--force": "--overwrite --replace",
    },
    "resize-overlay": {
        "-s +SIZE": "--grow --add --more --by",
        "-s": "--to --resize",
        "one overlay at a time: resize-overlay OVERLAY -s +5G": "-a --all",
        "-n": "-i -N --inodes --count",
        "a smaller size: {line} -s SIZE": "-M --shrink --smaller --min",
        _NO_NEED: "-p -y --force --yes",
    },
    "check-overlay": {
        "what loses nothing is repaired at once, all else by --repair only: {line}":
            "-n --no-repair --read-only",
        "name each, as in: check-overlay *.ext3": "-a -A --all",
        "what is known of it: show-overlay --json {overlay}": "--json --status",
        "--repair": "-f -y -r -p --fix --force",
        "--recover": "--kill --unlock --end",
        "--own": "--chown --mine --owner",
    },
    "show-overlay": {
        "that is shown without an option: {line}": "--history --log --info --versions",
        "several overlays: list-overlays .": "--all --sort",
        "--files": "-l -a -R --list --ls --tree",
        "--du": "-s --size --usage --largest",
        "--json": "--csv --format",
        "--recipe": "--commands",
    },
    "list-overlays": {
        "all below a directory are listed: {line}": "-a --all -r -R --recursive",
        "by owner: overlay-admin report .": "-u -user --user --owner --group",
        "--sort size": "-S --size --du",
        "--sort age": "-t --older --old --age --time",
        "--sort files": "--files --inodes",
        "--json": "--csv --format",
    },
    "pack-overlay": {
        "an overlay to write in, of what is in it: create-overlay --from {overlay} -o NAME":
            "-d -x --unpack --extract --decompress",
        "it is as large as what is in it: {line}": "-s -n --size",
        "--compression": "-c -z -j -J --comp --compress",
        "-o": "--name --to",
        "--remove": "--delete --rm --move",
        "--open": "--share --public --readable --chmod",
        "--force": "-f --overwrite --replace",
    },
    "update-overlay": {
        "an undo is taken back by another: update-overlay --undo {overlay}": "--redo",
        "a copy is changed; to go back afterwards: update-overlay --undo {overlay}": "--dry-run",
        _NO_NEED: "-y --yes --force",
        "--undo": "--revert --back --rollback --restore",
        "--forget": "--clean --remove --delete",
        "--versions": "--keep",
        "a new one: create-overlay --from {given} -o NAME": "--from --template -t",
    },
    "expose-overlay": {
        "they only read it: {line}": _READ_ONLY_WORDS,
        _NO_NEED: "-y --yes --force --share --bin",
        "--program": "-p -P --programs --only --command --bins",
        "--remove": "--delete --uninstall --undo --rm --clean",
        "--kernel": "-k --jupyter --kernelspec --notebook --ipykernel",
        "--name": "-n --module --modulename --display-name",
        "--all": "-a --everything",
        "DIR is named without an option: expose-overlay -o {overlay} {given}":
            "-d --dir --directory --to --dest --target --output --path",
    },
    "overlay-admin": {
        SETTINGS: "--set --lock --edit --get",
        "what it says behind do: is yours to type": "--fix",
        "all owners are shown: overlay-admin report .": "--user --sort --size",
        "overlay-admin config": "--show --list --config",
        "overlay-admin doctor": "--doctor",
        "overlay-admin report .": "--report",
    },
}  # fmt: skip


def hint_for(program: str, word: str) -> str | None:
    """Return the hint for an option that a program does not have, None when it is not known."""
    for hint, words in _OTHER_WORDS.get(program, {}).items():
        if word in words.split():
            return hint
    return None
