"""Packing killed at random moments, many times over."""

from e2e.test_pack import kills, planted, rich, test_killed  # noqa: F401
