"""What a body may be, before anybody looks at its fields."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest

from control_plane.api.json_body import (
    MAX_FIELDS,
    MAX_INTEGER_DIGITS,
    MAX_NODES,
    MAX_VALUES,
    parse_body,
    parse_json,
)
from control_plane.api.json_check import MAX_DEPTH
from control_plane.errors import InvalidRequest
from tests.support.timing import assert_linear


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + "1" + closing * levels


def second(value: str) -> str:
    """A body with it as a field ``a``, behind another one."""
    return '{"b": 1, "a": ' + value + "}"


GOOD = [
    b"{}",
    b' {"a" : [1, 2.5, -3e2, true, null, {"b": "c"}] }\n',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": "é 🌶 \\ud83c\\udf36 \\u0000"}'.encode(),
    b'{"a": 1, "a": 2}',
    b'{"a": 18446744073709551616, "b": -1%b}' % (b"0" * (MAX_INTEGER_DIGITS - 1)),
    b'{"a": "%b"}' % (b"1" * 5000),
    f'{{"a": {nested(MAX_DEPTH - 1)}}}'.encode(),
    json.dumps({"a": "[{,:" * MAX_VALUES}).encode(),
    json.dumps({"a": '"\\' * MAX_VALUES}).encode(),
    json.dumps({"input": list(range(300_000))}).encode(),
    json.dumps({f"k{number}": number for number in range(MAX_FIELDS)}).encode(),
]


@pytest.mark.parametrize("body", GOOD, ids=[str(body[:24]) for body in GOOD])
async def test_what_is_right_is_read_as_python_reads_it(body: bytes) -> None:
    assert await parse_body(body) == json.loads(body)


# (the body, the field that is named, what is said)
BAD: list[tuple[str | bytes, str | None, str]] = [
    ("", None, "the body must be a JSON object"),
    ("[1]", None, "the body must be a JSON object"),
    ("null", None, "the body must be a JSON object"),
    ("{", None, "the body is not valid JSON: Expecting a field's name at character 1"),
    ('{"a"', None, "Expecting ':' at character 4"),
    ('{"a": ', None, "Expecting a value at character 6"),
    ('{"a": [1, }', None, "not valid JSON: Expecting a value at character"),
    ('{"a": 1,}', None, "Expecting a field's name at character 8"),
    ('{"a": 1 "b": 2}', None, "Expecting ',' or '}' at character 8"),
    ('{"a": 1} {}', None, "Expecting the end at character 9"),
    ('{"a": "\n"}', None, "not valid JSON"),
    (b'{"a": "\xff"}', None, "not valid UTF-8: see byte 7"),
    (b'{"a": "\xed\xa0\x80"}', None, "not valid UTF-8"),  # a surrogate's own bytes
    ('{"a": 1}'.encode("utf-16"), None, "not valid UTF-8"),
    (r'{"a": "x \ud83d"}', "a", "half of a surrogate pair"),
    (r'{"a": [1, {"b": ["x", "\udc00\ud800"]}]}', "a[1].b[1]", "half of a surrogate pair"),
    (r'{"a": ["\ud83d", "\ude00"]}', "a[0]", "half of a surrogate pair"),
    (r'{"a": {"b\uD800": 1}}', "a", "a key with half of a surrogate pair"),
    (r'{"\ud800": 1}', None, "the body must not have a key with half of a surrogate pair"),
    ('{"a": NaN}', "a", "must be a finite number"),
    ('{"a": {"b": [1, -Infinity]}}', "a.b[1]", "must be a finite number"),
    ('{"a": [{}, {"b": 1e400}]}', "a[1].b", "must be a finite number"),
    (second("1" * (MAX_INTEGER_DIGITS + 1)), "a", "at most 308 digits"),
    (second("[-" + "1" * 5000 + "]"), "a", "at most 308 digits"),
    (second("1" * 3_900_000), "a", "at most 308 digits"),
    (second(nested(MAX_DEPTH)), "a[0][0]", "nested more than 64 levels"),
    (second('{"b": [' + nested(MAX_DEPTH, '{"c":', "}") + "]}"), "a.b[0].c.c", "than 64 levels"),
    (second(nested(20_000)), "a", "nested more than 64 levels"),
    (second("[" * 2_000_000), "a", "has too much in it"),
    (second("[" + "0," * MAX_VALUES + "0]"), "a", "has too much in it"),
    (second("[" + "{}," * MAX_NODES + "0]"), "a", "has too much in it"),
    (second(json.dumps(dict.fromkeys(map(str, range(MAX_NODES))))), "a", "has too much in it"),
    (second('["a,b",' + "0," * MAX_VALUES + "0]"), "a", "has too much in it"),
    (second('"' * 3_900_000), None, "not valid JSON: Expecting ',' or '}'"),
    (second("[" + '"",' * 900_000), "a", "has too much in it"),
    (json.dumps({f"k{n}": n for n in range(MAX_FIELDS + 1)}), None, "at most 1000 fields"),
]


@pytest.mark.parametrize(("body", "param", "says"), BAD, ids=[str(bad[0][:24]) for bad in BAD])
async def test_what_is_wrong_is_named(body: str | bytes, param: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await parse_body(body.encode() if isinstance(body, str) else body)
    error = raised.value
    if param is not None and error.param is not None and len(param) < len(error.param):
        assert error.param.startswith(param)  # of a long path, its beginning
    else:
        assert error.param == param
    assert says in error.message
    assert error.param is None or error.message.startswith(f"{error.param}: ")
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("text", "param", "says"),
    [
        ("{", "guided_json", "is not valid JSON"),
        (r'{"a": ["\ud800"]}', "guided_json.a[0]", "half of a surrogate pair"),
        (nested(65), "guided_json[0]", "more than 64 levels"),
        (nested(5000), "guided_json", "more than 64 levels"),
        ("[1, NaN]", "guided_json[1]", "finite"),
        ("9" * 400, "guided_json", "at most 308 digits"),
        ("[" + "0," * MAX_VALUES + "0]", "guided_json", "has too much in it"),
    ],
)
def test_json_within_a_text_has_the_same_bounds(text: str, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        parse_json(text, "guided_json")
    assert raised.value.param is not None
    assert raised.value.param.startswith(param)


def test_json_within_a_text_may_be_any_value() -> None:
    for value in ({"a": [2**64]}, [1], "a", 5, True, None):
        assert parse_json(json.dumps(value), "guided_json") == value


def body_of(kind: str, size: int) -> bytes:
    parts: dict[str, str] = {
        "numbers": '{"a":[%s0]}' % ("0," * (size // 2)),
        "strings": '{"a":[%s0]}' % ('"",' * (size // 3)),
        "objects": '{"a":[%s0]}' % ('{"b":0},' * (size // 8)),
        "one string": '{"a":"%s"}' % ("a" * size),
        "escapes": '{"a":"%s"}' % ("\\u0061" * (size // 6)),
        "quotes": '{"a":"%s"}' % ('\\"' * (size // 2)),
        "depth": '{"a":%s}' % ("[" * size),
        "digits": '{"a":%s}' % ("1" * size),
        "space": '{"a":%s1}' % (" " * size),
    }
    return parts[kind].encode()


@pytest.mark.parametrize(
    "kind",
    [
        "numbers",
        "strings",
        "objects",
        "one string",
        "escapes",
        "quotes",
        "depth",
        "digits",
        "space",
    ],
)
def test_twice_as_much_takes_no_more_than_twice_as_long(kind: str) -> None:
    """What is quadratic takes four times as long."""
    bodies = {size: body_of(kind, size) for size in (2_000_000, 4_000_000)}
    with asyncio.Runner() as runner:

        def parse(size: int) -> None:
            with suppress(InvalidRequest):
                runner.run(parse_body(bodies[size]))

        assert_linear(parse, 2_000_000)


LEGITIMATE: dict[str, Any] = {
    "300k token ids": {"input": list(range(300_000))},
    "10k messages": {"messages": [{"role": "user", "content": "words " * 20}] * 10_000},
    "a long text": {"prompt": 'It said: "a, b; {c: [d]}".\n' * 100_000},
}


@pytest.mark.parametrize("name", LEGITIMATE)
async def test_large_bodies_that_mean_no_harm(name: str) -> None:
    body = json.dumps(LEGITIMATE[name]).encode()
    began = time.thread_time()
    assert await parse_body(body) == LEGITIMATE[name]
    assert time.thread_time() - began < 1
