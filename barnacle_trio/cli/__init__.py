"""The `barnacle` command. Needs the extra ``cli``; nothing else in the library imports it."""
