#!/usr/bin/env python3
"""Exit code 0 when the tritonserver at an address is ready: is-ready [host:port]"""

import sys

import grpc

METHOD = "/inference.GRPCInferenceService/ServerReady"
READY = b"\x08\x01"  # inference.ServerReadyResponse { ready: true }

if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    with grpc.insecure_channel(address) as channel:
        try:
            answer = channel.unary_unary(METHOD)(b"", timeout=4)
        except grpc.RpcError as error:
            sys.exit(f"{address}: {error.details()}")
    sys.exit(answer != READY)
