"""Many that write into one overlay at once, for longer."""

from e2e.safety.test_share_write_model import local, test_model  # noqa: F401
