"""This machine: its processes, mounts, names, and the places for temporary files."""
