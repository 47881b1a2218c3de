"""Programs in overlays as commands of the host, modules, and kernels of Jupyter."""
