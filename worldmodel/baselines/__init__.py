"""Baseline models from the literature."""

from worldmodel.baselines.autoregressive import AutoregressiveRNN
from worldmodel.baselines.per_dimension import PerDimensionRMDN
from worldmodel.baselines.vrnn import VRNN

__all__ = ["VRNN", "AutoregressiveRNN", "PerDimensionRMDN"]
