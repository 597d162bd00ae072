"""A page where a person steers a dream: `server` serves it, `session` is one visitor's dream, `export` makes it static."""

from functools import partial

import envs
from agents.controller import Controller
from agents.pretrained import Shipped
from agents.run import Run
from agents.settings import FAST
from agents.viewer.controls import controls
from agents.viewer.session import Stage

NAMES = {"game": "evolved in the game", "dream": "evolved in dreams"}


def stage_of(place: Run | Shipped) -> Stage:
    """What there is to dream in a run folder, or in an agent's.

    Raises:
        ValueError: the run has no trained world model or no rollouts; a file of the agent is missing or damaged.
    """
    if isinstance(place, Shipped):
        return _stage_of_agent(place)
    run = place
    world, store = run.world(), run.store()
    options = dict(store.metadata.get("env_options") or {})
    drivers: dict[str, Controller] = {}
    for where, name in NAMES.items():
        if (run.folder / f"evolve-{where}" / "controller.safetensors").exists():
            drivers[name] = run.controller(where)
    return Stage(
        title=store.env,
        world=world,
        starts=store.latents(world.vae),
        controls=controls(store.env, options, world),
        drivers=drivers,
        make_env=partial(envs.make, store.env, **options),
    )


def _stage_of_agent(place: Shipped) -> Stage:
    agent = place.agent()
    agent.world.eval()
    env, options = FAST.get(place.env, place.env), place.env_options
    return Stage(
        title=env,
        world=agent.world,
        starts=place.starts(),
        controls=controls(env, options, agent.world),
        drivers={"trained": agent.controller},
        make_env=partial(envs.make, env, **options),
    )
