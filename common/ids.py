"""Identifiers on the wire: instance ids, UUIDv7 in its one canonical spelling, RFC 3339 times.

Decides what is an id and refuses every other spelling of one (braces, `urn:uuid:`, upper case, other versions: attack
row 20). Makes UUIDv7 from a time and random bytes that the caller brings (RFC 9562 section 5.7), so nothing here
reads a clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

INSTANCE_ID_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
UUID7_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
TASK_ID_PATTERN: Final = r"^[A-Za-z0-9._:/-]{1,128}$"

# `\Z` and not `$`: `$` also matches before a final newline.
_INSTANCE_ID: Final = re.compile(INSTANCE_ID_PATTERN[:-1] + r"\Z")
_UUID7: Final = re.compile(UUID7_PATTERN[:-1] + r"\Z")

UUID7_RANDOM_BYTES: Final = 10


def is_instance_id(text: str) -> bool:
    """Whether `text` is an instance id (PROTOCOL section 1)."""
    return _INSTANCE_ID.match(text) is not None


def is_uuid7(text: str) -> bool:
    """Whether `text` is a UUIDv7 in canonical lower case, the only spelling accepted (PROTOCOL section 2)."""
    return _UUID7.match(text) is not None


def uuid7(now_ms: int, randomness: bytes) -> str:
    """Make the UUIDv7 of `now_ms` (milliseconds since the epoch) with 10 random bytes."""
    if len(randomness) != UUID7_RANDOM_BYTES:
        raise ValueError(f"a UUIDv7 takes {UUID7_RANDOM_BYTES} random bytes, got {len(randomness)}")
    value = (now_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(randomness, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_time_ms(uuid: str) -> int:
    """Return the milliseconds since the epoch that a canonical UUIDv7 carries."""
    return int(uuid[:8] + uuid[9:13], 16)


@lru_cache(maxsize=256)  # the agents of one envelope share their times
def rfc3339(epoch_ms: int) -> str:
    """Format milliseconds since the epoch as `2026-11-22T08:00:00.000Z`, the form of every time in an AgentStatus."""
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}Z"
