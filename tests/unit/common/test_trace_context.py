"""Trace contexts: what reads as one, what does not, and the ids that follow from one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.trace_context import (
    SpanIds,
    TraceContext,
    current,
    current_traceparent,
    derive,
    parse_traceparent,
    within,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
CONTEXT = TraceContext(SpanIds(TRACE, SPAN), sampled=True)


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # 02 says that the trace id is random
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what the future brings", True),
    ],
)
def test_a_good_one_is_read_and_given_on_as_version_00(text: str, sampled: bool) -> None:
    context = parse_traceparent(text)
    assert context == TraceContext(SpanIds(TRACE, SPAN), sampled)
    assert context.to_traceparent() == f"00-{TRACE}-{SPAN}-{'01' if sampled else '00'}"


BAD = {
    "none": None,
    "empty": "",
    "a version that is none": f"ff-{TRACE}-{SPAN}-01",
    "more than version 00 has": f"{GOOD}-01",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "upper case": GOOD.upper(),
    "short": GOOD[:-1],
    "long without a dash": f"cc-{TRACE}-{SPAN}-011",
    "a line more": f"{GOOD}\n",
    "a space before": f" {GOOD}",
    "another line of a header": f"{GOOD}\r\nX-Evil: 1",
    "digits that are none of ASCII": GOOD.replace("4", "４"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_one_is_none(text: str | None) -> None:
    assert parse_traceparent(text) is None


@given(st.text())
def test_whatever_comes_is_a_context_of_its_form_or_none(text: str) -> None:
    context = parse_traceparent(text)
    assert context is None or parse_traceparent(context.to_traceparent()) == context


@given(st.one_of(st.none(), st.just(CONTEXT)), st.lists(st.text(min_size=1), min_size=1))
def test_derived_ids_are_the_same_each_time_and_good(parent: TraceContext | None, names: list[str]) -> None:
    ids = derive(parent, *names)
    assert ids == derive(parent, *names)
    assert ids != derive(parent, *names, "more")
    assert (ids.trace_id == TRACE) is (parent is not None)
    assert parse_traceparent(TraceContext(ids, sampled=True).to_traceparent()) == TraceContext(ids, sampled=True)


def test_derived_ids_do_not_depend_on_where_one_name_ends() -> None:
    assert derive(CONTEXT, "run", "1") != derive(CONTEXT, "run1")
    assert derive(None, "a", "b").span_id != derive(CONTEXT, "a", "b").span_id


async def test_a_task_is_within_what_began_it_and_others_are_not() -> None:
    async def seen() -> str:
        return current_traceparent()

    assert current() is None
    with within(CONTEXT):
        inside = asyncio.create_task(seen())
        with within(None):
            assert current_traceparent() == ""
        assert current() == CONTEXT
    assert await inside == GOOD
    assert await seen() == ""
