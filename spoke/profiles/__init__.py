"""Profiles: how agent programs are started and their ends are read, and what of the outside they get to see.

A profile is data: one TOML file, shipped beside this module or put by the operator into `DIR/profiles/`. The argument
vector is the operator's: nothing of a task is ever an argument (attack row 54).
"""

from spoke.profiles.assignment import Assignment, agent_environment, task_document
from spoke.profiles.configuration import AgentConfig
from spoke.profiles.profile import Profile
from spoke.profiles.shelf import Shelf, program_of

__all__ = [
    "AgentConfig",
    "Assignment",
    "Profile",
    "Shelf",
    "agent_environment",
    "program_of",
    "task_document",
]
