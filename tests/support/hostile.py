"""Requests of somebody who means harm, or has a defect: each of at most 4 MB, and slow clients."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.raw_http import exchange, post

MAX_BODY = 4_000_000

M = [{"role": "user", "content": "x"}]


@dataclass(frozen=True, slots=True)
class Shape:
    """``attack(port)`` does it, and returns the answer's status, or what became of it. ``deep``: it
    reaches the engine, whose doing it is then what others notice."""

    name: str
    attack: Callable[[int], str]
    deep: bool = False


def _sends(request: bytes) -> Callable[[int], str]:
    def attack(port: int) -> str:
        status = exchange(port, request).status
        return str(status) if status else "closed"

    return attack


def _post(path: str, body: bytes) -> Callable[[int], str]:
    return _sends(post(path, body, b"Connection: close"))


def body_shapes() -> Iterator[Shape]:
    """Bodies that end at the gateway, then those that reach the engine."""
    for name, path, body in _refused():
        yield Shape(f"{path} {name}", _post(path, body))
    for name, path, body in _deep():
        yield Shape(f"{path} {name}", _post(path, body), deep=True)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()[: MAX_BODY + 1000]


def _refused() -> Iterator[tuple[str, str, bytes]]:
    chat = "/v1/chat/completions"
    zeros = b'{"messages":[' + b"0," * 1_900_000 + b"0]}"
    yield "1.9M zeros in messages", "/chat", zeros
    yield "1.9M zeros in messages", chat, zeros
    yield "300k unknown fields", chat, _json({f"k{i}": 0 for i in range(300_000)})
    yield "900 unknown fields", chat, _json({f"k{i}": 0 for i in range(900)})
    yield "250k bad biases", chat, _json({"messages": M, "logit_bias": dict.fromkeys(_keys(), "x")})
    yield (
        "55k bad biases",
        chat,
        _json({"messages": M, "logit_bias": {str(i): 999 for i in range(55_000)}}),
    )
    yield "2M levels", chat, b'{"messages":' + b"[" * 2_000_000 + b"]" * 1_900_000 + b"}"
    yield "50k levels of tools", chat, b'{"tools":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    yield (
        "900 levels of metadata",
        "/generate",
        b'{"prompt":"x","metadata":' + b'{"a":' * 900 + b"0" + b"}" * 900 + b"}",
    )
    yield "100k messages", chat, _json({"messages": M * 100_000})
    yield "20k messages", chat, _json({"messages": M * 19_000})
    yield (
        "55k unknown keys in a tool",
        chat,
        _json({"messages": M, "tools": [{f"k{i}": 0 for i in range(55_000)}]}),
    )
    yield "1.2M tokens", "/detokenize", _json({"tokens": [7] * 1_200_000})
    yield "340k bad tokens", "/detokenize", _json({"tokens": [-1] * 340_000})
    yield "340k floats", "/detokenize", b'{"tokens":[' + b"0.5," * 340_000 + b"0]}"
    yield "half surrogate pairs", "/generate", b'{"prompt":"' + b"\\ud800" * 660_000 + b'"}'
    yield (
        "one of 250k texts has half a pair",
        "/v1/completions",
        b'{"prompt":[' + b'"\\ud83d\\ude00",' * 250_000 + b'"\\ud800"]}',
    )
    yield "4M digits", "/generate", b'{"prompt":"x","seed":' + b"1" * 3_900_000 + b"}"
    yield (
        "13k long integers",
        "/generate",
        b'{"prompt":"x","metadata":{"a":[' + b",".join([b"9" * 308] * 12_000) + b'],"b":NaN}}',
    )
    yield "4 MB of white space", "/generate", b'{"prompt":' + b" " * 3_900_000 + b"}"
    yield "4 MB name of a field", "/generate", b'{"' + b"a" * 3_900_000 + b'":1}'
    yield "4 MB name of a model", chat, _json({"model": "m" * 3_900_000, "messages": M})
    yield "no JSON", "/generate", b"x" * 3_900_000
    yield "no UTF-8", "/generate", b'{"prompt":"' + b"a" * 3_900_000 + b'\xff"}'
    yield "4M quotes", "/generate", b'{"prompt":' + b'"' * 3_900_000 + b"}"
    yield "2048 inputs", "/v1/embeddings", _json({"input": ["word " * 380] * 2048})
    yield "340k token ids", "/v1/embeddings", _json({"input": list(range(340_000))})


def _keys() -> list[str]:
    return [str(number) for number in range(250_000)]


def _deep() -> Iterator[tuple[str, str, bytes]]:
    words = "some words of a text " * 186_000
    yield "3.9 MB of words", "/generate", _json({"prompt": words, "max_tokens": 1})
    yield "3.9 MB of words", "/tokenize", _json({"prompt": words})
    yield "3.9 MB of words in a target", "/attributions", _json({"prompt": "x", "target": words})
    yield (
        "3.9 MB of one letter",
        "/v1/completions",
        _json({"prompt": "a" * 3_900_000, "max_tokens": 1}),
    )
    yield (
        "3.9 MB of escapes",
        "/generate",
        b'{"prompt":"' + b"\\u0061" * 650_000 + b'","max_tokens":1}',
    )
    yield (
        "128 prompts of 30 kB",
        "/v1/completions",
        _json({"prompt": ["ab " * 10_000] * 128, "max_tokens": 1}),
    )
    yield (
        "100 kB, 128 answers",
        "/v1/completions",
        _json({"prompt": "a" * 100_000, "n": 128, "max_tokens": 1}),
    )
    yield "340k tokens", "/detokenize", _json({"tokens": [7] * 340_000})
    yield "340k token ids", "/v1/completions", _json({"prompt": [7] * 340_000, "max_tokens": 1})
    yield "10k messages", "/v1/chat/completions", _json({"messages": M * 10_000, "max_tokens": 1})
    yield (
        "1 MB in a key of a message",
        "/v1/chat/completions",
        _json({"messages": [{**M[0], "extra": "a" * 1_000_000}], "max_tokens": 1}),
    )
    yield (
        "340k values in a schema",
        "/generate",
        _json({"prompt": "x", "max_tokens": 1, "guided": {"json": {"enum": ["a"] * 340_000}}}),
    )


def connection_shapes() -> Iterator[Shape]:
    """Of whoever plays with the protocol."""
    get = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
    yield Shape("a header of 100 MB", _sends(get + b"X: " + b"a" * 100_000_000 + b"\r\n\r\n"))
    yield Shape("1M headers", _sends(get + b"a: b\r\n" * 1_000_000 + b"\r\n"))
    yield Shape("a line of 4 MB", _sends(b"GET /" + b"a" * 4_000_000 + b" HTTP/1.1\r\n\r\n"))
    chunked = (
        b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunks = b"1\r\n \r\n" * 1_000_000 + b"2\r\n{}\r\n0\r\n\r\n"
    yield Shape("1M chunks of a byte", _sends(chunked + chunks))
    yield Shape("a chunk's extension of 4 MB", _sends(chunked + b"1;" + b"a" * 4_000_000 + b"\r\n"))
    yield Shape(
        "a trailer of 4 MB",
        _sends(chunked + b"2\r\n{}\r\n0\r\nT: " + b"a" * 4_000_000 + b"\r\n\r\n"),
    )
    last = get + b"Connection: close\r\n\r\n"
    yield Shape("3k requests in one write", _sends((get + b"\r\n") * 3_000 + last))
    yield Shape("1000 half-sent requests", half_sent)
    yield Shape("48 answers that nobody reads", unread, deep=True)


def half_sent(port: int, connections: int = 1000, seconds: float = 3.0) -> str:
    """Open for a while; how many the server has closed by then."""
    opened = []
    try:
        for _ in range(connections):
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            opened[-1].sendall(b"POST /generate HTTP/1.1\r\nHost: ")
        time.sleep(seconds)
        return f"{sum(map(_is_closed, opened))} closed"
    finally:
        for connection in opened:
            connection.close()


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def unread(port: int, seconds: float = 4.0) -> str:
    """Asks for a lot, and reads nothing of it."""
    body = {"messages": M, "n": 48, "max_tokens": 100, "ignore_eos": True, "stream": True}
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", port))
        connection.sendall(
            post("/v1/chat/completions", _json(body | {"logprobs": True, "top_logprobs": 20}))
        )
        time.sleep(seconds)
    return "left"
