"""A random walk over stacks of overlays: what is seen is what a plain directory would show.

Each step is done to a directory of the host, the model, and noted as a line of shell, which a
session then does inside. What is seen afterwards, in every kind of session, must be the model.
"""

import os
import random
import shutil
import stat
from pathlib import Path

import pytest
from e2e.safety.test_view import in_overlay
from e2e.safety.trees import CLEAN, state

# Names, types, modes, sizes, targets; which names are one file; and what is in the files. The
# size of a directory is its file system's own.
SHOW = r"""cd /data
find . -type d -printf '%P d %m\n' -o -type l -printf '%P l %l\n' -o -printf '%P %y %m %s\n' | sort
echo ==; find . -type f -printf '%D.%i %P\n'
echo ==; find . -type f -print0 | sort -z | xargs -0 -r sha256sum"""


class Walk:
    """The steps of one walk, by a seed.

    model  the directory that they are done to; lines  what does the same inside
    """

    def __init__(self, seed, model):
        self.random = random.Random(seed)
        self.model = model
        self.lines = []
        self.number = 0
        self.written = set()  # files with several names that this session has written

    def paths(self, kind):
        """Return the names of a kind in the model, sorted: "f" files, "d" directories."""
        test = {"f": stat.S_ISREG, "d": stat.S_ISDIR}[kind]
        found = (path for path in self.model.rglob("*") if test(path.lstat().st_mode))
        return sorted(path.relative_to(self.model) for path in found)

    def any(self, kind):
        """Return one of them, None where there is none."""
        found = self.paths(kind)
        return self.random.choice(found) if found else None

    def new(self, letter):
        """Return a name that is not there, at times one that was."""
        directories = [Path(), *self.paths("d")]
        while True:
            directory = self.random.choice(directories)
            if len(directory.parts) > 3:
                continue
            path = directory / f"{letter}{self.random.randrange(9)}"
            if not os.path.lexists(self.model / path):
                return path
            directories += [directory / path.name] if (self.model / path).is_dir() else []
            letter += "_"

    def fresh(self):
        """Return a name that never was there.

        A lower file that is renamed, renamed back in a later session, and removed then, is back:
        so does fuse-overlayfs 1.10, with the plain engine too.
        """
        self.number += 1
        return self.new("f").with_name(f"r{self.number}")

    def is_kept(self, path):
        """Return whether a name must stay in this session, or one below it.

        What is written to a lower file has one name in the overlay until the session's end, that
        which was looked up last; with that it goes.
        """
        top = self.model / path
        files = [top, *(top.rglob("*") if top.is_dir() else ())]
        return any(file.lstat().st_ino in self.written for file in files)

    def note(self, path):
        """Note that a file is written, when it has several names.

        A second time, by another name, would part them in the session: that gives status 74.
        """
        status = (self.model / path).stat()
        if status.st_nlink > 1:
            self.written.add(status.st_ino)

    def text(self):
        """Return a content that no other file has."""
        self.number += 1
        return f"{self.number}-" + "x" * self.random.randrange(40)

    def step(self):
        """Do one step, whichever is possible."""
        steps = (
            "make_directory make_directory write write write link link link append shorten mode"
            " remove remove remove_tree replace_tree rename rename rename_over move_tree point"
        )
        while getattr(self, self.random.choice(steps.split()))() is False:
            pass

    def make_directory(self):
        path = self.new("d")
        (self.model / path).mkdir()
        self.lines.append(f"mkdir {path}")

    def write(self):
        path, text = self.new("f"), self.text()
        (self.model / path).write_text(f"{text}\n")
        self.lines.append(f"echo {text} >{path}")

    def link(self):
        old, path = self.any("f"), self.fresh()
        if old is None:
            return False
        os.link(self.model / old, self.model / path)
        self.lines.append(f"ln {old} {path}")
        return True

    def append(self):
        path, text = self.any("f"), self.text()
        if path is None or self.is_kept(path):
            return False
        self.note(path)
        with open(self.model / path, "a") as file:
            file.write(f"{text}\n")
        self.lines.append(f"echo {text} >>{path}")
        return True

    def shorten(self):
        path = self.any("f")
        if path is None or self.is_kept(path):
            return False
        self.note(path)
        (self.model / path).write_text("-\n")
        self.lines.append(f"echo - >{path}")
        return True

    def mode(self):
        """Of a file with several names, another may show the old mode until the session ends."""
        path, mode = self.any("f"), self.random.choice((0o600, 0o644, 0o755))
        if path is None or (self.model / path).stat().st_nlink > 1:
            return False
        (self.model / path).chmod(mode)
        self.lines.append(f"chmod {mode:o} {path}")
        return True

    def remove(self):
        path = self.any("f")
        if path is None or self.is_kept(path):
            return False
        (self.model / path).unlink()
        self.lines.append(f"rm {path}")
        return True

    def remove_tree(self):
        path = self.any("d")
        if path is None or self.is_kept(path):
            return False
        shutil.rmtree(self.model / path)
        self.lines.append(f"rm -r {path}")
        return True

    def replace_tree(self):
        """A directory made anew hides all that lower layers have in it."""
        path, text = self.any("d"), self.text()
        if path is None or self.is_kept(path):
            return False
        shutil.rmtree(self.model / path)
        (self.model / path).mkdir()
        (self.model / path / "new").write_text(f"{text}\n")
        self.lines.append(f"rm -r {path}; mkdir {path}; echo {text} >{path}/new")
        return True

    def rename(self):
        path, new = self.any("f"), self.fresh()
        if path is None:
            return False
        (self.model / path).rename(self.model / new)
        self.lines.append(f"mv {path} {new}")
        return True

    def rename_over(self):
        path, other = self.any("f"), self.any("f")
        if path is None or (self.model / path).samefile(self.model / other) or self.is_kept(other):
            return False
        (self.model / path).rename(self.model / other)
        self.lines.append(f"mv -f {path} {other}")
        return True

    def move_tree(self):
        """mv(1) copies a directory of a lower layer, and parts links that lead out of it."""
        path, new = self.any("d"), self.new("d")
        if path is None or self.is_kept(path) or path in (new, *new.parents):
            return False
        line = f"cp -a {path} {new} && rm -r {path}"
        assert os.system(f"cd '{self.model}' && {line}") == 0
        self.lines.append(line)
        return True

    def point(self):
        path = self.new("l")
        target = self.random.choice(["nowhere", "../d1", "f1"])
        os.symlink(target, self.model / path)
        self.lines.append(f"ln -s {target} {path}")


def seen(text):
    """Return what SHOW has printed, the numbers of files made into sets of names."""
    listing, numbers, sums = text.split("==\n")
    names = {}
    for line in numbers.splitlines():
        number, _space, path = line.partition(" ")
        names.setdefault(number, []).append(path)
    return listing, sorted(map(sorted, names.values())), sums


@pytest.fixture
def agree(run, ok, environ, scratch, make):
    """Return a function that walks by a seed, and sees that all views are the model's."""

    def agree(seed, depth, sessions, steps):
        model = scratch / f"model.{seed}"
        model.mkdir()
        walk, below = Walk(seed, model), []
        listing = SHOW.replace("/data", f"'{model}'")
        for level in range(depth):
            name = f"{seed}.{level}.ext3"
            path = make(name, 16, 2)
            for _session in range(sessions):
                walk.lines, walk.written = [], set()
                for _step in range(steps):
                    walk.step()
                script = scratch / "steps"
                script.write_text("set -e\nmkdir -p /data; cd /data\n" + "\n".join(walk.lines))
                result = run("run-overlay", "-o", name, *below, "-f", script)
                assert result == (0, "", ""), f"{seed}, {level}: {walk.lines}: {result.stderr}"
                model_seen = seen(os.popen(listing).read())
                about = f"{seed}, {level}: {walk.lines}"
                read = seen(in_overlay(run, f"{name}:ro", *below[1::2], line=SHOW))
                assert read == model_seen, about
                written = seen(in_overlay(run, name, *below[1::2], line=SHOW))
                assert written[::2] == model_seen[::2], about
                # fuse-overlayfs can part names of one file, but must not join those of two.
                groups = list(map(set, model_seen[1]))
                assert all(any(one <= group for group in groups) for one in map(set, written[1]))
            below = ["-o", name, *below]
            assert state(path) == CLEAN, (seed, level)
        packed = f"{seed}.all.sqsh"
        ok("pack-overlay", "-o", packed, *below[1::2])
        apart = [layer.replace(".ext3", ".sqsh") for layer in below[1::2]]
        for layer in below[1::2]:
            ok("pack-overlay", layer)
        inside = seen(in_overlay(run, f"{apart[0]}:ro", *apart[1:], line=SHOW))
        assert inside == model_seen, (seed, apart)
        # A pack of several holds each name as a file of its own; their content is there once.
        inside = seen(in_overlay(run, f"{packed}:ro", line=SHOW))
        assert inside[::2] == model_seen[::2], (seed, packed)
        shutil.rmtree(model)

    return agree


def test_walk(agree, rounds, count):
    """Names, content, links and sizes are those of the model: written, read-only and packed."""
    turns = rounds(1, 20)
    for seed in range(turns):
        agree(seed, 2 + seed % 3, *((2, 20) if turns > 1 else (1, 25)))
    count(f"random walks over stacks: {turns}")
