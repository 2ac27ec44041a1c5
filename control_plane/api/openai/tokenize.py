"""``POST /tokenize`` and ``POST /detokenize``, in vLLM's shapes.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from control_plane.api.dependencies import ServicesDep
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_body import MAX_MESSAGES
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.fields import TokenId, V1Model, only
from control_plane.api.openai.messages import ChatMessage, Tool, for_templates
from control_plane.errors import InvalidRequest
from control_plane.triton.codec import Chat, Prompt, Text

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


class TokenizeRequest(V1Model):
    """A text, or messages as the model's chat template has them."""

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
    chat_template: Annotated[Any, only(None)] = None

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


class DetokenizeRequest(V1Model):
    model: str | None = None
    tokens: list[TokenId] = Field(fail_fast=True)


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", responses=documented_errors())
async def tokenize(
    body: TokenizeRequest, request: Request, services: ServicesDep
) -> TokenizeResponse:
    """The token ids that a prompt becomes."""
    prompt = body.as_prompt()
    model = services.catalog.language_model(body.model)
    work = services.generation.tokenize(model, request.state.request_id, prompt)
    tokens = await until_disconnect(request.receive, work)
    return TokenizeResponse(
        count=len(tokens.ids),
        max_model_len=model.facts["context_length"],
        tokens=tokens.ids,
        token_strs=tokens.texts if body.return_token_strs else None,
    )


@router.post("/detokenize", responses=documented_errors())
async def detokenize(
    body: DetokenizeRequest, request: Request, services: ServicesDep
) -> DetokenizeResponse:
    """The text of token ids."""
    model = services.catalog.language_model(body.model)
    work = services.generation.detokenize(model, request.state.request_id, body.tokens)
    return DetokenizeResponse(prompt=await until_disconnect(request.receive, work))
