"""The Triton model class of the scripted engine."""

from __future__ import annotations

from backends.engine import Engine
from backends.serving.model import ModelOptions, ServedModel
from backends.text.chat_format import ChatFormat
from tests.support.scripted.engine import ScriptedEngine, ScriptTokenizer, Vocabulary


class TritonPythonModel(ServedModel):
    """The parameter ``chat_template`` is a text from which the format of chats is recognised."""

    def initialize(self, args: dict[str, str]) -> None:
        self._vocabulary = Vocabulary()
        super().initialize(args)

    def create_tokenizer(self, options: ModelOptions) -> ScriptTokenizer:
        chat_format = ChatFormat.of(
            options.parameters.get("chat_template", "messages"), lambda text: text.startswith("<|")
        )
        return ScriptTokenizer(self._vocabulary, chat_format)

    def create_engine(self, options: ModelOptions) -> Engine:
        return ScriptedEngine(self._vocabulary)
