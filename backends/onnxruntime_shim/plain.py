"""Models without state: a batch of requests is computed in as few runs as the shapes allow."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.contract.errors import EngineError
from backends.onnxruntime_shim.calls import error_response, read_inputs, response
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.tensors import Arrays, concatenate, split

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """A request of a batch. ``index``: its index among the requests."""

    index: int
    inputs: Arrays
    output_names: list[str]

    @property
    def signature(self) -> object:
        """Return a key that is equal for requests that can be concatenated."""
        return tuple((name, self.inputs[name].shape[1:]) for name in sorted(self.inputs))

    @property
    def rows(self) -> int:
        """Return the number of rows of the request."""
        return len(next(iter(self.inputs.values())))


class PlainModel:
    """A model without state. It is used by one thread."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._batched = graph.config.max_batch_size > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request, in their order."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[object, list[_Part]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                inputs = read_inputs(request, self._graph)
            except EngineError as error:
                responses[index] = error_response(error)
                continue
            part = _Part(index, inputs, list(request.requested_output_names()))
            groups[part.signature if self._batched else index].append(part)
        for parts in groups.values():
            for part, result in zip(parts, self._run(parts), strict=True):
                responses[part.index] = result
        return responses

    def _run(self, parts: list[_Part]) -> list[Any]:
        try:
            return self._run_together(parts)
        except Exception as error:  # onnxruntime raises exceptions of many kinds.
            if len(parts) == 1:
                return [error_response(error)]
            logger.warning("a batch of %d failed and is run one by one: %s", len(parts), error)
            return [self._run([part])[0] for part in parts]

    def _run_together(self, parts: list[_Part]) -> list[Any]:
        names = list(dict.fromkeys(name for part in parts for name in part.output_names))
        inputs = concatenate([part.inputs for part in parts])
        arrays = self._graph.session.run(names, inputs, self._graph.run_options)
        sizes = [part.rows for part in parts] if self._batched else [1]
        outputs = split(dict(zip(names, arrays, strict=True)), sizes)
        return [
            response({name: one[name] for name in part.output_names})
            for part, one in zip(parts, outputs, strict=True)
        ]
