"""The tensors of a text encoder or classifier: texts in, one row for each out.

``max_batch_size: 0``, one response. A request has any number of texts; rows are in their order.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.contract import names
from backends.contract import parameters as keys
from backends.contract.tensors import TensorSpec

INPUTS = (
    TensorSpec(names.TEXT_INPUT, "BYTES", (-1,)),  # texts; required unless one marked * is given
    TensorSpec(names.INPUT_IDS, "INT32", (-1,)),  # * token ids of all rows, one after the other
    TensorSpec(names.INPUT_LENGTHS, "INT32", (-1,)),  # of each row of INPUT_IDS; else it is one row
    TensorSpec(names.TRUNCATE, "BOOL"),  # cut texts at the model's context, else they are refused
    TensorSpec(names.TRUNCATE_TOKENS, "INT32"),  # cut texts at so many tokens
    TensorSpec(names.REQUEST_KIND, "BYTES"),  # * `EMBED` (if absent), `DESCRIBE`, `CANCEL`
    TensorSpec(names.CANCEL_ID, "BYTES"),  # of `CANCEL`: the id of the requests that are to end
)
NUM_INPUT_TOKENS = TensorSpec(names.NUM_INPUT_TOKENS, "UINT32", (-1,))  # of each text
TEXT_OUTPUT = TensorSpec(names.TEXT_OUTPUT, "BYTES", (-1,))

EMBEDDING = TensorSpec(names.EMBEDDING, "FP32", (-1, -1))  # [texts, dimension]
LABEL = TensorSpec(names.LABEL, "BYTES", (-1,))  # the most probable one
SCORE = TensorSpec(names.SCORE, "FP32", (-1,))  # its probability; of a regression, its value


def outputs(parameters: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Return the outputs of the encoder or classifier that has these ``parameters``.

    Where they do not have an embedding's dimension, it is -1. Raises ValueError.
    """
    if keys.LABELS in parameters:
        return (LABEL, SCORE, NUM_INPUT_TOKENS, TEXT_OUTPUT)
    dimension = int(parameters.get(keys.EMBEDDING_DIMENSION, "-1"))
    embedding = TensorSpec(EMBEDDING.name, EMBEDDING.datatype, (-1, dimension))
    return (embedding, NUM_INPUT_TOKENS, TEXT_OUTPUT)
