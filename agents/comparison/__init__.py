"""Comparison of memory models.

Start reading at `train.compare`, which trains the variants. `metrics` evaluates them, `statistics` computes confidence
intervals, `report` writes the page.
"""
