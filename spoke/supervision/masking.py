"""Takes secrets out of what an agent prints, before it reaches the disk, also where one lies across two chunks.

Decides by the bytes of the secrets alone. What could be the beginning of one is held back until it is clear. Standard
library only: the keeper imports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MASK: Final = b"[masked]"
SHORTEST: Final = 6
"""A shorter value is no secret, and masking it would make a log unreadable."""


class Masker:
    """Replaces each of `secrets` by `MASK` in a stream of bytes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        encoded = {secret.encode("utf-8", "surrogateescape") for secret in secrets}
        # The longest first: one secret may be part of another.
        self._secrets = sorted((secret for secret in encoded if len(secret) >= SHORTEST), key=len, reverse=True)
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what of the stream is clear now."""
        if not self._secrets:
            return chunk
        text = self._rest + chunk
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        held = max(_overlap(text, secret) for secret in self._secrets)
        clear, self._rest = text[: len(text) - held], text[len(text) - held :]
        return clear

    def flush(self) -> bytes:
        """Return what was held back; nothing follows."""
        rest, self._rest = self._rest, b""
        return rest


def _overlap(text: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of `text` could begin `secret`."""
    longest = min(len(secret) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(secret[:size])), 0)
