"""``POST /profile``: the trace of one request, where `profiling` is on."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

from tests.support.server import TriadServer


def test_a_trace_has_the_engines_operations(debug_server: TriadServer) -> None:
    server = debug_server
    body = {"prompt": "What is machine learning?", "max_tokens": 5, "ignore_eos": True}
    response = server.post("/profile", body)
    assert response.status_code == 200, response.text
    request_id = response.headers["X-Request-Id"]
    assert response.headers["Content-Disposition"].endswith(f'"trace-{request_id}.json.gz"')
    events = json.loads(gzip.decompress(response.content))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert any("scaled_dot_product" in name for name in names)
    assert sum(name == "aten::embedding" for name in names) >= 5

    with ThreadPoolExecutor(4) as pool:  # one at a time, and the engine serves others meanwhile
        longer = {**body, "max_tokens": 60}
        traces = [pool.submit(server.post, "/profile", longer) for _ in range(2)]
        plain = pool.submit(server.post, "/generate", {**body, "temperature": 0})
        assert plain.result().status_code == 200
        codes = sorted(trace.result().status_code for trace in traces)
    assert codes == [200, 503]
    assert server.post("/profile", body).status_code == 200
    refused = server.post("/profile", {"prompt": "a", "max_tokens": 129})
    assert refused.json()["error"]["param"] == "max_tokens"
    assert server.post("/profile", {"prompt": "word " * 4000}).json()["error"]["param"] == "prompt"


def test_it_is_not_there_unless_asked_for(server: TriadServer) -> None:
    assert server.post("/profile", {"prompt": "Hello"}).status_code == 404
