"""A pytest plugin for `make mutation`: what a run before this one found out must not answer for a mutant.

mutmut runs the tests once in its own process, to learn which test reaches which function, and forks a process for each
mutant from there. Whatever `lru_cache` holds by then was said by the code as it is.
"""

from __future__ import annotations

import sys
from functools import _lru_cache_wrapper

from hypothesis import Phase, settings


def pytest_configure() -> None:
    """Find a counterexample, but spend no time on a short one."""
    settings.register_profile("mutation", deadline=None, phases=[Phase.explicit, Phase.generate], database=None)


def pytest_collection_finish() -> None:
    """Forget, as the tests begin."""
    settings.load_profile("mutation")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "common":
            for member in vars(module).values():
                if isinstance(member, _lru_cache_wrapper):
                    member.cache_clear()
