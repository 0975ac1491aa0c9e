"""Whether a node sends traces, and where: `[telemetry]` and the standard OTEL_… variables, which come first.

Off unless an endpoint is named; then nothing of OpenTelemetry is imported. What is configured and cannot be done is an
error at the start, not a trace that is missed later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

from common.configuration import ConfigError, Section
from common.errors import LocalError
from common.tracing import NoTracing, Tracing

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_DISABLED: Final = "OTEL_SDK_DISABLED"
_PROTOCOL: Final = "http/protobuf"
_PATH: Final = "/v1/traces"


class TelemetryMissing(LocalError):
    """Traces are configured, and the packages that send them are not installed."""

    code = "telemetry_missing"


def check_endpoint(url: str) -> str:
    """Return the URL of a collector; raises ValueError for what is none, or holds a password."""
    if not _is_endpoint(url):
        raise ValueError("an endpoint is http://HOST:PORT or https://…; a token goes into OTEL_EXPORTER_OTLP_HEADERS")
    return url


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        names_host = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port, or an address in brackets, that is none
        return False
    return names_host and not (parts.username or parts.password or parts.query or parts.fragment)


class TelemetrySection(Section):
    """`[telemetry]`: the collector's base URL, such as `http://127.0.0.1:4318`; none, and nothing is sent."""

    endpoint: Annotated[str, AfterValidator(check_endpoint)] | None = None


def is_wanted(section: TelemetrySection, environment: Mapping[str, str]) -> bool:
    """Say whether traces are to be sent; raises `ConfigError` for what we do not speak."""
    named = section.endpoint or any(environment.get(name) for name in _ENDPOINTS)
    exporter = environment.get(_EXPORTER) or "otlp"
    if not named or environment.get(_DISABLED, "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter != "otlp":
        raise ConfigError(f"{_EXPORTER}: only otlp and none are known here")
    for name in _PROTOCOLS:
        if (environment.get(name) or _PROTOCOL) != _PROTOCOL:
            raise ConfigError(f"{name}: only {_PROTOCOL} is spoken here")
    for name in _ENDPOINTS:
        try:
            check_endpoint(environment.get(name) or "http://127.0.0.1")
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
    return True


@contextmanager
def open_tracing(
    section: TelemetrySection,
    environment: Mapping[str, str],
    service: str,
    instance: str,
    told: Callable[[str, int], None],
) -> Iterator[Tracing]:
    """Yield where the spans of a node go; `told` hears of how many were `sent` and `lost`.

    Raises `ConfigError`, `TelemetryMissing`.
    """
    if not is_wanted(section, environment):
        yield NoTracing()
        return
    try:
        from common.otel import tracing_to
    except ImportError as error:
        raise TelemetryMissing(
            "traces are wanted, but OpenTelemetry is not installed; pip install 'hubspoke[otel]', or make install-otel"
        ) from error
    is_ours = section.endpoint is not None and not any(environment.get(name) for name in _ENDPOINTS)
    endpoint = f"{(section.endpoint or '').rstrip('/')}{_PATH}" if is_ours else None
    sending = tracing_to(endpoint, service, instance, told)
    try:
        tracing = sending.__enter__()
    except ValueError as error:
        raise ConfigError(f"an OTEL_… variable cannot be used: {error}") from error
    try:
        yield tracing
    finally:
        sending.__exit__(None, None, None)
