"""What the environment tells of a task of a batch job."""

from __future__ import annotations

import os

from overlay.errors import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# How many tasks there are, and which of them this is, as batch systems and MPI say it.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def is_parallel(environ: Mapping[str, str]) -> bool:
    """Return whether this may be one of several tasks, or an element of an array."""
    return "SLURM_ARRAY_TASK_ID" in environ or any(
        environ.get(name, "").isdecimal() and int(environ[name]) > 1 for name in _COUNTS
    )


def ways_out(path: str, environ: Mapping[str, str], *, together: bool = False) -> str:
    """Return the hint for a task that wants to write an overlay which another one has.

    together  whether it is one of the same node that has it
    """
    array = environ.get("SLURM_ARRAY_TASK_ID")
    stem, ending = os.path.splitext(path)
    variable = "$SLURM_ARRAY_TASK_ID" if array else "$SLURM_PROCID"
    own = f"{quote(stem + '-')}{variable}{quote(ending) if ending else ''}"
    shared = "let the tasks of a node write into it together: --share; or " if together else ""
    return (
        f"one task at a time can write an overlay; {shared}in a parallel job let all tasks read it:"
        f" -o {quote(path)}:ro; or give each its own, made before: -o {own}; or let each write"
        " into a layer of its own over it: --per-task"
    )


def task_name(environ: Mapping[str, str], host: str, pid: int) -> str:
    """Return the name of this task: by job, array index and rank, else by host and pid."""
    numbers = {
        name: environ[name]
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", *_RANKS)
        if environ.get(name, "").isdecimal()
    }
    rank = next((f"-task{numbers[name]}" for name in _RANKS if name in numbers), "")
    if "SLURM_ARRAY_JOB_ID" in numbers and "SLURM_ARRAY_TASK_ID" in numbers:
        return f"job{numbers['SLURM_ARRAY_JOB_ID']}_{numbers['SLURM_ARRAY_TASK_ID']}{rank}"
    if "SLURM_JOB_ID" in numbers:
        return f"job{numbers['SLURM_JOB_ID']}{rank}"
    return f"{host}-{pid}{rank}"
