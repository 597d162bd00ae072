"""Why a test may not run here."""

IMPOSSIBLE = "impossible here: "
"""How the reason of a skip begins that no installation would cure; ``--no-skips`` lets it pass."""
