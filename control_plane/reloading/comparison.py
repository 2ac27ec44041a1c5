"""Settings beside those of a server that runs: for `triad check`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx2

from control_plane.http.own_address import unverified_context
from control_plane.reloading.restart import needs_restart
from control_plane.settings import ServingSettings, shown

_SECONDS = 5.0
_MAX_CHARACTERS = 100


class NoAnswer(Exception):
    """The error of a server that does not say what it runs with. The message is a sentence."""


def compare(settings: ServingSettings, server: str, token: str | None) -> list[str]:
    """Return a line for each key whose value differs from that of the server at an address. Raises
    `NoAnswer`."""
    answer = _ask(server, token)
    try:
        running, salt = answer["settings"], bytes.fromhex(answer["salt"])
        test = needs_restart(bool(answer["embedded"]), settings)
        return list(_differences(running, json.loads(json.dumps(shown(settings, salt))), test))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NoAnswer(f"what answers at {server} is not this release of Triad") from None


def _ask(server: str, token: str | None) -> Any:  # noqa: ANN401
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        verify = not _is_loopback(urlsplit(server).hostname or "")
        response = httpx2.get(
            f"{server}/admin/settings",
            headers=headers,
            timeout=_SECONDS,
            verify=True if verify else unverified_context(),
        )
        answer = response.json()
    except httpx2.ConnectError as error:
        raise NoAnswer(f"no server runs at {server} ({error})") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NoAnswer(f"the server at {server} did not answer: {error}") from None
    except ValueError:
        raise NoAnswer(f"what answers at {server} is not this release of Triad") from None
    if response.status_code in (401, 403):
        message = answer.get("error", {}).get("message", "") if isinstance(answer, dict) else ""
        raise NoAnswer(f"the server at {server} does not show its settings: {message:.200}")
    return answer


def _differences(
    running: Mapping[str, Any], given: Mapping[str, Any], needs_restart: Callable[[str], bool]
) -> Iterator[str]:
    for key, new in given.items():
        if (old := running.get(key)) != new:
            how = "needs a restart" if needs_restart(key) else "a reload applies it"
            yield f"{key}: {_text(old)} -> {_text(new)} ({how})"


def _text(value: object) -> str:
    if isinstance(value, dict) and value.keys() == {"secret"}:
        return "(a secret)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
