"""LiteLLM's client: at `/v1` as `openai/…`, and straight at Triton as `triton/…`.

Run by `test_openai_clients.py` in a process of its own. Prints what it got, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would look for prices on the Internet

import litellm

litellm.suppress_debug_info = True

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def text(chunks: Any) -> str:  # noqa: ANN401
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def gateway(v1: str) -> dict[str, Any]:
    options: dict[str, Any] = {"api_base": v1, "api_key": "none", "num_retries": 0}
    demo: dict[str, Any] = {"model": "openai/demo", "messages": MESSAGES, "temperature": 0}
    whole = litellm.completion(**demo, **options)
    call = litellm.completion(
        model="openai/scripted_chat",
        messages=[{"role": "user", "content": "How is the weather in 'Rome'?"}],
        tools=[TOOL],
        **options,
    )
    try:
        litellm.completion(model="openai/nobody", messages=MESSAGES, **options)
    except litellm.NotFoundError as error:
        missing = str(error)
    return {
        "whole": whole.choices[0].message.content,
        "tokens": whole.usage.completion_tokens,
        "streamed": text(litellm.completion(**demo, stream=True, **options)),
        "completed": litellm.text_completion(
            model="text-completion-openai/demo",
            prompt=MESSAGES[0]["content"],
            temperature=0,
            **options,
        )
        .choices[0]
        .text,
        "arguments": json.loads(call.choices[0].message.tool_calls[0].function.arguments),
        "missing": missing,
        "fallback": fallback(v1),
    }


def fallback(v1: str) -> str | None:
    """What a model with a larger context says where a conversation is too long for the first."""
    options = {"api_base": v1, "api_key": "none"}
    router = litellm.Router(
        model_list=[
            {"model_name": name, "litellm_params": {"model": f"openai/{model}", **options}}
            for name, model in (("small", "demo"), ("large", "scripted_chat"))
        ],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
    )
    messages = [{"role": "user", "content": "hello " * 3000}]
    content: str | None = router.completion("small", messages).choices[0].message.content
    return content


def triton(http: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "model": "triton/demo",
        "api_base": f"{http}/v2/models/demo/generate",
        "messages": MESSAGES,
        "max_tokens": 30,
    }
    return {
        "whole": litellm.completion(**options).choices[0].message.content,
        "streamed": text(litellm.completion(**options, stream=True)),
    }


if __name__ == "__main__":
    v1, http = sys.argv[1:]
    sys.stdout.write(json.dumps({"gateway": gateway(v1), "triton": triton(http)}))
