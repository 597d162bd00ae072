"""Validation of settings before a run starts: ranges (`validate`) and combinations (`validate_combination`)."""

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from worldmodel.agents.config.schema import DREAMS, EvalConfig, RunConfig
from worldmodel.io.paths import expand

MAY_BE_ZERO = {"generations", "iterations", "hidden_units", "rank", "num_couplings"}
MAY_BE_ZERO |= {
    "action_noise",
    "param_noise",
    "free_bits",
    "vae_updates",
    "initial_state_fraction",
    "recent_fraction",
}
MAY_BE_ZERO |= {
    "num_eval_candidates",
    "min_sigma",
    "segment_length",
    "mean_window",
    "num_state_resets",
    "hard_episode_candidates",
}
"""Settings that can be zero; all other numbers must be above zero."""
SEEDS = {"seed", "split_seed"}
MOST = {"hud_loss_weight": 1_000}
"""Upper limits. A copy of `worldmodel.vae.MAX_HUD_LOSS_WEIGHT`: that module imports torch, which is slow."""


def validate(settings: Any, prefix: str = "") -> None:
    """Check the range of every number of a dataclass of settings.

    Raises:
        ValueError: A setting is out of range; the message names it, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    for name, value in vars(settings).items():
        label = f"{prefix}{name}"
        if value is None and NoneType not in get_args(hints[name]):  # "name:" without a value in YAML
            raise ValueError(f"{label} must have a value, got none")
        if hasattr(value, "__dataclass_fields__"):
            validate(value, f"{label}.")
        elif isinstance(value, dict):
            from worldmodel.validation import validate_options  # imports torch, which is slow

            validate_options(**{label: value})
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("target_return", *SEEDS):
            if not math.isfinite(value) or value < 0 or (value == 0 and name not in MAY_BE_ZERO):
                least = "zero or more" if name in MAY_BE_ZERO else "above zero"
                raise ValueError(f"{label} must be {least}, got {value}")
            if value > MOST.get(name, math.inf):
                raise ValueError(f"{label} must be at most {MOST[name]}, got {value}")
            if name in ("initial_state_fraction", "recent_fraction") and value >= 1:
                raise ValueError(f"{label} must be a fraction below 1, got {value}")
    validate_seeds(vars(settings), prefix, test=isinstance(settings, EvalConfig))


def validate_seeds(options: Mapping[str, Any], prefix: str = "", test: bool = False) -> None:
    """Check the range of seeds among the options of a command or the fields of settings.

    Args:
        options: Values by name; ``eval.seed`` and ``eval.episodes`` belong to an evaluation.
        prefix: Prefix of the names in messages.
        test: Whether ``seed`` is the first seed of an evaluation.

    Raises:
        ValueError: A seed is out of range; the message names it, its range and what came.
    """
    seeds = {name: seed for name, seed in options.items() if name.split(".")[-1] in SEEDS and seed is not None}
    if seeds:
        from worldmodel.validation import validate_seed, validate_test_seed  # imports torch, which is slow

        for name, seed in seeds.items():
            if test or name == "eval.seed":
                validate_test_seed(seed, options[f"{name.removesuffix('seed')}episodes"], f"{prefix}{name}")
            else:
                validate_seed(seed, f"{prefix}{name}")


def validate_combination(settings: RunConfig) -> None:
    """Check combinations of settings: those that have no effect, and those that would fail hours later.

    Raises:
        ValueError: Two settings contradict each other; the message names a setting, what was expected and what came.
    """
    validate_search(vars(settings.dream), "dream.")
    validate_search(vars(settings.game), "game.")
    loop, max_size = settings.iterate, min(settings.dream.num_rollouts, DREAMS)
    if loop.ensemble_size > max_size:
        raise ValueError(
            f"iterate.ensemble_size must be at most {max_size}, so that each memory has a dream, got {loop.ensemble_size}"
        )
    if loop.init_from == "best" and loop.ensemble_size == 1:
        raise ValueError(
            "iterate.init_from best keeps the agent's memory: it needs iterate.ensemble_size above 1, got 1"
        )
    if loop.init_from == "best" and loop.vae_updates:
        raise ValueError(
            f"iterate.init_from best keeps the VAE: it needs iterate.vae_updates 0, got {loop.vae_updates}"
        )
    if loop.recent_fraction and loop.recent_episodes is None:
        raise ValueError(
            f"iterate.recent_fraction needs iterate.recent_episodes, got {loop.recent_fraction} without it"
        )
    if settings.memory.terminate_on_stall and settings.collect.max_idle_steps is None:
        raise ValueError("memory.terminate_on_stall needs collect.max_idle_steps, got true without it")
    if settings.iterations and not settings.dream.generations:
        raise ValueError(f"iterations need dream.generations above zero, got {settings.iterations} and 0")
    init_from = settings.game.init_from
    if init_from == "dream" and not settings.dream.generations:
        raise ValueError("game.init_from dream needs a controller evolved in dreams, got dream.generations = 0")
    if init_from not in ("zeros", "dream") and not expand(init_from).exists():
        raise ValueError(
            f"game.init_from must be zeros, dream, the file of a controller, or the folder of an agent, got {init_from!r}"
        )


def validate_search(options: Mapping[str, Any], prefix: str = "") -> None:
    """Check the ranges and combinations of options of `agents.evolve`.

    Args:
        options: Values by name; ``min_sigma`` and others that only the environment has may be missing.
        prefix: Prefix of the names in messages.

    Raises:
        ValueError: An option is out of range or has no effect; the message names it, what was expected and what came.
    """
    population, sigma, sigma_decay = options["population"], options["sigma"], options["sigma_decay"]
    mean_window, num_eval_candidates = options["mean_window"], options.get("num_eval_candidates", 0)
    min_sigma = options.get("min_sigma", 0.0)
    if population < 3:
        raise ValueError(f"{prefix}population must be at least 3, got {population}")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"{prefix}sigma must be above zero, got {sigma}")
    if not 0 < sigma_decay <= 1:
        raise ValueError(f"{prefix}sigma_decay must be above 0 and at most 1, got {sigma_decay}")
    for name, value in (("mean_window", mean_window), ("min_sigma", min_sigma)):
        if not value >= 0:
            raise ValueError(f"{prefix}{name} must be zero or more, got {value}")
    if not 0 <= num_eval_candidates <= population:
        raise ValueError(
            f"{prefix}num_eval_candidates must be from 0 to {prefix}population = {population}, got {num_eval_candidates}"
        )
    if min_sigma >= sigma:
        raise ValueError(f"{prefix}min_sigma must be below {prefix}sigma = {sigma}, got {min_sigma}")
    candidates = options.get("hard_episode_candidates", 0)
    if candidates and candidates <= options["episodes"]:
        raise ValueError(
            f"{prefix}hard_episode_candidates must be zero or above {prefix}episodes = {options['episodes']}, got {candidates}"
        )
