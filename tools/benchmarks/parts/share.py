"""Many tasks on one node: joined with --share, sessions of their own, the engine alone."""

import os
import time

ENGINE = "the engine alone"
SHARED = "`run-overlay --share`"


def measure(ground):
    """Starts at once and in turn, a program with real modules, and memory."""
    overlay = f"{ground.environment()}:ro"
    # Its sessions stay until they are ended, and nobody else's are in the way.
    ground.environ.update(OVERLAY_SCRATCH_LOCAL=ground.path(), OVERLAY_LAUNCH_LINGER="600")
    plain, own = ground.engine(overlay), ground.session(overlay)
    shared = ground.session(overlay, "--share")
    try:
        # As in a real job: one start was before, which the others find.
        ground.run(*shared, "true")
        _starts(ground, plain, own, shared)
        _program(ground, plain, shared)
        _memory(ground, plain, shared)
        _writers(ground)
    finally:
        ground.run("overlay-admin", "sessions", "-q", "--end")
        for name in ("OVERLAY_SCRATCH_LOCAL", "OVERLAY_LAUNCH_LINGER"):
            del ground.environ[name]


def _starts(ground, plain, own, shared):
    """Many starts at the same time, as of the tasks of a job, and in turn, as of a script."""
    number, runs = ground.count(64, 4), ground.runs(3)

    def timed(words):
        return ground.seconds(ground.at_once(number, [*words, "true"]), runs)

    others = {ENGINE: timed(plain), "sessions of their own": timed(own)}
    ground.row("share", f"{number} starts at once", timed(shared), others, way=SHARED)
    number = ground.count(20, 2)
    others = {ENGINE: ground.seconds(ground.in_turn(number, [*plain, "true"]), runs)}
    ours = ground.seconds(ground.in_turn(number, [*shared, "true"]), runs)
    ground.row("share", f"{number} starts in turn", ours, others, way=SHARED)


def _program(ground, plain, shared):
    """A Python program that imports what it needs, many times at once."""
    number = ground.count(16, 2)
    line = ["/opt/env/bin/python", "-c", f"import {ground.modules}"]
    others = {ENGINE: ground.seconds(ground.at_once(number, [*plain, *line]))}
    ours = ground.seconds(ground.at_once(number, [*shared, *line]))
    names = ground.modules.replace(",", " and ")
    ground.row("share", f"{number} imports of {names}", ours, others, way=SHARED)


def _memory(ground, plain, shared):
    """What engine and servers of many sessions take."""
    number = ground.count(16, 2)
    others = {ENGINE: [_mebibytes(ground, number, plain)]}
    ours = [_mebibytes(ground, number, shared)]
    ground.row("share", f"memory of {number} sessions", ours, others, way=SHARED, unit="MiB")


def _writers(ground):
    """Tasks that write into one overlay at the same time, each 5 MB and many small files."""
    path = ground.path("results.ext3")
    ground.run("create-overlay", "-q", "--sparse", "-s", "1G", "-n", "20", "-o", path)
    files, line = ground.count(200, 4), "d=$(mktemp -d /XXXXXX); head -c 5000000 /dev/zero >$d/all"
    line += f"; for n in $(seq {files}); do echo $n >$d/$n; done"
    own = ground.session(path)
    layers = ground.session(path, "--per-task", "-s", "64", "-n", "2")
    for number in (1, 2, 4, 8):
        started = " ".join([f"({line}) &"] * number)
        one = ground.command(*own, "sh", "-c", f"{started} wait")
        others = {
            "one session, in the background of its shell": ground.seconds(one),
            "`--per-task`": ground.seconds(ground.at_once(number, [*layers, "sh", "-c", line])),
        }
        shared = [*ground.session(path, "--share"), "sh", "-c", line]
        ours = ground.seconds(ground.at_once(number, shared))
        what = f"{number} writer{'s' if number > 1 else ''} of {files} files"
        ground.row("share", what, ours, others, way=SHARED)


def _mebibytes(ground, number, words):
    """Return how much memory so many sessions take that do nothing, all in all.

    A page that several have counts once for all of them (Pss in proc(5)).
    """
    go, said = ground.path("go"), [ground.path(f"runs.{count}") for count in range(number)]
    line = f'echo >"$0"; while [ ! -e {go} ]; do sleep 0.1; done'
    before = _processes()
    started = [ground.start([*words, "sh", "-c", line, path]) for path in said]
    while not all(map(os.path.exists, said)):
        time.sleep(0.05)
    # Those of the session that is shared were there before.
    total = sum(
        _pss(process)
        for process, name in _processes().items()
        if process not in before or name in SERVERS
    )
    with open(go, "w", encoding="utf-8"):
        pass
    for process in started:
        ground.end(process, words)
    for path in (go, *said):
        os.remove(path)
    return total / 1024


# Names of processes as the kernel keeps them, 15 bytes of each.
SERVERS = {"Apptainer runti", "starter", "fuse2fs", "squashfuse_ll", "fuse-overlayfs"}


def _processes():
    """Return the processes of this user, from number to name."""
    found = {}
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                with open(f"{entry.path}/comm", encoding="utf-8") as file:
                    found[entry.name] = file.read().strip()
        except OSError:
            pass  # it has ended
    return found


def _pss(process):
    """Return the memory of a process in KiB, or 0 when it may not be asked or has ended."""
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except OSError:
        return 0
