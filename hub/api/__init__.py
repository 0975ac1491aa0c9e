"""The admin's HTTP API (OPERATION): agents, events, peers, invites, and its OpenAPI document."""
