"""The agents that come with the spoke: programs of their own, which import nothing of it."""
