"""Estimate of a run's duration, from the measured speed of the environment and constant speeds of training and dreaming.

Start reading at `forecast`.
"""

import math

from worldmodel import rollouts
from worldmodel.agents.config.schema import AUTO_EPISODES, RunConfig

VAE_SPEED, MEMORY_SPEED, DREAM_SPEED = 210.0, 40_000.0, 60_000.0
"""Speeds on two cores: frames of VAE training, steps of memory training with 256 hidden units, and dream steps, per second."""
NUM_EPISODES = 4
"""Number of episodes that measure the speed of an environment."""


def forecast(settings: RunConfig) -> float:
    """Estimate the duration of a run in seconds, without early stopping and the report."""
    vae, memory, dream, game, loop = settings.vae, settings.memory, settings.dream, settings.game, settings.iterate
    members = 1 + loop.ensemble_size * (loop.ensemble_size > 1)
    updates, searches, parts = memory.num_updates, 1, 0
    if settings.iterations:  # the first iteration trains the other memories, later ones all of them
        updates = members * (updates + (settings.iterations - 1) * (loop.memory_updates or updates))
        searches, parts = settings.iterations * loop.candidates, settings.iterations * (loop.candidates + 1)
    pixels = settings.env_options.get("observation", "pixels") == "pixels"
    area = (settings.env_options.get("frame_size", 64) / 64) ** 2
    training = vae.num_updates * vae.batch_size * area / VAE_SPEED if pixels else 0.0
    training += updates * memory.batch_size * memory.seq_len * memory.hidden_size / 256 / MEMORY_SPEED
    dreaming = searches * dream.generations * dream.population * dream.num_rollouts * dream.horizon / DREAM_SPEED
    speed = {env: _speed(settings, env) for env in {settings.evaluation_env, settings.rollout_env}}
    episodes = game.population * game.episodes * game.generations
    episodes += game.eval_episodes * -(-game.generations // game.eval_every)
    evaluations = 1 + bool(dream.generations or settings.iterations) + bool(game.generations)
    collected = (settings.collect.episodes or AUTO_EPISODES) + parts * loop.episodes
    played = (
        (settings.rollout_env, collected, settings.collect.max_steps),
        (settings.rollout_env, episodes, game.max_steps),
        (settings.evaluation_env, evaluations * settings.eval.episodes, settings.eval.max_steps),
    )
    return (
        training
        + dreaming
        + sum(count * min(speed[env][1], limit or math.inf) * speed[env][0] for env, count, limit in played)
    )


def _speed(settings: RunConfig, env: str) -> tuple[float, int]:
    """Measure the seconds per step with all workers, and the largest number of steps of an episode."""
    estimate = rollouts.estimate_collection(
        env, "smooth", NUM_EPISODES, workers=settings.executor["workers"], env_options=settings.env_options
    )
    return estimate.seconds / estimate.steps, estimate.steps // NUM_EPISODES


def about(seconds: float) -> str:
    """Format seconds as rounded minutes, hours or days.

    Example:
        >>> about(500), about(10_000), about(900_000)
        ('8 min', '2.8 h', '10 days')
    """
    if seconds < 5_400:
        return f"{max(round(seconds / 60), 1)} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.0f} days"
