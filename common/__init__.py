"""What hub and spoke share: the pure protocol core and the thin adapters both sides need."""
