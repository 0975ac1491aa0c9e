from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spoke.results import CUT_MARK, MAX_DATA_BYTES, MAX_FILE_BYTES, MAX_SUMMARY_BYTES, ResultFile, read_result_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def nested(levels: int) -> dict[str, object]:
    return {} if levels == 1 else {"a": nested(levels - 1)}


TAKEN = {
    "both": ({"summary": "done", "data": {"n": 1}}, ResultFile("done", {"n": 1})),
    "neither": ({}, ResultFile()),
    "null": ({"summary": None, "data": None}, ResultFile()),
    "more members": ({"summary": "x", "other": 1}, ResultFile("x")),
    "largest summary": ({"summary": "ü" * (MAX_SUMMARY_BYTES // 2)}, ResultFile("ü" * (MAX_SUMMARY_BYTES // 2))),
    "deepest data": ({"data": nested(24)}, ResultFile(None, nested(24))),
}


@pytest.mark.parametrize(("document", "expected"), TAKEN.values(), ids=TAKEN.keys())
def test_what_fits_is_taken(path: Path, document: object, expected: ResultFile) -> None:
    path.write_text(json.dumps(document))
    assert read_result_file(path) == expected


REFUSED = {
    "empty": b"",
    "no JSON": b"all done!",
    "twice": b'{"summary": "a", "summary": "b"}',
    "NaN": b'{"data": {"n": NaN}}',
    "no object": b'["done"]',
    "no UTF-8": b'{"summary": "\xff"}',
    "too large": b" " * (MAX_FILE_BYTES + 1),
    "many brackets": b"[" * 100_000,
    "summary is a number": b'{"summary": 5}',
    "data is a list": b'{"data": []}',
    "data too large": json.dumps({"data": {"x": "y" * MAX_DATA_BYTES}}).encode(),
    "data too deep": json.dumps({"data": nested(25)}).encode(),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_named(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    summary, data, problem = read_result_file(path)
    assert (summary, data) == (None, None)
    assert problem is not None
    assert "\n" not in problem


def test_a_long_summary_is_cut_between_characters_and_says_so(path: Path) -> None:
    path.write_text(json.dumps({"summary": "a" + "ü" * MAX_SUMMARY_BYTES, "data": {"n": 1}}))
    summary, data, problem = read_result_file(path)
    assert summary is not None
    assert summary.endswith("ü" + CUT_MARK)
    assert MAX_SUMMARY_BYTES - 2 <= len(summary.encode()) <= MAX_SUMMARY_BYTES
    assert data == {"n": 1}
    assert "cut" in (problem or "")


def test_bad_data_does_not_cost_the_summary(path: Path) -> None:
    path.write_text('{"summary": "done", "data": 5}')
    assert read_result_file(path) == ResultFile("done", None, "the result's data is no object")


def test_no_file_is_no_result(path: Path) -> None:
    assert read_result_file(path) == ResultFile()


def link(path: Path) -> None:
    path.with_name("secret").write_text('{"summary": "secret"}')
    path.symlink_to("secret")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [link, fifo, directory])
def test_only_a_regular_file_is_read(path: Path, make: object) -> None:
    make(path)  # type: ignore[operator]
    summary, data, problem = read_result_file(path)
    assert (summary, data) == (None, None)
    assert "cannot be read" in (problem or "")
