"""Evolution finds known optima to a stated precision."""

import numpy as np
import pytest

from agents import LinearController, evolve
from tests import toys


def sphere(population: np.ndarray) -> np.ndarray:
    """Best at 1.5 in every parameter: zero."""
    return -np.square(population - 1.5).sum(axis=1)


def rosenbrock(population: np.ndarray) -> np.ndarray:
    """A bent valley, best at 1 in every parameter: zero; minus the usual sum."""
    x, following = population[:, :-1], population[:, 1:]
    return -(100 * np.square(following - x**2) + np.square(1 - x)).sum(axis=1)


def beacon(population: np.ndarray, seed: int) -> np.ndarray:
    """Returns (P, 4) in Beacons; controllers see the brightness of the left and of the right half."""
    seeds = np.random.default_rng(seed).integers(2**31, size=4)
    return np.array([[play(parameters, int(number)) for number in seeds] for parameters in population])


def play(parameters: np.ndarray, seed: int) -> float:
    env, total, over = toys.beacon(), 0.0, False
    frame, _ = env.reset(seed=seed)
    while not over:
        seen = frame[0, [0, -1], 0] / 255
        frame, reward, _, over, _ = env.step(np.tanh([seen @ parameters[:2] + parameters[2]]))
        total += reward
    return total


# The default step size leads CMA-ES down by some orders of magnitude in every hundred evaluations of each parameter; float32
# parameters end it at about 1e-13 for the sphere.
@pytest.mark.parametrize(("inputs", "fitness", "generations"), [(9, sphere, 200), (3, rosenbrock, 250)])
def test_finds_the_optimum(inputs, fitness, generations):
    best = evolve(LinearController(inputs, 1), fitness, seed=1, generations=generations, population=16, sigma=0.5)
    assert fitness(best.parameters.double().numpy()[None])[0] > -1e-6


def test_solves_the_beacon():
    # tanh reaches 1 with large weights alone: 98% of the best return needs outputs beyond 2.3 on both sides.
    best = evolve(LinearController(2, 1), beacon, seed=1, generations=20, population=12, sigma=0.5)
    assert beacon(best.parameters.double().numpy()[None], 99).mean() > 4.9
