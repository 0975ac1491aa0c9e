"""Invites: one-time strings by which a hub's admin lets one spoke in (PROTOCOL section 5.1).

The secret of an invite is derived from the hub's signing key and the invite's id, so that it is stored nowhere at
all; when the key is rotated, open invites die, as they must, since they name the old fingerprint. Whether an invite
is still good is for the store to say.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import jose, strict_json
from common.errors import Malformed, PeerError
from common.keyring import SigningKey
from common.wire import InstanceId, Nonce, Uuid7

PREFIX: Final = "hubspoke1."
DEFAULT_TTL_S: Final = 24 * 3600


class InviteRefused(PeerError):
    """The invite is unknown, used, expired or not ours; a stranger is not told which."""

    code = "invite_refused"
    http_status = 403

    def __init__(self, message: str = "the invite is not good (any more); ask the hub's admin for a new one") -> None:
        super().__init__(message)


class Invite(BaseModel):
    """What the invite string says; `exp` in seconds since the epoch."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    hub: InstanceId
    url: Annotated[str, Field(max_length=2048)]
    fingerprint: Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9_-]{43}$")]
    invite: Uuid7
    secret: Nonce
    exp: int

    def __repr__(self) -> str:
        return f"Invite(hub={self.hub!r}, invite={self.invite!r})"

    __str__ = __repr__

    def encode(self) -> str:
        """Return the string that is handed to the spoke's operator."""
        return PREFIX + jose.encode_base64url(strict_json.encode(self.model_dump())).decode()


def parse_invite(text: str) -> Invite:
    """Read an invite string; raises `InviteRefused` without repeating any of it."""
    text = text.strip()
    try:
        if not text.startswith(PREFIX):
            raise InviteRefused(f"that is not an invite: it starts with {PREFIX}")
        raw = jose.decode_base64url(text.removeprefix(PREFIX).encode())
        invite = Invite.model_validate(strict_json.parse(raw))
        decode_secret(invite.secret)
    except (Malformed, ValidationError, UnicodeEncodeError) as error:
        raise InviteRefused("the invite is damaged; copy the whole string") from error
    return invite


def secret_of(invite_id: str, key: SigningKey) -> bytes:
    """Return the secret of an invite: nobody but the holder of the hub's key can compute it."""
    return key.derive_secret(f"hubspoke-invite-v1.{invite_id}")


def encode_secret(secret: bytes) -> str:
    """Return the `secret` member for 32 secret bytes."""
    return jose.encode_base64url(secret).decode()


def decode_secret(secret: str) -> bytes:
    """Return the 32 bytes of an invite's `secret` member."""
    return jose.decode_base64url(secret.encode())


def compute_mac(secret: bytes, kid: str, aud: str) -> str:
    """Return the `mac` of a JOIN: HMAC-SHA-256 under the secret of the ASCII text `kid.aud`."""
    return jose.encode_base64url(hmac.digest(secret, f"{kid}.{aud}".encode("ascii"), hashlib.sha256)).decode()


def check_mac(secret: bytes, kid: str, aud: str, mac: str) -> None:
    """Return only when `mac` proves knowledge of the secret; raises `InviteRefused`."""
    if not hmac.compare_digest(compute_mac(secret, kid, aud).encode(), mac.encode()):
        raise InviteRefused()
