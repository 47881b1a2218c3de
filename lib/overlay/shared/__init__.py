"""One session a node for any number of commands: its keeper, and those who join it."""
