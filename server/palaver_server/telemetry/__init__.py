"""Calls and turns as an operator sees them: log lines, metrics and traces."""
