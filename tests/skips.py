"""Reasons to skip a test."""

IMPOSSIBLE = "impossible here: "
"""Prefix of a skip reason that no installation can cure; ``--no-skips`` accepts it."""
