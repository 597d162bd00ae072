"""Estimate of a run's duration: the environment's speed is measured, the speeds of training and dreaming are constants."""

import math

import rollouts
from agents.config.schema import RunConfig

FRAMES, STEPS, DREAMED = 210.0, 40_000.0, 60_000.0
"""Speeds on two cores, per second: frames of VAE training, steps of memory training with 256 units, dream steps."""
PROBE = 4
"""Number of episodes for the estimate of an environment's speed."""


def forecast(settings: RunConfig) -> float:
    """Estimate the seconds of a run without early stopping, without the report and the iterations after the first one."""
    vae, memory, dream, game = settings.vae, settings.memory, settings.dream, settings.game
    training = vae.num_updates * vae.batch_size / FRAMES
    training += memory.num_updates * memory.batch_size * memory.seq_len * memory.hidden_size / 256 / STEPS
    dreaming = dream.generations * dream.population * dream.num_rollouts * dream.horizon / DREAMED
    speed = {env: _speed(settings, env) for env in {settings.env, settings.rollout_env}}
    episodes = game.population * game.episodes * game.generations
    episodes += game.eval_episodes * -(-game.generations // game.eval_every)
    evaluations = 1 + bool(dream.generations or settings.iterations) + bool(game.generations)
    played = (
        (settings.rollout_env, settings.collect.episodes, settings.collect.max_steps),
        (settings.rollout_env, episodes, game.max_steps),
        (settings.env, evaluations * settings.eval.episodes, settings.eval.max_steps),
    )
    return (
        training
        + dreaming
        + sum(count * min(speed[env][1], limit or math.inf) * speed[env][0] for env, count, limit in played)
    )


def _speed(settings: RunConfig, env: str) -> tuple[float, int]:
    """Measure the seconds of a step with all workers, and the number of steps of the longest episode."""
    estimate = rollouts.estimate_collection(
        env, "smooth", PROBE, workers=settings.workers, env_options=settings.env_options
    )
    return estimate.seconds / estimate.steps, estimate.steps // PROBE


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
