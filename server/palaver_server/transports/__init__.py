"""Transports of the API."""
