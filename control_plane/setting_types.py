"""The value types that the settings are made of: those of the gateway, and those of the engines.

The JSON schema key `accepts` holds, for a value that a range or a list of choices cannot describe,
the words for what is accepted.
"""

import ipaddress
from typing import Annotated, Any, Literal

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

MAX_PORT = 65535


class Section(BaseModel):
    """A mapping of the settings document: unknown keys are errors, assignments are checked.

    Types are strict (`port: true` is not 1). Errors do not repeat the input, which may be
    a secret. An empty section (`vllm:` with nothing below it) means its defaults.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        validate_assignment=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:  # noqa: ANN401
        """Return an empty mapping for a section without anything below it."""
        return {} if value is None else value


def _word(value: object) -> object:
    """Return `true` or `false` for a boolean, and any other value as it is."""
    return str(value).lower() if isinstance(value, bool) else value


def _port_in_range(value: str) -> str:
    """Return an endpoint whose port exists. Raises ValueError."""
    if not value.startswith("unix:") and not 1 <= int(value.rpartition(":")[2]) <= MAX_PORT:
        raise ValueError("port out of range")
    return value


Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
PortOrNone = Annotated[int, Field(ge=0, le=MAX_PORT)]
"""A port; 0 is none."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
SecondsOrNone = Annotated[float, Field(ge=0)]
"""A duration in seconds; 0 means not waiting at all."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
"""A fraction that is not 0."""

Name = Annotated[str, Field(min_length=1)]

Secret = Annotated[
    SecretStr,
    Field(min_length=16, json_schema_extra={"accepts": "text of at least 16 characters"}),
]
"""A secret that cannot be found out by trying."""

Bytes = Annotated[
    ByteSize,
    Field(
        gt=0,
        json_schema_extra={"accepts": "a size in bytes above 0, such as 4096, 1GB or 512MiB"},
    ),
]
"""A number of bytes, or text with a unit: 1GB is 10^9 bytes, 1GiB is 2^30."""

AutoOrBool = Annotated[Literal["auto", "true", "false"], BeforeValidator(_word)]
"""YAML reads true and false as booleans."""

Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        json_schema_extra={"accepts": "auto, cpu, cuda or cuda:N"},
    ),
]
UrlPath = Annotated[
    str, Field(pattern=r"^/\S*$", json_schema_extra={"accepts": "a path that starts with /"})
]
HttpUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://\S+$",
        json_schema_extra={"accepts": "an address that starts with http:// or https://"},
    ),
]


def _compiles(value: str) -> str:
    """Return a pattern that RE2 can compile. Raises ValueError."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except re2.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return value


Pattern = Annotated[
    str,
    Field(json_schema_extra={"accepts": "a regular expression of RE2"}),
    AfterValidator(_compiles),
]


def _is_network(value: str) -> str:
    """Return an address or a network. Raises ValueError."""
    ipaddress.ip_network(value)
    return value


Network = Annotated[
    str,
    Field(json_schema_extra={"accepts": "an address or a network, such as 10.0.0.0/8 or ::1"}),
    AfterValidator(_is_network),
]
HeaderName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        json_schema_extra={"accepts": "a header name in lower case"},
    ),
]
Endpoint = Annotated[
    str,
    Field(
        pattern=r"^(unix:/\S+|(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5})$",
        json_schema_extra={"accepts": f"host:port with a port from 1 to {MAX_PORT}, or unix:/path"},
    ),
    AfterValidator(_port_in_range),
]
