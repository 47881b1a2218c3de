"""Checks, repairs and growths killed at random moments, many times over."""

from e2e.safety.test_interrupted import large, put, slowly, test_at_random  # noqa: F401
