"""Updates killed at random moments, and read through, many times over."""

from e2e.safety.test_update_killed import (  # noqa: F401
    test_killed,
    test_readers,
    update,
)
