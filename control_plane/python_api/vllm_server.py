"""`VLLMServer`: vLLM models from an asynchronous Python program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from control_plane.engines.vllm import ENGINE
from control_plane.python_api.model_host import ModelHost, Prompt
from control_plane.python_api.options import OPTIONS, with_option_fields
from control_plane.settings import ConfigManager, ServingSettings, SettingsError


@with_option_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMRequest:
    """What to generate, and the sampling parameters, each by its name."""

    prompt: str | Sequence[Mapping[str, Any]]  # a text, or chat messages
    stream: bool = True
    model: str | None = None  # None: the one that was loaded last

    if TYPE_CHECKING:  # the parameters are fields that come from their list

        def __init__(
            self,
            *,
            prompt: str | Sequence[Mapping[str, Any]],
            stream: bool = True,
            model: str | None = None,
            **sampling: Any,  # noqa: ANN401
        ) -> None: ...

        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters that are not at their defaults, by name."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in values.items() if value != OPTIONS[name]}


@dataclass(frozen=True, slots=True)
class VLLMResponse:
    """The text and tokens since the response before; the last one has a finish reason."""

    text: str
    tokens_generated: int
    finish_reason: str | None
    request_id: str


class VLLMServer:
    """Loads models into vLLM and generates text; belongs to one event loop.

    The first `load_model` starts an embedded Triton, or joins the server that
    ``serving.triton.endpoints`` names. `close` stops what was started.
    """

    def __init__(self, config: ConfigManager) -> None:
        self._config = config
        self._host = ModelHost()

    async def load_model(self, model_path: str, **engine_arguments: Any) -> None:  # noqa: ANN401
        """Load a model, which becomes the default one.

        ``engine_arguments``: keys of ``serving.vllm``, over the settings; any other is an engine
        argument of vLLM. Raises what `ModelServer.load_model` raises.
        """
        serving = self._config.serving
        if serving.triton.endpoints and engine_arguments:
            name = min(engine_arguments)
            raise SettingsError([f"{name}: is for the server in serving.triton.endpoints to set"])
        await self._host.load(model_path, _with(serving, engine_arguments))

    async def generate(self, request: VLLMRequest) -> VLLMResponse:
        """Return the whole answer. Raises `TriadError`."""
        text, tokens, last = "", 0, None
        async for response in self._responses(request, stream=False):
            text, tokens, last = text + response.text, tokens + response.tokens_generated, response
        assert last is not None
        return VLLMResponse(text, tokens, last.finish_reason, last.request_id)

    def generate_stream(self, request: VLLMRequest) -> AsyncIterator[VLLMResponse]:
        """Yield the answer as it comes; with ``stream=False`` all at once. Raises `TriadError`.
        Closing the iterator ends the request."""
        return self._responses(request, stream=request.stream)

    async def _responses(
        self, request: VLLMRequest, *, stream: bool
    ) -> AsyncIterator[VLLMResponse]:
        prompt: Prompt = request.prompt
        generation = await self._host.begin(
            prompt, request.sampling(), request.model, stream=stream
        )
        error: BaseException | None = None
        try:
            async for deltas in generation:
                for delta in deltas:
                    yield VLLMResponse(
                        delta.text, delta.tokens, delta.finish_reason, generation.request_id
                    )
        except BaseException as failure:
            error = failure
            raise
        finally:
            generation.close(error)

    async def close(self) -> None:
        """Stop what was started. Safe to call twice."""
        await self._host.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _with(serving: ServingSettings, arguments: Mapping[str, Any]) -> ServingSettings:
    """Return the settings for one model on vLLM. Raises `pydantic.ValidationError`."""
    values = serving.engine(ENGINE).model_dump(exclude_unset=True)
    known = {k: v for k, v in arguments.items() if k in ENGINE.settings.model_fields}
    others = {k: v for k, v in arguments.items() if k not in known}
    values |= known
    if others:
        values["engine_args"] = {**values.get("engine_args", {}), **others}
    section = ENGINE.settings(**values)
    return serving.model_copy(deep=True, update={"backend_type": ENGINE.name, ENGINE.name: section})
