"""What syncs a file inside, as docs/jobs.md tells: seen in what reaches the image's file."""

import subprocess

import pytest

WORD = "a-word-to-be-found"
WRITE = f"echo {WORD} >/data/f"
OPEN = "python3 -c 'import os; os.fsync(os.open(\"/data/f\", os.{}))'"
WAYS = {
    f"{WRITE}; mv /data/f /data/g": True,
    f"echo {WORD} | dd of=/data/f conv=fsync status=none": True,
    f"{WRITE}; {OPEN.format('O_WRONLY')}": True,
    f"{WRITE}; {OPEN.format('O_RDONLY')}": False,
    f"{WRITE}; sync /data/f": False,
    f"{WRITE}; sync": False,
}


@pytest.mark.parametrize("line", WAYS)
def test_way(words, environ, scratch, make, line):
    """Written to the image, and the image synced after that, before the next command begins."""
    make()
    trace = ["strace", "-f", "-y", "-s", "100", "-o", "log"]
    trace += ["-e", "trace=pwrite64,write,fsync,fdatasync,unlinkat"]
    line = f"mkdir /data; {line}; rm -f /@mark"
    command = [*words("run-overlay"), "-o", "a.ext3", "--", "sh", "-c", line]
    subprocess.run([*trace, *command], env=environ, cwd=scratch, check=True, capture_output=True)
    calls = []
    for call in (scratch / "log").read_text().splitlines():
        if "@mark" in call and "unlinkat" in call:
            break
        if "/a.ext3>" in call:
            calls.append(call)
    written = max((number for number, call in enumerate(calls) if WORD in call), default=None)
    synced = written is not None and "sync(" in calls[-1]
    # A rename and what was open for writing sync at their end; the others leave it to chance.
    assert synced == WAYS[line.partition("; ")[2].rpartition("; ")[0]], calls[-8:]
