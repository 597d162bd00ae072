"""How long a run takes at most, before it begins: the environment's speed is measured, the rest is known per unit of work."""

import math

import rollouts
from agents.config.schema import RunConfig

FRAMES, STEPS, DREAMED = 210.0, 40_000.0, 60_000.0
"""A second on two cores: frames that the VAE learns, steps that a memory of 256 units learns, steps that are dreamed."""
PROBE = 4
"""Episodes that an estimate of an environment's speed is asked for."""


def forecast(settings: RunConfig) -> float:
    """Seconds of a run if nothing ends early; the report, and iterations beyond the first one, are left out."""
    vae, memory, dream, game = settings.vae, settings.memory, settings.dream, settings.game
    learned = vae.num_updates * vae.batch_size / FRAMES
    learned += memory.num_updates * memory.batch_size * memory.seq_len * memory.hidden_size / 256 / STEPS
    dreamed = dream.generations * dream.population * dream.num_rollouts * dream.horizon / DREAMED
    speed = {env: _speed(settings, env) for env in {settings.env, settings.rollout_env}}
    episodes = game.population * game.episodes * game.generations
    episodes += game.eval_episodes * -(-game.generations // game.eval_every)
    tests = 1 + bool(dream.generations or settings.iterations) + bool(game.generations)
    played = (
        (settings.rollout_env, settings.collect.episodes, settings.collect.max_steps),
        (settings.rollout_env, episodes, game.max_steps),
        (settings.env, tests * settings.eval.episodes, settings.eval.max_steps),
    )
    return (
        learned
        + dreamed
        + sum(count * min(speed[env][1], most or math.inf) * speed[env][0] for env, count, most in played)
    )


def _speed(settings: RunConfig, env: str) -> tuple[float, int]:
    """Seconds of a step, shared by the workers, and steps of the longest episode."""
    found = rollouts.estimate_collection(
        env, "smooth", PROBE, workers=settings.workers, env_options=settings.env_options
    )
    return found.seconds / found.steps, found.steps // PROBE


def about(seconds: float) -> str:
    """Seconds in round words.

    Example:
        >>> about(500), about(10_000), about(900_000)
        ('8 min', '2.8 h', '10 days')
    """
    if seconds < 5_400:
        return f"{max(round(seconds / 60), 1)} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.0f} days"
