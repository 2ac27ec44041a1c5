"""Loading a Hugging Face tokenizer."""

from __future__ import annotations

from typing import Any

from backends.contract.errors import EngineError

SENTENCEPIECE = "sentencepiece>=0.2,<0.2.3"


def load_tokenizer(model: str, **options: Any) -> Any:  # noqa: ANN401
    """``model``: a folder or a hub id. Raises what transformers raises, and `EngineError` where a
    package is missing."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except Exception as error:
        if ".model" in str(error) and (problem := _without_sentencepiece()) is not None:
            raise EngineError(
                f"the tokenizer is a SentencePiece model, and {problem}: install "
                f'"{SENTENCEPIECE}", or save the tokenizer with its tokenizer.json'
            ) from error
        raise


def _without_sentencepiece() -> str | None:
    """Why SentencePiece's files cannot be read: transformers then takes them for another kind."""
    try:
        from sentencepiece import sentencepiece_model_pb2  # noqa: F401
    except ImportError:
        return "the package sentencepiece is not installed"
    except Exception as error:  # of protobuf, whose releases do not fit all of sentencepiece's
        return f"the package sentencepiece cannot be used ({error})"
    return None


def direct_backend(tokenizer: Any) -> Any:  # noqa: ANN401
    """The `tokenizers.Tokenizer` that does all the work of one of transformers'; None where there
    is none, or transformers does some of it."""
    from transformers import PreTrainedTokenizerFast

    whole = ("__call__", "_encode_plus", "decode", "_decode")
    if isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name) for name in whole
    ):
        return tokenizer.backend_tokenizer
    return None
