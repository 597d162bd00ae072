"""Tables of speed and of scores, each written by a command."""
