"""The JSON of an envelope, read so that no second parser could read it differently (attack rows 13, 14, 45 to 47).

Accepts one value in UTF-8 without BOM. Refuses duplicate members at any depth, NaN and Infinity, floats that overflow,
integers outside +-(2^53-1), lone surrogates and nesting deeper than 32. Raises `Malformed` and nothing else.
Writing is compact and in UTF-8.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from pydantic_core import to_json

from common.errors import Malformed

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53 - 1
_MAX_INTEGER_TEXT: Final = len(str(-MAX_INTEGER))
_CONTAINERS: Final = frozenset({dict, list})
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("a JSON object has the same member twice; send each member once")
    return members


def _integer(text: str) -> int:
    # The length first: int() of a very long literal is quadratic.
    if len(text) > _MAX_INTEGER_TEXT or abs(number := int(text)) > MAX_INTEGER:
        raise Malformed("an integer is outside +-(2^53-1)")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed("a number is too large for a double")
    return number


def _constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is not JSON")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _check_depth(value: Any) -> None:
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        level = [
            member
            for container in level
            for member in (container.values() if type(container) is dict else container)
            if type(member) in _CONTAINERS
        ]
    if level:
        raise Malformed(f"the JSON is nested deeper than {MAX_DEPTH}")


def _check_no_lone_surrogate(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Malformed("a string has a lone surrogate; send Unicode text") from error


def parse(raw: bytes) -> Any:
    """Parse one JSON value from `raw`; raises `Malformed` for everything that is not strict JSON."""
    try:
        text = raw.decode("utf-8")
        value = _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise Malformed("the JSON is not UTF-8") from error
    except RecursionError as error:
        raise Malformed(f"the JSON is nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise Malformed("not JSON") from error
    # Fewer brackets than the limit cannot nest beyond it: most envelopes skip the walk.
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    if _SURROGATE_ESCAPE.search(text):
        _check_no_lone_surrogate(value)
    return value


def encode(value: Any) -> bytes:
    """Encode `value` as compact UTF-8 JSON; raises ValueError for NaN, Infinity and lone surrogates."""
    raw = to_json(value)  # four times as fast as json.dumps, which has to say whether these are numbers
    if b"NaN" in raw or b"Infinity" in raw:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return raw
