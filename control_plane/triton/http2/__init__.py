"""gRPC over HTTP/2 (RFC 9113) on asyncio: as much of it as Triton's client needs, and no threads.

`frames` and `headers` are the wire's format, `messages` gRPC's, `status` says how a call ended.
A `Call` travels on a `Connection`; the `Channel` has one when a call needs it. `client` is
Triton's.
"""
