"""The values, errors, limits and ports of Palaver. No gRPC, Protobuf, SQL or HTTP is imported here."""
