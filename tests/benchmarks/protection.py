"""What authentication, limits and budgets cost a request: ``python -m tests.benchmarks.protection
[--requests N] [--rounds N]``.

Requests pass the middleware, in this process, in front of an application that reserves tokens and
settles them as an answer does. CPU time of this process, less that of the same application alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.admission.rate_limits import open_limits
from control_plane.auth.authenticator import open_authenticator
from control_plane.auth.keys import KeyStore, Policy
from control_plane.middleware.authentication import AuthenticationMiddleware
from control_plane.middleware.rate_limit import RateLimitMiddleware
from control_plane.settings import ServingSettings
from tests.support.issuer import AUDIENCE, Issuer, running_issuer

BAR = 150.0
"""Microseconds of CPU for a request to a caller that was seen before, on an idle machine."""
_PLENTY = 10**12
_LIMITS = {
    "enabled": True,
    "requests_per_minute": _PLENTY,
    "tokens_per_minute": _PLENTY,
    "burst_allowance": _PLENTY,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of caller. ``algorithm``: of its JSON Web Tokens; None: it has a key. ``seen``: it
    sends the same token each time."""

    name: str
    policy: Policy = field(default_factory=Policy)
    limits: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str | None = None
    seen: bool = True


_BUDGETS = Policy(tokens_per_day=_PLENTY, tokens_per_month=_PLENTY)
CASES = (
    Case("key"),
    Case("key, limits", limits=_LIMITS),
    Case("key, two budgets", _BUDGETS),
    Case("key, limits, two budgets", _BUDGETS, _LIMITS),
    Case("JWT seen before", algorithm="ES256"),
    Case("JWT seen before, limits", limits=_LIMITS, algorithm="ES256"),
    *(Case(f"new JWT, {name}", algorithm=name, seen=False) for name in ("RS256", "ES256", "EdDSA")),
)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as a generation does, as far as an account is concerned."""
    account = scope["state"].get("account")
    reservation = None if account is None else await account.reserve(500)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    if reservation is not None:
        reservation.settle(120)


async def _cpu(app: ASGIApp, scopes: Sequence[Scope]) -> float:
    """Return the CPU time of a request in microseconds."""
    statuses: list[int] = []

    async def receive() -> Any:  # noqa: ANN401
        return {"type": "http.request"}

    async def send(message: Any) -> None:  # noqa: ANN401
        if "status" in message:
            statuses.append(message["status"])

    began = time.process_time()
    for scope in scopes:
        await app(scope, receive, send)
    took = time.process_time() - began
    assert statuses == [200] * len(scopes)
    return took / len(scopes) * 1e6


def _scopes(app: FastAPI, tokens: Sequence[str]) -> list[Scope]:
    return [
        {
            "type": "http",
            "method": "POST",
            "path": "/generate",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "client": ("127.0.0.1", 1),
            "state": {"request_id": "req_1"},
            "app": app,
        }
        for token in tokens
    ]


def _settings(case: Case, issuer: Issuer, folder: str) -> ServingSettings:
    auth: dict[str, Any] = {"enabled": True, "key_store": f"{folder}/keys.db"}
    if case.algorithm is not None:
        auth |= {"auth_type": "jwt", "issuer": issuer.url, "audience": AUDIENCE}
        auth |= {"algorithms": [case.algorithm], "max_failures_per_minute": _PLENTY}
    limiting = {**case.limits, "file": f"{folder}/limits.db"}
    return ServingSettings.model_validate({"auth": auth, "rate_limiting": limiting})


def _tokens(case: Case, issuer: Issuer, settings: ServingSettings, count: int) -> list[str]:
    if case.algorithm is None:
        store = KeyStore(Path(str(settings.auth.key_store)))
        token = store.create("one", ["llm:generate"], policy=case.policy)
        store.close()
        return [token] * count
    kid = case.algorithm
    if case.seen:
        return [issuer.token(kid)] * count
    return [issuer.token(kid, jti=str(number)) for number in range(count)]


async def measure(case: Case, issuer: Issuer, requests: int) -> float:
    """Return what a request costs more than without protection, in microseconds."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = _settings(case, issuer, folder)
        tokens = _tokens(case, issuer, settings, requests)
        app = FastAPI()
        app.state.limits = limits = open_limits(settings)
        stack.push_async_callback(limits.close)
        authenticator = open_authenticator(settings.auth)
        app.state.authenticator = await stack.enter_async_context(authenticator)
        protected = AuthenticationMiddleware(RateLimitMiddleware(_answer), ())
        first = _tokens(case, issuer, settings, 1) if not case.seen else tokens[:1]
        await _cpu(protected, _scopes(app, first))  # which fetches the issuer's keys
        bare = await _cpu(_answer, _scopes(app, tokens))
        return await _cpu(protected, _scopes(app, tokens)) - bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = Table("caller", "µs of CPU a request: least", "median", "most")
    with running_issuer() as issuer:
        for name in ("RS256", "ES256", "EdDSA"):
            issuer.add_key(name, name)
        for case in CASES:
            runs = [
                asyncio.run(measure(case, issuer, options.requests)) for _ in range(options.rounds)
            ]
            figures = (min(runs), statistics.median(runs), max(runs))
            table.add_row(case.name, *(f"{figure:.0f}" for figure in figures))
    console = Console()
    console.print(table)
    console.print(f"the bar for callers that were seen before is {BAR:.0f} µs on an idle machine")


if __name__ == "__main__":
    main()
