"""Certificates of the test's own, in files, from a CA that nobody else knows."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, each in a file."""

    certificate: Path
    key: Path

    def replace_with(self, other: Pair) -> None:
        """Write another pair into the same files, the certificate first."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())

    def settings(self) -> dict[str, str]:
        return {"certificate": str(self.certificate), "key": str(self.key)}


class Authority:
    """A CA, whose certificate is in the file ``ca``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = folder / "ca.pem"
        self._folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(self.ca)
        self._issued = 0

    def issue(self, *names: str, expired: bool = False) -> Pair:
        """Return a certificate for names or addresses; those of this machine, if none are given."""
        self._issued += 1
        ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        issued = self._authority.issue_cert(
            *(names or ("localhost", "127.0.0.1")), not_after=ago if expired else None
        )
        pair = Pair(
            self._folder / f"{self._issued}.crt.pem", self._folder / f"{self._issued}.key.pem"
        )
        issued.private_key_pem.write_to_path(pair.key)
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts this CA, with a certificate of its own."""
        context = ssl.create_default_context(cafile=self.ca)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context
