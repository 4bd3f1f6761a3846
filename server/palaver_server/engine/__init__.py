"""The shared chat engine: it runs turns. It knows nothing of gRPC and is tested without it."""
