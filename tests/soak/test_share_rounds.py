"""Shared sessions of which something is killed, many times over."""

from e2e.safety.test_share_killed import data, local, test_killed  # noqa: F401
