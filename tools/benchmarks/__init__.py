"""What tools/benchmark is made of: it measures, keeps what it measured, and writes it down.

results   what was measured: the one structure that all writers read
ground    the place where it is measured, and the clock
parts     what is measured, a module each
markdown  the tables, and docs/performance.md
picture   the bars
"""
