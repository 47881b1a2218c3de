"""What there is to set, where it is set, and what it is set to."""
