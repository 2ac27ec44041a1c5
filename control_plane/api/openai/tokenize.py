"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``, in vLLM's shapes.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api
"""

from __future__ import annotations

from typing import Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.body import (
    IN_ANY_REQUEST,
    UNSCHEDULED,
    Body,
    TokenId,
    Unsupported,
    settle_unknown_fields,
)
from control_plane.api.dependencies import ServicesDep, charged, estimated_tokens
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_body import MAX_MESSAGES
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.chat.messages import ChatMessage, Tool, for_templates
from control_plane.errors import InvalidRequest
from control_plane.inference.prompts import Chat, Prompt, Text
from control_plane.validation import check_length, check_request

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


class TokenizeRequest(Body):
    """A text, or messages as the model's chat template has them."""

    no_effect = IN_ANY_REQUEST | UNSCHEDULED
    unsupported: ClassVar[Unsupported] = {
        "chat_template": (),
        "documents": ([],),
        "mm_processor_kwargs": ({},),
        "truncate_prompt_tokens": (),
    }

    model: str | None = Field(None, description="The default model where absent")
    prompt: str | None = Field(None, min_length=1)
    messages: list[ChatMessage] | None = Field(
        None, min_length=1, max_length=MAX_MESSAGES, fail_fast=True
    )
    tools: list[Tool] | None = Field(None, max_length=128, fail_fast=True)
    add_special_tokens: bool | None = Field(None, description="Texts: true; messages: false")
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

    def as_prompt(self) -> Prompt:
        """Raises `InvalidRequest`."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest(
                "prompt: or `messages` must be given, and not both", param="prompt"
            )
        if self.prompt is not None:
            return Text(self.prompt, self.add_special_tokens is not False)
        assert self.messages is not None
        options = {
            "add_generation_prompt": self.add_generation_prompt,
            "continue_final_message": self.continue_final_message,
            "template_kwargs": self.chat_template_kwargs or {},
        }
        return Chat(
            [message.for_template() for message in self.messages],
            for_templates(self.tools) if self.tools else None,
            options,
            bool(self.add_special_tokens),
        )


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    no_effect = IN_ANY_REQUEST | UNSCHEDULED

    model: str | None = None
    tokens: list[TokenId] = Field(fail_fast=True)


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", responses=documented_errors())
async def tokenize(
    body: TokenizeRequest, request: Request, services: ServicesDep
) -> TokenizeResponse:
    """Return the token ids that a prompt becomes."""
    settle_unknown_fields(body, request)
    prompt = body.as_prompt()
    check_request(services.settings.validation, prompt, max_tokens=0)
    model = services.catalog.language_model(body.model)
    work = services.inspection.tokenize(model, request.state.request_id, prompt)
    tokens = await charged(request, work, estimated_tokens(prompt), lambda tokens: len(tokens.ids))
    return TokenizeResponse(
        count=len(tokens.ids),
        max_model_len=model.context_length,
        tokens=tokens.ids,
        token_strs=tokens.names if body.return_token_strs else None,
    )


@router.post("/detokenize", responses=documented_errors())
async def detokenize(
    body: DetokenizeRequest, request: Request, services: ServicesDep
) -> DetokenizeResponse:
    """Return the text of token ids."""
    settle_unknown_fields(body, request)
    check_length(services.settings.validation, "tokens", len(body.tokens))
    model = services.catalog.language_model(body.model)
    work = services.inspection.detokenize(model, request.state.request_id, body.tokens)
    count = len(body.tokens)
    text = await charged(request, work, count, lambda _: count)
    return DetokenizeResponse(prompt=text)


class TokenizerInfo(BaseModel):
    """A tokenizer as ``tokenizer_config.json`` describes it; further keys may come."""

    model_config = ConfigDict(extra="allow")

    tokenizer_class: str
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    chat_template: str | dict[str, str] | None = None


@router.get("/tokenizer_info", responses=documented_errors(400, 404, 503))
async def tokenizer_info(
    request: Request, services: ServicesDep, model: str | None = None
) -> TokenizerInfo:
    """Describe a model's tokenizer: its special tokens and chat template, and no paths.

    Evaluation harnesses apply the template with it. ``model``: the default one where absent.
    """
    found = services.catalog.language_model(model)
    work = services.inspection.tokenizer_info(found, request.state.request_id)
    return TokenizerInfo(**await until_disconnect(request.receive, work))
