"""What is measured: each module has measure(ground), and says in its first line what it is about."""
