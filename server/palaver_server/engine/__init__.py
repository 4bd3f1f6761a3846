"""The shared chat engine, which runs turns. It has no gRPC in it and is tested without."""
