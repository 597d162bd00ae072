"""Numbers of a run's parts, from episodes that they were not trained on."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch

import rollouts
from agents.controller import LinearController
from agents.diagnostics import diagnostics, measure_dream, measure_memory, measure_vae, memory_diagnostics
from agents.run import Run
from rollouts.datasets import Sequences
from rollouts.encoded_dataset import EncodedEpisode
from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.io import write_json, write_tensors


def episodes(count: int, steps: int, seed: int, terminates: bool = True) -> list[EncodedEpisode]:
    """Random walks of two latents; a step's reward is its action; the last one terminates."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        walk = np.cumsum(rng.normal(0, 0.1, (steps + 1, 2)), axis=0).astype(np.float32)
        action = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
        ended = np.zeros(steps, np.float32)
        ended[-1] = float(terminates)
        made.append(EncodedEpisode(walk, np.full_like(walk, -8), action, action[:, 0], ended))
    return made


def memory(**heads: bool) -> Memory:
    with seeded(0):
        return Memory(RMDN(input_size=3, output_size=2, hidden_size=4, num_components=1), **heads)


def test_baselines_are_those_of_the_data():
    training, held_out = episodes(20, 100, 0), episodes(5, 100, 1)
    found = memory_diagnostics(memory(), training, held_out, "mean")
    entropy = math.log(2 * math.pi * math.e * 0.01)  # of a step of two dimensions, in nats
    assert found.persistence_nll == pytest.approx(entropy, abs=0.15)
    assert found.marginal_nll > found.persistence_nll + 2  # walks go far
    assert found.posterior_entropy is None
    assert found.terminations == 5
    assert found.constant_termination_nll == pytest.approx(-(0.01 * math.log(0.01) + 0.99 * math.log(0.99)), rel=0.02)
    assert found.predicted_terminations == pytest.approx(250, rel=0.01)  # a head of zeros says 1/2
    assert found.termination_nll == pytest.approx(math.log(2), rel=1e-4)
    assert found.reward_r2 < 0.01
    sampled = memory_diagnostics(memory(), training, held_out, "sample")
    assert sampled.posterior_entropy == pytest.approx(math.log(2 * math.pi * math.e) - 8, abs=1e-3)


def test_heads_that_are_not_there_and_data_that_never_change():
    still = [one._replace(mean=np.zeros_like(one.mean), reward=np.ones_like(one.reward)) for one in episodes(3, 5, 0)]
    found = memory_diagnostics(memory(), still, still, "mean")
    assert found.reward_r2 is None
    assert all(math.isfinite(value) for value in (found.nll, found.persistence_nll, found.marginal_nll))
    bare = memory_diagnostics(memory(reward=False, termination=False), still, still, "mean")
    assert bare.reward_r2 is bare.predicted_terminations is bare.termination_nll is None


@pytest.fixture
def run(tmp_path) -> Run:
    """A run folder with an untrained world model."""
    run = Run(tmp_path / "run")
    rollouts.collect(toys.counter, rollouts.uniform, 6, seed=1, out=run.rollouts_folder)
    with seeded(1):
        world = WorldModel(
            VAE(latent_dim=2), Memory(RMDN(input_size=4, output_size=2, hidden_size=3, num_components=1))
        )
    write_tensors(run.folder / "vae" / "weights.safetensors", world.vae.state_dict())
    write_json(run.folder / "vae" / "settings.json", {"model_config": world.vae.config})
    world.save(run.world_folder)
    LinearController.for_world_model(world).save(run.folder / "evolve-dream" / "controller.safetensors")
    return run


def test_what_was_measured_is_kept_by_weights(run, monkeypatch):
    vae, world = run.vae(), run.world()
    assert diagnostics(run) == {}
    found = {"vae": measure_vae(run, vae, 1)}
    found["memory"] = measure_memory(run, world.memory, Sequences(run.latents(world)), 1)
    dream = (run.controller("dream"), toys.counter, {}, 5, 1.0)
    found["dream"] = measure_dream(run, *dream)
    assert diagnostics(run) == found
    assert found["dream"].real_return == pytest.approx(np.mean([sum(range(at, min(at + 5, 21))) for at in range(1, 7)]))
    json.loads((run.folder / "diagnostics.json").read_text(), parse_constant=pytest.fail)  # no NaN
    monkeypatch.setattr(rollouts, "collect", None)
    monkeypatch.setattr(Run, "store", None)
    assert measure_vae(run, vae, 1) == found["vae"]
    assert measure_dream(run, *dream) == found["dream"]
    with torch.no_grad():
        vae.posterior.bias += 1
    with pytest.raises(TypeError):  # other weights are measured anew
        measure_vae(run, vae, 1)


def limited() -> gymnasium.Env:
    """A counter that is cut after three steps."""
    return gymnasium.wrappers.TimeLimit(toys.counter(), 3)


def test_dreams_are_no_longer_than_games_that_a_limit_cuts(run):
    found = measure_dream(run, run.controller("dream"), limited, {}, 5, 1.0)
    assert found.horizon == 3
    assert found.real_return == pytest.approx(1 + 2 + 3)


def test_a_damaged_file_is_named(run):
    (run.folder / "diagnostics.json").write_text('{"vae": 3}')
    with pytest.raises(ValueError, match=r"diagnostics\.json"):
        diagnostics(run)
