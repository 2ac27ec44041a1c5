"""A decoder on the KV-cache protocol whose arithmetic is exact, and the same in numpy.

Every logit depends on every token so far and on its position. All numbers are small integers, so
that float32 holds them exactly and any difference is an error. The token `POISON` writes NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, TensorProto

from tests.support.onnx_models import Array, Shape, model, node

VOCABULARY, WIDTH, CONTEXT = 32, 4, 48
SLOTS = 8
POISON = VOCABULARY - 1
OUT_OF_RANGE = VOCABULARY + 5  # onnxruntime fails a batch with it

_random = np.random.default_rng(0)
_TABLES = {
    name: _random.integers(0, 8, (VOCABULARY, WIDTH)).astype(np.float32)
    for name in ("key", "value")
}
for _table in _TABLES.values():
    _table[POISON] = np.nan
_HEADS = {
    name: _random.integers(-7, 8, (WIDTH, VOCABULARY)).astype(np.float32)
    for name in ("key", "value")
}
_WEIGHTS = (np.arange(CONTEXT) % 7 + 1).astype(np.float32)  # of the positions

CONFIG = f"""
max_batch_size: %(slots)d
input [
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }}
]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ 1, {VOCABULARY} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
_STATE = """
  state {
    input_name: "past_key_values.0.%(name)s" output_name: "present.0.%(name)s"
    data_type: TYPE_FP32 dims: [ 1, %(context)d, %(width)d ]
    initial_state {
      data_type: TYPE_FP32 dims: [ 1, %(context)d, %(width)d ] zero_data: true name: "zero"
    }
  }
"""


def configs(slots: int, idle_microseconds: int) -> tuple[str, str]:
    """For the native backend, and for the embedded server."""
    base = CONFIG % {"slots": slots}
    oldest = f"""
sequence_batching {{
  max_sequence_idle_microseconds: {idle_microseconds}
  oldest {{ max_candidate_sequences: {slots} }}
"""
    states = "".join(
        _STATE % {"name": name, "context": CONTEXT, "width": WIDTH} for name in ("key", "value")
    )
    in_place = 'parameters { key: "kv_cache" value { string_value: "in_place" } }\n'
    return f"{base}{oldest}{states}}}\n", f"{base}{oldest}}}\n{in_place}"


def decoder() -> ModelProto:
    nodes = [
        node("ReduceSum", "attention_mask one_axis", "ones", keepdims=1),  # [B, 1]
        node("Shape", "input_ids", "new", start=1, end=2),
        node("Squeeze", "new", "new_scalar"),
        node("Range", "zero new_scalar one", "offsets"),
        node("Sub", "ones new", "first"),
        node("Add", "first offsets", "positions"),  # [B, S]
        node("Unsqueeze", "positions position_axes", "positions_4"),
        node("Less", "all_positions ones", "valid"),  # [B, CONTEXT]
        node("Cast", "valid", "valid_float", to=TensorProto.FLOAT),
        node("Mul", "valid_float weights", "weighted"),
        node("Unsqueeze", "weighted weighted_axes", "weights_3"),  # [B, 1, CONTEXT]
    ]
    for name in ("key", "value"):
        nodes += [
            node("Gather", f"{name}_table input_ids", f"{name}_rows"),  # [B, S, WIDTH]
            node("Unsqueeze", f"{name}_rows head_axis", f"{name}_new"),
            node("Shape", f"{name}_new", f"{name}_shape"),
            node("Expand", f"positions_4 {name}_shape", f"{name}_positions"),
            node(
                "ScatterElements",
                f"past_key_values.0.{name} {name}_positions {name}_new",
                f"present.0.{name}",
                axis=2,
            ),
            node("Squeeze", f"present.0.{name} head_axis", f"{name}_all"),
            # What is masked is multiplied by 0: a NaN left there would be seen.
            node("MatMul", f"weights_3 {name}_all", f"{name}_sum"),  # [B, 1, WIDTH]
            node("MatMul", f"{name}_sum {name}_head", f"{name}_logits"),
        ]
    nodes.append(node("Add", "key_logits value_logits", "logits"))
    cache: tuple[int, Shape] = (TensorProto.FLOAT, ("batch", 1, CONTEXT, WIDTH))
    constants: dict[str, Array] = {
        "one_axis": np.array([1]),
        "zero": np.array(0),
        "one": np.array(1),
        "position_axes": np.array([1, 3]),
        "weighted_axes": np.array([1]),
        "head_axis": np.array([1]),
        "all_positions": np.arange(CONTEXT)[None],
        "weights": _WEIGHTS[None],
        **{f"{name}_table": table for name, table in _TABLES.items()},
        **{f"{name}_head": head for name, head in _HEADS.items()},
    }
    return model(
        nodes,
        {
            "input_ids": (TensorProto.INT64, ("batch", "new_tokens")),
            "attention_mask": (TensorProto.INT64, ("batch", "total")),
            "past_key_values.0.key": cache,
            "past_key_values.0.value": cache,
        },
        {
            "logits": (TensorProto.FLOAT, ("batch", 1, VOCABULARY)),
            "present.0.key": cache,
            "present.0.value": cache,
        },
        constants,
    )


def reference(tokens: Sequence[int]) -> Array:
    """The logits [VOCABULARY] after the last of ``tokens``."""
    ids, weights = np.array(tokens), _WEIGHTS[: len(tokens)]
    sums = {name: weights @ table[ids] for name, table in _TABLES.items()}
    logits: Array = sums["key"] @ _HEADS["key"] + sums["value"] @ _HEADS["value"]
    return logits
