"""The hub: signs commands, delivers them to spokes and keeps the read model of their agents."""
