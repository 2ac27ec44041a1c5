"""Files that cannot be used, by the setting that names them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from control_plane.settings import ServingSettings, Settings, unsupported
from control_plane.tls.contexts import server_context
from control_plane.tls.settings import ServerTlsSettings
from tests.support.certificates import Authority, Pair

PASSWORD = b"the password"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue()


def problem(**serving: Any) -> str:  # noqa: ANN401
    """Return what is said of settings, of which one is wrong."""
    (sentence,) = unsupported(Settings(serving=ServingSettings.model_validate(serving)))
    return sentence


def of_server(pair: Pair, **tls: Any) -> str:  # noqa: ANN401
    return problem(http={"tls": pair.settings() | tls})


def encrypt(key: Path) -> None:
    private = load_pem_private_key(key.read_bytes(), None)
    form = PrivateFormat.TraditionalOpenSSL
    key.write_bytes(private.private_bytes(Encoding.PEM, form, BestAvailableEncryption(PASSWORD)))


def test_a_pair_in_one_file(pair: Pair) -> None:
    together = pair.certificate.read_bytes() + pair.key.read_bytes()
    pair.certificate.write_bytes(together)
    settings = ServerTlsSettings.model_validate({"certificate": str(pair.certificate)})
    assert server_context(settings)


@pytest.mark.parametrize("version", ["1.3", 1.3])
def test_a_version_may_be_a_number(pair: Pair, version: object) -> None:
    tls = pair.settings() | {"minimum_version": version}
    context = server_context(ServerTlsSettings.model_validate(tls))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("key", ["certificate", "key"])
def test_a_file_that_is_not_there(pair: Pair, key: str) -> None:
    says = of_server(pair, **{key: "/nowhere/file.pem"})
    assert says == (
        f"serving.http.tls.{key}: /nowhere/file.pem cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("key", ["certificate", "key"])
def test_a_file_that_must_not_be_read(pair: Pair, key: str) -> None:
    getattr(pair, key).chmod(0)
    if os.access(getattr(pair, key), os.R_OK):
        getattr(pair, key).unlink()
        getattr(pair, key).mkdir()  # who may read everything cannot read this
    says = of_server(pair)
    assert says.startswith(f"serving.http.tls.{key}: {getattr(pair, key)} cannot be read: ")


@pytest.mark.parametrize(
    ("key", "says"),
    [("certificate", "holds no certificate in PEM"), ("key", "holds no private key in PEM")],
)
def test_a_file_of_something_else(pair: Pair, key: str, says: str) -> None:
    getattr(pair, key).write_text("something else\n")
    assert of_server(pair) == f"serving.http.tls.{key}: {getattr(pair, key)} {says}"


def test_the_key_of_another_certificate(authority: Authority, pair: Pair) -> None:
    other = authority.issue().key
    assert of_server(pair, key=str(other)) == (
        f"serving.http.tls.key: the key in {other} is not that of the certificate in "
        f"{pair.certificate}"
    )


def test_the_password_of_a_key(pair: Pair) -> None:
    encrypt(pair.key)
    begin = f"serving.http.tls.key_password: the key in {pair.key} is encrypted, and this password"
    assert of_server(pair) == f"{begin} is not set"
    assert of_server(pair, key_password="wrong") == f"{begin} does not open it"
    assert of_server(pair, key_password="x" * 2000) == f"{begin} does not open it"
    tls = pair.settings() | {"key_password": PASSWORD.decode()}
    assert server_context(ServerTlsSettings.model_validate(tls))


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        ({"key": "/a"}, "key: needs `certificate`, whose key it is"),
        ({"key_password": "a"}, "key_password: needs `certificate`, whose key it is"),
        ({"client_ca": "/a"}, "client_ca: needs `certificate`, without which there is no HTTPS"),
        (
            {"client_certificate": "optional"},
            "client_certificate: needs `client_ca`, whose they are",
        ),
    ],
)
def test_what_goes_with_something_else(tls: dict[str, str], says: str) -> None:
    assert problem(http={"tls": tls}) == f"serving.http.tls.{says}"


def test_the_authorities_of_clients(pair: Pair) -> None:
    assert of_server(pair, client_ca=str(pair.key)) == (
        f"serving.http.tls.client_ca: {pair.key} holds no certificate in PEM"
    )


REMOTE = {"endpoints": ["triton:8001"]}


@pytest.mark.parametrize(
    ("triton", "says"),
    [
        (REMOTE | {"tls": {"enabled": True, "ca": "/a"}}, "ca: /a cannot be read: "),
        (REMOTE | {"tls": {"enabled": True, "key": "/a"}}, "key: needs `certificate`"),
        ({"tls": {"enabled": True}}, "enabled: is for the servers that"),
        ({"endpoints": ["unix:/a"], "tls": {"enabled": True}}, "enabled: is for endpoints of host"),
    ],
)
def test_tls_to_triton(triton: dict[str, Any], says: str) -> None:
    assert problem(triton=triton).startswith(f"serving.triton.tls.{says}")


def test_tls_to_triton_that_is_not_enabled_reads_nothing() -> None:
    tls = {"enabled": False, "ca": "/a"}
    serving = ServingSettings.model_validate({"triton": REMOTE | {"tls": tls}})
    assert unsupported(Settings(serving=serving)) == []


def caching(url: str, tls: dict[str, str]) -> dict[str, Any]:
    return {"caching": {"enabled": True, "redis_url": url, "redis_tls": tls}}


def limiting(url: str, tls: dict[str, str]) -> dict[str, Any]:
    return {"rate_limiting": {"enabled": True, "redis_url": url, "redis_tls": tls}}


@pytest.mark.parametrize("section", [caching, limiting])
@pytest.mark.parametrize(
    ("url", "tls", "says"),
    [
        ("rediss://redis", {"ca": "/a"}, ".ca: /a cannot be read: "),
        ("redis://redis", {"ca": "/a"}, ": needs a serving."),
    ],
)
def test_tls_to_redis(
    section: Callable[[str, dict[str, str]], dict[str, Any]],
    url: str,
    tls: dict[str, str],
    says: str,
) -> None:
    values = section(url, tls)
    (name,) = values
    assert problem(**values).startswith(f"serving.{name}.redis_tls{says}")
