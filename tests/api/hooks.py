"""What the schemas do not say and the documents say in words: how whole numbers are written, and how large they are."""

from __future__ import annotations

from typing import Any

import schemathesis

from common.strict_json import MAX_INTEGER


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return MAX_INTEGER if type(value) is int and abs(value) > MAX_INTEGER else value


def map_body(context: Any, body: Any) -> Any:
    """Keep both rules."""
    return _whole(body)


schemathesis.hook(map_body)
