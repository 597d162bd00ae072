"""`evolve` finds known optima to a stated precision."""

import numpy as np
import pytest

from tests import toys
from worldmodel.agents import LinearController, evolve


def sphere(population: np.ndarray, seed: int) -> np.ndarray:
    """Negative sphere function; its maximum is zero, where every parameter is 1.5."""
    return -np.square(population - 1.5).sum(axis=1)


def rosenbrock(population: np.ndarray, seed: int) -> np.ndarray:
    """Negative Rosenbrock function, a bent valley; its maximum is zero, where every parameter is 1."""
    x, following = population[:, :-1], population[:, 1:]
    return -(100 * np.square(following - x**2) + np.square(1 - x)).sum(axis=1)


def beacon(population: np.ndarray, seed: int) -> np.ndarray:
    """Returns (P, 4) in `Beacon` environments; a controller's inputs are the brightness of the left and the right half."""
    seeds = np.random.default_rng(seed).integers(2**31, size=4)
    return np.array([[run_episode(parameters, int(env_seed)) for env_seed in seeds] for parameters in population])


def run_episode(parameters: np.ndarray, seed: int) -> float:
    """Return of one episode in the beacon environment."""
    env, total, truncated = toys.beacon(), 0.0, False
    frame, _ = env.reset(seed=seed)
    while not truncated:
        brightness = frame[0, [0, -1], 0] / 255
        frame, reward, _, truncated, _ = env.step(np.tanh([brightness @ parameters[:2] + parameters[2]]))
        total += reward
    return total


# With the default step size, CMA-ES gains some orders of magnitude in every hundred evaluations per parameter. Parameters in
# float32 limit the sphere to about 1e-13.
@pytest.mark.parametrize(("inputs", "fitness", "generations"), [(9, sphere, 200), (3, rosenbrock, 250)])
def test_evolve_finds_the_optimum(inputs, fitness, generations):
    best = evolve(LinearController(inputs, 1), fitness, seed=1, generations=generations, population=16, sigma=0.5)
    assert fitness(best.parameters.double().numpy()[None], 0)[0] > -1e-6


def test_evolve_solves_the_beacon():
    # tanh reaches 1 only with large weights: 98% of the best return needs inputs of tanh beyond 2.3 on both sides.
    best = evolve(LinearController(2, 1), beacon, seed=1, generations=20, population=12, sigma=0.5)
    assert beacon(best.parameters.double().numpy()[None], 99).mean() > 4.9
