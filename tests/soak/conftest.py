"""The long rounds: tests of tests/e2e/safety once more, with more rounds.

OVERLAY_ROUNDS in the environment is how many rounds each makes, 20 without it.
"""

import pytest

pytest.register_assert_rewrite("e2e.safety")

from e2e.conftest import engine, ordinary_user, overlay, site_text, template  # noqa: E402, F401
from e2e.safety.conftest import (  # noqa: E402, F401
    count,
    hold,
    make,
    pytest_terminal_summary,
    rounds,
    slow,
    start,
)


@pytest.fixture
def full():
    """Return whether the long form of a test is wanted."""
    return True
