"""What is said of a sampling parameter, once for all APIs and engines.

This module needs nothing but the standard library: the gateway, which has no PyTorch, imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from backends.sampling_parameters.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

Surface: TypeAlias = Literal["rest", "openai", "python"]
"""``/generate`` and ``/chat``; ``/v1``; `ModelServer` and `VLLMServer`. The tensor contract has all
parameters."""
EVERYWHERE: frozenset[Surface] = frozenset({"rest", "openai", "python"})

Engine: TypeAlias = Literal["pytorch", "onnx", "vllm"]
ALL_ENGINES: frozenset[Engine] = frozenset({"pytorch", "onnx", "vllm"})
BATCHING_ENGINES: frozenset[Engine] = frozenset({"pytorch", "onnx"})

Stage: TypeAlias = Literal["logits", "filter"]
"""When an effect takes place. "logits": behind the penalties and before the temperature, for greedy
decoding, too. "filter": behind the temperature and before `top_k`, only where a token is drawn."""

Effect: TypeAlias = "Callable[[Tensor, Sequence[Any]], Tensor]"
"""From scores FP32 [rows, vocabulary] and each row's value to new scores. The scores that are given
must not be changed. Minus infinity stands for a token that cannot come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One sampling parameter; its name is that of its field in `SamplingParameters`."""

    kind: Kind
    default: Any  # of the tensor contract and of `/v1`, which is vLLM's
    description: str  # one sentence, with units
    surfaces: frozenset[Surface] = EVERYWHERE  # elsewhere it is refused by name
    engines: frozenset[Engine] = ALL_ENGINES
    rest_name: str | None = None  # in `/generate` and `/chat`, where they have another one
    rest_default: Any = None  # of `/generate`, `/chat` and Python, where they have another one
    aliases: tuple[str, ...] = ()  # names that further APIs give to it
    effect: Effect | None = None  # in the batching engines; None: they know it by its name
    stage: Stage = "filter"

    def as_field(self) -> Any:  # noqa: ANN401
        """Return a field of a dataclass that has this default and carries the specification."""
        return field(default=self.default, metadata={"parameter": self})


def declare(default: object, kind: Kind, description: str, **more: Any) -> Any:  # noqa: ANN401
    """Return the field of a parameter that engines know by its name. ``more``: see `Parameter`."""
    return Parameter(kind=kind, default=default, description=description, **more).as_field()


def from_file(name: str) -> Any:  # noqa: ANN401
    """Return the field of a parameter with a file of its own, whose `PARAMETER` specifies it."""
    specification: Parameter = import_module(f"backends.sampling_parameters.{name}").PARAMETER
    return specification.as_field()
