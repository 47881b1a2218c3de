"""One module a command: its options, its plan and what it prints."""
