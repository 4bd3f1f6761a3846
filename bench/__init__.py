"""The benchmark: the cost of Palaver, as a ratio to the minimal cost of gRPC. `make bench` runs it."""
