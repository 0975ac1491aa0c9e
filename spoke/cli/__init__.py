"""The command `spoke`. Each group of commands is a module, imported when it is used: start-up time is felt."""

from __future__ import annotations

from spoke.cli.root import main

__all__ = ["main"]
