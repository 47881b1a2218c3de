"""Exposed programs in jobs of a real Slurm."""

from support import wait_until
from test_slurm import prepared, slurm  # noqa: F401
from test_slurm_share import keepers

INSTALL = """set -e
python3 -m venv --without-pip /opt/env
printf '#!/opt/env/bin/python\\nimport os, sys; print("tool", sys.argv[1:])\\n' >/opt/env/bin/tool
chmod 755 /opt/env/bin/tool
"""

RANK = """import os; print("rank", os.environ["SLURM_PROCID"], os.readlink("/proc/self/ns/mnt"))"""

# Lines of a job script, and what each prints, sorted. Four ranks print one session of theirs.
STARTS = {
    "the batch script": ('"$BIN"/tool "a  b"', ["tool ['a  b']"]),
    "srun of one": ('srun -n1 "$BIN"/tool x', ["tool ['x']"]),
    "by a module": ("module load analysis; srun -n1 tool x", ["tool ['x']"]),
    "after module purge": ('module purge; srun -n1 "$BIN"/tool x', ["tool ['x']"]),
    "the first line of a script": (
        'printf "#!/usr/bin/env python\\nprint(6 * 7)\\n" >s; chmod 755 s;'
        " module load analysis; srun -n1 ./s; module purge",
        ["42"],
    ),
    "a status": ('srun -n1 "$BIN"/python -c "raise SystemExit(7)" 2>/dev/null; echo $?', ["7"]),
    "four ranks": (
        f"srun -N1 -n4 \"$BIN\"/python -c '{RANK}'",
        ["rank 0", "rank 1", "rank 2", "rank 3"],
    ),
}


def test_ways_of_starting(slurm, tmp_path):  # noqa: F811
    """A command is the same in a step, in several ranks, by a module and after `module purge`."""
    local = tmp_path / "local"
    local.mkdir()
    slurm.environ.update(OVERLAY_SCRATCH_LOCAL=str(local), OVERLAY_LAUNCH_LINGER="600")
    del slurm.environ["APPTAINERENV_PREPEND_PATH"]
    (slurm.directory / "install.txt").write_text(INSTALL)
    slurm.ours("create-overlay", "-q", "-f", "install.txt", "-o", "env")
    slurm.ours("expose-overlay", "-q", "-o", "env.ext3", "--name", "analysis", "d")
    lines = [f"export BIN={slurm.directory}/d/bin; module use {slurm.directory}/d/modulefiles"]
    lines += [f"echo '= {name}'; {line}" for name, (line, _said) in STARTS.items()]
    job = slurm.script("\n".join(lines), "-N1", "-n4")
    assert job.end() == ("COMPLETED", 0, 0), job.output()
    parts = dict(part.split("\n", 1) for part in job.output().split("= ")[1:])
    said = {name: sorted(parts[name].splitlines()) for name in STARTS}
    ranks = said["four ranks"]
    assert len({line.rpartition(" ")[2] for line in ranks}) == 1, ranks
    said["four ranks"] = [line.rpartition(" ")[0] for line in ranks]
    assert said == {name: said_ for name, (_line, said_) in STARTS.items()}, job.output()
    wait_until(lambda: not keepers(local))
