"""Browsers' pages of other origins: https://fetch.spec.whatwg.org/#http-cors-protocol"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests

from tests.support.server import SCRIPTED, TriadServer, triad_server

pytestmark = pytest.mark.process

ORIGIN = "https://app.example.com"
BODY = {"prompt": json.dumps({"tokens": 2})}


@pytest.fixture(scope="module")
def shared_with_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    folder = tmp_path_factory.mktemp("cors")
    environment = {
        "TRIAD_SERVING__CORS__ALLOW_ORIGINS": f"[{ORIGIN}]",
        "TRIAD_SERVING__AUTH__ENABLED": "true",
        "TRIAD_SERVING__AUTH__KEY_STORE": str(folder / "keys.db"),
    }
    arguments = ("--model", str(SCRIPTED))
    with triad_server(folder / "log", *arguments, environment=environment) as running:
        yield running


def preflight(server: TriadServer, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    return requests.options(f"{server.url}/generate", headers=headers, timeout=10)


def test_a_page_of_an_allowed_origin_may_ask(shared_with_pages: TriadServer) -> None:
    allowed = preflight(shared_with_pages, ORIGIN)
    assert allowed.status_code == 200  # without a token: a browser sends none
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    assert allowed.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert allowed.headers["Access-Control-Max-Age"] == "600"


def test_and_reads_errors_and_headers(shared_with_pages: TriadServer) -> None:
    refused = shared_with_pages.post("/generate", BODY, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "X-Request-Id" in refused.headers["Access-Control-Expose-Headers"]


def test_a_page_of_another_origin_may_not(shared_with_pages: TriadServer) -> None:
    assert preflight(shared_with_pages, "https://example.org").status_code == 400
    refused = shared_with_pages.post("/generate", BODY, headers={"Origin": "https://example.org"})
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_by_default_no_page_may(server: TriadServer) -> None:
    assert preflight(server, ORIGIN).status_code == 405
    answer = server.post("/generate", BODY | {"model": "scripted"}, headers={"Origin": ORIGIN})
    assert answer.ok
    assert not any(name.startswith("Access-Control-") for name in answer.headers)
