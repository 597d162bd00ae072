"""Iterative training closes the model-exploitation gap: the dreamed minus the real return of a controller evolved in dreams."""

import pytest

from tests import toys
from worldmodel import rollouts
from worldmodel.agents.config.schema import (
    DreamConfig,
    IterateConfig,
    MemoryConfig,
    RunConfig,
    SearchConfig,
    TrainingConfig,
)
from worldmodel.agents.pipeline.iterative_training import iterate
from worldmodel.agents.pipeline.stages import train_memory
from worldmodel.agents.runs.run_folder import Run

PUBLISHED_VAE = True


def run_iterations(vae, folder, seed: int, num_updates: int = 200):
    """Run two iterations from a memory trained on random episodes, none of which goes over the cliff."""
    run = Run(folder)
    store = rollouts.collect(toys.dot_before_cliff, toys.shy, 30, seed=seed, out=run.rollouts_folder)
    assert min(episode.rewards.min() for episode in store.episodes()) >= 0
    settings = RunConfig(
        env=toys.dot_before_cliff,  # type: ignore[arg-type]
        workers=1,
        seed=seed,
        iterations=2,
        iterate=IterateConfig(episodes=10, action_noise=0.5),
        memory=MemoryConfig(
            flow="none",
            hidden_size=16,
            num_components=1,
            num_updates=num_updates,
            batch_size=16,
            seq_len=12,
        ),
        training=TrainingConfig(learning_rate=1e-2),
        search=SearchConfig(sigma=0.5),
        dream=DreamConfig(generations=25, population=16, num_rollouts=8, horizon=8, temperature=1.0),
    )
    train_memory(run, settings, vae=vae)
    return iterate(run, settings)


@pytest.mark.slow
def test_iterative_training_closes_the_model_exploitation_gap(vae, tmp_path):
    first, second = run_iterations(vae, tmp_path, seed=1)
    # The first episodes show only that positions further to the right earn more: up to 7.5 per step and 60 in a dream.
    assert first.dream > 25
    assert first.gap > 40
    # The second memory models the cliff. A controller that stops before it earns 5 to 7 per step.
    assert second.real > 20
    assert abs(second.gap) < 0.4 * first.gap
