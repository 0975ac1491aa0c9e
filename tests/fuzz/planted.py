"""Bugs to plant under a fuzz target, each one that we could have made: a target that does not find them proves nothing.

They are put in place of a function of the product while the target runs, never into the product.
"""

from __future__ import annotations

import binascii
import json
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from common import http, jose, keyring, strict_json
from common.jose import MAX_ENVELOPE_BYTES

VARIABLE: Final = "HUBSPOKE_FUZZ_PLANT"


def _believe_any_signature() -> None:
    vars(keyring)["PublicKey"].verify = lambda _key, _signature, _message: None


def _take_slack_bits() -> None:
    def decode(text: bytes) -> bytes:
        return binascii.a2b_base64(text.translate(jose._TO_STANDARD) + b"==")

    jose.decode_base64url = decode


def _let_the_last_member_win() -> None:
    strict_json._decoder.object_pairs_hook = dict
    strict_json._decoder.scan_once = json.scanner.make_scanner(strict_json._decoder)  # type: ignore[attr-defined]  # untyped


def _forget_text_that_is_no_utf8() -> None:
    real = strict_json.parse

    def parse(raw: bytes) -> Any:
        raw.decode()
        return real(raw)

    strict_json.parse = parse


def _ignore_members_of_the_header() -> None:
    real = jose._parse_header

    def parse_header(raw: bytes) -> tuple[str, str]:
        header = strict_json.parse(raw)
        if isinstance(header, dict):
            raw = strict_json.encode({name: header[name] for name in header if name in jose._HEADER_MEMBERS})
        return real(raw)

    jose._parse_header = parse_header


def _expect_a_length() -> None:
    real = http.read_body

    async def read_body(request: web.Request, media_type: str, limit: int = MAX_ENVELOPE_BYTES) -> bytes:
        int(request.headers["Content-Length"])
        return await real(request, media_type, limit)

    http.read_body = read_body


PLANTS: Final[Mapping[str, Callable[[], None]]] = MappingProxyType(
    {
        "any-signature": _believe_any_signature,
        "slack-bits": _take_slack_bits,
        "last-member-wins": _let_the_last_member_win,
        "no-utf8": _forget_text_that_is_no_utf8,
        "header-members": _ignore_members_of_the_header,
        "no-length": _expect_a_length,
    }
)


def plant() -> str | None:
    """Plant what the environment names, if anything, and return its name; before anything of the product runs."""
    name = os.environ.get(VARIABLE)
    if name is not None:
        PLANTS[name]()
    return name
