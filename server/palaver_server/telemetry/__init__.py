"""What an operator sees of calls and turns: log lines, metrics and traces."""
