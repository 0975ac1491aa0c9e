"""When traces are sent, and where; who does not ask for them needs nothing for it."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from common.configuration import ConfigError
from common.telemetry import TelemetryMissing, TelemetrySection, check_endpoint, is_wanted, open_tracing
from common.tracing import NoTracing

URL = "http://127.0.0.1:4318"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
OF_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
NOWHERE = TelemetrySection()
SOMEWHERE = TelemetrySection(endpoint=URL)


@pytest.mark.parametrize(
    ("section", "environment", "wanted"),
    [
        (NOWHERE, {}, False),
        (NOWHERE, {ENDPOINT: ""}, False),
        (NOWHERE, {ENDPOINT: URL}, True),
        (NOWHERE, {OF_TRACES: f"{URL}/v1/traces"}, True),
        (SOMEWHERE, {}, True),
        (SOMEWHERE, {"OTEL_SDK_DISABLED": "True"}, False),
        (SOMEWHERE, {"OTEL_SDK_DISABLED": "false"}, True),
        (SOMEWHERE, {"OTEL_TRACES_EXPORTER": "none"}, False),
        (SOMEWHERE, {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (SOMEWHERE, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        (NOWHERE, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_traces_are_sent_where_an_endpoint_is_named(
    section: TelemetrySection, environment: dict[str, str], wanted: bool
) -> None:
    assert is_wanted(section, environment) is wanted


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
        {ENDPOINT: "127.0.0.1:4317"},
        {OF_TRACES: "unix:///run/collector"},
    ],
)
def test_what_is_not_spoken_here_is_an_error_that_names_the_variable(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=min(environment)):
        is_wanted(SOMEWHERE, environment)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:4318",
        "http://",
        "ftp://host",
        "http://user:pass@host",
        "http://host?x=1",
        "http://host#x",
        "http://host:x",
        "http://[x",
    ],
)
def test_a_url_that_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="an endpoint is"):
        check_endpoint(url)
    with pytest.raises(ValidationError):
        TelemetrySection(endpoint=url)


def test_who_does_not_ask_for_traces_does_not_need_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "common.otel", None)
    with open_tracing(NOWHERE, {}, "hubspoke-hub", "hub-eu", _unheard) as tracing:
        assert isinstance(tracing, NoTracing)
    with (
        pytest.raises(TelemetryMissing, match=r"hubspoke\[otel\]") as caught,
        open_tracing(SOMEWHERE, {}, "hubspoke-hub", "hub-eu", _unheard),
    ):
        pass
    assert caught.value.code == "telemetry_missing"


def test_variables_that_opentelemetry_cannot_use_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(ConfigError, match="OTEL_"), open_tracing(SOMEWHERE, {}, "hubspoke-hub", "hub-eu", _unheard):
        pass


def _unheard(outcome: str, count: int) -> None:
    raise AssertionError(f"{count} spans were {outcome}")
