"""Conversations through the model servers of third parties. `make compatibility` runs them, and not `make test`,
because one of the servers takes minutes to compile.
"""
