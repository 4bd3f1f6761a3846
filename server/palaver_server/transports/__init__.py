"""The transports of the API."""
