"""Totals since the start, as `GET /stats` gives them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Stats:
    """The totals of requests that ended well."""

    started: float = field(default_factory=time.monotonic)
    request_count: int = 0
    total_tokens_generated: int = 0
    total_inference_time: float = 0.0  # seconds, summed over requests

    def add(self, tokens: int, seconds: float) -> None:
        self.request_count += 1
        self.total_tokens_generated += tokens
        self.total_inference_time += seconds

    def snapshot(self) -> dict[str, Any]:
        requests, tokens = self.request_count, self.total_tokens_generated
        seconds = self.total_inference_time
        return {
            "request_count": requests,
            "total_tokens_generated": tokens,
            "total_inference_time": round(seconds, 3),
            "avg_tokens_per_request": round(tokens / requests, 1) if requests else 0.0,
            "avg_time_per_request": round(seconds / requests, 3) if requests else 0.0,
            "avg_tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
            "uptime": uptime(time.monotonic() - self.started),
        }


def uptime(seconds: float) -> str:
    """Return a duration as ``2 days, 14 hours, 32 minutes``; in seconds as long as there is not
    one minute."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "day"), (hours, "hour"), (minutes, "minute")]
    if not any(n for n, _ in parts):
        parts = [(rest, "second")]
    return ", ".join(
        f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n or len(parts) == 1
    )
