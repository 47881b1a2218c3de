"""Random walks over stacks of two to four overlays, many of them."""

from e2e.safety.test_stack_walk import agree, test_walk  # noqa: F401
