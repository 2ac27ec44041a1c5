"""What a request asks for."""

from __future__ import annotations

import numpy as np
import pytest

from backends.contract.errors import InvalidField
from backends.contract.kinds import RequestKind, cancel_id, kind_of
from backends.contract.tensors import Inputs


def bytes_input(**values: str) -> Inputs:
    return {name: np.array([value.encode()], np.object_) for name, value in values.items()}


def kind(value: str | None, *known: RequestKind) -> RequestKind:
    inputs = {} if value is None else bytes_input(request_kind=value)
    return kind_of(inputs, default=RequestKind.GENERATE, known=known or tuple(RequestKind))


def test_an_absent_kind_is_the_default() -> None:
    assert kind(None) is RequestKind.GENERATE


@pytest.mark.parametrize("value", RequestKind)
def test_every_kind_is_known_by_its_value(value: RequestKind) -> None:
    assert kind(value.value) is value


@pytest.mark.parametrize("value", ["", "Describe", "x" * 1000])
def test_an_unknown_kind_is_refused(value: str) -> None:
    with pytest.raises(
        InvalidField, match=r"^request_kind: must be one of generate, embed"
    ) as error:
        kind(value)
    assert len(str(error.value)) < 250


def test_a_kind_that_this_model_cannot_serve_is_refused() -> None:
    known = (RequestKind.EMBED, RequestKind.CANCEL)
    with pytest.raises(
        InvalidField, match=r"^request_kind: must be one of embed, cancel, not `tok"
    ):
        kind("tokenize", *known)


def test_cancel_needs_an_id() -> None:
    assert cancel_id(bytes_input(cancel_id="a")) == "a"
    with pytest.raises(InvalidField, match=r"^cancel_id: must be given"):
        cancel_id({})
