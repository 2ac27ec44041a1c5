"""TLS between the client and a server that is gRPC's own, as Triton's is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from control_plane.errors import Unavailable
from control_plane.services import client_factory
from control_plane.settings import TritonSettings
from control_plane.triton.http2.client import Http2Client
from tests.support.certificates import Authority, Pair
from tests.support.clients import PATIENT
from tests.support.server import free_port
from tests.support.triton_in_process import Triton, listening


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@contextmanager
def triton(pair: Pair, client_ca: Path | None = None) -> Iterator[str]:
    credentials = grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        root_certificates=client_ca and client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )
    served = Triton()
    served.configs["demo"] = {}
    with listening(served, credentials=credentials) as endpoint:
        yield endpoint


def settings(authority: Authority, **tls: Any) -> TritonSettings:  # noqa: ANN401
    values = {"enabled": True, "ca": str(authority.ca)} | tls
    return TritonSettings.model_validate({"tls": values})


def connect(endpoint: str, checked: TritonSettings) -> Http2Client:
    client = client_factory(checked)(endpoint)
    assert isinstance(client, Http2Client)
    return client


async def models(endpoint: str, checked: TritonSettings) -> dict[str, bool]:
    client = connect(endpoint, checked)
    try:
        return await client.repository_index(timeout=PATIENT)
    finally:
        await client.close()


async def why_not(endpoint: str, checked: TritonSettings, caplog: pytest.LogCaptureFixture) -> str:
    """Return what the log says of a server that cannot be connected to."""
    with pytest.raises(Unavailable, match="Triton cannot be reached"):
        await models(endpoint, checked)
    (line,) = (m for m in caplog.messages if m.startswith("no connection to"))
    return line.removeprefix(f"no connection to {endpoint}: ")


async def test_a_server_with_tls(authority: Authority) -> None:
    with triton(authority.issue()) as endpoint:
        assert await models(endpoint, settings(authority)) == {"demo": True}


async def test_a_server_that_asks_for_a_certificate(authority: Authority) -> None:
    with triton(authority.issue(), authority.ca) as endpoint:
        mine = authority.issue("gateway").settings()
        assert await models(endpoint, settings(authority, **mine)) == {"demo": True}


async def test_a_certificate_for_another_name(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with triton(authority.issue("triton.example")) as endpoint:
        named = settings(authority, server_name="triton.example")
        assert await models(endpoint, named) == {"demo": True}
        why = await why_not(endpoint, settings(authority), caplog)
    assert why.startswith("its certificate is not accepted: IP address mismatch")


async def test_a_ca_that_is_not_known(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with triton(stranger.issue()) as endpoint:
        why = await why_not(endpoint, settings(authority), caplog)
    assert why == ("its certificate is not accepted: unable to get local issuer certificate")


async def test_a_certificate_that_has_expired(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with triton(authority.issue(expired=True)) as endpoint:
        why = await why_not(endpoint, settings(authority), caplog)
    assert why == "its certificate is not accepted: certificate has expired"


@pytest.mark.parametrize("mine", ["none", "a stranger's"])
async def test_a_client_certificate_that_is_not_taken(
    authority: Authority, stranger: Authority, mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = {} if mine == "none" else stranger.issue("gateway").settings()
    with triton(authority.issue(), authority.ca) as endpoint:
        why = await why_not(endpoint, settings(authority, **own), caplog)
    assert why == "it closed the connection: it may want a client certificate, or another one"


async def test_a_server_without_tls(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with listening(Triton()) as endpoint:
        why = await why_not(endpoint, settings(authority), caplog)
    assert why == "it does not speak TLS"


async def test_a_server_with_tls_that_is_spoken_to_without(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with triton(authority.issue()) as endpoint:
        why = await why_not(endpoint, TritonSettings(), caplog)
    assert why == "it closed the connection: it may speak TLS alone, see serving.triton.tls"


async def test_a_server_with_tls_that_does_not_speak_http_2(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair, context = authority.issue(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context
    )
    async with server:
        endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        why = await why_not(endpoint, settings(authority), caplog)
    assert why == "it does not agree to speak HTTP/2"


async def test_a_server_that_is_not_there(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    why = await why_not(f"127.0.0.1:{free_port()}", settings(authority), caplog)
    assert "Connect call failed" in why or "refused" in why


async def test_a_new_certificate_is_for_the_next_connection(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    mine = stranger.issue("gateway")
    with triton(authority.issue(), authority.ca) as endpoint:
        client = connect(endpoint, settings(authority, **mine.settings()))
        try:
            with pytest.raises(Unavailable):
                await client.repository_index(timeout=PATIENT)
            mine.certificate.write_text("none")
            await asyncio.sleep(0.15)  # until it connects again
            with pytest.raises(Unavailable):
                await client.repository_index(timeout=PATIENT)
            assert "serving.triton.tls.certificate: " in caplog.text
            mine.replace_with(authority.issue("gateway"))
            await asyncio.sleep(0.3)
            assert await client.repository_index(timeout=PATIENT) == {"demo": True}
        finally:
            await client.close()
