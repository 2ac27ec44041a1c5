"""How a request is scheduled among others: its class, whose it is, and when it is of use."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from backends.contract import names
from backends.contract.errors import InvalidField
from backends.contract.tensors import Inputs, count, text


class Priority(StrEnum):
    """The classes of requests, the first to be served first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Return the place of the class among all: 0 is served first."""
        return _RANKS[self]


_RANKS = {priority: rank for rank, priority in enumerate(Priority)}

MAX_TIMEOUT_MS = 2**31 - 1
"""Of a timeout on the wire: 24 days."""

_CALLER = re.compile(r"[\x21-\x7e]{1,64}")


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How an engine schedules a request.

    ``caller``: whose it is, in the gateway's requests a keyed hash; requests of one caller share
    what one caller may get, and all without a name are one caller's. The times are in seconds from
    the request's arrival at the model.
    """

    priority: Priority = Priority.NORMAL
    caller: str = ""
    first_token_timeout: float = math.inf
    timeout: float = math.inf

    @classmethod
    def of(cls, inputs: Inputs) -> Scheduling:
        """Return what input tensors ask for. Raises `InvalidField`."""
        priority = text(inputs, names.PRIORITY)
        if priority is not None and priority not in _RANKS:
            raise InvalidField(names.PRIORITY, f"must be one of {', '.join(Priority)}")
        caller = text(inputs, names.CALLER)
        if caller is not None and not _CALLER.fullmatch(caller):
            raise InvalidField(names.CALLER, "must be 1 to 64 printable ASCII characters")
        return cls(
            Priority.NORMAL if priority is None else Priority(priority),
            caller or "",
            _seconds(inputs, names.FIRST_TOKEN_TIMEOUT_MS),
            _seconds(inputs, names.TIMEOUT_MS),
        )


def _seconds(inputs: Inputs, name: str) -> float:
    milliseconds = count(inputs, name)
    return math.inf if milliseconds is None else milliseconds / 1000
