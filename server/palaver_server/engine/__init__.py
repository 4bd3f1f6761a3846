"""The chat engine, which runs turns. It does not depend on gRPC and is tested without it."""
