"""Models of others, to compare with."""

from worldmodel.baselines.per_dimension import PerDimensionRMDN

__all__ = ["PerDimensionRMDN"]
