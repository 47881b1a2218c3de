"""Shared sessions of which something is killed, many times over."""

from e2e.safety.test_share_killed import (  # noqa: F401
    data,
    local,
    test_killed,
    test_killed_while_it_starts,
)
