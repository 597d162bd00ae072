"""World models: encode frames, predict the next latent, and dream.

Start reading at `worldmodel.world_model`, which combines the VAE (`worldmodel.vae`) and the memory (`worldmodel.memory`).

Names are imported on first use, so that ``worldmodel --help`` does not import torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Limit the busy waiting of OpenMP threads, so that they do not slow down other work on a busy machine (benchmarks/busy.py).
# This must precede the import of torch. An existing value is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from worldmodel.mdn_rnn import FRMDN, RMDN
    from worldmodel.memory import Memory
    from worldmodel.rng import seeded
    from worldmodel.sequences import SequenceDensity
    from worldmodel.training.fit import fit
    from worldmodel.training.trainer import TrainingDiverged
    from worldmodel.vae import VAE
    from worldmodel.vector_encoder import VectorEncoder
    from worldmodel.world_model import WorldModel

_HOMES = {
    "FRMDN": "worldmodel.mdn_rnn",
    "RMDN": "worldmodel.mdn_rnn",
    "VAE": "worldmodel.vae",
    "Memory": "worldmodel.memory",
    "SequenceDensity": "worldmodel.sequences",
    "TrainingDiverged": "worldmodel.training.trainer",
    "VectorEncoder": "worldmodel.vector_encoder",
    "WorldModel": "worldmodel.world_model",
    "fit": "worldmodel.training.fit",
    "seeded": "worldmodel.rng",
}
__all__ = [
    "FRMDN",
    "RMDN",
    "VAE",
    "Memory",
    "SequenceDensity",
    "TrainingDiverged",
    "VectorEncoder",
    "WorldModel",
    "__version__",
    "agents",
    "envs",
    "fit",
    "rollouts",
    "seeded",
]


def __getattr__(name: str) -> Any:
    if name in ("agents", "envs", "rollouts"):  # their folders lie beside this one
        return import_module(f"worldmodel.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("worldmodel")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
