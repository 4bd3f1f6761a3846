"""Palaver."""
