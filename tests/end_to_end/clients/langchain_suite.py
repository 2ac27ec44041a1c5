"""LangChain's own standard tests of a chat model, on `ChatOpenAI` at our server.

Run by `test_openai_clients.py` in a pytest of its own: the suite brings plugins and warnings that
are not ours. https://docs.langchain.com/oss/python/contributing/standard-tests-langchain
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChatOpenAI(ChatModelIntegrationTests):  # type: ignore[misc]
    """The scripted model's replies call tools and fill schemas."""

    @property
    def chat_model_class(self) -> Any:  # noqa: ANN401
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "scripted_chat",
            "base_url": os.environ["TRIAD_V1"],
            "api_key": "none",
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "demo"


def test_a_conversation_that_is_too_long_is_known_as_such() -> None:
    model = ChatOpenAI(model="demo", base_url=os.environ["TRIAD_V1"], api_key="none", max_retries=0)
    with pytest.raises(ContextOverflowError):
        model.invoke("hello " * 3000)
