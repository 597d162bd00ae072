"""Memories and sequence densities reach the entropy of a known process and never beat it."""

import torch

import worldmodel
from tests import toys
from worldmodel import FRMDN, RMDN, Memory, SequenceDensity, fit
from worldmodel.batches import SequenceBatch


def excess(log_prob: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """The mean of log p exact - log p of the model over sequences, in nats an event, and its standard error.

    The expectation is a Kullback-Leibler divergence: zero for the true process, above zero for all others.
    """
    difference = (exact - log_prob).double().mean(dim=1)
    return float(difference.mean()), float(difference.std()) / len(difference) ** 0.5


def pushed(batch: int, seed: int) -> SequenceBatch:
    """Two independent linear-Gaussian worlds of 12 steps, side by side."""
    parts = [toys.linear_gaussian(batch, 12, 2 * seed + which) for which in (0, 1)]
    x, actions = (torch.cat([part[number] for part in parts], dim=2) for number in (0, 1))
    zeros, ones = torch.zeros(batch, 12), torch.ones(batch, 12)
    return SequenceBatch(x[:, :-1], actions, x[:, 1:], zeros, zeros, ones)


def trained_memory(seed: int) -> Memory:
    with worldmodel.seeded(seed):
        memory = Memory(FRMDN(4, 2, hidden_size=16, num_components=1), reward=False, termination=False)
    return fit(
        memory, toys.Sequences(pushed), num_updates=300, batch_size=32, learning_rate=1e-2, eval_every=100, seed=seed
    )


def excess_of_memory(memory: Memory) -> tuple[float, float]:
    batch = pushed(500, 3_000_000)
    noise = (batch.next_latent - 0.8 * batch.latent - batch.action) / 0.3
    exact = torch.distributions.Normal(0, 0.3).log_prob(0.3 * noise).sum(dim=-1)
    with torch.no_grad():
        return excess(memory(batch.latent, batch.action)[0].latent.log_prob(batch.next_latent), exact)


def test_a_memory_reaches_the_entropy_of_a_linear_gaussian_world():
    found, error = excess_of_memory(trained_memory(0))
    # A true divergence is never negative: five standard errors below zero are a density that does not integrate to one.
    assert found > -5 * error
    # Without the actions, or without the latents, a model is more than a nat off.
    assert found < 0.2


def trained_density(kind, seed: int) -> SequenceDensity:
    with worldmodel.seeded(seed):
        model = SequenceDensity(kind(2, 2, hidden_size=16, num_components=1))
    data = toys.Sequences(lambda size, number: toys.bent(size, 8, number)[0])
    return fit(model, data, num_updates=400, batch_size=32, learning_rate=5e-3, eval_every=100, seed=seed)


def excess_of_density(model: SequenceDensity) -> tuple[float, float]:
    events, exact = toys.bent(500, 8, 3_000_000)
    with torch.no_grad():
        return excess(model.log_probs(toys.whole(events))[0], exact)


def test_an_frmdn_follows_a_bend_that_an_rmdn_cannot():
    flow, flow_error = excess_of_density(trained_density(FRMDN, 0))
    mixture, mixture_error = excess_of_density(trained_density(RMDN, 0))
    assert flow > -5 * flow_error
    assert mixture > -5 * mixture_error
    # The flow can undo the bend exactly; without it a Gaussian is more than 2 nats off.
    assert flow < 0.5
    assert mixture > 1.5
