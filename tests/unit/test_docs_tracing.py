"""docs/tracing.md is what the table of attributes says, and no span tells what the table does not have."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_table_says() -> None:
    script = runpy.run_path(str(DOCS / "generate_tracing.py"))
    assert (DOCS / "tracing.md").read_text() == script["render"](), "run: python docs/generate_tracing.py"
