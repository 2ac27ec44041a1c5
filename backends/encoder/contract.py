"""The tensors of a text encoder or classifier: texts in, one row for each out.

``max_batch_size: 0``, one response. A request has any number of texts; rows are in their order.
"""

from __future__ import annotations

from backends.contract.tensors import TensorSpec

INPUTS = (
    TensorSpec("text_input", "BYTES", (-1,)),  # the texts; required unless another is marked *
    TensorSpec("input_ids", "INT32", (-1,)),  # * token ids, those of all rows one after the other
    TensorSpec("input_lengths", "INT32", (-1,)),  # of each row of `input_ids`; else it is one row
    TensorSpec("truncate", "BOOL"),  # cut texts at the model's context, which else are refused
    TensorSpec("truncate_tokens", "INT32"),  # cut texts at so many tokens
    TensorSpec("describe", "BOOL"),  # * answer with the model's facts, as JSON, in `text_output`
    TensorSpec("cancel", "BYTES"),  # * end the requests with this id; answers how many there were
)
NUM_INPUT_TOKENS = TensorSpec("num_input_tokens", "UINT32", (-1,))  # of each text
TEXT_OUTPUT = TensorSpec("text_output", "BYTES", (-1,))

EMBEDDING = TensorSpec("embedding", "FP32", (-1, -1))  # [texts, dimension]
LABEL = TensorSpec("label", "BYTES", (-1,))  # the most probable one
SCORE = TensorSpec("score", "FP32", (-1,))  # its probability; of a regression, its value
