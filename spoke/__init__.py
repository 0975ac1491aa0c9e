"""The spoke: verifies commands, queues them, runs agents in workspaces and reports signed events."""
