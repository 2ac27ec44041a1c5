"""Sampling parameters as clients of NVIDIA's vLLM backend write them.

That backend converts what comes as text ("0.1", "100"), drops nulls, and knows all of vLLM's
parameters: ``TritonSamplingParams.from_dict`` in triton-inference-server/vllm_backend,
``src/utils/vllm_backend_utils.py``. Its own sample client and genai-perf send such values.

This module needs nothing but the standard library: the control plane imports it for names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "detokenize": (True,),
    "extra_args": ({},),
    "flat_logprobs": (False,),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "prompt_logprob_token_ids": ([],),
    "repetition_detection": (),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (-1,),
    "trace_decode_token_ids": ([],),
    "truncate_prompt_tokens": (),
}
"""vLLM's parameters that change an answer and that no engine here has, with the values that ask for
nothing, as null does too."""

NO_EFFECT = frozenset({"early_stopping", "length_penalty", "stream_interval", "watermarking"})
"""vLLM's parameters that change nothing here: of beam search, and of its own workings."""

MAX_NUMBER_CHARACTERS = 64
"""Characters of a number that comes as text."""

Converter: TypeAlias = Callable[[str, Any], Any]
"""From a parameter's name and value to the value as the parameter has it, or the same value."""


def require_neutral(name: str, value: object, neutral: tuple[object, ...]) -> None:
    """Raise `InvalidField` for a value that asks for something. A boolean is no number here."""
    asks = value is not None and not any(
        value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral
    )
    if asks and (not isinstance(value, str) or value.lower() not in map(json.dumps, neutral)):
        shown = json.dumps(neutral[0]) if neutral else "null"
        problem = f"cannot be honoured by this server: leave it out, or send {shown}"
        raise InvalidField(name, problem)


def converter(type_: str) -> Converter:
    """Return what reads a parameter's value. ``type_``: the parameter's type in JSON."""
    return _CONVERTERS.get(type_, lambda _, value: value)


def _integer(name: str, value: object) -> object:
    if isinstance(value, str) and len(value) <= MAX_NUMBER_CHARACTERS:
        with suppress(ValueError):
            return int(value)
        value = _number(name, value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(_name: str, value: object) -> object:
    if isinstance(value, str) and len(value) <= MAX_NUMBER_CHARACTERS:
        with suppress(ValueError):
            return float(value)
    return value


def _boolean(_name: str, value: object) -> object:
    text = value.strip().lower() if isinstance(value, str) else str(value)
    return {"true": True, "false": False, "1": True, "0": False}.get(text, value)


def _object(name: str, value: object) -> object:
    return json_object(name, value) if isinstance(value, str) else value


_CONVERTERS: Mapping[str, Converter] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": _object,
}


def json_object(name: str, text: str) -> dict[str, Any]:
    """Return the JSON object that a text holds. Raises `InvalidField`."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # not half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InvalidField(name, f"is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidField(name, "must be a JSON object")
    return value


def _of_vllm(name: str) -> Callable[[Any], StructuredOutput | None]:
    """Return what reads vLLM's form, which has a place for each kind of structure, and options."""

    def structure(value: object) -> StructuredOutput | None:
        if not isinstance(value, Mapping):
            raise InvalidField(name, "must be a JSON object")
        given = {k: v for k, v in value.items() if v is not None and v is not False}
        given.pop("backend", None)  # which library keeps to the structure changes nothing
        if isinstance(given.get("json"), str):
            given["json"] = json_object(name, given["json"])
        try:
            return replace(StructuredOutput.of(given), given_as=name) if given else None
        except InvalidField as error:
            raise InvalidField(name, str(error).removeprefix(f"{error.field}: ")) from None

    return structure


STRUCTURE: Mapping[str, Callable[[Any], StructuredOutput | None]] = {
    "guided": StructuredOutput.of,
    "structured_outputs": _of_vllm("structured_outputs"),
    "guided_decoding": _of_vllm("guided_decoding"),
    "response_format": StructuredOutput.of_response_format,
}
"""The parameters that say what the text must look like, and how each is read."""
