"""Agents belong neither to the worker nor to the spoke: each has a keeper of its own that outlives both (ADR 0002).

The worker imports `spoke.supervision.supervisor`; `run_dir` is what both sides say to each other. This package itself
imports nothing, because the keeper's side must stay small and stdlib only.
"""
