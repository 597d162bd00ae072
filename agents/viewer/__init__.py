"""A page where a person steers a dream: `serve` opens it, also from a notebook.

`server` serves it, `session` is one visitor's dream, `export` makes it static.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
from torch import Tensor

import envs
from agents.agent import Agent
from agents.config.schema import FAST
from agents.controller import Controller
from agents.pretrained import PretrainedAgent, names, resolve_agent
from agents.run import Run
from agents.viewer.controls import controls
from agents.viewer.fidelity import Fidelity, of_run
from agents.viewer.game import game_of
from agents.viewer.session import SPEEDS, Scene
from envs.registration import imported_module
from worldmodel import WorldModel
from worldmodel.paths import expand
from worldmodel.start_states import EncodedEpisodes
from worldmodel.validation import validate_positive_int

if TYPE_CHECKING:
    from agents.viewer.server import Page

NAMES = {"game": "evolved in the game", "dream": "evolved in dreams"}


def serve(
    place: Run | PretrainedAgent | Agent | Scene | str | os.PathLike[str],
    env: str | None = None,
    *,
    starts: EncodedEpisodes | Tensor | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    visitors: int = 8,
) -> "Page":
    """Serve the page in the background, from a script or a notebook.

    Example::

        page = agents.viewer.serve("car-racing-dream")
        print(page.url)
        page.stop()

    Args:
        place: a run (or its folder), an agent's folder, the name of an agent that comes with the package, or an `Agent`.
        env: the game beside the dream; None: that of ``place``.
        starts: of an `Agent`, real moments to dream from: `rollouts.Store.latents`, or latents (S, latent).
        host: "0.0.0.0": every machine may visit.
        port: 0: any free one.
        visitors: how many may dream at a time.

    Returns:
        The page: its ``url``, and ``stop()``. It is a context manager, and shows itself in a notebook.

    Raises:
        ValueError: there is nothing to dream, an argument is out of range, or a package is missing.
        OSError: the port is taken.
    """
    validate_positive_int(visitors=visitors)
    if not 0 <= port < 65_536:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    if starts is not None and not isinstance(place, Agent):
        raise ValueError("starts must be given with an Agent alone: a folder has its own")
    if isinstance(place, Agent):
        if starts is None:
            raise ValueError("starts must be given with an Agent: real moments to dream from, as store.latents(vae)")
        scene = _scene(place.world, starts, {"trained": place.controller}, env or "", {}, env)
    else:
        scene = place if isinstance(place, Scene) else scene_of(_found(place), env)
    try:
        from agents.viewer.server import Page
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'worldmodel[viewer]'") from None
    return Page(scene, host, port, visitors)


def _found(place: Run | PretrainedAgent | str | os.PathLike[str]) -> Run | PretrainedAgent:
    if isinstance(place, Run | PretrainedAgent):
        return place
    path = expand(place)
    return resolve_agent(str(path), pretrained=not path.is_dir() and str(place) in names())


def scene_of(place: Run | PretrainedAgent, env: str | None = None) -> Scene:
    """What there is to dream in a run folder, or in an agent's.

    Reality beside it is the environment ``env``; None: the one that the folder names, unless that imports a module, which
    files of somebody else's must not choose.

    Raises:
        ValueError: the run has no trained world model or no rollouts; a file of the agent is missing or damaged.
    """
    if isinstance(place, PretrainedAgent):
        agent, known = place.agent(), Fidelity.of(place.folder)
        scene = _scene(
            agent.world, place.starts(), {"trained": agent.controller},
            FAST.get(place.env, place.env), place.env_options, env,
        )  # fmt: skip
        return replace(scene, notes=(*scene.notes, *(known.notes(scene.speed) if known else ())))
    run = place
    world, store = run.world(), run.store()
    options = dict(store.metadata.get("env_options") or {})
    controllers: dict[str, Controller] = {}
    for where, name in NAMES.items():
        if (run.folder / f"evolve-{where}" / "controller.safetensors").exists():
            controllers[name] = run.controller(where)
    scene = _scene(world, run.latents(world), controllers, store.env, options, env)
    return replace(scene, notes=(*scene.notes, *of_run(store, world).notes(scene.speed)))


def _scene(
    world: WorldModel,
    starts: EncodedEpisodes | Tensor,
    controllers: dict[str, Controller],
    kept: str,
    options: dict[str, Any],
    asked: str | None,
) -> Scene:
    """A stage, with what the game itself tells: the one asked for, or the one that a file names."""
    env, make, notes = asked or kept, _maker(asked, kept, options), list[str]()
    if kept and make is None:
        notes.append(f"The real game is not shown: {kept} imports a module. If you trust it, add --env {kept}.")
    try:
        game = game_of(env, options, make)
    except (ValueError, ImportError) as error:
        if asked:
            raise
        make, game = None, game_of(env, options, None)
        notes.append(f"The real game cannot be shown beside the dream: {error}")
    world.eval()
    given = controls(env, options, world, game.meanings)
    speed = min(max(game.speed, SPEEDS[0]), SPEEDS[1])
    return Scene(env or "a dream", world, starts, given, controllers, make, speed, tuple(notes))


def _maker(env: str | None, kept: str, options: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]] | None:
    """What makes the environment asked for, or the one that a file names; None: that would import a module."""
    if not (env or kept):
        return None
    return partial(envs.make, env or kept, **options) if env or not imported_module(kept) else None
