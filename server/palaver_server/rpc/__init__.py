"""The gRPC side: what comes in is converted, handed to the engine, and what comes out is converted back."""
