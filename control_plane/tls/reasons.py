"""Why a connection with TLS could not be made, in words."""

from __future__ import annotations

import ssl

CLOSED = "it closed the connection"
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_OF_PEER = {
    "CERTIFICATE_REQUIRED": "it asks for a client certificate, and got none",
    "UNKNOWN_CA": "it does not know the CA of the client certificate",
    "BAD_CERTIFICATE": "it does not accept the client certificate",
    "CERTIFICATE_EXPIRED": "it says that the client certificate has expired",
    "CERTIFICATE_UNKNOWN": "it does not accept the client certificate",
    "HANDSHAKE_FAILURE": "it refuses the handshake; it may ask for a client certificate",
    "PROTOCOL_VERSION": "it speaks no version of TLS that is allowed here",
    "NO_APPLICATION_PROTOCOL": "it does not speak HTTP/2",
}


def reason(error: BaseException) -> str:
    """Return why a server could not be connected to, as the end of a sentence about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return CLOSED
    if not isinstance(error, ssl.SSLError):
        return str(error) or type(error).__name__
    name = error.reason or ""
    if name in _NO_TLS:
        return "it does not speak TLS"
    for end, words in _OF_PEER.items():
        if name.endswith(f"ALERT_{end}"):
            return words
    return str(error)
