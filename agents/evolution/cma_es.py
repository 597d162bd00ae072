"""CMA-ES with ask and tell, and a state that is saved without pickle.

Start reading at `CMAES`. Only this module imports pycma. pycma saves itself with pickle, and this library loads no pickles, so
`CMAES.state_dict` reads private attributes (pycma below 5).

References:
    Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
"""

import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import cma
import numpy as np
from jaxtyping import Float

FULL_COVARIANCE = 2_000
"""Number of parameters up to which the covariance is full. Above, only the diagonal is adapted."""
_PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "sp")
"""The strategy of pycma and those attributes of it that hold the state of a search."""
_CACHES = ("sm._mueff", "sm._lam")
"""Cached values; a new strategy computes them itself."""


class CMAES:
    """A normal distribution N(m, sigma^2 C) that moves towards high returns.

    Args:
        mean: Initial mean m, (size,).
        sigma: Initial step size.
        population: Number of members of a generation, at least 3.
        seed: Seed. The samples of generation g depend on the distribution and on (seed, g) alone.

    Example:
        >>> es = CMAES(np.zeros(3), sigma=0.5, population=8)
        >>> for _ in range(60):
        ...     population = es.ask()
        ...     es.tell(population, -np.square(population - 1).sum(axis=1))
        >>> bool(abs(es.mean - 1).max() < 0.01)
        True
    """

    def __init__(self, mean: Float[np.ndarray, "size"], sigma: float, population: int, seed: int = 0) -> None:
        self.seed = seed
        self._rng = np.random.default_rng()
        options = {
            "popsize": population,
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "seed": math.nan,  # pycma reads 0 as "the clock" and reseeds numpy's global state
            "verbose": -9,
            "CMA_mirrors": 0,  # pycma mirrors tiny populations and keeps the samples, which `state_dict` does not save
            "CMA_diagonal": len(mean) > FULL_COVARIANCE,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # two-point adaptation keeps samples, too
        }
        self._new = partial(cma.CMAEvolutionStrategy, np.array(mean), sigma, options)
        with warnings.catch_warnings():  # pycma warns about a single parameter
            warnings.simplefilter("ignore")
            self._es = self._new()

    @property
    def generation(self) -> int:
        """Number of finished generations."""
        return int(self._es.countiter)

    @property
    def mean(self) -> Float[np.ndarray, "size"]:
        """Mean m of the distribution."""
        return np.asarray(self._es.mean)

    @property
    def sigma(self) -> float:
        """Step size."""
        return float(self._es.sigma)

    @sigma.setter
    def sigma(self, value: float) -> None:
        self._es.sigma = value

    def ask(self) -> Float[np.ndarray, "population size"]:
        """Sample the members of the next generation."""
        self._rng = np.random.default_rng([self.seed, self.generation])
        return np.stack(self._es.ask())

    def tell(self, population: Float[np.ndarray, "population size"], returns: Float[np.ndarray, "population"]) -> None:
        """Update the distribution.

        Args:
            population: Members from `ask`.
            returns: Return of each member; more is better.
        """
        self._es.tell(list(population), list(-returns))  # CMA-ES minimises: the sign flips only here

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all numbers and arrays between `tell` and `ask`, by name."""
        return _arrays(self._es)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit from a `state_dict` of a search with the same arguments.

        Raises:
            ValueError: Names, shapes or values differ from those of such a search.
        """
        finite = all(np.isfinite(value).all() for name, value in state.items() if value.ndim or name == ".sigma")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            template, es = self._new(), self._new()
        for _ in range(min(2, int(state.get(".countiter", 0)))):  # all attributes exist after two generations
            members = template.ask()
            template.tell(members, list(range(len(members))))
        if not finite or _shapes(state) != _shapes(_arrays(template)):
            raise ValueError("state must have finite values, with the names and shapes of this search")
        # the order of an array in memory is part of the state: sums of matrix products depend on it
        values: dict[str, Any] = {
            name: value.copy(order="K") if value.ndim else value.item() for name, value in state.items()
        }
        for name, value in values.items():
            part, _, attribute = name.removesuffix("@").partition(".")
            owner = getattr(es, part) if part else es
            value = values[value] if name.endswith("@") else value
            if isinstance(vars(owner).get(attribute), np.number):
                value = vars(owner)[attribute].dtype.type(value)
            setattr(owner, attribute, value)
        es.timer = cma.utilities.utils.ElapsedWCTime()  # pycma creates it only in the first generation
        self._es = es


def _arrays(es: "cma.CMAEvolutionStrategy") -> dict[str, np.ndarray]:
    """Return the state of a strategy; ``name@`` is a second name of an array, whose first name is its value."""
    arrays: dict[str, np.ndarray] = {}
    first: dict[int, str] = {}
    for part in _PARTS:
        owner: Any = getattr(es, part, None) if part else es
        for attribute, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
            name = f"{part}.{attribute}"
            if name in _CACHES:
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
                if id(value) in first:
                    arrays[f"{name}@"] = np.array(first[id(value)])
                else:
                    first[id(value)] = name
                    arrays[name] = value.copy(order="K")
            elif isinstance(value, bool | int | float | np.number):
                arrays[name] = np.array(value)
    return arrays


def _shapes(state: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by name; an array with two names appears twice."""
    return {
        name.removesuffix("@"): (state[str(value)] if name.endswith("@") else value).shape
        for name, value in state.items()
    }
