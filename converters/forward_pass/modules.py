"""The modules that are exported: tensors in, in the order of their names, and tensors out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from backends.encoder.pooling import SentenceVector
from backends.pytorch.pooling import pooled


class SentenceEncoder(nn.Module):
    """An encoder with its pooling."""

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str], vector: SentenceVector
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = tuple(inputs)
        self._vector = vector

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return ``last_hidden_state`` FP32 [batch, tokens, dimension] and, unless pooling is
        ``none``, ``sentence_embedding`` FP32 [batch, dimension]."""
        named = dict(zip(self._inputs, tensors, strict=True))
        # Sums over a long text would overflow float16.
        hidden = self._model(**named).last_hidden_state.float()
        if self._vector.method == "none":
            return (hidden,)
        return hidden, pooled(hidden, named["attention_mask"], self._vector)


class SingleOutputModel(nn.Module):
    """A model reduced to one of its outputs."""

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str], output: str = "logits"
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = tuple(inputs)
        self._output = output

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the output in FP32."""
        outputs = self._model(**dict(zip(self._inputs, tensors, strict=True)))
        result: Tensor = outputs[self._output]
        return result.float()
