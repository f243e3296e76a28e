"""Self-healing clusters for Trio programs."""
