"""Whether there is room: one module for each source that knows a quota."""
