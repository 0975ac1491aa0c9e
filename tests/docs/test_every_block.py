"""No block of the documentation escapes: each is of a kind that a test runs, and that test takes all of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import CHECKED_BY, PAGES, ROOT, Block, blocks, parse

HERE = Path(__file__).parent
TEXT = {
    "docs/link.md handshake": "the beginning of a link: compared with the envelopes of docs/protocol.md",
    "docs/protocol.md computed: refused keys": "recomputed, and each is refused by our keyring",
    "docs/protocol.md computed: fingerprints": "recomputed from the keys of the page",
    "docs/protocol.md computed: invite": "recomputed, and read by our spoke's parser",
    "docs/protocol.md signed: command by hub": "recomputed, and verified by our codec",
    "docs/protocol.md signed: reply by spoke": "recomputed, and verified by our codec",
    "docs/protocol.md signed: join by spoke": "recomputed, and its proof is checked",
}
"""Every block of plain text that there is, and how it is held to the truth all the same."""
OF_A_WHOLE_PAGE = {"console", "generated"}
"""These are run or generated with all that stands on their page."""


def test_every_block_is_checked_by_something() -> None:
    unchecked = {str(block): " ".join(block.words) or "no language" for block in blocks() if not block.kind}
    assert unchecked == {}, "see tests/docs/blocks.py for what a block may be"


def test_all_pages_are_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in PAGES}
    assert names > {"README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/adr/0010-resume.md", "keys/README.md"}


@pytest.mark.parametrize("kind", CHECKED_BY)
def test_a_kind_has_blocks_and_a_test_that_takes_all_of_them(kind: str) -> None:
    assert any(block.kind == kind for block in blocks()), "nothing is of this kind any more: take it out of the table"
    source = (HERE / CHECKED_BY[kind]).read_text()
    assert f'of_kind("{kind}")' in source or kind in OF_A_WHOLE_PAGE


def test_plain_text_is_what_was_reviewed() -> None:
    found = [f"{block.page} {block.marker}" for block in blocks() if "text" in block.words]
    assert sorted(found) == sorted(TEXT)


@pytest.mark.parametrize(
    "text",
    [
        "```\nhub serve\n```\n",
        "```text\na diagram\n```\n",
        "```bash\nhub serve\n```\n",
        "```mermaid\ngraph\n```\n",
        "~~~\nhub serve\n~~~\n",
        "A list:\n\n- item\n\n  ```text\n  in a list\n  ```\n",
        "Words.\n\n    hub serve\n",
        "<!-- looks good -->\n```text\nnot on the page of the protocol\n```\n",
        "> ```yaml\n> quoted: true\n> ```\n",
    ],
)
def test_a_block_that_nothing_checks_is_found(text: str) -> None:
    (block,) = parse("docs/new.md", text)
    assert block.kind == ""


def test_a_block_knows_its_line_its_marker_and_its_words() -> None:
    text = "<!-- handshake -->\n```text\na\n```\n\n<!-- console\n$ hub list\n-->\n```toml hub.toml edit\nb\n```\n"
    marked, hidden, edit = parse("docs/new.md", text)
    assert marked == Block("docs/new.md", 2, ("text",), "a\n", "handshake")
    assert (hidden.kind, hidden.text, hidden.shown) == ("console", "$ hub list\n", False)
    assert (edit.words, edit.marker) == (("toml", "hub.toml", "edit"), "")
