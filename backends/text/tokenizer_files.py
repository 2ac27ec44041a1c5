"""Loading of Hugging Face tokenizers."""

from __future__ import annotations

from typing import Any

from backends.contract.errors import EngineError

SENTENCEPIECE = "sentencepiece>=0.2,<0.2.3"


def load_tokenizer(model: str, **options: Any) -> Any:  # noqa: ANN401
    """Return the transformers tokenizer of ``model``, a folder or a hub id.

    Raises transformers' own exceptions, and `EngineError` where the package sentencepiece is
    missing or does not work.
    """
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
    """Return the reason why SentencePiece's files cannot be read, or None. Without the package,
    transformers takes them for another kind of file."""
    try:
        from sentencepiece import sentencepiece_model_pb2  # noqa: F401
    except ImportError:
        return "the package sentencepiece is not installed"
    except Exception as error:  # Some releases of protobuf do not work with this sentencepiece.
        return f"the package sentencepiece cannot be used ({error})"
    return None


def direct_backend(tokenizer: Any) -> Any:  # noqa: ANN401
    """Return the `tokenizers.Tokenizer` that does all the work of a transformers tokenizer, or None
    where there is none, or where transformers does some of the work."""
    from transformers import PreTrainedTokenizerFast

    whole = ("__call__", "_encode_plus", "decode", "_decode")
    if isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name) for name in whole
    ):
        return tokenizer.backend_tokenizer
    return None
