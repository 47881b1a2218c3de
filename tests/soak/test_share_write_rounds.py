"""Shared sessions that write, of which something is killed, many times over."""

from e2e.safety.test_share_write_killed import local, test_killed  # noqa: F401
