"""Diagnostics of the parts of a run on held-out episodes."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch

from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.diagnostics import (
    diagnostics,
    dream_diagnostics,
    measure_card,
    measure_dream,
    measure_memory,
    measure_vae,
    memory_diagnostics,
)
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import write_json, write_tensors
from worldmodel.rollouts.policy.controllers import LinearController
from worldmodel.rollouts.store.datasets import Sequences
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode


def episodes(count: int, steps: int, seed: int, terminates: bool = True) -> list[EncodedEpisode]:
    """Random walks of two latents; the reward of a step is its action; the last step terminates."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        walk = np.cumsum(rng.normal(0, 0.1, (steps + 1, 2)), axis=0).astype(np.float32)
        action = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
        ended = np.zeros(steps, np.float32)
        ended[-1] = float(terminates)
        result.append(EncodedEpisode(walk, np.full_like(walk, -8), action, action[:, 0], ended))
    return result


def memory(**heads: bool) -> Memory:
    with seeded(0):
        return Memory(RMDN(input_size=3, output_size=2, hidden_size=4, num_components=1), **heads)


def test_baselines_are_those_of_the_data():
    training, held_out = episodes(20, 100, 0), episodes(5, 100, 1)
    result = memory_diagnostics(memory(), training, held_out, "mean")
    entropy = math.log(2 * math.pi * math.e * 0.01)  # of a step of two dimensions, in nats
    assert result.persistence_nll == pytest.approx(entropy, abs=0.15)
    assert result.marginal_nll > result.persistence_nll + 2  # walks leave the origin
    assert result.posterior_entropy is None
    assert result.terminations == 5
    assert result.constant_termination_nll == pytest.approx(-(0.01 * math.log(0.01) + 0.99 * math.log(0.99)), rel=0.02)
    assert result.predicted_terminations == pytest.approx(250, rel=0.01)  # a head of zeros predicts 1/2
    assert result.termination_nll == pytest.approx(math.log(2), rel=1e-4)
    assert result.reward_r2 < 0.01
    sampled = memory_diagnostics(memory(), training, held_out, "sample")
    assert sampled.posterior_entropy == pytest.approx(math.log(2 * math.pi * math.e) - 8, abs=1e-3)


def test_missing_heads_and_constant_data_have_no_values():
    constant = [
        one._replace(mean=np.zeros_like(one.mean), reward=np.ones_like(one.reward)) for one in episodes(3, 5, 0)
    ]
    result = memory_diagnostics(memory(), constant, constant, "mean")
    assert result.reward_r2 is None
    assert all(math.isfinite(value) for value in (result.nll, result.persistence_nll, result.marginal_nll))
    bare = memory_diagnostics(memory(reward=False, termination=False), constant, constant, "mean")
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


def test_held_out_episodes_are_measured(run):
    """One of six episodes of 20 steps is held out."""
    world = run.world()
    assert measure_vae(run, world.vae, 1).num_frames == 21
    measured = measure_memory(run, world.memory, Sequences(run.latents(world)), 1)
    assert (measured.num_episodes, measured.num_steps) == (1, 20)


def test_the_report_card_is_of_held_out_episodes_and_of_those_of_the_newest_agent(run, monkeypatch):
    """Each episode has 20 steps. Training leaves out one of the first six episodes, and about a tenth of all."""
    card = measure_card(run)
    assert [(fit.steps, fit.num_steps) for fit in card.rewards] == [("all", 20)]
    assert measure_card(run) == card == diagnostics(run)["card"]
    agent = Agent(run.world(), run.controller("dream"))
    rollouts.collect(toys.counter, agent, 30, seed=1, out=run.rollouts_folder, allow_new_policy=True)
    (run.folder / "diagnostics.json").unlink()
    fits = {fit.steps: fit.num_steps for fit in measure_card(run).rewards}
    assert 20 <= fits["controller"] < fits["all"] <= 5 * 20


@pytest.mark.slow
def test_diagnostics_are_cached_by_weights(run, monkeypatch):
    vae, world = run.vae(), run.world()
    assert diagnostics(run) == {}
    result = {"vae": measure_vae(run, vae, 1)}
    result["memory"] = measure_memory(run, world.memory, Sequences(run.latents(world)), 1)
    dream = (run.controller("dream"), toys.counter, {}, 5, 1.0)
    result["dream"] = measure_dream(run, *dream)
    assert diagnostics(run) == result
    assert result["dream"].real_return == pytest.approx(
        np.mean([sum(range(start_step, min(start_step + 5, 21))) for start_step in range(1, 7)])
    )
    json.loads((run.folder / "diagnostics.json").read_text(), parse_constant=pytest.fail)  # no NaN
    monkeypatch.setattr(rollouts, "collect", None)
    monkeypatch.setattr(Run, "store", None)
    assert measure_vae(run, vae, 1) == result["vae"]
    assert measure_dream(run, *dream) == result["dream"]
    with torch.no_grad():
        vae.posterior.bias += 1
    with pytest.raises(TypeError):  # other weights need a new measurement
        measure_vae(run, vae, 1)


def test_dreams_have_standard_errors_over_episodes_and_dreams():
    dreamed, real = np.array([1.0, 2.0, 6.0]), np.array([0.0, 4.0])
    result = dream_diagnostics(dreamed, real, 5)
    assert (result.dream_return, result.real_return, result.num_episodes) == (3, 2, 2)
    assert result.dream_stderr == pytest.approx((7 / 3) ** 0.5)  # the sample variance is 7
    assert result.real_stderr == pytest.approx((8 / 2) ** 0.5)
    assert dream_diagnostics(dreamed, real[:1], 5).real_stderr is None


def limited() -> gymnasium.Env:
    """A counter that is truncated after three steps."""
    return gymnasium.wrappers.TimeLimit(toys.counter(), 3)


def test_dream_horizons_respect_the_time_limit(run):
    result = measure_dream(run, run.controller("dream"), limited, {}, 5, 1.0)
    assert result.horizon == 3
    assert result.real_return == pytest.approx(1 + 2 + 3)


def test_damaged_files_are_named(run):
    (run.folder / "diagnostics.json").write_text('{"vae": 3}')
    with pytest.raises(ValueError, match=r"diagnostics\.json"):
        diagnostics(run)
