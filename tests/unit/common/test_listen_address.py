from __future__ import annotations

import pytest

from common.errors import LocalError
from common.listen_address import parse_listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8700", ("127.0.0.1", 8700)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),  # noqa: S104  # read, not bound
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:8700", ("::1", 8700)),
        ("[::]:8700", ("::", 8700)),
    ],
)
def test_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


NO_PORT = ["", ":", "8700", "host:", "host:x", "host:-1", "host:65536", "host:\u0665", "host: 1"]
NO_HOST = [":8700", "[]:1", "::1:80", "[::1:80"]


@pytest.mark.parametrize("text", NO_PORT + NO_HOST)
def test_anything_else_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(LocalError, match=r"127\.0\.0\.1:8700") as refused:
        parse_listen(text)
    assert refused.value.code == "config"
