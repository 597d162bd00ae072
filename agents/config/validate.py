"""Validation of settings before a run starts: ranges (`validate`) and combinations (`validate_combination`)."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from worldmodel.agents.config.fields import Range
from worldmodel.agents.config.schema import DREAMS, EvalConfig, GameConfig, RunConfig, SearchConfig
from worldmodel.io.paths import expand

SEEDS = {"seed", "split_seed"}


def validate(settings: Any, prefix: str = "") -> None:
    """Check the range of every number of a dataclass of settings.

    Raises:
        ValueError: A setting is out of range; the message names it, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    for one in fields(settings):
        value, label = getattr(settings, one.name), f"{prefix}{one.name}"
        if value is None and NoneType not in get_args(hints[one.name]):  # "name:" without a value in YAML
            raise ValueError(f"{label} must have a value, got none")
        if is_dataclass(value):
            validate(value, f"{label}.")
        elif isinstance(value, dict):
            from worldmodel.validation import validate_options  # imports torch, which is slow

            validate_options(**{label: value})
        elif one.name not in SEEDS:
            validate_range(label, value, one.metadata["within"])
    validate_seeds(vars(settings), prefix, test=isinstance(settings, EvalConfig))


def validate_range(label: str, value: Any, within: Range) -> None:
    """Check a number or a tuple of them; other values are not checked.

    Raises:
        ValueError: The number is out of range; the message has the label, the range and the number.
    """
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool) and number not in within:
            raise ValueError(f"{label} must be {within}, got {value}")


def validate_seeds(options: Mapping[str, Any], prefix: str = "", test: bool = False) -> None:
    """Check the range of seeds among the fields of settings.

    Args:
        options: Values by name.
        prefix: Prefix of the names in messages.
        test: Whether ``seed`` is the first seed of an evaluation of ``episodes`` episodes.

    Raises:
        ValueError: A seed is out of range; the message names it, its range and what came.
    """
    seeds = {name: options[name] for name in SEEDS if options.get(name) is not None}
    if seeds:
        from worldmodel.validation import validate_seed, validate_test_seed  # imports torch, which is slow

        for name, seed in seeds.items():
            if test:
                validate_test_seed(seed, options["episodes"], f"{prefix}{name}")
            else:
                validate_seed(seed, f"{prefix}{name}")


def validate_combination(settings: RunConfig) -> None:
    """Check combinations of settings: those that have no effect, and those that would fail hours later.

    Raises:
        ValueError: Two settings contradict each other; the message names a setting, what was expected and what came.
    """
    validate_candidates(vars(settings.game), "game.")
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
    delay, idle = settings.memory.stall_delay, settings.collect.max_idle_steps
    if delay is not None and (idle is None or delay > idle):
        raise ValueError(
            f"memory.stall_delay needs collect.max_idle_steps of at least as many steps, got {delay} and {idle}"
        )
    if settings.iterations and not settings.dream.generations:
        raise ValueError(f"iterations need dream.generations above zero, got {settings.iterations} and 0")
    init_from = settings.game.init_from
    if init_from == "dream" and not settings.dream.generations:
        raise ValueError("game.init_from dream needs a controller evolved in dreams, got dream.generations = 0")
    if init_from not in ("zeros", "dream", "previous") and not expand(init_from).exists():
        raise ValueError(
            "game.init_from must be zeros, dream, previous (with phases), the file of a controller, or the folder of an agent, "
            f"got {init_from!r}"
        )


def validate_candidates(options: Mapping[str, Any], prefix: str = "") -> None:
    """Check that candidates can be chosen: members to evaluate from the population, episodes from more of them.

    Raises:
        ValueError: A setting contradicts another one; the message names it, what was expected and what came.
    """
    population, count = options["population"], options["num_eval_candidates"]
    if not 0 <= count <= population:
        raise ValueError(
            f"{prefix}num_eval_candidates must be from 0 to {prefix}population = {population}, got {count}"
        )
    candidates = options.get("hard_episode_candidates", 0)
    if candidates and candidates <= options["episodes"]:
        raise ValueError(
            f"{prefix}hard_episode_candidates must be zero or above {prefix}episodes = {options['episodes']}, got {candidates}"
        )


def validate_search(options: Mapping[str, Any]) -> None:
    """Check the ranges and combinations of arguments of `agents.evolve`, which are settings of a run, too.

    Raises:
        ValueError: An argument is out of range or has no effect; the message names it, what was expected and what came.
    """
    for one in (*fields(SearchConfig), *fields(GameConfig)):
        if one.name in options:
            validate_range(one.name, options[one.name], one.metadata["within"])
    validate_candidates(options)
