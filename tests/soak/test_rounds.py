"""What must hold every time, many times over."""

from e2e.safety.test_kill import (  # noqa: F401
    damaged,
    test_creation,
    test_end_of_session,
    test_repair_before_a_session,
    test_repair_on_a_copy,
    test_server_left_alive,
    test_whole_tree,
)
from e2e.safety.test_use import (  # noqa: F401
    test_readers_of_an_unclean_one,
    test_two_at_once,
)
from e2e.safety.test_view import (  # noqa: F401
    plain,
    test_environment,
)
