"""The built-in agent `report`: reads a checked-out repository and writes what it found as its result.

A program of its own, standard library only, started in the tree as `python -I report.py` with the task as JSON on
stdin. Runs nothing but git, follows no symbolic link, reads no file over 1 MiB, stops searching after 30 s and says so.
Changes nothing, except that for a `worker` it commits HUBSPOKE_REPORT.md. Exits 2 when it is given no task.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAX_CONTENT: Final = 1024 * 1024
BUDGET_S: Final = 30.0
MAX_SUMMARY: Final = 8000
MAX_DATA: Final = 60_000
MAX_WORDS: Final = 60
MAX_TODOS: Final = 50
MAX_FILES_PER_ITEM: Final = 8
MAX_PLACES_PER_FILE: Final = 3
MAX_LINE: Final = 160
REPORT: Final = "HUBSPOKE_REPORT.md"

_KNOWN: Final = """C c h;C# cs;C++ cc cpp hh hpp;CSS css scss less;Go go;HTML html htm jinja;Java java;JSON json
JavaScript js jsx mjs cjs;Kotlin kt kts;Lua lua;Markdown md;Perl pl pm;PHP php;Python py pyi;reStructuredText rst
Ruby rb;Rust rs;Scala scala;Shell sh bash zsh;SQL sql;Swift swift;TOML toml;TypeScript ts tsx;XML xml svg
YAML yml yaml"""
LANGUAGES: Final = {
    suffix: name for name, *suffixes in map(str.split, re.split(r"[;\n]", _KNOWN)) for suffix in suffixes
}
NAMED: Final = {"Makefile": "Make", "Dockerfile": "Docker", "CMakeLists.txt": "CMake"}
_COMMON: Final = """add after all and any are but can change check could does each fix for from get has have how
into its make more new not off one our please remove should some that the their them then there this update use what
when where which why will with would you your"""
COMMON_WORDS: Final = frozenset(_COMMON.split())
_WORD: Final = re.compile(r"[^\W_]+(?:[_-][^\W_]+)*")
_OPEN: Final = re.compile(rb"\b(TODO|FIXME)\b[^\n]*")


@dataclass(slots=True)
class Item:
    """One work item, the words it is searched by, and the weight of each file that has some of them."""

    text: str
    words: tuple[str, ...]
    weights: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Survey:
    """What reading all files has told."""

    files: int = 0
    size: int = 0
    binary: int = 0
    skipped: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    todos: list[dict[str, Any]] = field(default_factory=list)
    todo_count: int = 0
    complete: bool = True


def _log(text: str) -> None:
    print(_printable(text), flush=True)  # noqa: T201 - stdout is this program's log


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _git(*arguments: str) -> str:
    """Return what git says, or nothing when it fails, as it does in a repository without a commit."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


def _words_of(text: str) -> tuple[str, ...]:
    found = {word.lower() for word in _WORD.findall(text[:2000]) if len(word) > 2}  # noqa: PLR2004 - "is", "of"
    return tuple(sorted(found - COMMON_WORDS, key=lambda word: (-len(word), word))[:MAX_WORDS])


def _language_of(path: str) -> str | None:
    name = path.rsplit("/", 1)[-1]
    return NAMED.get(name) or LANGUAGES.get(name.rsplit(".", 1)[-1].lower() if "." in name else "")


def _read(path: str) -> tuple[int, bytes | None]:
    """Return a file's size and content; no content for links, special files and what is over 1 MiB or closed to us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0, None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONTENT:
            return status.st_size, None
        return status.st_size, file.read()


def _index_words(items: list[Item]) -> dict[str, list[Item]]:
    """Return the items of each word, the longest words first, not more words than can be searched for."""
    by_word: dict[str, list[Item]] = {}
    for item in items:
        for word in item.words[: max(4, MAX_WORDS // len(items))]:
            by_word.setdefault(word, []).append(item)
    return dict(sorted(by_word.items(), key=lambda entry: -len(entry[0]))[: 2 * MAX_WORDS])


def _survey(paths: list[str], items: list[Item], deadline: float) -> Survey:
    result = Survey(files=len(paths))
    by_word = _index_words(items)
    for number, path in enumerate(paths):
        if number % 5000 == 0 and number:
            _log(f"read {number} of {len(paths)} files")
        if time.monotonic() > deadline:
            result.complete = False
            _log(f"out of time after {number} of {len(paths)} files")
            break
        content = _count_one(path, result)
        _note_todos(path, content, result)
        _weigh(path, content, by_word)
    return result


def _count_one(path: str, result: Survey) -> bytes:
    size, content = _read(path)
    result.size += size
    if content is None:
        result.skipped += 1
        return b""
    if b"\0" in content[:8192]:
        result.binary += 1
        return b""
    if content and (language := _language_of(path)):
        result.lines[language] += content.count(b"\n") + (not content.endswith(b"\n"))
    return content


def _note_todos(path: str, content: bytes, result: Survey) -> None:
    for match in _OPEN.finditer(content) if b"TODO" in content or b"FIXME" in content else ():
        result.todo_count += 1
        if len(result.todos) < MAX_TODOS:
            result.todos.append(_place(path, content.count(b"\n", 0, match.start()) + 1, match.group()))


def _weigh(path: str, content: bytes, by_word: Mapping[str, list[Item]]) -> None:
    """Weigh a file for each item: a word in its path counts most, then that a word is in it, then how often."""
    name, lowered = path.lower(), content.lower()
    for word, items in by_word.items():
        count = lowered.count(word.encode())
        weight = 8 * (word in name) + 4 * bool(count) + min(count, 4)
        if weight:
            for item in items:
                item.weights[path] += weight


def _found_for(item: Item) -> list[dict[str, Any]]:
    best = sorted(item.weights.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_FILES_PER_ITEM]
    return [{"path": _text_of(path), "weight": weight, "places": _places_in(path, item.words)} for path, weight in best]


def _places_in(path: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    content = _read(path)[1] or b""
    lines = [] if b"\0" in content[:8192] else content.splitlines()
    scored = [(sum(word.encode() in line.lower() for word in words), number) for number, line in enumerate(lines)]
    best = sorted((entry for entry in scored if entry[0]), key=lambda entry: (-entry[0], entry[1]))
    chosen = sorted(number for _, number in best[:MAX_PLACES_PER_FILE])
    return [_place(path, number + 1, lines[number]) for number in chosen]


def _place(path: str, line: int, text: bytes) -> dict[str, Any]:
    return {"path": _text_of(path), "line": line, "text": text.decode("utf-8", "replace").strip()[:MAX_LINE]}


def _text_of(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _history() -> dict[str, Any]:
    entries = [line.split("\t", 3) for line in _git("log", "-10", "--format=%h%x09%as%x09%an%x09%s").splitlines()]
    return {
        "commits": int(_git("rev-list", "--count", "HEAD").strip() or 0),
        "contributors": len(set(_git("log", "--format=%ae").splitlines())),
        "recent": [
            {"sha": sha, "date": date, "author": _text_of(author)[:80], "subject": _text_of(subject)[:MAX_LINE]}
            for sha, date, author, subject in (entry for entry in entries if len(entry) == 4)  # noqa: PLR2004 - fields
        ],
    }


def _assemble(found: Survey, past: dict[str, Any], items: list[Item]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "files": found.files,
        "bytes": found.size,
        "binaryFiles": found.binary,
        "skippedFiles": found.skipped,
        "complete": found.complete,
        "languages": [{"name": name, "lines": lines} for name, lines in found.lines.most_common(20)],
        "history": past,
        "openTodos": {"count": found.todo_count, "places": found.todos},
        "workItems": [{"text": item.text[:200], "files": _found_for(item)} for item in items],
    }
    while len(json.dumps(report, ensure_ascii=False).encode()) > MAX_DATA:
        longest = max([found.todos, *(item["files"] for item in report["workItems"])], key=len)
        if not longest:
            report["workItems"] = []
        del longest[len(longest) // 2 :]
    return report


def _summarise(report: dict[str, Any]) -> str:
    return "\n".join(_summary_lines(report)).encode("utf-8", "replace")[:MAX_SUMMARY].decode("utf-8", "ignore")


def _summary_lines(report: dict[str, Any]) -> Iterator[str]:
    past, todos = report["history"], report["openTodos"]
    languages = ", ".join(f"{each['name']} {each['lines']:,}" for each in report["languages"][:6]) or "none known"
    yield f"{report['files']:,} files, {report['bytes']:,} bytes. Lines by language: {languages}."
    yield f"{past['commits']:,} commits, contributors: {past['contributors']:,}."
    yield from (f"- {each['sha']} {each['date']} {_printable(each['subject'])}" for each in past["recent"][:3])
    yield f"{todos['count']:,} open TODO or FIXME."
    yield from (_shown(each) for each in todos["places"][:5])
    for item in report["workItems"]:
        yield f"\n{_printable(item['text'])}"
        for file in item["files"]:
            yield from map(_shown, file["places"][:2] or [{"path": file["path"], "line": None, "text": ""}])
        if not item["files"]:
            yield "- nothing found"
    if not report["complete"]:
        yield "\nThe time did not suffice to read all files."


def _shown(spot: Mapping[str, Any]) -> str:
    line = f":{spot['line']}" if spot["line"] else ""
    return f"- {_printable(spot['path'])}{line} {_printable(spot['text'])}".rstrip()


def _commit_report(summary: str) -> None:
    """Write the report into the tree and commit it; never through a link that lies in its place."""
    try:
        _write_anew(REPORT, f"# Report\n\n{summary}\n")
    except OSError as error:
        _log(f"cannot write {REPORT}: {error.strerror}")
        return
    _git("add", "--force", "--", REPORT)
    _git(
        "-c", f"core.hooksPath={os.devnull}", "-c", "commit.gpgSign=false", "commit", "-m", "Add a report", "--", REPORT
    )
    _log(f"committed {REPORT}: {_git('log', '-1', '--format=%h').strip()}")


def _write_anew(path: str, text: str) -> None:
    fresh = Path(f"{path}.new")
    fresh.unlink(missing_ok=True)
    with fresh.open("x", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def main() -> int:
    """Read the task from stdin, report, and return the exit code."""
    started = time.monotonic()
    try:
        task = json.loads(sys.stdin.buffer.read())
        texts = [str(text) for text in task["context"]["workItems"]]
    except (ValueError, KeyError, TypeError):
        _log("no task: expected its JSON on stdin")
        return 2
    _log(f"task {task.get('taskId')} with {len(texts)} work items")
    paths = [path for path in _git("ls-files", "-z").split("\0") if path]
    _log(f"{len(paths)} files are tracked")
    items = [Item(text, _words_of(text)) for text in texts]
    found = _survey(paths, items, started + BUDGET_S)
    _log(f"read {found.size} bytes, found {found.todo_count} open TODO or FIXME")
    report = _assemble(found, _history(), items)
    for item in report["workItems"]:
        _log(f"{len(item['files'])} files for: {item['text']}")
    summary = _summarise(report)
    if task.get("agentType") == "worker":
        _commit_report(summary)
    if path := os.environ.get("HUBSPOKE_RESULT_FILE"):
        _write_anew(path, json.dumps({"summary": summary, "data": report}, ensure_ascii=False))
    _log(f"done in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
