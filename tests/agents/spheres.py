"""Fitness functions with a known optimum."""

import numpy as np

from worldmodel.agents import LinearController


def sphere(population, seed):
    return -np.square(population - 1.5).sum(axis=1)


def noisy(population, seed):
    return sphere(population, seed)[:, None] + np.random.default_rng(seed).normal(size=(1, 3))


def controller(inputs=4, actions=2):
    return LinearController(inputs, actions)
