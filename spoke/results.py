"""Reads the result file that an agent may have written: `{"summary": text, "data": object}` in JSON.

Decides what of it can go into a result (PROTOCOL section 4): a summary of at most 8 KiB, data of at most 64 KiB and 24
levels, so that it fits into an envelope. Refuses symbolic links, whatever is no regular file, more than 1 MiB, and JSON
that two readers could read differently. Says so in one line and never raises: an agent's slip must not cost it its end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.errors import Malformed
from common.strict_json import encode, parse

MAX_SUMMARY_BYTES: Final = 8 * 1024
MAX_DATA_BYTES: Final = 64 * 1024
MAX_DATA_DEPTH: Final = 24
MAX_FILE_BYTES: Final = 1024 * 1024
CUT_MARK: Final = " [cut]"


class ResultFile(NamedTuple):
    """What an agent wrote, and in one line what of it could not be taken; all None when it wrote nothing."""

    summary: str | None = None
    data: dict[str, Any] | None = None
    problem: str | None = None


def read_result_file(path: Path) -> ResultFile:
    """Read the result file at `path`; never raises."""
    try:
        raw = _read(path)
    except FileNotFoundError:
        return ResultFile()
    except OSError as error:
        return ResultFile(problem=f"the result file cannot be read: {error.strerror or error}")
    if len(raw) > MAX_FILE_BYTES:
        return ResultFile(problem=f"the result file is larger than {MAX_FILE_BYTES} bytes")
    try:
        document = parse(raw)
    except Malformed as error:
        return ResultFile(problem=f"the result file cannot be read: {error.message}")
    if not isinstance(document, dict):
        return ResultFile(problem="the result file holds no JSON object")
    summary, summary_problem = _summary(document.get("summary"))
    data, data_problem = _data(document.get("data"))
    return ResultFile(summary, data, summary_problem or data_problem)


def _read(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO in the place of the file must not be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        return file.read(MAX_FILE_BYTES + 1)


def _summary(summary: object) -> tuple[str | None, str | None]:
    if not isinstance(summary, str):
        return None, None if summary is None else "the result's summary is no text"
    cut = cut_summary(summary)
    return cut, None if cut == summary else f"the result's summary was cut to {MAX_SUMMARY_BYTES} bytes"


def cut_summary(summary: str) -> str:
    """Return a summary as long as it may be; what cannot be encoded is replaced."""
    encoded = summary.encode("utf-8", "replace")
    if len(encoded) <= MAX_SUMMARY_BYTES:
        return encoded.decode()
    return encoded[: MAX_SUMMARY_BYTES - len(CUT_MARK)].decode(errors="ignore") + CUT_MARK


def _data(data: object) -> tuple[dict[str, Any] | None, str | None]:
    if not isinstance(data, dict):
        return None, None if data is None else "the result's data is no object"
    if len(encode(data)) > MAX_DATA_BYTES:
        return None, f"the result's data was dropped: it is larger than {MAX_DATA_BYTES} bytes"
    if _depth(data) > MAX_DATA_DEPTH:
        return None, f"the result's data was dropped: it is nested deeper than {MAX_DATA_DEPTH}"
    return data, None


def _depth(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max((_depth(child) for child in children), default=0)
