from __future__ import annotations

from tests.integration.spoke.conftest import new_hub, origin

__all__ = ["new_hub", "origin"]
