"""Five faults as an operator sees them: in the metrics, in the log and in the traces."""
