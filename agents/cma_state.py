"""All numbers of a pycma strategy, by name: what has to be written down for it to go on bit for bit.

pycma pickles itself for that; we load no pickles. So this file, and it alone, knows where pycma keeps its private numbers
(versions below 5).
"""

from typing import Any

import cma
import numpy as np

_PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "sp")
"""Where pycma keeps the numbers that make up a search: the strategy itself, and these attributes of it."""
_CACHES = ("sm._mueff", "sm._lam")
"""Keys of a cache in pycma: a fresh search fills it by itself."""


def snapshot(es: "cma.CMAEvolutionStrategy") -> dict[str, np.ndarray]:
    """Every number and array that makes up a search between ``tell`` and ``ask``, by name."""
    arrays: dict[str, np.ndarray] = {}
    first: dict[int, str] = {}
    for part in _PARTS:
        owner = getattr(es, part, None) if part else es
        for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
            key = f"{part}.{name}"
            if key in _CACHES:
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
                if id(value) in first:  # two names for one array must stay so
                    arrays[f"{key}@"] = np.array(first[id(value)])
                else:
                    first[id(value)] = key
                    arrays[key] = value.copy()
            elif isinstance(value, bool | int | float | np.number):
                arrays[key] = np.array(value)
    return arrays


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a `snapshot` holds, one array under two names counted as two."""
    return {
        name.rstrip("@"): (arrays[str(value)] if name.endswith("@") else value).shape for name, value in arrays.items()
    }


def restore(es: "cma.CMAEvolutionStrategy", arrays: dict[str, np.ndarray]) -> None:
    """Put a `snapshot` into a fresh search with the same settings."""
    live: dict[str, Any] = {}
    for key, value in arrays.items():
        if not key.endswith("@"):
            live[key] = value.copy() if value.ndim else value.item()
    for key, value in arrays.items():
        if key.endswith("@"):
            live[key[:-1]] = live[str(value)]
    for key, value in live.items():
        part, _, name = key.partition(".")
        owner = getattr(es, part) if part else es
        if isinstance(vars(owner).get(name), np.number):
            value = vars(owner)[name].dtype.type(value)
        setattr(owner, name, value)
    es.timer = cma.utilities.utils.ElapsedWCTime()  # pycma makes it with the first generation only
