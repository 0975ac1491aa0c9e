"""What a block tells at the end of its span, and what stands there when nobody listens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from common.errors import LocalError
from common.span_attributes import IDS_SHOWN, MEANINGS, Attribute, given, of_envelope
from common.trace_context import SpanIds, TraceContext, current
from common.tracing import NO_TRACING, Beginning, End, NoTracing, Span, refusals, spanning
from tests.unit.common.test_trace_context import CONTEXT


@dataclass
class Kept:
    """Keeps how its spans began and ended; it is their context, too."""

    context: TraceContext | None = None
    begun: list[Beginning] = field(default_factory=list)
    ended: list[End] = field(default_factory=list)
    is_on: bool = True

    def begin(self, beginning: Beginning) -> Span:
        self.begun.append(beginning)
        return self

    def end(self, end: End) -> None:
        self.ended.append(end)


def test_what_a_block_sends_continues_its_span() -> None:
    kept = Kept(TraceContext(SpanIds("1" * 32, "2" * 16), sampled=True))
    with spanning(kept, Beginning("x", "server", parent=CONTEXT)) as ending:
        assert current() == kept.context
        ending.attributes[Attribute.HTTP_STATUS] = 200
    assert current() is None
    assert kept.ended == [End({Attribute.HTTP_STATUS: 200})]


@pytest.mark.parametrize(
    ("error", "code"), [(LocalError("no", code="config"), "config"), (ValueError("a defect"), "internal")]
)
def test_an_error_is_told_by_its_code_alone(error: Exception, code: str) -> None:
    kept = Kept()
    with pytest.raises(type(error)), spanning(kept, Beginning("x", "server")):
        raise error
    assert kept.ended == [End(error=code)]


def test_nobody_listens_and_what_came_is_passed_on() -> None:
    span = NO_TRACING.begin(Beginning("x", "server", parent=CONTEXT))
    span.end(End(error="internal"))
    assert span.context == CONTEXT
    assert NO_TRACING.begin(Beginning("x", "server")).context is None
    assert not NoTracing().is_on


def test_an_envelope_is_in_error_when_nothing_of_it_was_taken() -> None:
    assert refusals([]) == (None, [])
    assert refusals([("a", None)]) == (None, [])
    error, notes = refusals([("a", None), ("b", "stale")])
    assert error is None
    assert [note.attributes for note in notes] == [{Attribute.COMMAND_ID: "b", Attribute.ERROR_TYPE: "stale"}]
    error, notes = refusals((str(number), "frozen") for number in range(100))
    assert (error, len(notes)) == ("frozen", IDS_SHOWN)


def test_what_has_no_value_is_left_out_and_lists_are_bounded() -> None:
    assert given({Attribute.EXIT_CODE: None, Attribute.COUNT: 0}) == {Attribute.COUNT: 0}
    ids = [str(number % 50) for number in range(100)]
    about = of_envelope("build-1", "send", ["kill", "spawn", *["spawn"] * 98], ["", *ids])
    assert about[Attribute.COUNT] == 100
    assert about[Attribute.COMMANDS] == ("kill", "spawn")
    assert about[Attribute.AGENT_IDS] == tuple(ids[:IDS_SHOWN])
    alone = of_envelope("build-1", "send", ["thaw"], [""])
    assert Attribute.COUNT not in alone
    assert Attribute.AGENT_IDS not in alone


def test_every_attribute_is_explained() -> None:
    assert set(MEANINGS) == set(Attribute)
