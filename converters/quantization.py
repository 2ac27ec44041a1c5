"""Quantised weights for graphs that are computed as a whole, without a KV cache.

Docs: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from converters.options import Precision

_BLOCK = 32
"""Weights that share a scale in int4."""
_INT8_ARITHMETIC = 4  # `accuracy_level` of MatMulNBits: activations are rounded to int8


def quantize(graph: Path, target: Path, precision: Precision) -> None:
    """``int8``: matrices with a scale a channel, activations rounded to int8 as they come.
    ``int4``: matrices with a scale a block of 32 weights. Embedding tables are int8 in both."""
    with _quiet():
        if precision == "int8":
            return _int8(graph, target, ["Gather", "MatMul"])
        with TemporaryDirectory(dir=target.parent) as folder:
            tables = Path(folder) / graph.name
            _int8(graph, tables, ["Gather"])
            _int4(tables, target)


def _int8(graph: Path, target: Path, operators: Sequence[str]) -> None:
    quantize_dynamic(
        graph,
        target,
        op_types_to_quantize=list(operators),
        weight_type=QuantType.QInt8,
        per_channel=True,
        # 7 bits: on CPUs without VNNI the sum of two products of 8 bits overflows.
        reduce_range="MatMul" in operators,
        use_external_data_format=_is_large(graph),
    )


def _int4(graph: Path, target: Path) -> None:
    # Imported late: the module sets up logging when it is imported.
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(str(graph)),
        block_size=_BLOCK,
        is_symmetric=True,
        accuracy_level=_INT8_ARITHMETIC,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=_is_large(graph))


def _is_large(graph: Path) -> bool:
    """Whether its weights are in a file beside it."""
    return graph.with_name(f"{graph.name}.data").exists()


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers tell of each node on the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
