"""``/v1`` in front of a model client in memory: what a model says, and the answers as clients put
them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from tests.support.gateway import events, fake_client, sent

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def speaker(text: str, piece: int = 3, **facts: Any) -> FakeModelClient:  # noqa: ANN401
    """Return a client whose model says a text: in a stream, ``piece`` characters at a time."""
    client = fake_client(**facts)

    def say(request: Generate) -> Sequence[Delta]:
        if not request.stream:
            return [Delta(text, 3, "stop", prompt_tokens=2)]
        pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
        return [Delta(part, 1, prompt_tokens=2) for part in pieces] + [
            Delta("", 0, "stop", prompt_tokens=2)
        ]

    client.on(Generate, say)
    return client


async def complete(
    http: httpx2.AsyncClient,
    path: str = CHAT,
    **fields: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    """Return the choices of an answer, those of a stream put together from its chunks."""
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hi"}
    response = await http.post(path, json=prompt | fields)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        choices: list[dict[str, Any]] = response.json()["choices"]
        return choices
    *chunks, done = events(response)
    assert done == "[DONE]"
    return _assembled([choice for chunk in chunks for choice in chunk["choices"]])


async def refusal(
    http: httpx2.AsyncClient,
    path: str = CHAT,
    **fields: Any,  # noqa: ANN401
) -> tuple[str, str]:
    """Return the field and the message of a request's 400."""
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hi"}
    response = await http.post(path, json=prompt | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


def sampling(client: FakeModelClient) -> Mapping[str, Any]:
    """Return the sampling parameters of the only generation."""
    (request,) = [r for r in sent(client) if isinstance(r, Generate)]
    return request.sampling


def _assembled(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    count = max(piece["index"] for piece in pieces) + 1
    return [_choice([piece for piece in pieces if piece["index"] == i]) for i in range(count)]


def _choice(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    (reason,) = {piece["finish_reason"] for piece in pieces} - {None}
    if "text" in pieces[0]:
        return {"text": "".join(piece["text"] for piece in pieces), "finish_reason": reason}
    deltas = [piece["delta"] for piece in pieces]
    message: dict[str, Any] = {"role": deltas[0]["role"]}
    for name in ("content", "reasoning"):
        message[name] = "".join(delta.get(name) or "" for delta in deltas)
    calls: dict[int, dict[str, Any]] = {}
    for part in (call for delta in deltas for call in delta.get("tool_calls", ())):
        call = calls.setdefault(part["index"], part | {"function": dict(part["function"])})
        if call is not part and call.get("id") != part.get("id"):
            call["function"]["arguments"] += part["function"]["arguments"]
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {"message": message, "finish_reason": reason}
