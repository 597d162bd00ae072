"""Iterations close the model-exploitation gap: the dreamed minus the real return of a controller that was evolved in dreams."""

import pytest

import rollouts
from agents.config.schema import DreamConfig, LoopConfig, MemoryConfig, RunConfig
from agents.iterative_training import iterate
from agents.run import Run
from agents.stages import train_memory
from tests import toys


def iterated(vae, folder, seed: int, updates: int = 200):
    """Two iterations that begin with a memory of random episodes, none of which goes over the edge."""
    run = Run(folder)
    store = rollouts.collect(toys.dot_before_cliff, toys.shy, 30, seed=seed, out=run.rollouts_folder)
    assert min(episode.rewards.min() for episode in store.episodes()) >= 0
    settings = RunConfig(
        env="Dot",
        seed=seed,
        iterations=2,
        iterate=LoopConfig(episodes=10, action_noise=0.5),
        memory=MemoryConfig(
            model="rmdn",
            hidden_size=16,
            num_components=1,
            num_updates=updates,
            batch_size=16,
            seq_len=12,
            learning_rate=1e-2,
        ),
        dream=DreamConfig(generations=25, population=16, num_rollouts=8, horizon=8, temperature=1.0, sigma=0.5),
    )
    train_memory(run, settings.memory, seed, vae=vae)
    return iterate(run, toys.dot_before_cliff, settings, workers=1, backend="loky")


@pytest.mark.slow
def test_an_iteration_closes_the_gap_of_the_first_dream(vae, tmp_path):
    first, second = iterated(vae, tmp_path, seed=1)
    # All that the first episodes show is that a place further to the right earns more, up to 7.5 a step, 60 in a dream.
    assert first.dream > 25
    assert first.gap > 40
    # The second memory knows the edge. Who stops before it earns 5 to 7 a step there.
    assert second.real > 20
    assert abs(second.gap) < 0.4 * first.gap
