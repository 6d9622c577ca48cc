"""Faults under load: engines killed and stopped, floods, clients that leave; every answer is checked.

`python -m tests.chaos --minutes 15` (or `make chaos`) runs them in turn and prints a table.
"""
