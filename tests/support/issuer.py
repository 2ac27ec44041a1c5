"""An issuer of JSON Web Tokens with a real HTTP server, which can be told to misbehave."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.http_thread import running

AUDIENCE = "triad"

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CREATE: Mapping[str, Callable[[], PrivateKey]] = {
    "RS": lambda: rsa.generate_private_key(65537, 2048),
    "PS": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def create_private_key(algorithm: str) -> PrivateKey:
    """Return a new key for an algorithm."""
    return _CREATE.get(algorithm, _CREATE.get(algorithm[:2], _CREATE["RS"]))()


def public_jwk(key: PrivateKey, **fields: object) -> dict[str, Any]:
    """Return the public half of a key as a JSON Web Key. ``fields``: further ones, such as
    ``kid``."""
    made: dict[str, Any]
    if isinstance(key, rsa.RSAPrivateKey):
        made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | fields


class Issuer(ThreadingHTTPServer):
    """``keys``: the JSON Web Keys that it answers with. ``answer``: bytes that it answers with in
    place of them. ``asked``: the paths of the requests so far."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private: dict[str, tuple[PrivateKey, str]] = {}
        self.keys: list[dict[str, Any]] = []
        self.configuration: dict[str, Any] = {"issuer": self.url, "jwks_uri": self.jwks_url}
        self.answer: bytes | None = None
        self.asked: list[str] = []
        self.status = 200
        self.delay = 0.0
        self.pause = 0.0
        """Seconds between two bytes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    def add_key(self, kid: str, algorithm: str = "ES256", **fields: object) -> PrivateKey:
        """Make a key, and publish it."""
        key = create_private_key(algorithm)
        self.private[kid] = key, algorithm
        self.keys.append(public_jwk(key, kid=kid) | fields)
        return key

    def claims(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the claims of a valid token, with changes; one that is None is left out."""
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann@example.com",
            "exp": int(time.time()) + 600,
            "scope": "llm:generate",
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(
        self,
        kid: str,
        header: Mapping[str, Any] | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> str:
        """Return a token that is signed with one of the keys. ``header``: further fields of it."""
        key, algorithm = self.private[kid]
        fields = {"kid": kid} | dict(header or {})
        payload = json.dumps(self.claims(**changes)).encode()
        return jwt.PyJWS().encode(payload, key, algorithm, fields)


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path)
        time.sleep(server.delay)
        if self.path == "/keys":
            body = server.answer
            if body is None:
                body = json.dumps({"keys": server.keys}).encode()
        else:
            body = json.dumps(server.configuration).encode()
        self.send_response(server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self._write(body)
        except ConnectionError:
            self.close_connection = True  # the client has left, as it should

    def _write(self, body: bytes) -> None:
        if not self.server.pause:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(self.server.pause)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    server = Issuer()
    with running(server):
        yield server
