"""What is exported: a model with tensors in and tensors out, in the order of their names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from backends.encoder.pooling import SentenceVector
from backends.pytorch.pooling import pooled


class SentenceEncoder(nn.Module):
    """Returns ``last_hidden_state`` FP32 [batch, tokens, dimension] and, unless pooling is
    ``none``, ``sentence_embedding`` FP32 [batch, dimension]."""

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str], vector: SentenceVector
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = tuple(inputs)
        self._vector = vector

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self._inputs, tensors, strict=True))
        # Sums over a long text would overflow float16.
        hidden = self._model(**named).last_hidden_state.float()
        if self._vector.method == "none":
            return (hidden,)
        return hidden, pooled(hidden, named["attention_mask"], self._vector)


class WholeModel(nn.Module):
    """Returns one output of the model, FP32: ``logits``."""

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str], output: str = "logits"
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = tuple(inputs)
        self._output = output

    def forward(self, *tensors: Tensor) -> Tensor:
        result: Tensor = self._model(**dict(zip(self._inputs, tensors, strict=True)))[self._output]
        return result.float()
