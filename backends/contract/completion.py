"""The part of a model's configuration that the contract says, and ``config.pbtxt`` need not repeat.

Each Python model completes its configuration where Triton asks for it. Triton starts a process for
that question, and waits a second for its end. So where a configuration has the parameter
``contract``, the control plane completes it before it has the model loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract import encoder, tensors
from backends.contract import parameters as keys
from backends.contract.tensors import TensorSpec


def completion(contract: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return what every model of a contract has in its configuration, by Triton's keys.

    ``contract``: `keys.LANGUAGE_MODEL` or `keys.TEXT_ENCODER`. ``parameters``: the model's own.
    Raises ValueError.
    """
    if contract == keys.LANGUAGE_MODEL:
        return _configuration(tensors.INPUTS, tensors.OUTPUTS, decoupled=True)
    if contract == keys.TEXT_ENCODER:
        return _configuration(encoder.INPUTS, encoder.outputs(parameters), decoupled=False)
    raise ValueError(
        f"{keys.CONTRACT}: must be {keys.LANGUAGE_MODEL} or {keys.TEXT_ENCODER}, not "
        f"{contract[:100]!r}"
    )


def _configuration(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, decoupled: bool
) -> dict[str, Any]:
    return {
        "input": [_tensor(spec) | {"optional": spec.optional} for spec in inputs],
        "output": [_tensor(spec) for spec in outputs],
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": decoupled},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": datatype, "dims": list(spec.dims)}
