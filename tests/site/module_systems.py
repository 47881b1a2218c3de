"""The two module systems, in real shells of an ordinary user."""

import functools
import glob
import json
import os
import subprocess

WORK = os.environ.get("OVERLAY_WORK", "/opt/overlay-work")
PATH = "/usr/local/bin:/usr/bin:/bin"

# What the module systems keep for themselves, and the shell's own.
PRIVATE = (
    "_ModuleTable",
    "__LMOD_REF_COUNT_",
    "__MODULES_",
    "_LMFILES_",
    "LOADEDMODULES",
)
SHELLS_OWN = {"_", "SHLVL", "PWD", "OLDPWD"}


@functools.cache
def lmod_home():
    """Return the directory of Lmod, as a login shell knows it."""
    done = subprocess.run(
        ["bash", "-lc", "printf %s $MODULESHOME"],
        env={"HOME": "/", "PATH": PATH, "USER": "nobody", "LOGNAME": "nobody"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def environment_modules():
    """Return the path of modulecmd.tcl."""
    [path] = {
        os.path.realpath(path)
        for path in glob.glob(f"{WORK}/environment-modules/usr/**/modulecmd.tcl", recursive=True)
    }
    return path


def start(system, shell):
    """Return the line that makes the command `module` of a system known to a shell."""
    if system == "lmod":
        file = {"fish": "fish", "tcsh": "cshrc", "zsh": "zsh", "bash": "bash"}[shell]
        return f"source {lmod_home()}/init/{file}"
    command = f"tclsh8.6 {environment_modules()} {shell} autoinit"
    # tcsh makes spaces of the line ends of a command in backquotes.
    return {"fish": f"{command} | source", "tcsh": f"eval `{command}`"}.get(
        shell, f'eval "$({command})"'
    )


class Shell:
    """Runs scripts in fresh shells that know `module` and the directories of modulefiles."""

    def __init__(self, system, home, *directories, variables=()):
        self.system = system
        self.home = home
        self.directories = directories
        self.variables = dict(variables)

    def run(self, script, shell="bash", **variables):
        """Run a script and return its CompletedProcess."""
        path = self.home / f"script.{shell}"
        uses = "".join(f"module use '{directory}'\n" for directory in self.directories)
        path.write_text(f"{start(self.system, shell)}\n{uses}{script}\n")
        options = {
            "bash": ["--norc"],
            "zsh": ["-f"],
            "fish": ["--no-config"],
            "tcsh": ["-f"],
        }
        return subprocess.run(
            [shell, *options[shell], path],
            env={
                "HOME": str(self.home),
                "USER": "someone",
                "LOGNAME": "someone",
                "PATH": PATH,
                "LC_ALL": "C.UTF-8",
                "TERM": "dumb",
                **self.variables,
                **variables,
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def state(self, *steps, silent=True, **variables):
        """Return the environment, functions and completions of bash after each step.

        The first is the state before all steps. Every step must end well, and silently
        but where the system itself tells of versions that change or modules that come along.
        """
        dump = (
            '/usr/bin/python3 -c "import json, os; print(json.dumps(dict(os.environ)))";'
            " declare -F | wc -l; { complete -p | sort; echo; } | tr '\\n' ' '; echo; echo ------"
        )
        lines = [dump]
        for step in steps:
            lines += [f"{step} || echo FAILED: '{step}'", dump]
        done = self.run("\n".join(lines), **variables)
        assert "FAILED" not in done.stdout and not (silent and done.stderr), done
        found = []
        for text in done.stdout.split("------\n")[:-1]:
            environment, functions, completions = text.splitlines()
            names = {
                name: normal(name, value)
                for name, value in json.loads(environment).items()
                if not name.startswith(PRIVATE) and name not in SHELLS_OWN
            }
            found.append({"names": names, "functions": functions, "completions": completions})
        return found


def normal(name, value):
    """Return a value without what means nothing: several empty parts at the end of MANPATH."""
    return value.rstrip(":") + ":" if name == "MANPATH" and value.endswith(":") else value
