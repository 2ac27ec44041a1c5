"""The Triton model class of the scripted engine."""

from __future__ import annotations

from backends.engine import Engine
from backends.scripted.engine import ScriptedEngine, ScriptTokenizer
from backends.serving import ModelOptions, ServedModel


class TritonPythonModel(ServedModel):
    def create_tokenizer(self, options: ModelOptions) -> ScriptTokenizer:  # type: ignore[override]
        return ScriptTokenizer()

    def create_engine(self, options: ModelOptions) -> Engine:
        return ScriptedEngine()
