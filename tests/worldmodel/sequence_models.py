"""Sequence densities under test, with events and helpers for them."""

import torch

import worldmodel
from worldmodel import FRMDN, RMDN, SequenceDensity
from worldmodel.baselines import PerDimensionRMDN
from worldmodel.batches import EventBatch
from worldmodel.registry import build

MODELS = {
    "rmdn": lambda: SequenceDensity(RMDN(2, 2, hidden_size=8, num_components=3)),
    "rmdn rank": lambda: SequenceDensity(RMDN(2, 2, hidden_size=8, num_components=2, rank=1)),
    "rmdn full": lambda: SequenceDensity(RMDN(2, 2, hidden_size=8, num_components=2, full=True)),
    "rmdn layers": lambda: SequenceDensity(RMDN(2, 2, hidden_size=8, num_layers=2)),
    "frmdn": lambda: SequenceDensity(FRMDN(2, 2, hidden_size=8, num_components=2)),
    "frmdn conditional": lambda: SequenceDensity(FRMDN(2, 2, hidden_size=8, conditional=True, spline=True)),
    "per dimension": lambda: SequenceDensity(PerDimensionRMDN(2, 2, hidden_size=8)),
    "autoregressive": lambda: build("autoregressive", 2, hidden_size=8, num_components=3, width=8),
}
ALL_MODELS = MODELS | {
    "rnn-gauss": lambda: build("rnn-gauss", 2, hidden_size=8),
    "vrnn": lambda: build("vrnn", 2, hidden_size=8, latent_dim=2, width=8),
    "vrnn-gmm": lambda: build("vrnn-gmm", 2, hidden_size=8, latent_dim=2, width=8, num_components=3),
}


def build_model(name):
    with worldmodel.seeded(0):
        model = ALL_MODELS[name]().double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def events(time=7, batch=4, size=2, seed=1):
    return torch.randn(batch, time, size, dtype=torch.float64, generator=generator(seed))


def padded(batch, lengths, value):
    """The sequences cut to ``lengths`` and padded with ``value``, three steps longer than the batch."""
    event = torch.full((len(batch.event), batch.event.shape[1] + 3, batch.event.shape[2]), value, dtype=torch.float64)
    mask = torch.zeros(event.shape[:2], dtype=torch.float64)
    for number, length in enumerate(lengths):
        event[number, :length], mask[number, :length] = batch.event[number, :length], 1
    return EventBatch(event, mask, batch.log_jacobian)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
