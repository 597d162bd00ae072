"""A page where a person steers a dream: `server` serves it, `session` is one visitor's dream, `export` makes it static."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

import envs
from agents.controller import Controller
from agents.pretrained import Shipped
from agents.run import Run
from agents.settings import FAST
from agents.viewer.controls import controls
from agents.viewer.session import Stage
from envs.making import imports

NAMES = {"game": "evolved in the game", "dream": "evolved in dreams"}


def stage_of(place: Run | Shipped, env: str | None = None) -> Stage:
    """What there is to dream in a run folder, or in an agent's.

    Reality beside it is the environment ``env``; None: the one that the folder names, unless that imports a module, which
    files of somebody else's must not choose.

    Raises:
        ValueError: the run has no trained world model or no rollouts; a file of the agent is missing or damaged.
    """
    if isinstance(place, Shipped):
        return _stage_of_agent(place, env)
    run = place
    world, store = run.world(), run.store()
    options = dict(store.metadata.get("env_options") or {})
    drivers: dict[str, Controller] = {}
    for where, name in NAMES.items():
        if (run.folder / f"evolve-{where}" / "controller.safetensors").exists():
            drivers[name] = run.controller(where)
    return Stage(
        title=env or store.env,
        world=world,
        starts=run.latents(world),
        controls=controls(env or store.env, options, world),
        drivers=drivers,
        make_env=_maker(env, store.env, options),
    )


def _maker(env: str | None, kept: str, options: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]] | None:
    """What makes the environment asked for, or the one that a file names; None: that would import a module."""
    return partial(envs.make, env or kept, **options) if env or not imports(kept) else None


def _stage_of_agent(place: Shipped, asked: str | None) -> Stage:
    agent = place.agent()
    agent.world.eval()
    env, options = asked or FAST.get(place.env, place.env), place.env_options
    return Stage(
        title=env,
        world=agent.world,
        starts=place.starts(),
        controls=controls(env, options, agent.world),
        drivers={"trained": agent.controller},
        make_env=_maker(asked, env, options),
    )
