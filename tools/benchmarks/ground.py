"""The place where it is measured: an installation, a site of its own, wheels, and the clock."""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time

from benchmarks.results import Results, Row, Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Action = Callable[[], object]

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
NETWORK = re.compile(r"PIP_\w+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|\w+_(proxy|PROXY)")


class Failed(Exception):
    """A command that is measured did not do what it should; the sentence says which."""


class Ground:
    """Where one run works, and what it has measured so far.

    place    a directory of our own on the local disk; the commands run in it
    slow     a directory of our own on the slow file system, or None
    scale    how large everything is; 1 is the real size
    base     the path of the base image
    results  what was measured
    """

    def __init__(self, place: str, slow: str | None, scale: float) -> None:
        self.place, self.slow, self.scale = place, slow, scale
        work = os.environ.get("OVERLAY_WORK", "/opt/overlay-work")
        self.base = os.path.join(work, "images", "base.sif")
        self.packages = os.environ.get("BENCHMARK_PACKAGES", "numpy pandas django sympy").split()
        self.one_more = os.environ.get("BENCHMARK_ONE_MORE", "networkx").split()
        self.modules = os.environ.get("BENCHMARK_MODULES", "numpy,pandas")
        self.wheels = os.environ.get("BENCHMARK_WHEELS", "")
        self.log = open(os.path.join(place, "log"), "w+b", buffering=0)
        self.environ = {"LC_ALL": "C", "PATH": SYSTEM, "HOME": self.path("home")}
        os.mkdir(self.environ["HOME"])
        self._install()
        self.results = Results(self._machine(), scale)

    def _install(self) -> None:
        """Install the commands: the bytecode of a checkout may be old, or not writable."""
        prefix = self.path("installed")
        self.run("make", "-s", "-C", HERE, "install", f"PREFIX={prefix}")
        [version] = [name for name in os.listdir(prefix) if name[0].isdigit()]
        self.environ["PATH"] = os.path.join(prefix, version, "bin") + ":" + SYSTEM
        self.environ["OVERLAY_CONFIG"] = self.path("overlay.ini")
        with open(self.path("overlay.ini"), "w", encoding="utf-8") as file:
            file.write(f"[images]\ndefault = base\nbase = {self.base}\n[binds]\npaths =\n")

    def _machine(self) -> dict[str, str]:
        """Return what the figures depend on."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        e2fsprogs = subprocess.run(
            ["mke2fs", "-V"], env=self.environ, stderr=subprocess.PIPE, text=True, check=True
        ).stderr
        machine = {
            "processors": str(len(os.sched_getaffinity(0))),
            "memory": f"{memory:.0f} GiB",
            "system": _system(),
            "load at the beginning": f"{os.getloadavg()[0]:.1f}",
            "kernel": platform.release().partition("-")[0],
            "engine": self.text("apptainer", "--version").replace(" version", ""),
            "e2fsprogs": e2fsprogs.split()[1],
            "commands": self.text("create-overlay", "--version").split()[-1],
            "local disk": self._filesystem(self.place),
        }
        if self.slow:
            machine["slow file system"] = self._filesystem(self.slow)
        return machine

    def _filesystem(self, path: str) -> str:
        """Return of which type the file system is that a path lies on, as mount(8) has it."""
        return self.text("findmnt", "-n", "-o", "FSTYPE", "-T", path)

    # ----------------------------------------------------------------- sizes --

    def path(self, *names: str) -> str:
        """Return a path in our directory on the local disk."""
        return os.path.join(self.place, *names)

    def count(self, number: int, least: int = 1) -> int:
        """Return a number of things at this run's scale."""
        return max(least, round(number * self.scale))

    def runs(self, number: int) -> int:
        """Return how often something is measured: once where all is small."""
        return number if self.scale >= 0.5 else 1

    def places(self) -> list[tuple[str, str]]:
        """Return the file systems to measure on, as (name of the place, directory) pairs."""
        return [("local", self.place), *([("slow", self.slow)] if self.slow else [])]

    # --------------------------------------------------------------- running --

    def run(self, *words: str, stdin: str = "") -> None:
        """Run a command to its end; raise Failed, with what it printed, when it ends badly."""
        begin = self.log.tell()
        done = subprocess.run(
            words,
            env=self.environ,
            cwd=self.place,
            input=stdin.encode(),
            stdout=self.log,
            stderr=self.log,
            check=False,
        )
        if done.returncode:
            self.log.seek(begin)
            said = self.log.read().decode(errors="replace")
            raise Failed(f"{said}this ended with {done.returncode}: {' '.join(words)}")

    def text(self, *words: str) -> str:
        """Return what a command prints; raise Failed when it ends badly."""
        done = subprocess.run(
            words, env=self.environ, cwd=self.place, stdout=subprocess.PIPE, stderr=self.log, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"this ended with {done.returncode}: {' '.join(words)}")
        return done.stdout.strip()

    def start(self, words: Sequence[str]) -> int:
        """Start a command in the quickest way, and return the number of its process."""
        program = shutil.which(words[0], path=self.environ["PATH"]) or words[0]
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        out = [(os.POSIX_SPAWN_DUP2, self.log.fileno(), stream) for stream in (1, 2)]
        return os.posix_spawn(program, words, self.environ, file_actions=[null, *out])

    def end(self, process: int, words: Sequence[str]) -> None:
        """Wait for the end of a process of start(); raise Failed when it is a bad one."""
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status:
            raise Failed(f"this ended with {status}: {' '.join(words)}")

    def at_once(self, number: int, words: Sequence[str]) -> Action:
        """Return what starts a command so many times at the same time, and waits for all."""

        def action() -> None:
            for process in [self.start(words) for _ in range(number)]:
                self.end(process, words)

        return action

    def in_turn(self, number: int, words: Sequence[str]) -> Action:
        """Return what runs a command so many times, one after the other."""

        def action() -> None:
            for _ in range(number):
                self.end(self.start(words), words)

        return action

    def command(self, *words: str) -> Action:
        """Return what runs a command once."""
        return lambda: self.run(*words)

    # ------------------------------------------------------------- measuring --

    def seconds(self, action: Action, runs: int = 1, before: Action | None = None) -> list[float]:
        """Return how long each of so many runs of an action takes.

        before  what is done before each of them, and is not measured
        """
        found = []
        for _ in range(runs):
            if before:
                before()
            begin = time.perf_counter()
            action()
            found.append(time.perf_counter() - begin)
        return found

    def within(self, start: Sequence[str], line: str, runs: int = 1, cold: str = "") -> list[float]:
        """Return how long a line of shell takes, without the start of the session it runs in.

        start  the words before the shell: those of a session, or none for the host's own
        cold   a file or directory that is taken out of memory before
        """
        found = []
        for _ in range(runs):
            if cold:
                self.forget(cold)
            timed = f"date +%s.%N; {{ {line}; }} >/dev/null || exit; date +%s.%N"
            begin, end = self.text(*start, "sh", "-c", timed).split()
            found.append(float(end) - float(begin))
        return found

    def forget(self, path: str) -> None:
        """Take the pages of a file, or of all files of a directory, out of memory.

        As far as an ordinary user may: names and attributes stay there.
        """
        files = [path] if os.path.isfile(path) else _files(path)
        for name in files:
            file = os.open(name, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)

    def row(
        self,
        part: str,
        what: str,
        ours: list[float],
        others: dict[str, list[float]],
        *,
        way: str,
        place: str = "local",
        unit: str = "s",
    ) -> None:
        """Keep what was measured, and say so.

        way     what ours is, in words
        others  from the words of another way to what it took
        """
        ways = [Way(name, _rounded(values)) for name, values in others.items()]
        row = Row(part, place, what, unit, Way(way, _rounded(ours)), ways)
        self.results.rows.append(row)
        figures = "; ".join(f"{one.name} {one.value:g}" for one in (row.ours, *ways))
        print(f"{part}, {place}: {what} ({unit}): {figures}", file=sys.stderr, flush=True)

    # ----------------------------------------------------------- what is used --

    def tree(self, number: int) -> str:
        """Return a directory with so many small files, which is made when it is not there."""
        top = self.path(f"tree-{number}")
        if not os.path.isdir(top):
            _plant(top, number)
        return top

    def _wheels(self) -> str:
        """Return the directory with the wheels of all packages; fetch them when there is none."""
        wheels = self.wheels or self.path("wheels")
        if not os.path.isdir(wheels):
            self._download(wheels)
        return wheels

    def install(self, packages: Sequence[str], prefix: str, target: str = "") -> str:
        """Return the line of shell that installs packages into an environment.

        target  a directory to install into instead, without looking at what the environment has

        Where all is small the wheels are only unpacked: pip would take longer than all else.
        """
        wheels = self._wheels()
        if self.scale >= 0.5:
            words = [f"{prefix}/bin/pip", "install", "-q", "--no-cache-dir", "--no-index"]
            words += ["--find-links", wheels, *packages, *(["--target", target] if target else [])]
            return " ".join(words)
        files = " ".join(f"{wheels}/{name.replace('-', '_')}-*.whl" for name in packages)
        into = target or f"{prefix}/lib/python3*/site-packages"
        return f"for wheel in {files}; do python3 -m zipfile -e $wheel {into}; done"

    def _download(self, wheels: str) -> None:
        """Fetch the wheels of all packages, with the Python of the base image."""
        os.mkdir(wheels)
        network = {key: text for key, text in os.environ.items() if NETWORK.fullmatch(key)}
        names = [
            name for key, name in network.items() if key.endswith(("_FILE", "_BUNDLE", "_CERT"))
        ]
        binds = [
            word
            for name in sorted(set(names))
            if os.path.isfile(name)
            for word in ("-b", f"{name}:{name}:ro")
        ]
        self.environ.update(network)
        self.run("create-overlay", "-q", "-s", "200", "-n", "10", "-o", "pip")
        line = f"python3 -m venv /opt/pip && /opt/pip/bin/pip download -q -d {wheels} "
        line += " ".join([*self.packages, *self.one_more])
        self.run("run-overlay", "-o", "pip.ext3", "-b", self.place, *binds, "--", "sh", "-c", line)
        os.remove(self.path("pip.ext3"))

    def recipe(self, name: str, prefix: str = "/opt/env") -> str:
        """Write a file of commands that make an environment, and return its path."""
        small = self.scale < 0.5
        lines = [
            "set -e",
            f"python3 -m venv{' --without-pip' if small else ''} {prefix}",
            self.install(["*"] if small else self.packages, prefix),
        ]
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return self.path(name)

    def environment(self) -> str:
        """Return the path of an overlay with the packages, which is made when it is not there."""
        path = self.path("env.ext3")
        if not os.path.exists(path):
            words = ["-f", self.recipe("env.txt"), *self.binds(), *self.room()]
            self.run("create-overlay", "-q", *words, "-o", path)
        return path

    def room(self) -> list[str]:
        """Return the options for the size of an overlay with the packages."""
        return ["--sparse", "-s", "2G", "-n", "60"]

    def binds(self) -> list[str]:
        """Return the options that let a session see the wheels and the places."""
        places = [self.place, self.wheels, self.slow]
        return [word for path in places if path for word in ("-b", path)]

    def engine(self, overlay: str) -> list[str]:
        """Return the words that start the plain engine in an overlay."""
        binds = ["-B" if word == "-b" else word for word in self.binds()]
        return ["apptainer", "-q", "exec", *binds, "--overlay", overlay, self.base]

    def session(self, overlay: str, *options: str) -> list[str]:
        """Return the words that start a session of ours in an overlay."""
        return ["run-overlay", "-q", *options, *self.binds(), "-o", overlay, "--"]


def _rounded(values: list[float]) -> list[float]:
    """Return values with the digits that mean something: microseconds."""
    return [round(value, 6) for value in values]


def _system() -> str:
    """Return the name of this system, from os-release(5)."""
    with open("/etc/os-release", encoding="utf-8") as file:
        found = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    return f"{found.get('NAME', '')} {found.get('VERSION_ID', '')}".replace('"', "").replace(
        " GNU/Linux", ""
    )


def _files(top: str) -> list[str]:
    """Return the paths of all regular files below a directory."""
    return [
        os.path.join(directory, name)
        for directory, _directories, names in os.walk(top)
        for name in names
        if os.path.isfile(os.path.join(directory, name))
    ]


def _plant(top: str, number: int) -> None:
    """Make a tree of small files: 200 bytes to 6 KB, 20 to a directory; links among them."""
    chance = random.Random(1)
    for count in range(number):
        place = os.path.join(top, f"d{count // 500}", f"e{count // 20 % 25}")
        os.makedirs(place, exist_ok=True)
        path = os.path.join(place, f"f{count}")
        with open(path, "wb") as file:
            file.write(
                chance.getrandbits(8 * 6000).to_bytes(6000, "big")[: chance.randrange(200, 6000)]
            )
        os.chmod(path, chance.choice((0o644, 0o600, 0o755)))
        if count % 100 == 0:
            os.link(path, path + ".same")
            os.symlink(f"f{count}", path + ".link")
