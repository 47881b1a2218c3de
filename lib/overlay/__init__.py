"""Create, mount and run persistent overlays of Apptainer and Singularity.

The public functions for a site's own scripts are in :mod:`overlay.api`.
"""

__version__ = "1.0"
