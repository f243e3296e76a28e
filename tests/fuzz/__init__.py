"""Fuzzing of every parser that reads what others wrote. See `tests.fuzz.__main__`."""
