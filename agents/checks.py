"""What settings must satisfy, each by itself and beside one another: told before anything starts."""

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from agents.settings import DREAMS, Covariance, RunSettings, Testing
from worldmodel.paths import expand

MAY_BE_ZERO = {"generations", "iterations", "units", "rank", "couplings"}
MAY_BE_ZERO |= {"exploration", "spread", "free_bits", "vae_updates", "caution", "beginnings", "newest_share"}
MAY_BE_ZERO |= {"elite", "least_sigma", "restarts", "piece", "average", "moments", "scouted"}
"""Numbers that mean something at zero."""
SEEDS = {"seed", "split_seed"}
MOST = {"emphasis": 1_000}
"""As the models have it, whose code is slow to load (`worldmodel.vae.MAX_HUD_LOSS_WEIGHT`)."""


def check(settings: Any, prefix: str = "") -> None:
    """Refuse numbers that are out of range before anything starts.

    Raises:
        ValueError: names the setting, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    for name, value in vars(settings).items():
        label = f"{prefix}{name}"
        if value is None and NoneType not in get_args(hints[name]):  # "name:" without a value, in YAML
            raise ValueError(f"{label} must have a value, got none")
        if hasattr(value, "__dataclass_fields__"):
            check(value, f"{label}.")
        elif isinstance(value, dict):
            from worldmodel.validation import validate_options  # torch is slow to load: only runs need it

            validate_options(**{label: value})
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("target", *SEEDS):
            if not math.isfinite(value) or value < 0 or (value == 0 and name not in MAY_BE_ZERO):
                least = "zero or more" if name in MAY_BE_ZERO else "above zero"
                raise ValueError(f"{label} must be {least}, got {value}")
            if value > MOST.get(name, math.inf):
                raise ValueError(f"{label} must be {MOST[name]} at most, got {value}")
            if name in ("beginnings", "newest_share") and value >= 1:
                raise ValueError(f"{label} must be a share below 1, got {value}")
    check_seeds(vars(settings), prefix, test=isinstance(settings, Testing))


def check_seeds(options: Mapping[str, Any], prefix: str = "", test: bool = False) -> None:
    """Refuse seeds out of range among the options of a command or the fields of settings.

    Args:
        options: by name; ``test.seed`` and ``test.episodes`` are those of a test.
        prefix: before the names in messages.
        test: whether ``seed`` is the first seed of a test.

    Raises:
        ValueError: names the seed, its range and what came.
    """
    seeds = {name: seed for name, seed in options.items() if name.split(".")[-1] in SEEDS and seed is not None}
    if seeds:
        from worldmodel.validation import validate_seed, validate_test_seed  # torch is slow to load

        for name, seed in seeds.items():
            if test or name == "test.seed":
                validate_test_seed(seed, options[f"{name.removesuffix('seed')}episodes"], f"{prefix}{name}")
            else:
                validate_seed(seed, f"{prefix}{name}")


def check_together(settings: RunSettings) -> None:
    """Refuse settings that would fail hours later, or do nothing, beside one another.

    Raises:
        ValueError: names the setting, what was expected and what came.
    """
    check_search(vars(settings.dream), "dream.")
    check_search(vars(settings.game), "game.")
    wanted, most = settings.iterate, min(settings.dream.dreams, DREAMS)
    if wanted.worlds > most:
        raise ValueError(f"iterate.worlds must be at most {most}, or some have no dream, got {wanted.worlds}")
    if wanted.caution and wanted.worlds == 1:
        raise ValueError(f"iterate.caution needs iterate.worlds above 1, got {wanted.caution} with one world")
    if wanted.start == "best" and wanted.worlds == 1:
        raise ValueError("iterate.start best keeps the agent's memory: it needs iterate.worlds above 1, got 1")
    if wanted.start == "best" and wanted.vae_updates:
        raise ValueError(f"iterate.start best keeps the eye: it needs iterate.vae_updates 0, got {wanted.vae_updates}")
    if wanted.newest_share and wanted.newest is None:
        raise ValueError(f"iterate.newest_share needs iterate.newest, got {wanted.newest_share} without it")
    if settings.memory.stalls_end and settings.collect.patience is None:
        raise ValueError("memory.stalls_end needs collect.patience, got true without it")
    if settings.iterations and not settings.dream.generations:
        raise ValueError(f"iterations need dream.generations above zero, got {settings.iterations} and 0")
    start = settings.game.start
    if start == "dream" and not settings.dream.generations:
        raise ValueError("game.start dream needs a controller evolved in dreams, got dream.generations = 0")
    if start not in ("zeros", "dream") and not expand(start).exists():
        raise ValueError(
            f"game.start must be zeros, dream, the file of a controller, or the folder of an agent, got {start!r}"
        )


def check_search(options: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse options of `agents.evolve` that are out of range, or do nothing beside one another; some may be missing.

    Raises:
        ValueError: names the option, after ``prefix``, what was expected and what came.
    """
    population, sigma, decay = options["population"], options["sigma"], options["decay"]
    bounds, average, elite = options["bounds"], options["average"], options.get("elite", 0)
    stale, least, restarts = options.get("stale"), options.get("least_sigma", 0.0), options.get("restarts", 0)
    most, episodes = options.get("most_episodes"), options.get("episodes")
    if population < 3:
        raise ValueError(f"{prefix}population must be at least 3, got {population}")
    for name, value in (("sigma", sigma), ("bounds", bounds)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{prefix}{name} must be above zero, got {value}")
    if not 0 < decay <= 1:
        raise ValueError(f"{prefix}decay must be above 0 and at most 1, got {decay}")
    if options["covariance"] not in get_args(Covariance):
        words = ", ".join(get_args(Covariance))
        raise ValueError(f"{prefix}covariance must be one of {words}, got {options['covariance']!r}")
    for name, value in (("average", average), ("restarts", restarts), ("least_sigma", least)):
        if not value >= 0:
            raise ValueError(f"{prefix}{name} must be zero or more, got {value}")
    if not 0 <= elite <= population:
        raise ValueError(f"{prefix}elite must be from 0 to {prefix}population = {population}, got {elite}")
    if options.get("ranked") and options.get("balanced"):
        raise ValueError(f"{prefix}ranked must be false with {prefix}balanced: ranks know no scale; got both true")
    if least >= sigma:
        raise ValueError(f"{prefix}least_sigma must be below {prefix}sigma = {sigma}, got {least}")
    if restarts and stale is None and not least:
        raise ValueError(f"{prefix}restarts needs {prefix}stale or {prefix}least_sigma, got {restarts} and neither")
    scouted, wanted = options.get("scouted", 0), "episodes" if most is None else "most_episodes"
    if scouted and scouted <= options[wanted]:
        raise ValueError(f"{prefix}scouted must be zero or above {prefix}{wanted} = {options[wanted]}, got {scouted}")
    if most is not None and episodes is not None and not 2 <= episodes <= most:
        raise ValueError(
            f"{prefix}most_episodes needs {prefix}episodes from 2 to {most}, so that noise shows, got {episodes}"
        )
