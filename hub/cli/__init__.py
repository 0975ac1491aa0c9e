"""The `hub` command. Commands are imported when they are used, so that `hub --help` comes at once.

Exit codes: 0 done, 1 refused or failed (one line on stderr with the code), 2 usage, 3 cannot reach the node, 130
interrupted.
"""

from __future__ import annotations

import sys
from typing import Final

COMMANDS: Final = {
    "init": ("hub.cli.node:init", "Set up a hub: configuration, key, admin token."),
    "serve": ("hub.cli.node:serve", "Run the hub until SIGTERM."),
    "ready": ("hub.cli.node:ready", "Say whether the running hub is ready for work."),
    "invite": ("hub.cli.invites:invite", "Make a one-time invite for a spoke; list and withdraw them."),
    "peer": ("hub.cli.peers:peer", "Spokes: add, list, show, approve, suspend, resume, revoke."),
    "token": ("hub.cli.tokens:token", "Tokens of a scope, for people and programs."),
    "webhook": (
        "hub.cli.webhooks:webhook",
        "Programs that are told what happens: add, list, show, test, rotate, resume, remove.",
    ),
    "audit": ("hub.cli.audit:audit", "What was decided here, and whether somebody changed that."),
    "backup": ("hub.cli.backup:backup", "The whole hub as one file, while it runs."),
    "restore": ("hub.cli.backup:restore", "A hub again, of a backup."),
    "keys": ("hub.cli.keys:keys", "This hub's own key: show, export, rotate."),
    "spawn": ("hub.cli.spawn:spawn", "Start an agent on a spoke, or on many."),
    "status": ("hub.cli.agents:status", "Show one agent."),
    "list": ("hub.cli.agents:list_agents", "List agents, newest first."),
    "top": ("hub.cli.top:top", "Watch spokes and agents, live."),
    "kill": ("hub.cli.killing:kill", "Stop an agent, or all of a task, a spoke or the hub."),
    "logs": ("hub.cli.agents:logs", "Print an agent's log."),
    "diff": ("hub.cli.work:diff", "Print what an agent changed, as a git patch."),
    "send": ("hub.cli.work:send", "Give a running agent a message."),
    "resume": ("hub.cli.work:resume", "Have an agent that has ended go on in its workspace."),
    "wait": ("hub.cli.agents:wait", "Wait until an agent has ended; exit by the outcome."),
    "freeze": ("hub.cli.freezing:freeze", "Have a spoke refuse this hub's spawns, and end its agents if asked."),
    "thaw": ("hub.cli.freezing:thaw", "Have a spoke take this hub's spawns again."),
    "doctor": ("hub.cli.doctor:doctor", "Check keys, clock, Valkey and spokes; say how to mend each."),
    "completion": ("hub.cli.completion:completion", "What makes a shell complete commands, options and ids."),
}


def main() -> None:
    """Run the command line and exit."""
    from hub.cli.frame import run

    sys.exit(run(COMMANDS))
