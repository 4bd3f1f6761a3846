"""What an operator sees of five faults: in the metrics, in the log and in the traces."""
