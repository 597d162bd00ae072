"""Compress what is seen, remember what happens, imagine what follows.

Start reading at `worldmodel.model`, which puts the eye (`worldmodel.vae`) and the memory (`worldmodel.memory`) together.
"""

from worldmodel.density import FRMDN, RMDN
from worldmodel.memory import Memory
from worldmodel.model import WorldModel
from worldmodel.sequences import SequenceDensity
from worldmodel.training import TrainingDiverged, fit, seeded
from worldmodel.vae import VAE

__all__ = ["FRMDN", "RMDN", "VAE", "Memory", "SequenceDensity", "TrainingDiverged", "WorldModel", "fit", "seeded"]
