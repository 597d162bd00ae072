"""Memories and sequence densities reach the entropy of a known process and never go below it."""

import pytest
import torch

import worldmodel
from tests import toys
from worldmodel import FRMDN, RMDN, Memory, SequenceDensity, fit
from worldmodel.batches import SequenceBatch


def excess(log_prob: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Mean of log p exact - log p of the model over sequences, in nats per event, and its standard error.

    The expectation is a Kullback-Leibler divergence: zero for the true process and positive for all others.
    """
    difference = (exact - log_prob).double().mean(dim=1)
    return float(difference.mean()), float(difference.std()) / len(difference) ** 0.5


def linear_gaussian_pairs(batch: int, seed: int) -> SequenceBatch:
    """Two independent linear-Gaussian processes of 12 steps, concatenated along the latent dimension."""
    parts = [toys.linear_gaussian(batch, 12, 2 * seed + offset) for offset in (0, 1)]
    x, actions = (torch.cat([part[index] for part in parts], dim=2) for index in (0, 1))
    zeros, ones = torch.zeros(batch, 12), torch.ones(batch, 12)
    return SequenceBatch(x[:, :-1], actions, x[:, 1:], zeros, zeros, ones)


def trained_memory(seed: int) -> Memory:
    with worldmodel.seeded(seed):
        memory = Memory(FRMDN(4, 2, hidden_size=16, num_components=1), reward=False, termination=False)
    return fit(
        memory,
        toys.Sequences(linear_gaussian_pairs),
        num_updates=300,
        batch_size=32,
        learning_rate=1e-2,
        eval_every=100,
        seed=seed,
    )


def memory_excess(memory: Memory) -> tuple[float, float]:
    batch = linear_gaussian_pairs(500, 3_000_000)
    noise = (batch.next_latent - 0.8 * batch.latent - batch.action) / 0.3
    exact = torch.distributions.Normal(0, 0.3).log_prob(0.3 * noise).sum(dim=-1)
    with torch.no_grad():
        return excess(memory(batch.latent, batch.action)[0].latent.log_prob(batch.next_latent), exact)


@pytest.mark.slow
def test_memory_reaches_the_entropy_of_a_linear_gaussian_process():
    divergence, error = memory_excess(trained_memory(0))
    # A true divergence is never negative: five standard errors below zero mean a density that does not integrate to one.
    assert divergence > -5 * error
    # A model without the actions or without the latents is more than a nat off.
    assert divergence < 0.2


def trained_density(kind, seed: int) -> SequenceDensity:
    with worldmodel.seeded(seed):
        model = SequenceDensity(kind(2, 2, hidden_size=16, num_components=1))
    data = toys.Sequences(lambda size, data_seed: toys.bent(size, 8, data_seed)[0])
    return fit(model, data, num_updates=400, batch_size=32, learning_rate=5e-3, eval_every=100, seed=seed)


def density_excess(model: SequenceDensity) -> tuple[float, float]:
    events, exact = toys.bent(500, 8, 3_000_000)
    with torch.no_grad():
        return excess(model.log_probs(toys.whole(events))[0], exact)


@pytest.mark.slow
def test_frmdn_fits_a_bent_process_that_rmdn_cannot():
    flow, flow_error = density_excess(trained_density(FRMDN, 0))
    mixture, mixture_error = density_excess(trained_density(RMDN, 0))
    assert flow > -5 * flow_error
    assert mixture > -5 * mixture_error
    # The flow can invert the bend exactly. Without the flow, a Gaussian is more than 2 nats off.
    assert flow < 0.5
    assert mixture > 1.5
