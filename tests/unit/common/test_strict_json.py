from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.errors import Malformed
from common.strict_json import MAX_DEPTH, MAX_INTEGER

ACCEPTED: dict[str, tuple[bytes, Any]] = {
    "object": (b'{"a":1}', {"a": 1}),
    "white space around": (b' \t\r\n{"a" : [ ] } \n', {"a": []}),
    "scalar": (b'"x"', "x"),
    "null": (b"null", None),
    "largest integer": (b"9007199254740991", MAX_INTEGER),
    "smallest integer": (b"-9007199254740991", -MAX_INTEGER),
    "float": (b"[1.5,1e3]", [1.5, 1000.0]),
    "surrogate pair": (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    "upper case surrogate pair": (b'"\\uD83D\\uDE00"', "\N{GRINNING FACE}"),
    "backslash before what looks like a surrogate": (b'"\\\\ud83d"', "\\ud83d"),
    "brackets in a string are no nesting": (b'"' + b"[" * 200 + b'"', "[" * 200),
    "many containers side by side": (b"[" + b",".join([b"[]"] * 200) + b"]", [[]] * 200),
    "the same member in two objects": (b'[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
    "escaped NUL": (b'"\\u0000"', "\0"),
}

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  ",
    "not JSON": b"{a:1}",
    "single quotes": b"{'a':1}",
    "trailing comma": b"[1,]",
    "comment": b"/**/1",
    "two values": b"1 2",
    "trailing garbage": b"{}x",
    "trailing NUL": b"{}\0",
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "UTF-16 without BOM": "{}".encode("utf-16-le"),
    "UTF-32": "{}".encode("utf-32"),
    "Latin-1": b'"\xe9"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "raw surrogate": b'"\xed\xa0\xbd"',
    "no-break space between": b'{"a":\xc2\xa01}',
    "raw control character": b'"\n"',
    "raw NUL": b'"\0"',
    "bad escape": b'"\\x41"',
    "lone high surrogate": b'"\\ud83d"',
    "lone low surrogate": b'"\\ude00"',
    "surrogates in wrong order": b'"\\ude00\\ud83d"',
    "lone surrogate in a name": b'{"\\uD83D":1}',
    "lone surrogate deep inside": b'[{"a":["\\udFFF"]}]',
    "duplicate member": b'{"a":1,"a":1}',
    "duplicate member, one escaped": b'{"a":1,"\\u0061":2}',
    "duplicate member, nested": b'{"x":[{"a":1,"b":2,"a":3}]}',
    "NaN": b"NaN",
    "NaN inside": b"[NaN]",
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "float overflow": b"1e999",
    "negative float overflow": b"-1e999",
    "integer over the limit": b"9007199254740992",
    "integer under the limit": b"-9007199254740992",
    "2^63": b"9223372036854775808",
    "5000 digits": b"1" * 5000,
    "leading zero": b"01",
    "leading zeros and long": b"0" * 30,
    "plus": b"+1",
    "hexadecimal": b"0x10",
    "bare fraction": b".5",
    "one too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "one too deep in objects": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "300 deep": b"[" * 300 + b"]" * 300,
    "100,000 open brackets": b"[" * 100_000,
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects deep": b'{"a":' * 100_000,
}


@pytest.mark.parametrize(("raw", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_reads(raw: bytes, value: Any) -> None:
    assert strict_json.parse(raw) == value


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_refuses(raw: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        strict_json.parse(raw)
    assert refused.value.code == "malformed"
    assert len(refused.value.message) < 100


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
def test_the_deepest_nesting_that_is_allowed(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    inner = b"" if opening == b"[" else b"1"
    strict_json.parse(opening * MAX_DEPTH + inner + closing * MAX_DEPTH)


json_text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | json_text,
    lambda children: st.lists(children) | st.dictionaries(json_text, children),
    max_leaves=20,
)


@given(json_values)
def test_what_is_encoded_is_read_back_the_same(value: Any) -> None:
    assert strict_json.parse(strict_json.encode(value)) == value


@given(json_values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_agrees_with_the_standard_library_on_json(value: Any, ascii_only: bool, indent: int | str | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert strict_json.parse(raw) == json.loads(raw)


# Pieces that make texts which are nearly JSON: what random bytes hardly ever are.
PIECES = r'{ } [ ] , : " "a" "\u0061" \ 1 - 0 1.5 e9 1e400 true null NaN \ud800 \udc00 9007199254740993'
pieces = st.sampled_from([*re.findall(r"\S+", PIECES), " ", "\0", "\ufeff"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_agrees_with_the_standard_library_or_refuses(text: str) -> None:
    try:
        value = strict_json.parse(text.encode())
    except Malformed:
        return
    assert value == json.loads(text)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_read_or_malformed_and_nothing_else(raw: bytes) -> None:
    try:
        strict_json.parse(raw)
    except Malformed:
        return
    json.loads(raw.decode())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800"], ids=["NaN", "Inf", "-Inf", "surrogate"])
def test_never_writes_what_it_would_not_read(value: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        strict_json.encode([value])


def test_writes_compact_utf_8() -> None:
    assert strict_json.encode({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
    assert strict_json.encode({"NaN": "Infinity"}) == b'{"NaN":"Infinity"}'
