"""The state of a pycma strategy as named arrays, so that a search resumes bit for bit.

Start reading at `snapshot`. pycma saves itself with pickle; this library loads no pickles. Only this module depends on the
private attributes of pycma (versions below 5).
"""

from typing import Any

import cma
import numpy as np

_PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "sp")
"""The strategy and those attributes of it that hold the state of a search."""
_CACHES = ("sm._mueff", "sm._lam")
"""Cached values; a new search computes them itself."""


def snapshot(es: "cma.CMAEvolutionStrategy") -> dict[str, np.ndarray]:
    """All numbers and arrays of a search between ``tell`` and ``ask``, by name."""
    arrays: dict[str, np.ndarray] = {}
    first: dict[int, str] = {}
    for part in _PARTS:
        owner = getattr(es, part, None) if part else es
        for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
            key = f"{part}.{name}"
            if key in _CACHES:
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
                if id(value) in first:  # two names of one array must share it after `restore`
                    arrays[f"{key}@"] = np.array(first[id(value)])
                else:
                    first[id(value)] = key
                    arrays[key] = value.copy()
            elif isinstance(value, bool | int | float | np.number):
                arrays[key] = np.array(value)
    return arrays


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of a `snapshot`; an array with two names appears twice."""
    return {
        name.rstrip("@"): (arrays[str(value)] if name.endswith("@") else value).shape for name, value in arrays.items()
    }


def restore(es: "cma.CMAEvolutionStrategy", arrays: dict[str, np.ndarray]) -> None:
    """Load a `snapshot` into a new search with the same settings."""
    values: dict[str, Any] = {}
    for key, value in arrays.items():
        if not key.endswith("@"):
            values[key] = value.copy() if value.ndim else value.item()
    for key, value in arrays.items():
        if key.endswith("@"):
            values[key[:-1]] = values[str(value)]
    for key, value in values.items():
        part, _, name = key.partition(".")
        owner = getattr(es, part) if part else es
        if isinstance(vars(owner).get(name), np.number):
            value = vars(owner)[name].dtype.type(value)
        setattr(owner, name, value)
    es.timer = cma.utilities.utils.ElapsedWCTime()  # pycma creates it only in the first generation
