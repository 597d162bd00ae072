"""Controllers, their evolution, and how good they are.

Start reading at `agents.story`, which tells everything on one folder, or at `agents.evolution`.
"""

from agents.agent import Agent
from agents.controller import LinearController
from agents.evaluation import Report, evaluate
from agents.evolution import evolve

__all__ = ["Agent", "LinearController", "Report", "evaluate", "evolve"]
