"""Totals since the start, as `GET /stats` gives them."""

from __future__ import annotations

import time
from typing import Any

from control_plane.observability.metrics import Metrics


class Stats:
    """The totals of requests that ended well, those of all workers together."""

    def __init__(self, metrics: Metrics, started: float) -> None:
        """Count in ``metrics``. ``started``: when the server was, by `time.monotonic`."""
        self._metrics = metrics
        self._started = started

    def add(self, tokens: int, seconds: float) -> None:
        self._metrics.answers.inc()
        self._metrics.answer_tokens.inc(tokens)
        self._metrics.answer_seconds.inc(seconds)

    def snapshot(self) -> dict[str, Any]:
        total = self._metrics.total
        requests = int(total("triad_answers_total"))
        tokens = int(total("triad_answer_tokens_total"))
        seconds = total("triad_answer_seconds_total")  # summed over requests
        waits = total("triad_queue_wait_seconds_count")
        return {
            "request_count": requests,
            "total_tokens_generated": tokens,
            "total_inference_time": round(seconds, 3),
            "avg_tokens_per_request": round(tokens / requests, 1) if requests else 0.0,
            "avg_time_per_request": round(seconds / requests, 3) if requests else 0.0,
            "avg_queue_wait": round(total("triad_queue_wait_seconds_sum") / waits, 3)
            if waits
            else 0.0,
            "avg_tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
            "uptime": uptime(time.monotonic() - self._started),
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
