"""Controllers: evolution, behavior cloning and evaluation.

Start reading at `agents.pipeline`, which runs all stages in one run folder, or at `agents.evolution`.

Names are imported on first use, so that ``worldmodel --help`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import worldmodel  # noqa: F401 - sets an OpenMP variable, which must precede the import of torch

if TYPE_CHECKING:
    from agents.agent import Agent
    from agents.behavior_cloning import imitate
    from agents.controller import HiddenController, LinearController
    from agents.evaluation import Report, evaluate
    from agents.evolution import evolve
    from agents.pretrained import load_pretrained, pretrained_names
    from rollouts.fitness import DreamFitness, EnvFitness

_HOMES = {
    "Agent": "agents.agent",
    "DreamFitness": "rollouts.fitness",
    "EnvFitness": "rollouts.fitness",
    "HiddenController": "agents.controller",
    "LinearController": "agents.controller",
    "Report": "agents.evaluation",
    "evaluate": "agents.evaluation",
    "evolve": "agents.evolution",
    "imitate": "agents.behavior_cloning",
    "load_pretrained": "agents.pretrained",
    "pretrained_names": "agents.pretrained",
}
__all__ = [
    "Agent",
    "DreamFitness",
    "EnvFitness",
    "HiddenController",
    "LinearController",
    "Report",
    "evaluate",
    "evolve",
    "imitate",
    "load_pretrained",
    "pretrained_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
