"""Every error hubspoke raises, in three families by culprit.

`PeerError`: whoever sent something is wrong, and hears the stable `code`. `LocalError`: this node, its operator or its
configuration is wrong. `Unavailable`: nobody is wrong, something is away; trying again later is right.

A message is one line: what happened and what to do. It may name ids and paths, never payloads, keys or tokens.
Only the HTTP middleware and the command line turn these into answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

_NO_EXTRA: Final[Mapping[str, object]] = MappingProxyType({})


class HubspokeError(Exception):
    """Root of all errors: `code` is stable, `retryable` and `http_status` are hints for whoever answers."""

    code: str = "internal"
    retryable: bool = False
    http_status: int = 500
    sender: str | None = None
    """The instance that proved to have sent what was refused; None for a stranger."""

    def __init__(self, message: str, *, code: str | None = None, extra: Mapping[str, object] = _NO_EXTRA) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra
        """Further members of the problem document, such as `now` of `expired`."""
        if code is not None:
            self.code = code


@contextmanager
def sent_by(instance: str) -> Iterator[None]:
    """Note in every error of the block who sent what it is about; only after the signature was checked."""
    try:
        yield
    except HubspokeError as error:
        error.sender = instance
        raise


class PeerError(HubspokeError):
    """The sender is wrong: the same input will be refused again."""

    http_status = 400


class LocalError(HubspokeError):
    """This node or its operator is wrong: configuration, key files, usage."""

    code = "local"


class Unavailable(HubspokeError):
    """Something needed is away for now; nothing was changed, or it is unknown whether it was."""

    code = "unavailable"
    retryable = True
    http_status = 503

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: int = 1,
        extra: Mapping[str, object] = _NO_EXTRA,
    ) -> None:
        super().__init__(message, code=code, extra=extra)
        self.retry_after_s = retry_after_s


ENVELOPE_STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "malformed": 400,
        "bad_signature": 401,
        "wrong_audience": 403,
        "expired": 403,
        "not_yet_valid": 403,
        "connection_inactive": 403,
        "wrong_direction": 403,
        "replayed": 409,
        "too_large": 413,
        "unsupported_media_type": 415,
        "too_slow": 408,
    }
)
"""HTTP status of each rejection of a whole envelope (PROTOCOL section 3)."""


class EnvelopeRejected(PeerError):
    """A whole envelope is refused and nothing of it is stored (PROTOCOL section 3)."""

    def __init__(self, code: str, message: str, *, extra: Mapping[str, object] = _NO_EXTRA) -> None:
        super().__init__(message, code=code, extra=extra)
        self.http_status = ENVELOPE_STATUS[code]


class Malformed(EnvelopeRejected):
    """Not an envelope as PROTOCOL section 2 says."""

    def __init__(self, message: str) -> None:
        super().__init__("malformed", message)


class BadSignature(EnvelopeRejected):
    """One answer for every cause (PROTOCOL section 3), so that a stranger learns nothing; `reason` is for our log."""

    def __init__(self, reason: str) -> None:
        super().__init__("bad_signature", "the signature does not verify with a key known for the sender")
        self.reason = reason


class RateLimited(PeerError):
    """The sender is over its rate; `retry_after_s` says when to come back."""

    code = "rate_limited"
    retryable = True
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


COMMAND_RETRYABLE: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "conflict": False,
        "stale": False,
        "killed": False,
        "not_found": False,
        "not_allowed": False,
        "invalid": False,
        "quota_exceeded": True,
        "queue_full": True,
        "frozen": True,
        "draining": True,
    }
)
"""The codes of a refused command (PROTOCOL section 2.2) and whether the same command may succeed later."""


class CommandRefused(PeerError):
    """One command of an accepted envelope is refused; the others are not touched (PROTOCOL section 2.2)."""

    http_status = 409

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)
        self.retryable = COMMAND_RETRYABLE[code]


class Invalid(CommandRefused):
    """A value that no spoke could act on, such as a branch that git has no name for."""

    http_status = 400

    def __init__(self, message: str) -> None:
        super().__init__("invalid", message)


class NotAllowed(CommandRefused):
    """The policy refuses it; the message names the rule."""

    http_status = 403

    def __init__(self, message: str) -> None:
        super().__init__("not_allowed", message)
