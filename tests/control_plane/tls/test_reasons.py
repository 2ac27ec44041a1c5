"""What is said of a handshake that fails, between a client and a server in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from control_plane.tls.reasons import reason
from tests.support.certificates import Authority, Pair


def server(pair: Pair, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def failure(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Return the reason that the client has, once it reads."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        try:
            ours.do_handshake()
            ours.read()  # with TLS 1.3, the server's verdict comes after the client's handshake
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return reason(error)
        with suppress(ssl.SSLError):  # it has an alert for the client then
            theirs.do_handshake()
    raise AssertionError("the handshake has not failed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_the_certificate_that_is_asked_for(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    client = authority.client()
    client.maximum_version = version
    why = failure(client, server(authority.issue(), authority.ca))
    assert why in (
        "it asks for a client certificate, and got none",
        "it refuses the handshake; it may ask for a client certificate",
    )


def test_a_client_certificate_of_another_ca(authority: Authority, tmp_path: Path) -> None:
    client = authority.client(Authority(tmp_path / "other").issue("client"))
    why = failure(client, server(authority.issue(), authority.ca))
    assert why == "it does not know the CA of the client certificate"


def test_a_client_certificate_that_has_expired(authority: Authority) -> None:
    client = authority.client(authority.issue("client", expired=True))
    why = failure(client, server(authority.issue(), authority.ca))
    assert why == "it says that the client certificate has expired"


def test_versions_that_do_not_meet(authority: Authority) -> None:
    client, theirs = authority.client(), server(authority.issue())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    theirs.minimum_version = ssl.TLSVersion.TLSv1_3
    assert failure(client, theirs) == "it speaks no version of TLS that is allowed here"
