#!/usr/bin/env python3
"""Exit code 0 when the tritonserver at an address is ready.

is-ready [host:port [CA [CERTIFICATE KEY]]]: with a file of the CA that the server's certificate is
from, TLS is spoken; where the server asks for a certificate too, it and its key are in files as
well. The server's certificate must be for that host.
"""

import sys
from pathlib import Path

import grpc

METHOD = "/inference.GRPCInferenceService/ServerReady"
READY = b"\x08\x01"  # inference.ServerReadyResponse { ready: true }

if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    files = [Path(file).read_bytes() for file in sys.argv[2:]]
    if files:
        authority, certificate, key = (*files, None, None)[:3]
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        opened = grpc.secure_channel(address, credentials)
    else:
        opened = grpc.insecure_channel(address)
    with opened as channel:
        try:
            answer = channel.unary_unary(METHOD)(b"", timeout=4)
        except grpc.RpcError as error:
            sys.exit(f"{address}: {error.details()}")
    sys.exit(answer != READY)
