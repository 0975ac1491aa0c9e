"""The code blocks of the documentation, as a parser of CommonMark sees them, and what each of them is checked by.

The first word of a block's info string says what it is and thereby which test runs it; `CHECKED_BY` is the whole list.
A block that fits none of them fails `test_every_block.py`: it would be words that nobody holds against the program.

    console             commands behind a prompt, with what they print: run on machines of their own (`console.py`)
    sh                  `make` targets, which cannot run inside of one of them: known to make, and listed by `make help`
    toml FILE… [edit]   read by the settings of that file; with `edit` also written into it between the page's commands
    http                a request and its answer, or what the hub sends: compared with a live hub
    json NAME           a document of the hub's API, read by the type of `hub.answers` of that name
    sh container        podman commands, done with the images by what `make test-container` has in place of podman
    acl                 the rights of a node in Valkey, used as they stand
    python              run against a live hub
    json, text          with a marker (`<!-- … -->`) before it: an example of the wire, read or recomputed by the codec
    mermaid             a diagram on a page that is generated as a whole and compared with what it is generated from

A comment `<!-- console … -->` holds commands that are run and not shown: what a page takes for granted. Where it names
a file, they stand there, in `tests/docs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("keys/*.md")])
PROTOCOL: Final = "docs/protocol.md"
GENERATED: Final = frozenset({"docs/states.md"})
CHECKED_BY: Final[Mapping[str, str]] = {
    "console": "test_console.py",
    "sh": "test_make_targets.py",
    "toml": "test_toml.py",
    "http": "test_http.py",
    "json": "test_json.py",
    "python": "test_client.py",
    "wire": "test_protocol.py",
    "handshake": "test_protocol.py",
    "container": "../container/test_image.py",
    "acl": "../integration/link/test_valkey_rights.py",
    "generated": "../unit/common/test_agent_state.py",
}


@dataclass(frozen=True, slots=True)
class Block:
    """One block; `words` are those of its info string, `marker` the comment that stands right before it."""

    page: str
    line: int
    words: tuple[str, ...]
    text: str
    marker: str = ""
    shown: bool = True

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """Return what it is checked as, a key of `CHECKED_BY`; empty where nothing checks it."""
        language = self.words[0] if self.words else ""
        match language:
            case "json" | "text" if self.page == PROTOCOL and self.marker:
                return "wire"
            case "sh" if self.words[1:] == ("container",):
                return "container"
            case "text" if self.marker == "handshake":
                return "handshake"
            case "mermaid" if self.page in GENERATED:
                return "generated"
            case "python" if self.page != "docs/client.md":
                return ""
            case "text" | "mermaid":
                return ""
        return language if language in CHECKED_BY else ""


def _comment(html: str) -> str:
    found = re.fullmatch(r"<!--\s*(.*?)\s*-->\s*", html, re.DOTALL)
    return found[1] if found else ""


def _hidden(commands: str) -> str:
    file = HERE / commands
    return file.read_text(encoding="utf-8") if file.suffix == ".console" else f"{commands}\n"


def parse(page: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a page, those in lists, indented ones and hidden commands too."""
    marker = ""
    for token in MarkdownIt("commonmark").parse(text):
        line = (token.map or (0,))[0] + 1
        if token.type == "html_block":
            marker = _comment(token.content)
            if marker.startswith("console"):
                yield Block(page, line, ("console",), _hidden(marker.removeprefix("console").strip()), shown=False)
                marker = ""
            continue
        if token.type in {"fence", "code_block"}:
            yield Block(page, line, tuple(token.info.split()), token.content, marker)
        marker = ""


@cache
def blocks() -> tuple[Block, ...]:
    """Return all blocks of all pages."""
    return tuple(
        block for path in PAGES for block in parse(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    )


def of_kind(kind: str) -> list[Block]:
    """Return the blocks that are checked as that kind."""
    return [block for block in blocks() if block.kind == kind]
