"""The Palaver server."""
