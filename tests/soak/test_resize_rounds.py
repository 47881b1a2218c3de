"""Resizing killed at random moments, many times over."""

from e2e.test_resize import (  # noqa: F401
    kills,
    planted,
    prototype,
    rich,
    test_killed,
)
