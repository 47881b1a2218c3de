"""Secrets in command lines and in files of commands: what looks like one is not written down.

A value that is asked for when the commands run, $TOKEN or $(cat file), is none.
"""

from __future__ import annotations

import re
import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"

# What a name holds whose value is a secret: in capitals anywhere, else where a word ends, so that
# tokenizers and keyring are none.
_NAME = (
    r"[\w.-]{0,99}(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY"
    r"|(?i:(?:token|secret|passwd|password|passphrase|credential|key|(?<![a-z])pass|(?<![a-z])pat)"
    r"s?(?![a-z])))[\w.-]{0,99}"
)
_BEGINS = r"(?<![\w.-])"

# In quotes, those of a shell or of JSON within a shell's; or up to what ends a word.
_QUOTED = r"""\\"[^"\\]{0,8192}\\"|\$?"(?:\\[\s\S]|[^"\\]){0,8192}"|\$?'[^']{0,8192}'"""
_PLAIN = r"""\$\{[^}\n]{0,999}\}|[^\s'",;&|)}\\]|\\[^"\n]"""
_VALUE = rf"((?:{_QUOTED})(?:{_QUOTED}|{_PLAIN})*|(?:{_PLAIN})+)"
_ASKED = re.compile(
    r"""\\?["']?(?:\$\w+|\$\{\w+(?::?\?[^}]*)?\}|\$\(.*|`.*|lambda|)\\?["']?""", re.S
)

# Names of options that have a secret's name, and no secret.
_NO_SECRET = re.compile(r"--?((recv|fetch|search|list|send|refresh)-keys?|\S*-(file|stdin|path)) *")

# In each the first group stays, the second is masked.
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        # The user and the password of a URL: "userinfo" in RFC 3986.
        r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)([^\s/'\"]+)(?=@)",
        # NAME=value, NAME = value, "name": value. But a==1 is a version, and /a:/b two paths.
        rf"({_BEGINS}{_NAME}\\?['\"]?(?:=(?!=)|[ \t]+=[ \t]+|[ \t]*:[ \t]*(?!/))){_VALUE}",
        rf"({_BEGINS}--?{_NAME}[ \t]+)(?!-){_VALUE}",
        rf"((?:\b|--)set(?:env)?[ \t]+{_NAME}[ \t]+){_VALUE}",
        rf"(\blogin\s+\S+\s+password\s+){_VALUE}",  # netrc(5)
        r"((?i:\bAuthorization)\\?['\"]?[ \t]*[:=][ \t]*\\?['\"]?(?:\w+[ \t]+)?)([^\s'\"\\]+)",
        r"((?i:\bCookie)[ \t]*:[ \t]*)([^\n'\"]+)",
        r"(\bpass:)([^\s'\"]+)",  # openssl(1)
        # Those that services give out, wherever they stand.
        r"()\b((?:gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|AKIA|sk-)[\w-]{16,})",
    )
]

# Options of programs that mean a user and a password, or a password; what is after them to the end
# of the command is looked at.
_OPTIONS = {
    "curl": r"-[0-9#aBfgGiIjJklLMnNOpqRsSvV]*[uU]|--(?:proxy-)?user",
    "https?": r"-a|--auth",
    "wget": r"--(?:(?:http|ftp|proxy)-)?user",
    "lftp": r"-u|--user",
    "smbclient": r"-U|--user",
    "ldapsearch": r"-w",
    "sshpass": r"-p",
    "mysql|mysqldump|mysqladmin|mariadb": r"-p(?=\S)",
    r"(?:docker|podman|oras|helm|apptainer|singularity)(?:[ \t]+[\w-]+){0,2}[ \t]+login": r"-p|-u(?=\S*:)",
    "skopeo": r"--(?:src-|dest-)?creds",
    "7z[ar]?": r"-p(?=\S)",
    "unzip|zip": r"-P",
    "redis-cli": r"-a",
}
_REST = r"""((?:\\[\s\S]|"(?:\\[\s\S]|[^"\\\n])*"|'[^'\n]*'|[^\n;|&"'\\]){0,4096})"""
_COMMANDS = [
    (
        re.compile(rf"((?<![\w./-])(?:[\w./-]*/)?(?:{name})(?=\s)){_REST}"),
        re.compile(rf"(\s(?:{words})[ =]?\s*){_VALUE}"),
    )
    for name, words in _OPTIONS.items()
]


def masked(text: str) -> str:
    """Return a text, as of a file of commands, with *** for what looks like a secret."""
    for pattern in _PATTERNS:
        text = pattern.sub(_masked, text)
    return _in_commands(text)


def masked_words(words: Sequence[str]) -> list[str]:
    """Return a command line with *** for what looks like a secret."""
    found = []
    last = ""
    for word in words:
        if re.fullmatch(rf"--?{_NAME}", last) and not _NO_SECRET.fullmatch(last):
            found.append(word if word.startswith("-") or _ASKED.fullmatch(word) else MASK)
        else:
            assigned = re.match(rf"((?:--?)?{_BEGINS}{_NAME}=)(?!=)", word)
            found.append(assigned[0] + MASK if assigned else masked(word))
        last = word
    try:
        again = shlex.split(_in_commands(shlex.join(found)))
    except ValueError:
        return found
    return again if len(again) == len(found) else found


def _in_commands(text: str) -> str:
    """Return a text with *** for what options of programs in it mean as secrets."""
    for command, option in _COMMANDS:
        made, place = "", 0
        for found in command.finditer(text):
            made += text[place : found.start(2)] + option.sub(_masked, found[2])
            place = found.end()
        text = made + text[place:]
    return text


def _masked(found: re.Match[str]) -> str:
    if _ASKED.fullmatch(found[2]) or _NO_SECRET.fullmatch(found[1]):
        return found[0]
    return found[1] + MASK
