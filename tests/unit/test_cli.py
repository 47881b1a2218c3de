"""The programs from outside: usage, help, the error boundary, pipes, what is imported."""

import ast
import os
import re
import subprocess
import sys

import pytest
from overlay import __version__, cli
from overlay.quota.sources import SOURCES
from support import ROOT, digests

PROGRAMS = sorted(cli.COMMANDS)


@pytest.fixture(autouse=True)
def overlays(scratch, make_image):
    """Put an overlay and a file of commands where the programs are called."""
    os.rename(make_image(), scratch / "a.ext3")
    (scratch / "commands").write_text("echo hello\n")
    (scratch / "script.py").write_text("#!/usr/bin/env python3\nprint(1)\n")
    (scratch / "run.sh").write_text("echo hello\n")
    (scratch / "requirements.txt").write_text("numpy\n")
    (scratch / "data.tar.gz").write_bytes(b"")
    (scratch / "program").write_text("#!/bin/sh\n")
    (scratch / "program").chmod(0o755)
    (scratch / "binary").write_bytes(b"\x7fELF\0" * 99)
    (scratch / "binary").chmod(0o755)
    (scratch / "data.zip").write_bytes(b"PK\3\4")
    (scratch / "d").mkdir()
    (scratch / "d" / "f").write_text("x\n")


def told(program, sentence, hint=None):
    """Return what a program prints for an error."""
    lines = f"{program}: error: {sentence}\n"
    return lines + (f"{program}: hint: {hint}\n" if hint else "")


SUBCOMMANDS = (
    "overlay-admin config shows the settings, overlay-admin doctor tries this node,"
    " overlay-admin report DIR counts overlays, overlay-admin pages DIR writes pages"
)
AMOUNTS = "'abc' is not a size; it looks like 500, 500M, 20G or 1.5T"
LIST = "list-overlays DIRECTORY; one overlay: show-overlay OVERLAY"
NO_CONDA = (
    "put the lines that install one into a file: create-overlay -f FILE -s 10G -n 200 -o conda; the"
    " user's guide has them, under: A conda environment"
)
THOUSANDS = "for 500 MB and 700 thousand files: create-overlay -s 500 -n 700"
NOTHING = (
    "for a shell: mount-overlay -o OVERLAY; for a file of commands: run-overlay -o OVERLAY -f FILE;"
    " for one: run-overlay -o OVERLAY -- COMMAND"
)


@pytest.mark.parametrize(
    ("line", "status", "sentence", "hint"),
    [
        (
            "run-overlay a.ext3 -- ls",
            2,
            "cannot understand a.ext3 here",
            "overlays are named with -o: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 ls -l /opt",
            2,
            "cannot understand ls -l /opt here",
            "a command stands behind --: run-overlay -o a.ext3 -- ls -l /opt",
        ),
        (
            "run-overlay -o a.ext3 -f commands x",
            2,
            "cannot understand x here",
            "to hand arguments to a file of commands: run-overlay -o a.ext3 -- bash commands x",
        ),
        (
            "mount-overlay -o a.ext3:r0",
            2,
            "a.ext3:r0: behind the colon there must be ro or rw",
            "did you mean a.ext3:ro?",
        ),
        (
            "create-overlay +5G",
            2,
            "cannot understand +5G here",
            "to make one: -s 5G; for more room in one: resize-overlay",
        ),
        (
            "resize-overlay a.ext3 +5G",
            2,
            "cannot understand +5G here",
            "resize-overlay a.ext3 -s +5G",
        ),
        (
            "resize-overlay a.ext3 -s -1G",
            2,
            "-s -1G: a size cannot be less than nothing",
            "name the new size: -s 10G",
        ),
        (
            "resize-overlay -o a.ext3",
            2,
            "neither a new size nor a new number of files is given",
            "resize-overlay a.ext3 -s +5G",
        ),
        ("resize-overlay -s +1G", 2, "no overlay is named", "resize-overlay -s +1G OVERLAY"),
        (
            "list-overlays -o a.ext3",
            2,
            "there is no option -o",
            "list-overlays DIRECTORY; one overlay: show-overlay OVERLAY",
        ),
        (
            "overlay-admin doctr",
            2,
            "doctr is not one of the commands config, doctor, report, sessions, pages",
            "did you mean doctor?",
        ),
        (
            "overlay-admin",
            2,
            "no command is named",
            SUBCOMMANDS,
        ),
        (
            "create-overlay",
            2,
            "the size (-s) and the number of files (-n) are missing",
            THOUSANDS,
        ),
        (
            "create-overlay -o x",
            2,
            "the size (-s) and the number of files (-n) are missing",
            f"{THOUSANDS} -o x",
        ),
        (
            "expose-overlay a.ext3",
            2,
            "the directory for the commands is not named",
            "expose-overlay -o a.ext3 DIR",
        ),
        (
            "create-overlay -s 64 -n 5 -b /data",
            2,
            "-b is for the commands of -f, and there is no -f",
            "to bind it in a session: mount-overlay -o NAME -b PATH",
        ),
        (
            "create-overlay -s 500",
            2,
            "the number of files is missing (-n)",
            "add it, for 200 thousand files: -n 200",
        ),
        ("create-overlay -n 500", 2, "the size is missing (-s)", "add it, for 10 GB: -s 10G"),
        (
            "create-overlay -s x -n 1",
            2,
            "-s: 'x' is not a size; it looks like 500, 500M, 20G or 1.5T",
            None,
        ),
        (
            "create-overlay -s 0 -n 1",
            2,
            "-s: '0' is zero; a size looks like 500, 500M, 20G or 1.5T",
            None,
        ),
        (
            "create-overlay -s-5 -n 1",
            2,
            "-s -5: a size cannot be less than nothing",
            "name the new size: -s 10G",
        ),
        (
            "create-overlay -s 500 -n 0",
            2,
            "-n: '0' is zero; a number of files looks like 700, 700K or 2M",
            None,
        ),
        (
            "create-overlay -s 500 -n -700",
            2,
            "-n -700: a number cannot be less than nothing",
            "name the new number: -n 200",
        ),
        (
            "create-overlay -s 500 -n 700000",
            2,
            "700,000,000 files do not fit into 500 MiB",
            "-n counts thousands of files; for 700,000 files: -n 700",
        ),
        ("create-overlay -s", 2, "behind -s there must be SIZE", "for example: -s 10G"),
        (
            "create-overlay -s 5 -n 1 x",
            2,
            "cannot understand x here",
            "its name stands behind -o: create-overlay -s 5 -n 1 -o x",
        ),
        ("create-overlay --siz 5 -n 1", 2, "there is no option --siz", "did you mean --size?"),
        (
            "create-overlay --sparse --reserve -s 5 -n 1",
            2,
            "--sparse and --reserve cannot be given together",
            "give one of them",
        ),
        # As new users type them, five and more for each command.
        (
            "create-overlay -s 10 GB -n 5",
            2,
            "cannot understand GB here",
            "number and unit in one word: -s 10GB",
        ),
        (
            "create-overlay -s 64 -n 1,000",
            2,
            "-n: '1,000' is not a number of files; it looks like 700, 700K or 2M",
            "-n counts thousands; for 1,000 files: -n 1",
        ),
        (
            "create-overlay --from commands:data",
            66,
            "cannot read commands:data: No such file or directory",
            "where it goes inside begins with /: --from commands:/data",
        ),
        (
            "mount-overlay -o .",
            65,
            ". is a directory, and an overlay is a file in it",
            "name the file: -o ./a.ext3",
        ),
        ("create-overlay -i 5 -s 64", 2, "there is no option -i", "did you mean -n?"),
        ("create-overlay --name x", 2, "there is no option --name", "did you mean -o?"),
        ("create-overlay --list", 2, "there is no option --list", "did you mean --list-templates?"),
        (
            "create-overlay -s 64 -n 5 -- ls",
            2,
            "a new overlay takes no command",
            "put the commands into a file: -f FILE",
        ),
        ("create-overlay -f -o x", 2, "behind -f there must be FILE", "for example: -f job.txt"),
        (
            "create-overlay-conda env",
            66,
            "this site offers no conda",
            NO_CONDA,
        ),
        (
            "create-overlay-conda -s 7G -n 700",
            66,
            "this site offers no conda",
            "put the lines that install one into a file: create-overlay -f FILE -s 10G -n 200 -o"
            " conda; the user's guide has them, under: A conda environment",
        ),
        (
            "check-overlay --own .",
            65,
            ". is a directory, and only what is in an ext3 overlay can be made yours",
            "make an ext3 overlay of it: create-overlay --from . -o NAME",
        ),
        (
            "run-overlay -o a.ext3 -f script.py",
            2,
            "script.py begins with #!/usr/bin/env python3, and -f runs bash commands",
            "one command stands behind --: run-overlay -o a.ext3 -- python3 script.py",
        ),
        (
            "mount-overlay -o a.ext3 -- ls",
            2,
            "a shell is opened here, no command is run",
            "one command: run-overlay -o a.ext3 -- ls",
        ),
        (
            "mount-overlay -o a.ext3 /",
            2,
            "cannot understand / here",
            "it is laid over the base image, not mounted at a place: mount-overlay -o a.ext3",
        ),
        (
            "mount-overlay -r -o a.ext3",
            2,
            "there is no option -r",
            "to open it read-only: mount-overlay -o a.ext3:ro",
        ),
        (
            "run-overlay -o a.ext3 commands",
            2,
            "cannot understand commands here",
            "a file of commands stands behind -f: run-overlay -o a.ext3 -f commands",
        ),
        ("run-overlay -B /data", 2, "there is no option -B", "did you mean -b?"),
        ("check-overlay --fix a.ext3", 2, "there is no option --fix", "did you mean --repair?"),
        ("check-overlay -y a.ext3", 2, "there is no option -y", "did you mean --repair?"),
        ("check-overlay --rec a.ext3", 2, "there is no option --rec", "did you mean --recover?"),
        ("check-overlay -o", 2, "behind -o there must be OVERLAY", "for example: -o env.ext3"),
        ("check-overlay", 2, "no overlay is named", "check-overlay OVERLAY"),
        ("show-overlay -l a.ext3", 2, "there is no option -l", "did you mean --files?"),
        ("show-overlay a.ext3 --size", 2, "there is no option --size", "did you mean --du?"),
        (
            "show-overlay a.ext3 --du --files",
            2,
            "--du and --files cannot be given together",
            "give one of them",
        ),
        (
            "show-overlay a.ext3:ro",
            66,
            "there is no overlay a.ext3:ro",
            "here it is named without :ro: a.ext3",
        ),
        ("show-overlay", 2, "no overlay is named", "show-overlay OVERLAY"),
        ("list-overlays -l", 2, "there is no option -l", LIST),
        (
            "list-overlays --sort date",
            2,
            "--sort: date is not one of size, used, files, age, name",
            "for example: --sort size",
        ),
        (
            "list-overlays --sort ag",
            2,
            "--sort: ag is not one of size, used, files, age, name",
            "did you mean age?",
        ),
        ("list-overlays --sort", 2, "behind --sort there must be KEY", "for example: --sort size"),
        ("list-overlays x", 66, "there is no directory x", "see which there are: ls -d */"),
        (
            "resize-overlay a.ext3 --grow 5G",
            2,
            "there is no option --grow",
            "did you mean -s +SIZE?",
        ),
        (
            "pack-overlay a.ext3 --compression brotli",
            2,
            "--compression: brotli is not one of zstd, gzip, lz4, xz",
            "for example: --compression zstd",
        ),
        ("pack-overlay a.ext3 -c xz", 2, "there is no option -c", "did you mean --compression?"),
        ("pack-overlay a.ext3 -f", 2, "there is no option -f", "did you mean --force?"),
        ("pack-overlay", 2, "no overlay is named", "pack-overlay OVERLAY"),
        (
            "pack-overlay a.ext3 a.ext3",
            2,
            "a.ext3 is named twice",
            "name every overlay once",
        ),
        (
            "overlay-admin report",
            2,
            "no directory is named",
            "the current one: overlay-admin report .",
        ),
        (
            "overlay-admin report . --older 30d",
            2,
            "--older: '30d' is not a number of days",
            "--older 30",
        ),
        (
            "overlay-admin config create.size",
            2,
            "cannot understand create.size here",
            "to see one setting: overlay-admin config | grep create.size",
        ),
        ("overlay-admin config --orig", 2, "there is no option --orig", "did you mean --origin?"),
        (
            "overlay-admin x",
            2,
            "x is not one of the commands config, doctor, report, sessions, pages",
            SUBCOMMANDS,
        ),
        ("mount-overlay", 2, "no overlay is named", "mount-overlay -o OVERLAY"),
        (
            "mount-overlay a.ext3",
            2,
            "cannot understand a.ext3 here",
            "overlays are named with -o: mount-overlay -o a.ext3",
        ),
        (
            "mount-overlay -f x -o a.ext3",
            2,
            "there is no option -f",
            "a shell takes no file of commands: run-overlay -f x -o a.ext3",
        ),
        (
            "mount-overlay -o a.ext3 -o x:rw",
            2,
            "only the first overlay can be writable",
            "name the one to write in first, and the others without :rw",
        ),
        (
            "run-overlay",
            2,
            "there is nothing to run",
            NOTHING,
        ),
        (
            "run-overlay -o a.ext3",
            2,
            "there is nothing to run",
            NOTHING.replace("OVERLAY", "a.ext3"),
        ),
        (
            "run-overlay -o a.ext3 --",
            2,
            "there is nothing to run",
            NOTHING.replace("OVERLAY", "a.ext3"),
        ),
        ("run-overlay -f commands", 2, "no overlay is named", "run-overlay -o OVERLAY -f commands"),
        (
            "run-overlay -o a.ext3 -f commands -- ls",
            2,
            "there are both a file of commands (-f) and a command (after --)",
            "give one of them",
        ),
        (
            "run-overlay -o a.ext3 -f a.ext3",
            2,
            "a.ext3 is an overlay, not a file of commands",
            "run-overlay -o a.ext3 -f FILE",
        ),
        (
            "run-overlay -o a.ext3 ls",
            2,
            "cannot understand ls here",
            "a command stands behind --: run-overlay -o a.ext3 -- ls",
        ),
        ("run-overlay -o a.ext3 -f", 2, "behind -f there must be FILE", "for example: -f job.txt"),
        (
            "run-overlay -o none.ext3 -f commands",
            66,
            "there is no overlay none.ext3",
            "list the overlays here: list-overlays .",
        ),
        (
            "run-overlay -o a -f commands",
            66,
            "there is no overlay a",
            "did you mean a.ext3?",
        ),
        (
            "run-overlay -o commands -f a",
            65,
            "commands is not an overlay",
            "overlays are ext3 images, squashfs files and directories; those here: list-overlays .",
        ),
        (
            "run-overlay -o a.ext3 -f none",
            66,
            "cannot read the command file none: No such file or directory",
            "make it first: a text file of bash commands, one a line",
        ),
        (
            "run-overlay -o a.ext3 -f .",
            66,
            "the command file . is a directory",
            "name a file in it: -f ./FILE",
        ),
        (
            "run-overlay -o a.ext3 -c x -f commands",
            66,
            "there is no base image named x",
            "known names: base",
        ),
        (
            "run-overlay -o a.ext3 -o ./a.ext3 -f commands",
            2,
            "./a.ext3 is named twice, as a.ext3 too",
            "name every overlay once",
        ),
        (
            "run-overlay -o a.ext3 -o a.ext3:ro -f commands",
            2,
            "a.ext3 is named twice",
            "name every overlay once",
        ),
        (
            "run-overlay a.ext3 ls",
            2,
            "cannot understand a.ext3 ls here",
            "overlays are named with -o, a command stands behind --: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay a ls -l",
            2,
            "cannot understand a ls -l here",
            "overlays are named with -o, a command stands behind --: run-overlay -o a.ext3 -- ls -l",
        ),
        (
            "run-overlay ls -o a.ext3",
            2,
            "cannot understand ls here",
            "a command stands behind --: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay ls",
            2,
            "cannot understand ls here",
            "a command stands behind --: run-overlay -o OVERLAY -- ls",
        ),
        (
            "run-overlay a.ext3",
            2,
            "cannot understand a.ext3 here",
            "for a shell: mount-overlay -o a.ext3; for a file of commands: run-overlay -o a.ext3 -f FILE",
        ),
        (
            "run-overlay a.ext3 commands",
            2,
            "cannot understand a.ext3 commands here",
            "overlays are named with -o, a file of commands stands behind -f: run-overlay -o"
            " a.ext3 -f commands",
        ),
        (
            "run-overlay commands a.ext3",
            2,
            "cannot understand commands a.ext3 here",
            "overlays are named with -o, a file of commands stands behind -f: run-overlay -o"
            " a.ext3 -f commands",
        ),
        (
            "run-overlay -o a.ext3 -f commands run.sh",
            2,
            "cannot understand run.sh here",
            "to hand arguments to a file of commands: run-overlay -o a.ext3 -- bash commands run.sh",
        ),
        (
            "run-overlay -o a.ext3 program",
            2,
            "cannot understand program here",
            "a command stands behind --: run-overlay -o a.ext3 -- ./program",
        ),
        (
            "run-overlay -o a.ext3 script.py x",
            2,
            "cannot understand script.py x here",
            "a command stands behind --: run-overlay -o a.ext3 -- python3 script.py x",
        ),
        (
            "run-overlay -o a.ext3 - ls",
            2,
            "cannot understand - ls here",
            "a command stands behind --: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 :ro -- ls",
            2,
            "cannot understand :ro here",
            "no space stands before :ro: run-overlay -o a.ext3:ro -- ls",
        ),
        (
            "run-overlay -o a.ext3 -f commands -f run.sh",
            2,
            "-f is given twice: commands and run.sh",
            "give it once: -f commands",
        ),
        (
            "run-overlay -o a.ext3/ -- ls",
            66,
            "a.ext3/ ends with a slash, and is a file",
            "did you mean a.ext3?",
        ),
        ("run-overlay -o aa.ext3 -- ls", 66, "there is no overlay aa.ext3", "did you mean a.ext3?"),
        (
            "run-overlay -o a.ext3 -f ls",
            66,
            "cannot read the command file ls: No such file or directory",
            "one command stands behind --: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 -f command",
            66,
            "cannot read the command file command: No such file or directory",
            "did you mean commands?",
        ),
        (
            "run-overlay -o a.ext3 -f d",
            66,
            "the command file d is a directory",
            "name a file in it: -f d/FILE",
        ),
        (
            "run-overlay -f a.ext3",
            2,
            "a.ext3 is an overlay, not a file of commands",
            "run-overlay -o a.ext3 -f FILE",
        ),
        (
            "run-overlay -o a.ext3 -f binary",
            2,
            "binary is not a text, and -f runs bash commands",
            "one command stands behind --: run-overlay -o a.ext3 -- ./binary",
        ),
        (
            "run-overlay -o a.ext3 -b d:data -- ls",
            2,
            "-b d:data: behind the first colon stands the path inside, which begins with /",
            "-b d:/data",
        ),
        (
            "run-overlay -o a.ext3 -b d:/data:rx -- ls",
            2,
            "-b d:/data:rx: behind the second colon there must be ro or rw",
            "-b d:/data:ro",
        ),
        (
            "run-overlay -o a.ext3 -it -- bash",
            2,
            "there is no option -it",
            "nothing need be said for that: run-overlay -o a.ext3 -- bash",
        ),
        (
            "run-overlay -o a.ext3 --env A=1 -- ls",
            2,
            "there is no option --env",
            "variables of this shell are seen inside: export A=1; run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 --pwd /opt -- ls",
            2,
            "there is no option --pwd",
            "it begins where you are; to change that: run-overlay -o a.ext3 -- bash -c 'cd /opt && ls'",
        ),
        (
            "run-overlay -o a.ext3 --command ls",
            2,
            "there is no option --command",
            "one command: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 --wait 5m -- ls",
            2,
            "--wait: '5m' is not a number of seconds",
            "--wait 300",
        ),
        ("run-overlay help", 2, "cannot understand help here", "run-overlay --help"),
        (
            "mount-overlay -ro a.ext3",
            2,
            "there is no option -ro",
            "to open it read-only: mount-overlay -o a.ext3:ro",
        ),
        (
            "mount-overlay --rw -o a.ext3",
            2,
            "there is no option --rw",
            "the first overlay is written, unless :ro stands behind its name: mount-overlay -o a.ext3",
        ),
        (
            "mount-overlay a",
            2,
            "cannot understand a here",
            "overlays are named with -o: mount-overlay -o a.ext3",
        ),
        (
            "mount-overlay a.ext3 b.ext3",
            2,
            "cannot understand a.ext3 b.ext3 here",
            "overlays are named with -o: mount-overlay -o a.ext3 -o b.ext3",
        ),
        (
            "mount-overlay a.ext3 -- ls",
            2,
            "cannot understand a.ext3 here",
            "overlays are named with -o: run-overlay -o a.ext3 -- ls",
        ),
        (
            "mount-overlay --umount a.ext3",
            2,
            "there is no option --umount",
            "a session ends with its shell: exit",
        ),
        (
            "mount-overlay -o a.ext3 --per-task",
            2,
            "there is no option --per-task",
            "that is for commands: run-overlay -o a.ext3 --per-task -- COMMAND",
        ),
        ("mount-overlay -o a.ext3 --gpu", 2, "there is no option --gpu", "did you mean --nv?"),
        (
            "pack-overlay a.ext3,a.ext3",
            66,
            "there is no overlay a.ext3,a.ext3",
            "name each apart: a.ext3 a.ext3",
        ),
        (
            "resize-overlay a.ext3 -s 22 -o n",
            2,
            "cannot understand a.ext3 here",
            "the overlay itself gets another size; to have both: cp a.ext3 n.ext3 && resize-overlay"
            " n.ext3 -s 22",
        ),
        (
            "resize-overlay -o n -s 22 a.ext3",
            2,
            "cannot understand a.ext3 here",
            "the overlay itself gets another size; to have both: cp a.ext3 n.ext3 && resize-overlay"
            " n.ext3 -s 22",
        ),
        (
            "mount-overlay -o a.ext3,a",
            66,
            "there is no overlay a.ext3,a",
            "name each apart: -o a.ext3 -o a.ext3",
        ),
        (
            "mount-overlay -o a.ext3,a.ext3",
            66,
            "there is no overlay a.ext3,a.ext3",
            "name each apart: -o a.ext3 -o a.ext3",
        ),
        (
            "create-overlay env",
            2,
            "cannot understand env here",
            "its name stands behind -o: create-overlay -s 10G -n 200 -o env",
        ),
        (
            "create-overlay -s 10G env",
            2,
            "cannot understand env here",
            "its name stands behind -o: create-overlay -s 10G -o env -n 200",
        ),
        (
            "create-overlay 500 700",
            2,
            "cannot understand 500 700 here",
            "create-overlay -s 500 -n 700",
        ),
        (
            "create-overlay -o env other -s 5 -n 1",
            2,
            "cannot understand other here",
            "one overlay at a time: create-overlay -o env -s 5 -n 1",
        ),
        (
            "create-overlay --size=10 GB -n 5",
            2,
            "cannot understand GB here",
            "number and unit in one word: --size=10GB",
        ),
        (
            "create-overlay -f pip install numpy",
            2,
            "cannot understand install numpy here",
            "-f names a file of commands: echo 'pip install numpy' >install.txt; create-overlay"
            " -f install.txt",
        ),
        (
            "create-overlay -f a.ext3 -o z",
            2,
            "a.ext3 is an overlay, not a file of commands",
            "to fill the new one with what is in it: --from a.ext3",
        ),
        (
            "create-overlay -f script.py -o z",
            2,
            "script.py begins with #!/usr/bin/env python3, and -f runs bash commands",
            "-f names a file of commands: echo 'python3 script.py' >install.txt; create-overlay"
            " -f install.txt",
        ),
        (
            "create-overlay --from d /data -o z",
            2,
            "cannot understand /data here",
            "where it goes inside stands behind a colon: create-overlay --from d:/data -o z",
        ),
        (
            "create-overlay --from commands -o z",
            65,
            "commands is neither a directory, a tar archive, a squashfs file nor an overlay",
            "put it into a directory: mkdir DIR && cp commands DIR; then: --from DIR:/opt/commands",
        ),
        (
            "create-overlay --from data.zip -o z",
            65,
            "data.zip is a zip archive, which is not unpacked here",
            "unpack it first: mkdir data && unzip -q data.zip -d data; then: --from data:/opt/data",
        ),
        (
            "create-overlay --from dd:/data -o z",
            66,
            "cannot read dd: No such file or directory",
            "name a directory or an archive; see: ls",
        ),
        (
            "create-overlay --from https://example.org/x.tar.gz -o z",
            66,
            "https://example.org/x.tar.gz lies on another machine",
            "fetch it first: curl -LO https://example.org/x.tar.gz; then: --from x.tar.gz",
        ),
        (
            "create-overlay -c ubuntu",
            2,
            "-c is for an overlay that is filled, and this one is not",
            "leave it out, and name the base image later: mount-overlay -o NAME -c ubuntu",
        ),
        (
            "create-overlay --set A=1 -s 64 -n 5",
            2,
            "--set is for an overlay that is filled, and this one is not",
            "create-overlay --from DIRECTORY:/opt/env --set A=1 -o env",
        ),
        (
            "create-overlay -s 64 -n 5 -o e.ext4",
            2,
            "e.ext4: an overlay is an ext3 image, and its name ends with .ext3",
            "-o e.ext3",
        ),
        (
            "create-overlay -s 64 -n 5 -o env:2",
            2,
            "env:2.ext3: colons, control characters and bytes that are not UTF-8 in the name of"
            " an overlay would be misread by the engine",
            "choose another name: -o env_2.ext3",
        ),
        (
            "create-overlay -o x -o y -s 64 -n 5",
            2,
            "-o is given twice: x and y",
            "give it once: -o x",
        ),
        (
            "create-overlay -t -o z",
            2,
            "behind -t there must be NAME",
            "create-overlay --list-templates",
        ),
        (
            "create-overlay --readonly -s 64 -n 5",
            2,
            "there is no option --readonly",
            "that is said when it is opened: mount-overlay -o OVERLAY:ro",
        ),
        ("create-overlay -help", 2, "there is no option -help", "did you mean --help?"),
        ("create-overlay --sparse=yes", 2, "--sparse takes no argument", "give it alone: --sparse"),
        (
            "show-overlay -o a.ext3 /opt",
            2,
            "/opt is not an overlay",
            "if it is inside: show-overlay a.ext3 --files /opt",
        ),
        ("show-overlay --files opt", 2, "no overlay is named", "show-overlay --files opt OVERLAY"),
        ("show-overlay --json", 2, "no overlay is named", "show-overlay --json OVERLAY"),
        ("show-overlay --all", 2, "there is no option --all", "several overlays: list-overlays ."),
        (
            "show-overlay --history a.ext3",
            2,
            "there is no option --history",
            "that is shown without an option: show-overlay a.ext3",
        ),
        ("show-overlay a.ext3 --csv", 2, "there is no option --csv", "did you mean --json?"),
        (
            "check-overlay .",
            65,
            ". is a directory, and an overlay is a file in it",
            "name the file: -o ./a.ext3",
        ),
        ("check-overlay --own", 2, "no overlay is named", "check-overlay --own OVERLAY"),
        (
            "check-overlay -n a.ext3",
            2,
            "there is no option -n",
            "what loses nothing is repaired at once, all else by --repair only: check-overlay a.ext3",
        ),
        ("check-overlay -a", 2, "there is no option -a", "name each, as in: check-overlay *.ext3"),
        (
            "check-overlay --json a.ext3",
            2,
            "there is no option --json",
            "what is known of it: show-overlay --json a.ext3",
        ),
        (
            "resize-overlay a.ext3 -s -10",
            2,
            "-s -10: a size cannot be less than nothing",
            "name the new size: resize-overlay a.ext3 -s 6",
        ),
        (
            "resize-overlay -s -10",
            2,
            "-s -10: a size cannot be less than nothing",
            "name the new size: -s 10G",
        ),
        (
            "resize-overlay a.ext3 -n -5",
            2,
            "-n -5: a number cannot be less than nothing",
            "name the new number: -n 200",
        ),
        (
            "resize-overlay a.ext3 -s 5 G",
            2,
            "cannot understand G here",
            "number and unit in one word: -s 5G",
        ),
        (
            "resize-overlay a.ext3 -s + 5G",
            2,
            "-s: '+' is not a size; it looks like 500, 500M, 20G or 1.5T",
            "nothing stands between + and the amount: -s +5G",
        ),
        (
            "resize-overlay 20G a.ext3",
            2,
            "cannot understand a.ext3 here",
            "resize-overlay a.ext3 -s 20G",
        ),
        (
            "resize-overlay a.ext3 b.ext3 -s +5M",
            2,
            "cannot understand b.ext3 here",
            "one overlay at a time: resize-overlay a.ext3 -s +5M",
        ),
        (
            "resize-overlay a.ext3 --shrink",
            2,
            "there is no option --shrink",
            "a smaller size: resize-overlay a.ext3 -s SIZE",
        ),
        (
            "resize-overlay a.ext3 --force -s 5",
            2,
            "there is no option --force",
            "nothing need be said for that: resize-overlay a.ext3 -s 5",
        ),
        ("resize-overlay", 2, "no overlay is named", "resize-overlay OVERLAY -s +5G"),
        (
            "pack-overlay --unpack a.ext3",
            2,
            "there is no option --unpack",
            "an overlay to write in, of what is in it: create-overlay --from a.ext3 -o NAME",
        ),
        (
            "pack-overlay a.ext3 -o a.ext3",
            2,
            "a.ext3: a packed overlay is a squashfs file, and its name ends with .sqsh",
            "-o a.sqsh",
        ),
        (
            "pack-overlay a.ext3 -o x.tar.gz",
            2,
            "x.tar.gz: a packed overlay is a squashfs file, and its name ends with .sqsh",
            "-o x.sqsh",
        ),
        (
            "pack-overlay a.ext3 --delete",
            2,
            "there is no option --delete",
            "did you mean --remove?",
        ),
        (
            "pack-overlay a.ext3 -s 5G",
            2,
            "there is no option -s",
            "it is as large as what is in it: pack-overlay a.ext3",
        ),
        (
            "pack-overlay a.ext3 --output",
            2,
            "behind --output there must be NAME",
            "for example: --output all.sqsh",
        ),
        (
            "list-overlays --all",
            2,
            "there is no option --all",
            "all below a directory are listed: list-overlays",
        ),
        ("list-overlays a", 66, "there is no directory a", "one overlay: show-overlay a.ext3"),
        (
            "list-overlays --sort SIZE",
            2,
            "--sort: SIZE is not one of size, used, files, age, name",
            "did you mean size?",
        ),
        (
            "list-overlays --user me",
            2,
            "there is no option --user",
            "by owner: overlay-admin report .",
        ),
        ("list-overlays -S", 2, "there is no option -S", "did you mean --sort size?"),
        ("list-overlays d --older 30", 2, "there is no option --older", "did you mean --sort age?"),
        ("update-overlay --forget", 2, "no overlay is named", "update-overlay --forget OVERLAY"),
        (
            "update-overlay --undo 2",
            2,
            "--undo takes no number, but an overlay",
            "update-overlay --undo OVERLAY",
        ),
        (
            "update-overlay -f commands",
            2,
            "no overlay is named",
            "update-overlay -f commands OVERLAY",
        ),
        ("update-overlay -- ls", 2, "no overlay is named", "update-overlay OVERLAY -- ls"),
        (
            "update-overlay a.ext3 --",
            2,
            "there is no command behind --",
            "for a shell in the copy: update-overlay a.ext3",
        ),
        (
            "update-overlay a.ext3 more.txt",
            2,
            "what is run in the copy stands behind -f or --: more.txt",
            "update-overlay a.ext3 -f more.txt",
        ),
        (
            "update-overlay a.ext3 pip install x",
            2,
            "what is run in the copy stands behind -f or --: pip install x",
            "update-overlay a.ext3 -- pip install x",
        ),
        (
            "update-overlay a.ext3 b.ext3 -- ls",
            2,
            "what is run in the copy stands behind -f or --: b.ext3",
            "one overlay at a time: update-overlay a.ext3 -- ls",
        ),
        (
            "update-overlay a.ext3 +5G",
            2,
            "what is run in the copy stands behind -f or --: +5G",
            "update-overlay a.ext3 -s +5G",
        ),
        (
            "update-overlay a.ext3 --dry-run -- ls",
            2,
            "there is no option --dry-run",
            "a copy is changed; to go back afterwards: update-overlay --undo a.ext3",
        ),
        (
            "update-overlay a.ext3 --redo",
            2,
            "there is no option --redo",
            "an undo is taken back by another: update-overlay --undo a.ext3",
        ),
        (
            "update-overlay a.ext3 -f a.ext3",
            2,
            "a.ext3 is an overlay, not a file of commands",
            "update-overlay a.ext3 -f FILE",
        ),
        (
            "update-overlay a.ext3 --versions two",
            2,
            "--versions: two is not a number from 1 to 1000",
            "to keep the last three: --versions 3",
        ),
        (
            "overlay-admin config set a=b",
            2,
            "cannot understand set a=b here",
            "settings stand in files, yours in ~/.config/overlay/overlay.ini: man overlay.ini",
        ),
        (
            "overlay-admin config get create.size",
            2,
            "cannot understand get create.size here",
            "to see one setting: overlay-admin config | grep create.size",
        ),
        (
            "overlay-admin config --check commands x",
            2,
            "cannot understand x here",
            "one file at a time: overlay-admin config --check commands",
        ),
        (
            "overlay-admin config --check",
            2,
            "behind --check there must be FILE",
            "for example: --check overlay.ini",
        ),
        ("overlay-admin config doctor", 2, "cannot understand doctor here", "overlay-admin doctor"),
        (
            "overlay-admin config --set a=b",
            2,
            "there is no option --set",
            "settings stand in files, yours in ~/.config/overlay/overlay.ini: man overlay.ini",
        ),
        ("overlay-admin doctor x", 66, "there is no directory x", "see which there are: ls -d */"),
        (
            "overlay-admin doctor a.ext3",
            66,
            "a.ext3 is not a directory",
            "an overlay: check-overlay a.ext3; its file system: overlay-admin doctor .",
        ),
        (
            "overlay-admin report nosuch",
            66,
            "there is no directory nosuch",
            "see which there are: ls -d */",
        ),
        (
            "overlay-admin report . --older 1y",
            2,
            "--older: '1y' is not a number of days",
            "--older 365",
        ),
        (
            "overlay-admin check",
            2,
            "check is not one of the commands config, doctor, report, sessions, pages",
            "check-overlay OVERLAY",
        ),
        (
            "overlay-admin help",
            2,
            "help is not one of the commands config, doctor, report, sessions, pages",
            "overlay-admin --help",
        ),
        (
            "run-overlay --a.ext3 -- ls",
            2,
            "there is no option --a.ext3",
            "overlays are named with -o: run-overlay -o a.ext3 -- ls",
        ),
        (
            "run-overlay -o a.ext3 -file commands",
            2,
            "there is no option -file",
            "did you mean --file?",
        ),
        (
            "run-overlay -o a.ext3 A=4 ls",
            2,
            "cannot understand A=4 ls here",
            "a command stands behind --: run-overlay -o a.ext3 -- env A=4 ls",
        ),
        (
            "run-overlay -o a.ext3 requirements.txt",
            2,
            "cannot understand requirements.txt here",
            "a command stands behind --: run-overlay -o a.ext3 -- pip install -r requirements.txt",
        ),
        (
            "run-overlay -o a.ext3 --cleanenv -- ls",
            2,
            "there is no option --cleanenv",
            "words for the engine: --engine-option=--cleanenv",
        ),
        (
            "run-overlay -o a.ext3 --engine-option",
            2,
            "behind --engine-option there must be OPT",
            "for example: --engine-option=--cleanenv",
        ),
        (
            "run-overlay -o a.ext3 -f job.sg",
            66,
            "cannot read the command file job.sg: No such file or directory",
            "make it first: a text file of bash commands, one a line",
        ),
        (
            "mount-overlay .",
            2,
            "cannot understand . here",
            "overlays are named with -o: mount-overlay -o .",
        ),
        ("create-overlay -size 10G -n 5", 2, "there is no option -size", "did you mean --size?"),
        (
            "create-overlay -s 5 -n 1 -q -force",
            2,
            "there is no option -force",
            "did you mean --force?",
        ),
        (
            "create-overlay d",
            2,
            "cannot understand d here",
            "to fill it with that: create-overlay --from d -o d",
        ),
        (
            "create-overlay data.tar.gz -o z",
            2,
            "cannot understand data.tar.gz here",
            "to fill it with that: create-overlay --from data.tar.gz -o z",
        ),
        (
            "create-overlay --from d --to /data -o z",
            2,
            "there is no option --to",
            "where it goes inside stands behind a colon: --from SOURCE:/data",
        ),
        (
            "create-overlay --from d:/data:ro -o z",
            66,
            "cannot read d:/data:ro: No such file or directory",
            "it is copied, and not bound: --from d:/data",
        ),
        (
            "create-overlay --from nosuch -o z",
            66,
            "cannot read nosuch: No such file or directory",
            "name a directory or an archive; see: ls",
        ),
        (
            "create-overlay --set A 4 --from d",
            2,
            "--set: A does not set a variable",
            "--set A=VALUE",
        ),
        ("resize-overlay a.ext3 --to 64", 2, "there is no option --to", "did you mean -s?"),
        (
            "resize-overlay a.ext3 +100K",
            2,
            "cannot understand +100K here",
            "resize-overlay a.ext3 -n +100K",
        ),
        (
            "resize-overlay a.ext3 -n +",
            2,
            "-n: '+' is not a number of files; it looks like 700, 700K or 2M",
            "nothing stands between + and the amount: -n +500",
        ),
        (
            "show-overlay a.ext3:/opt",
            66,
            "there is no overlay a.ext3:/opt",
            "what is inside: show-overlay a.ext3 --files /opt",
        ),
        ("show-overlay aa", 66, "there is no overlay aa", "did you mean a.ext3?"),
        (
            "pack-overlay a.ext3 as out.sqsh",
            66,
            "there is no overlay as",
            "the new file stands behind -o: pack-overlay a.ext3 -o out.sqsh",
        ),
        (
            "update-overlay pip install x",
            2,
            "what is run in the copy stands behind -f or --: install x",
            "update-overlay OVERLAY -- pip install x",
        ),
        (
            "update-overlay commands a.ext3",
            2,
            "what is run in the copy stands behind -f or --: a.ext3",
            "update-overlay a.ext3 -f commands",
        ),
        (
            "update-overlay undo a.ext3",
            2,
            "what is run in the copy stands behind -f or --: a.ext3",
            "update-overlay --undo a.ext3",
        ),
        (
            "update-overlay a.ext3 --undo 2",
            2,
            "--undo takes no number, but an overlay",
            "update-overlay --undo a.ext3",
        ),
        (
            "update-overlay a.ext3 --from d",
            2,
            "there is no option --from",
            "a new one: create-overlay --from d -o NAME",
        ),
        (
            "overlay-admin --json config",
            2,
            "there is no option --json",
            "options stand behind the command: overlay-admin config --json",
        ),
        (
            "overlay-admin pages",
            2,
            "no directory is named",
            "the current one: overlay-admin pages .",
        ),
        (
            "overlay-admin report --csv",
            2,
            "no directory is named",
            "the current one: overlay-admin report --csv .",
        ),
        (
            "create-overlay -f commands run.sh -o z",
            2,
            "cannot understand run.sh here",
            "all in one file: cat commands run.sh >install.txt; create-overlay -o z -f install.txt",
        ),
        (
            "mount-overlay unmount a.ext3",
            2,
            "cannot understand unmount a.ext3 here",
            "a session ends with its shell: exit",
        ),
        (
            "run-overlay -o a.ext3 -w /opt -- ls",
            2,
            "there is no option -w",
            "it begins where you are; to change that: run-overlay -o a.ext3 -- bash -c 'cd /opt && ls'",
        ),
        (
            "update-overlay a.ext3 ls -l",
            2,
            "there is no option -l",
            "a command stands behind --: update-overlay a.ext3 -- ls -l",
        ),
        (
            "overlay-admin list-overlays",
            2,
            "list-overlays is not one of the commands config, doctor, report, sessions, pages",
            "it is a command of its own: list-overlays",
        ),
        (
            "overlay-admin report --html",
            2,
            "behind --html there must be FILE",
            "for example: --html report.html",
        ),
        (
            "create-overlay --from=d /srv/data",
            2,
            "cannot understand /srv/data here",
            "where it goes inside stands behind a colon: create-overlay --from=d:/srv/data",
        ),
        ("resize-overlay a.ext3 --n 5", 2, "there is no option --n", "did you mean -n?"),
        ("show-overlay --du", 2, "no overlay is named", "show-overlay --du OVERLAY"),
        (
            "update-overlay a.ext3 command",
            2,
            "what is run in the copy stands behind -f or --: command",
            "update-overlay a.ext3 -f commands",
        ),
    ],
)
def test_errors(run, scratch, line, status, sentence, hint):
    """A mistake is told in one sentence and a hint, with its own status; nothing changes."""
    before = digests(scratch)
    name, *arguments = line.split()
    result = run(name, *arguments)
    assert result == (status, "", told(name, sentence, hint))
    assert digests(scratch) == before


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        (
            "create-overlay-conda env",
            "cannot understand env here",
            "its name stands behind -o: create-overlay-conda -s 10G -n 200 -o env",
        ),
        (
            "create-overlay-conda -n myenv",
            "-n: 'myenv' is not a number of files; it looks like 700, 700K or 2M",
            "its name stands behind -o: create-overlay-conda -s 10G -n 200 -o myenv",
        ),
        (
            "create-overlay-conda -s 7G -n 700 -o c python=3.12",
            "cannot understand python=3.12 here",
            "packages are installed inside, when it is made: mount-overlay -o c",
        ),
        (
            "create-overlay-conda install numpy",
            "cannot understand install numpy here",
            "packages are installed inside, when it is made: mount-overlay -o NAME",
        ),
        ("create-overlay-conda --name x", "there is no option --name", "did you mean -o?"),
        ("create-overlay-conda -s abc", f"-s: {AMOUNTS}", None),
    ],
)
def test_conda_errors(run, site, line, sentence, hint):
    """Where the site has conda, what is wrong with the line is told; else that it has none."""
    with open(site, "a") as file:
        file.write("[templates]\nconda = d:/opt\n")
    name, *arguments = line.split()
    assert run(name, *arguments) == (2, "", told(name, sentence, hint))


def test_data_directory(run, scratch):
    """A directory with data is not an overlay for check-overlay either."""
    sentence = (
        "d is a directory with data in it, not an overlay; only an empty directory can become one"
    )
    hint = f"to see the data inside: -b '{scratch}/d:/data'; to make an overlay of them:"
    expected = told("check-overlay", sentence, f"{hint} create-overlay --from d:/data")
    assert run("check-overlay", "d") == (65, "", expected)


def test_empty_names(run):
    """Empty arguments are refused in words."""
    assert run("run-overlay", "-o", "", "--", "ls") == (
        2,
        "",
        told("run-overlay", "the name of an overlay is empty"),
    )
    assert run("run-overlay", "-o", "a.ext3", "-f", "") == (
        2,
        "",
        told("run-overlay", "the name of the command file is empty"),
    )
    assert run("create-overlay", "-f", "", "-o", "a") == (
        2,
        "",
        told("create-overlay", "the name of the command file is empty"),
    )


def test_configuration_error(run, site):
    """A wrong overlay.ini stops every command with file, line and 78."""
    site.write_text("[creat]\n")
    message = told(
        "create-overlay",
        f"{site}, line 1: unknown section [creat]",
        "did you mean [create]?",
    )
    assert run("create-overlay", "-s", "16", "-n", "1") == (78, "", message)


def test_inside(run, site, base, environ):
    """Inside a session the engine is not expected, and what is meant is said."""
    site.write_text(f"[engine]\ncommands = no-such-engine\n[images]\ndefault = {base}\n")
    environ["SINGULARITY_CONTAINER"] = "/i/base.sif"
    message = told(
        "run-overlay",
        "you are inside a session already, and there no container engine found; looked for"
        " no-such-engine",
        "leave it first: exit; several overlays are named at once: -o FIRST -o SECOND",
    )
    assert run("run-overlay", "-o", "a.ext3", "--", "ls") == (69, "", message)


def test_no_engine(run, site, base):
    """Without an engine it is said what was looked for."""
    site.write_text(f"[engine]\ncommands = no-such-engine\n[images]\ndefault = {base}\n")
    message = told(
        "run-overlay",
        "no container engine found; looked for no-such-engine",
        "load one, for example: module load apptainer",
    )
    assert run("run-overlay", "-o", "a.ext3", "--", "ls") == (69, "", message)


def test_engine_too_old(run, recorder):
    """An engine that is too old for what was asked is refused before anything starts."""
    recorder.write_text("#!/bin/sh\necho apptainer version 1.0.2\n")
    message = told(
        "run-overlay",
        f"--fakeroot with an overlay needs apptainer 1.1 or newer; {recorder} is 1.0.2",
        "load a newer engine; see: module avail",
    )
    result = run("run-overlay", "--fakeroot", "-o", "a.ext3", "--", "ls")
    assert (result.status, result.stdout, result.stderr) == (69, "", message)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(run, program):
    """--help fits on a screen of 80 x 24: the summary, each option explained or named, examples."""
    result = run(program, "--help")
    assert (result.status, result.stderr) == (0, "")
    _module, command = cli.load(program)
    assert command.summary in result.stdout
    assert command.examples.splitlines()[0] in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) < 80 and len(lines) < 24  # one is the next prompt's
    options = [
        action.option_strings[-1]
        for action in cli.parser(program)._actions
        if action.option_strings
    ]
    for word in (*options, f"man {program}"):
        assert word in result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(run, program):
    """-V shows name and version."""
    for option in ("-V", "--version"):
        assert run(program, option) == (0, f"{program} {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "a", "--", "ls", "-l"], (["a"], None, ["ls", "-l"])),
        (
            ["-o", "a", "--", "sh", "--", "-o", "b"],
            (["a"], None, ["sh", "--", "-o", "b"]),
        ),
        (["-o", "a", "-f", "x"], (["a"], "x", None)),
        (["-oa", "-fx"], (["a"], "x", None)),
        (["--overlay=a", "--overlay", "b", "--file", "-"], (["a", "b"], "-", None)),
        (["-o-a", "-f-b"], (["-a"], "-b", None)),
    ],
)
def test_parse_run(arguments, expected):
    """What stands behind -- is the command's, options included."""
    found = cli.parse("run-overlay", arguments)
    assert (found.overlays, found.file, found.command) == expected


def test_bug(words, environ, scratch):
    """A bug of ours is one line to send, status 70; with OVERLAY_DEBUG all of it."""
    # No text where one belongs stands for whatever nobody has thought of.
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from overlay.cli import main;"
        "environ = {'OVERLAY_CONFIG': ['no text'], **dict.fromkeys(sys.argv[1:], '1')};"
        "sys.exit(main('create-overlay', ['-s', '16', '-n', '1'], environ, '/'))"
    )
    lib = os.path.join(ROOT, "lib")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-IS", "-c", script, lib, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=scratch,
        )

    done = run()
    assert (done.returncode, done.stdout) == (70, "")
    assert re.fullmatch(
        r"create-overlay: error: this is a bug: TypeError at settings/config\.py:\d+: [^\n]+\n"
        r"create-overlay: hint: send this line, and the command that you typed, to your site's"
        r" support\n",
        done.stderr,
    )
    done = run("OVERLAY_DEBUG")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback ")


def test_broken_pipe(words, environ, scratch):
    """A reader that goes away ends us as it ends every tool: no words, 141."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [*words("run-overlay"), "--dry-run", "-o", "a.ext3", "--", "ls"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=scratch,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("program", PROGRAMS)
def test_broken_pipe_of_help(words, environ, scratch, program):
    """The same for --help."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [*words(program), "--help"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=scratch,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_full_output(words, environ, scratch):
    """A result that cannot be written is an error, not a traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*words("run-overlay"), "--dry-run", "-o", "a.ext3", "--", "ls"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=scratch,
            check=False,
            text=True,
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(words, environ, scratch, closed):
    """Without one of the standard descriptors nothing is written where it does not belong."""
    before = (scratch / "a.ext3").read_bytes()
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {closed}',
            "sh",
            *words("run-overlay"),
            "--dry-run",
            "-o",
            "a.ext3",
            "--",
            "ls",
        ],
        env=environ,
        cwd=scratch,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr
    assert (scratch / "a.ext3").read_bytes() == before


def test_quiet_and_verbose(run, environ):
    """-q leaves out notices, -v adds what was not passed on."""
    environ["PYTHONPATH"] = "/x"
    words = ["run-overlay", "--dry-run", "-o", "a.ext3", "--", "ls"]
    assert run(*words).stderr == ""
    expected = "run-overlay: not passed on from the host: PYTHONPATH\n"
    assert run(*words, "x").stderr == ""
    assert run(words[0], "-v", *words[1:]).stderr == expected
    environ["PYTHONPATH"] = ""
    (result,) = {run("mount-overlay", "-q", "--dry-run", "-o", "a.ext3").stderr}
    assert result == ""


# ---------------------------------------------------------------- launchers --


def launchers():
    """Return the paths of all programs."""
    return sorted(os.path.join(ROOT, "bin", name) for name in os.listdir(os.path.join(ROOT, "bin")))


# Starts Python as the programs do.
ASKED = os.path.join(ROOT, "lib/overlay/helpers/for-modulefiles")


def test_launchers_are_all_there():
    """There is a program for every command, executable, and no other."""
    assert [os.path.basename(path) for path in launchers()] == PROGRAMS
    assert all(os.access(path, os.X_OK) for path in launchers())


@pytest.mark.parametrize("path", [*launchers(), ASKED], ids=os.path.basename)
def test_launcher_is_isolated(path):
    """The first line names a fixed Python and shuts out the user's modules."""
    with open(path, encoding="utf-8") as file:
        assert file.readline() == "#!/usr/bin/python3 -IS\n"


@pytest.mark.parametrize("path", [*launchers(), ASKED], ids=os.path.basename)
def test_launcher_parses_everywhere(path):
    """A launcher has nothing that the first Python 3 could not parse."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    tree = ast.parse(source, feature_version=(3, 7))
    newer = (
        ast.JoinedStr,
        ast.AnnAssign,
        ast.NamedExpr,
        ast.AsyncFunctionDef,
        ast.Await,
    )
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation]


@pytest.mark.parametrize("path", [*launchers(), ASKED], ids=os.path.basename)
def test_launcher_under_an_old_python(path):
    """A Python that is too old gets a sentence, before anything of ours is imported."""
    script = (
        "import runpy, sys; sys.version_info = (3, 6, 8); sys.modules['overlay'] = None;"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", script, path],
        capture_output=True,
        text=True,
        check=False,
    )
    message = f": error: needs Python 3.9 or newer, and {sys.executable} is older\n"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("overlay" if path == ASKED else os.path.basename(path)) + message


def test_launcher_through_a_link(environ, scratch):
    """A link to a program finds the tree."""
    (scratch / "run it").symlink_to(os.path.join(ROOT, "bin", "run-overlay"))
    done = subprocess.run(
        [sys.executable, "-IS", scratch / "run it", "-V"],
        env=environ,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"run-overlay {__version__}\n")


# ------------------------------------------------------------------ imports --

HEAVY = {
    "dataclasses",
    "logging",
    "tempfile",
    "json",
    "subprocess",
    "difflib",
    "typing",
    "socket",
    "inspect",
    "random",
    "threading",
    "asyncio",
    "urllib",
    "pathlib",
    "ssl",
    "hashlib",
    "overlay.create.make",
    "overlay.settings.reference",
}


def imported(environ, scratch, *words):
    """Return the modules that a program imports."""
    done = subprocess.run(
        [
            sys.executable,
            "-IS",
            "-X",
            "importtime",
            os.path.join(ROOT, "bin", words[0]),
            *words[1:],
        ],
        env=environ,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run-overlay", "--dry-run", "-o", "a.ext3", "-f", "commands"],
        ["run-overlay", "--dry-run", "-o", "a.ext3", "--", "ls"],
        ["run-overlay", "-o", "a.ext3", "--", "ls"],
        ["run-overlay", "-o", "a.ext3:ro", "-f", "commands"],
        ["mount-overlay", "--dry-run", "-o", "a.ext3"],
    ],
)
def test_imports(environ, scratch, tmp_path, arguments):
    """What every task of every job pays for: nothing heavy on the way to the engine."""
    environ["RECORD"] = str(tmp_path / "record")
    found = imported(environ, scratch, *arguments)
    assert "overlay.launch.plan" in found
    assert found & HEAVY == set()


# All of ours that is imported for a session: each costs a task of a job some 0.2 ms. What a dry run
# takes (room: the overlay is sparse), what a session that only reads takes besides, and what one
# that writes does.
PLANNED = """overlay overlay.cli overlay.commands overlay.commands.arguments overlay.commands.run
overlay.errors overlay.host overlay.host.limits overlay.host.path overlay.host.places
overlay.host.process overlay.host.room overlay.host.trust overlay.image overlay.image.ext3
overlay.image.ext3_image overlay.image.ext3_read overlay.image.image overlay.image.kind
overlay.image.layout overlay.image.lock overlay.image.magic overlay.image.markers
overlay.image.record overlay.launch overlay.launch.belonging overlay.launch.engine
overlay.launch.engines overlay.launch.engines.apptainer overlay.launch.facts overlay.launch.command
overlay.launch.inside overlay.launch.learned overlay.launch.plan overlay.launch.request
overlay.launch.run overlay.output overlay.plan overlay.settings overlay.settings.config
overlay.settings.files overlay.settings.table overlay.settings.values
overlay.shared overlay.shared.place overlay.size"""
READ = "overlay.host.holders overlay.host.keeper overlay.safety overlay.safety.guard"
WRITTEN = "overlay.host.foreground overlay.safety.finish overlay.safety.tidy"

# What a new empty overlay takes, beside who knows about quotas in its place.
CREATED = """overlay overlay.cli overlay.commands overlay.commands.arguments overlay.commands.create
overlay.create overlay.create.make overlay.create.policy overlay.create.request
overlay.create.workplace overlay.errors overlay.host overlay.host.ending overlay.host.limits
overlay.host.mounts overlay.host.path overlay.host.permissions overlay.host.private
overlay.host.process overlay.host.room overlay.host.scratch overlay.host.trust overlay.image
overlay.image.ext3 overlay.image.ext3_size overlay.image.kind overlay.image.lock overlay.image.magic
overlay.image.partial overlay.image.record overlay.output overlay.plan overlay.quota
overlay.quota.check overlay.quota.limits overlay.quota.sources overlay.quota.space overlay.safety
overlay.safety.blocks overlay.safety.replace overlay.safety.stale overlay.settings
overlay.settings.config overlay.settings.files overlay.settings.table overlay.settings.values
overlay.size"""


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["--dry-run", "-o", "a.ext3", "--", "ls"], PLANNED),
        (["-o", "a.ext3:ro", "--", "ls"], f"{PLANNED} {READ}"),
        (["-o", "a.ext3", "--", "ls"], f"{PLANNED} {READ} {WRITTEN}"),
    ],
    ids=["planned", "read", "written"],
)
def test_imports_of_ours(environ, scratch, tmp_path, arguments, known):
    """No module comes onto the launch path by chance: one that is needed there is added above."""
    environ["RECORD"] = str(tmp_path / "record")
    found = imported(environ, scratch, "run-overlay", *arguments)
    ours = {name for name in found if name.partition(".")[0] == "overlay"}
    assert ours == set(known.split())


def test_imports_of_create(environ, scratch):
    """So it is for a new overlay."""
    found = imported(environ, scratch, "create-overlay", "-s", "64", "-n", "2", "-o", "new")
    ours = {name for name in found if name.partition(".")[0] == "overlay"}
    sources = {f"overlay.quota.{name}" for name in (*SOURCES.values(), "kernel", "columns")}
    assert ours - sources == set(CREATED.split())


def test_nothing_runs_at_import(environ):
    """No module of ours reads the command line or the environment, or prints, when imported."""
    script = (
        "import pkgutil, os, sys; sys.path.insert(0, sys.argv[1]); del sys.argv;"
        "os.environ = None; import overlay;"
        "[__import__(found.name) for found in pkgutil.walk_packages(overlay.__path__, 'overlay.')]"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", script, os.path.join(ROOT, "lib")],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
