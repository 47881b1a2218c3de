"""Jobs in the Slurm of tests/slurm-up, as an ordinary user submits them."""

import os
import re
import subprocess
import time
from pathlib import Path

from module_systems import WORK, lmod_home
from support import PATH, ROOT, tool, wait_until

HOME = Path(WORK) / "slurm"
ENDED = ("CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT", "PREEMPTED")


def environment(directory, base):
    """Return the environment of a login shell that finds our module, to submit from.

    directory  for the site's settings and the user's home
    base       path of the site's default image
    """
    directory.mkdir(exist_ok=True)
    (directory / "home").mkdir(exist_ok=True)
    site = directory / "overlay.ini"
    site.write_text(f"[images]\ndefault = base\nbase = {base}\n\n[engine]\nmodule = none\n")
    done = subprocess.run(
        ["bash", "-c", f". {lmod_home()}/init/bash; module use {ROOT}/modulefiles; env -0"],
        env={
            "HOME": str(directory / "home"),
            "USER": "overlay-tester",
            "LOGNAME": "overlay-tester",
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(item.split("=", 1) for item in done.stdout.split("\0") if "=" in item)
    return {
        **found,
        "BASH_ENV": f"{lmod_home()}/init/bash",
        "SLURM_CONF": str(HOME / "slurm.conf"),
        "OVERLAY_CONFIG": str(site),
    }


def scripts(guide):
    """Return (job scripts by job name, other files by name) of the blocks of a guide."""
    blocks = re.findall(r"^```bash\n(.*?)^```", guide, re.M | re.S)
    jobs = {
        re.search(r"--job-name=(\S+)", text)[1]: text for text in blocks if text.startswith("#!")
    }
    files = {
        re.match(r"# (\S+\.txt)\n", text)[1]: text
        for text in blocks
        if re.match(r"# \S+\.txt\n", text)
    }
    return jobs, files


class Slurm:
    """Submits jobs from one directory.

    environ    of the user who submits
    directory  where he is
    """

    def __init__(self, environ, directory):
        self.environ = environ
        self.directory = directory
        self.submitted = []

    def run(self, *arguments, timeout=60):
        """Run a program as the user does, and return its CompletedProcess."""
        return subprocess.run(
            [str(word) for word in arguments],
            env=self.environ,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ours(self, name, *arguments, **options):
        """Run one of our programs outside of a job, which must end well; return its output."""
        done = self.run(ROOT / "bin" / name, *arguments, **options)
        assert done.returncode == 0, done
        return done.stdout

    def submit(self, text, *options):
        """Submit a job script and return its Job."""
        name = f"job{len(self.submitted)}.sh"
        (self.directory / name).write_text(text)
        words = ["sbatch", "--parsable", "-o", f"{name}.%a.out", *options, name]
        done = self.run(*words)
        assert done.returncode == 0, done
        self.submitted.append(Job(self, int(done.stdout), name))
        return self.submitted[-1]

    def script(self, line, *options):
        """Submit a job of one line that finds our commands."""
        return self.submit(f"#!/bin/bash\nmodule load overlay\n{line}\n", *options)

    def cancel(self):
        """End what still runs."""
        numbers = [str(job.number) for job in self.submitted if not job.has_ended()]
        if numbers:
            self.run("scancel", *numbers)
            wait_until(lambda: all(job.has_ended() for job in self.submitted), 30)


class Job:
    """A submitted job or array."""

    def __init__(self, slurm, number, name):
        self.slurm = slurm
        self.number = number
        self.name = name

    def elements(self):
        """Return what scontrol shows, a dictionary for each element."""
        done = self.slurm.run("scontrol", "-o", "show", "job", self.number)
        return [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in done.stdout.splitlines()
        ]

    def has_ended(self):
        """Return whether all elements have, with nothing of them left on the nodes."""
        found = self.elements()
        return bool(found) and all(one["JobState"] in ENDED for one in found)

    def state(self):
        """Return the state of a job with one element."""
        return self.elements()[0]["JobState"]

    def runs(self):
        """Wait until it runs."""
        wait_until(lambda: self.state() == "RUNNING", 60)
        return self

    def end(self, seconds=90):
        """Wait for its end; return (state, exit status, signal), the worst of an array."""
        wait_until(self.has_ended, seconds)
        codes = [
            (one["JobState"], *map(int, one["ExitCode"].split(":"))) for one in self.elements()
        ]
        return max(codes, key=lambda code: code[1:])

    def output(self):
        """Return what its elements printed, in the order of their numbers."""
        files = sorted(self.slurm.directory.glob(f"{self.name}.*.out"))
        return "".join(path.read_text() for path in files)

    def says(self, text, seconds=60):
        """Wait until it has printed something."""
        wait_until(lambda: text in self.output(), seconds)
        return self


def state_of(image):
    """Return the state that the superblock of an image tells: "clean", "not clean", …"""
    done = tool("dumpe2fs", "-h", image)
    return re.search(r"state: +(.*)", done.stdout)[1]


def is_sound(image):
    """Return whether e2fsck finds nothing."""
    return tool("e2fsck", "-fn", image).returncode == 0


def kill_environment(name, value, number=9):
    """Send a signal to all processes of ours whose environment has a value."""
    wanted = f"{name}={value}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), number)
        except (OSError, ProcessLookupError):
            continue


def seconds(function):
    """Return (seconds, result) of a call."""
    start = time.monotonic()
    result = function()
    return time.monotonic() - start, result
