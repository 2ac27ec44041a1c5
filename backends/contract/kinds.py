"""What a request asks for: the input ``request_kind``."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from backends.contract import names
from backends.contract.errors import InvalidField
from backends.contract.tensors import Inputs, text


class RequestKind(StrEnum):
    """The kinds of requests. All but a generation have one response.

    Where no output is named, the answer is the only element of ``text_output``.
    """

    GENERATE = "generate"
    """Go on with a prompt. A language model takes an absent kind for this one."""
    EMBED = "embed"
    """Give a row for each text. An encoder or classifier takes an absent kind for this one."""
    DESCRIBE = "describe"
    """Answer with the model's facts and gauges, as JSON."""
    METRICS = "metrics"
    """Answer with the engine's own metrics, in Prometheus' text format; empty where it has none."""
    CANCEL = "cancel"
    """End the requests whose id is that of the input ``cancel_id``; answer how many there were."""
    TOKENIZE = "tokenize"
    """Answer with the prompt's token ids and texts, as JSON; or, with ``return_prompt_token_ids``,
    with the outputs ``prompt_token_ids`` and ``in_reasoning`` alone."""
    DETOKENIZE = "detokenize"
    """Answer with the text of ``prompt_token_ids``."""
    TOKENIZER_INFO = "tokenizer_info"
    """Answer with the tokenizer's properties, as JSON."""
    ATTRIBUTIONS = "attributions"
    """Answer with what each prompt token adds to an answer, as JSON: to the text of the input
    ``target``, or to what is generated."""
    PROFILE = "profile"
    """Answer with a profiler's trace of a generation, gzipped."""


def kind_of(inputs: Inputs, *, default: RequestKind, known: Iterable[RequestKind]) -> RequestKind:
    """Return a request's kind, ``default`` if it names none. Raises `InvalidField`.

    ``known``: those that this model can serve.
    """
    given = text(inputs, names.REQUEST_KIND)
    if given is None:
        return default
    possible = {str(kind): kind for kind in known}
    if given not in possible:
        raise InvalidField(
            names.REQUEST_KIND, f"must be one of {', '.join(possible)}, not `{given[:64]}`"
        )
    return possible[given]


def cancel_id(inputs: Inputs) -> str:
    """Return the id of the requests that are to be ended. Raises `InvalidField`."""
    if (request_id := text(inputs, names.CANCEL_ID)) is None:
        raise InvalidField(names.CANCEL_ID, "must be given")
    return request_id
