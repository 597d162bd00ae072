"""Controllers: evolution, behavior cloning and evaluation.

Start reading at `agents.pipeline.pipeline`, which runs all stages in one run folder, or at `agents.evolution.evolve`.

Names are imported on first use, so that ``worldmodel --help`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.agents.agent import Agent
    from worldmodel.agents.evaluation import Report, evaluate
    from worldmodel.agents.evolution.behavior_cloning import clone_actions, imitate
    from worldmodel.agents.evolution.evolve import evolve
    from worldmodel.agents.pretrained import load_pretrained, pretrained_names
    from worldmodel.rollouts.fitness import DreamFitness, EnvFitness
    from worldmodel.rollouts.policy.controllers import HiddenController, LinearController

_HOMES = {
    "Agent": "worldmodel.agents.agent",
    "DreamFitness": "worldmodel.rollouts.fitness",
    "EnvFitness": "worldmodel.rollouts.fitness",
    "HiddenController": "worldmodel.rollouts.policy.controllers",
    "LinearController": "worldmodel.rollouts.policy.controllers",
    "Report": "worldmodel.agents.evaluation",
    "clone_actions": "worldmodel.agents.evolution.behavior_cloning",
    "evaluate": "worldmodel.agents.evaluation",
    "evolve": "worldmodel.agents.evolution.evolve",
    "imitate": "worldmodel.agents.evolution.behavior_cloning",
    "load_pretrained": "worldmodel.agents.pretrained",
    "pretrained_names": "worldmodel.agents.pretrained",
}
__all__ = [
    "Agent",
    "DreamFitness",
    "EnvFitness",
    "HiddenController",
    "LinearController",
    "Report",
    "clone_actions",
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
