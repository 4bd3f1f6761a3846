"""The attack harness: callers, endpoints, skill hosts and connections that try to freeze or fill a server."""
