"""Triton: a gRPC client, and an embedded server with its supervisor."""
