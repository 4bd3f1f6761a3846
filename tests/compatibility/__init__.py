"""Conversations through endpoints that are not ours; `make compatibility` runs them. Not part of the tests proper,
because one of the servers takes many minutes to compile.
"""
