"""Fills docs/protocol.md with what can be computed: `python docs/protocol_examples.py`.

The JSON documents of the page are written by hand; what follows from them and from the page's keys (signed envelopes,
fingerprints, the invite string, `mac` and `proof`) is computed here. A marker in an HTML comment stands before each
block. A test compares the page with what this makes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.invites import Invite, compute_mac, decode_secret
from common.jose import decode_base64url, encode_base64url, sign_compact
from common.keyring import SigningKey
from common.strict_json import encode

PAGE = Path(__file__).with_name("protocol.md")
NEXT_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
_BLOCK = re.compile(r"<!-- (?P<marker>[^>]+) -->\n```(?P<language>json|text)\n(?P<text>.*?)```\n", re.DOTALL)
_P = 2**255 - 19
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block with its marker: `kind: name`, `kind type: name` or `kind`."""

    marker: str
    language: str
    text: str

    @property
    def kind(self) -> str:
        """What the block holds."""
        return self.marker.partition(":")[0]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.marker.partition(":")[2].strip()

    def json(self) -> Any:
        """The document of a JSON block."""
        return json.loads(self.text)


def blocks(page: str) -> Iterator[Block]:
    """Yield the marked blocks of the page."""
    for found in _BLOCK.finditer(page):
        yield Block(found["marker"], found["language"], found["text"])


class Examples:
    """The page's blocks by kind and name, and what is computed from them."""

    def __init__(self, page: str) -> None:
        found = list(blocks(page))
        self.keys = {block.name: _signing_key(block.json()) for block in found if block.kind == "private key"}
        self.payloads = {
            block.name: (block.kind.split()[1], block.json()) for block in found if block.kind.startswith("payload ")
        }
        (self.invite,) = (Invite.model_validate(block.json()) for block in found if block.kind == "invite")

    def filled(self, block: Block) -> str:
        """Return the text that belongs into a block: what is computed, or what stands there."""
        if block.kind == "signed":
            name, _, signer = block.name.partition(" by ")
            return self.signed(name, signer).decode() + "\n"
        if block.kind == "computed":
            return self._computed(block.name)
        return self._with_proofs(block)

    def signed(self, name: str, signer: str) -> bytes:
        """Return the envelope of a payload, without white space between its tokens."""
        typ, payload = self.payloads[name]
        return sign_compact(self.keys[signer], typ, encode(payload))

    def _computed(self, name: str) -> str:
        match name:
            case "refused keys":
                return "".join(f"{point}\n" for point in refused_points())
            case "fingerprints":
                return "".join(f"{owner:5}  {key.public.fingerprint}\n" for owner, key in self.keys.items())
            case "invite":
                return self.invite.encode() + "\n"
        raise ValueError(f"nothing is known of {name!r}")

    def _with_proofs(self, block: Block) -> str:
        """Set the one member of a JOIN or ROTATE that depends on keys, and keep the rest as it is written."""
        if block.name == "join":
            mac = compute_mac(decode_secret(self.invite.secret), self.keys["spoke"].kid, self.invite.hub)
            return re.sub(r'"mac": "[^"]*"', f'"mac": "{mac}"', block.text)
        if block.name == "rotate":
            x = encode_base64url(NEXT_KEY.public.raw).decode()
            text = re.sub(r'"x": "[^"]*"', f'"x": "{x}"', block.text)
            return re.sub(r'"proof": "[^"]*"', f'"proof": "{self._proof(block.json())}"', text)
        return block.text

    def _proof(self, rotate: dict[str, Any]) -> str:
        text = f"hubspoke-rotate-v1.{self.keys['hub'].kid}.{NEXT_KEY.kid}.{rotate['epoch']}.{rotate['aud']}"
        return encode_base64url(NEXT_KEY.sign(text.encode("ascii"))).decode()


def _signing_key(jwk: dict[str, str]) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(decode_base64url(jwk["d"].encode())))


def refused_points() -> list[str]:
    """Return the 14 low-order or non-canonical encodings: y and, where it fits, y + p, with either sign bit."""
    ys = [y for small in (0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y) for y in (small, small + _P) if y < 1 << 255]
    return [(y | sign << 255).to_bytes(32, "little").hex() for y in ys for sign in (0, 1)]


def fill(page: str) -> str:
    """Return the page with everything computed that can be."""

    def refill(text: str) -> str:
        examples = Examples(text)

        def replace(found: re.Match[str]) -> str:
            block = Block(found["marker"], found["language"], found["text"])
            return f"<!-- {block.marker} -->\n```{block.language}\n{examples.filled(block)}```\n"

        return _BLOCK.sub(replace, text)

    # Twice: what is signed contains what the first time computed.
    return refill(refill(page))


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
