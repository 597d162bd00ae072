"""Iterations close the model-exploitation gap: promised return minus real return of a controller evolved in dreams."""

import rollouts
from agents.iterations import iterate
from agents.run import Run
from agents.settings import Collecting, DreamEvolving, Iterating, Remembering, RunSettings
from agents.story import train_memory
from tests import toys
from worldmodel.checkpoints import write_json

HORIZON = 8


def iterated(vae, folder, seed: int, iterations: int = 2):
    """Iterations that begin with a memory of random episodes, none of which fell off the cliff."""
    run = Run(folder)
    store = rollouts.collect(toys.dot_before_cliff, rollouts.uniform, 30, seed=seed, out=run.rollouts_folder)
    assert min(float(episode.rewards.min()) for episode in store.episodes()) >= 0, "the region must be unknown"
    settings = RunSettings(
        env="Dot",
        seed=seed,
        iterations=iterations,
        iterate=Iterating(episodes=10, exploration=0.5),
        collect=Collecting(max_steps=None),
        memory=Remembering(model="rmdn", hidden=16, mixtures=1, updates=250, batch=16, length=12, lr=1e-2),
        dream=DreamEvolving(generations=25, population=16, dreams=8, horizon=HORIZON, temperature=1.0, sigma=0.5),
    )
    train_memory(run, settings.memory, seed, vae=vae)
    return iterate(run, toys.dot_before_cliff, settings, workers=1, backend="loky")


def test_an_iteration_closes_the_gap_of_the_first_dream(vae, tmp_path):
    first, second = iterated(vae, tmp_path, seed=1)
    # All that random episodes show is that pushes to the right earn 1 a step: 8 are promised, and the edge comes after 5 steps.
    assert first.dream > 6.5
    assert first.gap > 2
    # The second memory knows the edge. Who stops before it earns 0.5 a step there.
    assert second.real > first.real + 2
    assert abs(second.gap) < 0.4 * first.gap
