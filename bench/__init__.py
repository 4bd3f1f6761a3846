"""What Palaver costs, next to the least that gRPC can cost; `make bench` runs it and prints ratios of one run."""
