"""Singularity, SingularityCE and SingularityPRO: what Apptainer came from, told in the same words."""

from __future__ import annotations

from overlay.launch.engines.apptainer import Apptainer


class Singularity(Apptainer):
    """A Singularity on this machine."""

    name = "singularity"
    prefix = "SINGULARITY"


ENGINE = Singularity
