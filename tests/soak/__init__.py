"""Weeks of a cluster under faults, and many lives of nodes. See `tests.soak.__main__`."""
