"""The contract's sampling parameters to vLLM's, and vLLM's outputs to tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from backends.contract import names
from backends.contract.errors import EngineError, InvalidField
from backends.contract.responses import FinishReason
from backends.contract.sampling import PARAMETERS, SamplingParameters
from backends.contract.structured import StructuredOutput
from backends.engine import EngineRequest, Token
from backends.guidance.bounds import LiteralBudget
from backends.guidance.calls import ToolCallGrammar
from backends.guidance.json_schema import OPTIONS

_FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


GUIDANCE = "guidance"
"""vLLM's backend for structured output that is llguidance."""


class TriedParams(SamplingParams):  # type: ignore[misc]
    """With a grammar that has been tried. vLLM would compile it once more, in the thread that all
    answers come through, and without the tokens that grammars may name."""

    def _validate_structured_outputs(
        self,
        model_config: Any,  # noqa: ANN401
        structured_outputs_config: Any,  # noqa: ANN401
        tokenizer: Any,  # noqa: ANN401
    ) -> None:
        if self.structured_outputs is not None:
            self.structured_outputs._backend = GUIDANCE


def sampling_params(request: EngineRequest, grammar: str | None = None) -> SamplingParams:
    """Return vLLM's parameters. Text is not its business: neither detokenisation nor stop strings.

    ``grammar``: of a request that is guided, where llguidance is to keep to it, in Lark's form.
    Raises `InvalidField`.
    """
    sampling, resumed = request.sampling, len(request.output_ids)
    if resumed:
        check_resumable(sampling)
    try:
        return _params(sampling, resumed, grammar)
    except (VLLMClientError, ValueError) as error:
        raise refusal(error, sampling) from None


def refusal(error: Exception, sampling: SamplingParameters) -> InvalidField:
    """Return the error for a value outside a range that is vLLM's own."""
    name: Any = getattr(error, "parameter", None)
    if sampling.guided is not None:
        name = sampling.guided.given_as
    elif name not in PARAMETERS:
        name = names.SAMPLING_PARAMETERS
    return InvalidField(
        name, f"is refused by vLLM: {str(error.args[0] if error.args else error)[:300]}"
    )


def _params(sampling: SamplingParameters, resumed: int, grammar: str | None) -> SamplingParams:
    """Return vLLM's. ``resumed``: how many tokens of the answer vLLM gets as part of the prompt."""
    for name in _REFUSED:
        if getattr(sampling, name) != PARAMETERS[name].default:
            raise InvalidField(
                name, "cannot be honoured by this engine: vLLM has no such parameter"
            )
    values = {name: getattr(sampling, name) for name in _PASSED}
    values |= {name: convert(getattr(sampling, name)) for name, convert in _CONVERTED.items()}
    values["max_tokens"] -= resumed
    values["min_tokens"] = max(0, sampling.min_tokens - resumed)
    if not sampling.min_tokens:  # `serving.generation` looks for them
        values["stop_token_ids"] = None
    return (SamplingParams if grammar is None else TriedParams)(
        **values,
        structured_outputs=StructuredOutputsParams(grammar=grammar)
        if grammar is not None
        else _structured_outputs(sampling.guided),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


_CONVERTED: Mapping[str, Callable[[Any], Any]] = {
    "logit_bias": lambda pairs: dict(pairs) or None,
    "allowed_token_ids": lambda ids: ids and list(ids),
    "stop_token_ids": list,
}
"""Parameters of which vLLM wants the values in another form."""

_ELSEWHERE = frozenset(
    {
        *("stop", "skip_special_tokens", "include_stop_str_in_output"),  # of the text
        *("lora_name", "cache_salt", "guided"),  # beside vLLM's SamplingParams
    }
)
_PLAIN = [name for name in PARAMETERS if name not in _ELSEWHERE | _CONVERTED.keys()]
_PASSED = [name for name in _PLAIN if name in SamplingParams.__struct_fields__]
_REFUSED = [name for name in _PLAIN if name not in SamplingParams.__struct_fields__]
"""Parameters that vLLM has under the same name, and those that it has not."""


def check_resumable(sampling: SamplingParameters) -> None:
    """Refuse what cannot be resumed: vLLM takes the answer so far as part of the prompt. Raises
    `InvalidField`."""
    for name in ("presence_penalty", "frequency_penalty", "guided"):
        if getattr(sampling, name):
            raise InvalidField(name, "cannot be used with `resume_token_ids` on this engine")


def _structured_outputs(guided: StructuredOutput | None) -> StructuredOutputsParams | None:
    """Return them for vLLM's other backends of structured output. Raises `InvalidField`."""
    if guided is None:
        return None
    if (
        guided.kind == "tool_calls"
        and (calls := ToolCallGrammar.of(guided, LiteralBudget())).format == "json"
    ):
        schema = calls.schema("parameters", listed=True)
        return StructuredOutputsParams(json=json.dumps(schema))
    if guided.kind in ("any_of", "tool_calls"):
        raise InvalidField(
            guided.given_as,
            "needs the model's `structured_outputs_config` to have the backend guidance",
        )
    if guided.kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    value = list(guided.value) if guided.kind == "choice" else guided.value
    return StructuredOutputsParams(**{guided.kind: value})


@cache
def json_options() -> Mapping[str, Any]:
    """Return the other engines' options as far as vLLM's llguidance has them: before 1.9 it lacks
    the last one, and repeats a whitespace pattern."""
    major, minor = (int(part) for part in version("llguidance").split(".")[:2])
    if (major, minor) >= (1, 9):
        return OPTIONS
    known = {key: OPTIONS[key] for key in ("json_allowed_escapes", "lenient", "coerce_one_of")}
    return known | {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tokens(
    request: EngineRequest, output: RequestOutput
) -> Iterator[tuple[Token, FinishReason | None]]:
    """Yield what an output adds to an answer, the last token with the reason.

    Raises `EngineError` where vLLM ended the request for another reason than those there are.
    """
    completion, sampling = output.outputs[0], request.sampling
    reason = None
    if output.finished:
        reason = _FINISH_REASONS.get(completion.finish_reason or "")
        if reason is None or not completion.token_ids:
            raise EngineError(f"vLLM ended the request: {completion.finish_reason}")
    prompt = _prompt_tokens(request, output.prompt_logprobs)
    last = len(completion.token_ids) - 1
    for i, id_ in enumerate(completion.token_ids):
        entry = completion.logprobs[i] if completion.logprobs else None
        token = _token(id_, entry, sampling.logprobs or 0, prompt if i == 0 else ())
        yield token, reason if i == last else None


def _prompt_tokens(request: EngineRequest, logprobs: Any) -> tuple[Token, ...]:  # noqa: ANN401
    """Return the prompt's second token and on: for the first there is no log probability."""
    if not logprobs:
        return ()
    top = request.sampling.prompt_logprobs or 0
    pairs = zip(request.prompt_ids[1:], logprobs[1:], strict=False)
    return tuple(_token(id_, entry, top) for id_, entry in pairs)


def _token(
    id_: int, logprobs: Mapping[int, Any] | None, top: int, prompt: tuple[Token, ...] = ()
) -> Token:
    """Return a token. ``logprobs``: vLLM's, by token id; the chosen one's may have any rank."""
    if logprobs is None:
        return Token(id_, prompt=prompt)
    ranked = sorted((p.rank, other, p.logprob) for other, p in logprobs.items() if p.rank <= top)
    chosen = logprobs[id_]
    alternatives = tuple((other, logprob) for _, other, logprob in ranked[:top])
    return Token(id_, chosen.logprob, chosen.rank, alternatives, prompt)
