"""Faults on purpose, and a check of what they have left: `python -m tests.faults`."""
