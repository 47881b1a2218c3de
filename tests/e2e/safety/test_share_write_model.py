"""Many that write into one overlay at once, each against a model of what it has done."""

import json
import subprocess

from e2e.safety.trees import CLEAN, holders, state
from e2e.test_share import LEASE, files, local  # noqa: F401
from support import wait_until

# A writer: makes, appends, renames, removes and syncs files in a directory that all have, and rows
# of a database of its own; reads what it has written; prints what there should be, name -> content.
WRITER = """
import json, os, random, sqlite3, sys

name, steps = sys.argv[1], int(sys.argv[2])
moments = random.Random(name)
os.makedirs("/all", exist_ok=True)
os.chdir("/all")
os.makedirs("of/" + name)
model, number = {}, 0
base = sqlite3.connect(f"{name}.db")
base.execute("create table rows (number integer)")
base.commit()
for step in range(steps):
    what = moments.choice(["make", "make", "append", "append", "rename", "remove", "row", "read"])
    path = moments.choice(sorted(model)) if model else None
    if what == "make" or path is None:
        path = moments.choice(["", f"of/{name}/"]) + f"{name}.{step}"
        model[path] = moments.choice(["", "x", "some text\\n", "y" * 5000])
        with open(path, "x") as file:
            file.write(model[path])
    elif what == "append":
        text = moments.choice(["a", "line\\n", "z" * 4096])
        with open(path, "a") as file:
            file.write(text)
            if moments.random() < 0.3:
                file.flush()
                os.fsync(file.fileno())
        model[path] += text
    elif what == "rename":
        new = moments.choice([f"{name}.r{step}", f"of/{name}/r{step}", moments.choice(sorted(model))])
        os.rename(path, new)
        model[new] = model.pop(path)
    elif what == "remove":
        os.unlink(path)
        del model[path]
    elif what == "row":
        with base:
            base.execute("insert into rows values (?)", (step,))
        number += 1
    elif open(path).read() != model[path]:
        sys.exit(f"{path} is not what was written")
base.close()
print(json.dumps([model, number]))
"""

# Prints the same of all that there is.
READER = """
import json, os, sqlite3, sys

found = {}
for place, _directories, names in os.walk("/all"):
    for name in names:
        path = os.path.relpath(os.path.join(place, name), "/all")
        if path.endswith(".db"):
            base = sqlite3.connect(f"file:/all/{path}?mode=ro&immutable=1", uri=True)
            found[path] = base.execute("select count(*) from rows").fetchone()[0]
            assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        else:
            found[path] = open(os.path.join(place, name)).read()
print(json.dumps(found))
"""


def test_model(run, words, environ, scratch, make, local, full):  # noqa: F811
    """8 and 32 writers: what each has done is there, nothing else, and the overlay is clean."""
    path = make("a.ext3", *((512, 64) if full else (64, 16)))
    (scratch / "writer.py").write_text(WRITER)
    expected = {}
    for turn, number in enumerate([8, 32] * (2 if full else 1)):
        line = [
            *words("run-overlay"),
            "-v",
            "--share",
            "-o",
            "a.ext3",
            "--",
            "python3",
            "writer.py",
        ]
        started = [
            subprocess.Popen(
                [*line, f"w{turn}-{task}", str(200 if full else 24)],
                env=environ,
                cwd=scratch,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for task in range(number)
        ]
        for task, one in enumerate(started):
            output, errors = one.communicate(timeout=600)
            assert one.returncode == 0, errors
            assert LEASE.search(errors), errors
            model, rows = json.loads(output)
            expected.update(model, **{f"w{turn}-{task}.db": rows})
        wait_until(lambda: not holders(path))
        assert state(path) == CLEAN
        result = run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "python3", "-c", READER)
        assert result.status == 0, result
        assert json.loads(result.stdout) == expected
    wait_until(lambda: not files(local))
