"""A web page on which a person plays a dream. Start reading at `serve`.

`server` serves the page, `session` computes the dream of one visitor, `export` writes a static copy of the page.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
from torch import Tensor

from worldmodel import WorldModel, envs
from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import FAST
from worldmodel.agents.pretrained import PretrainedAgent, pretrained_names, resolve_agent
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.fidelity import Fidelity, measure_run
from worldmodel.agents.viewer.game import game_facts
from worldmodel.agents.viewer.recorder import Recorder
from worldmodel.agents.viewer.session import SPEEDS, Scene
from worldmodel.envs.registration import env_words, imported_module
from worldmodel.io.paths import expand, folder_path
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import EncodedEpisodes
from worldmodel.validation import validate_positive_int

if TYPE_CHECKING:
    from worldmodel.agents.viewer.server import Page

CONTROLLER_NAMES = {"game": "evolved in the game", "dream": "evolved in dreams", "clone": "cloned"}


def serve(
    source: Run | PretrainedAgent | Agent | Scene | str | os.PathLike[str],
    env: str | None = None,
    *,
    start_states: EncodedEpisodes | Tensor | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    visitors: int = 8,
    record: str | os.PathLike[str] | None = None,
) -> "Page":
    """Serve the page in a background thread, from a script or a notebook.

    Example::

        page = agents.viewer.serve("car-racing-dream")
        print(page.url)
        page.stop()

    Args:
        source: Run, path of a run folder or of an agent's folder, name of a pretrained agent, or `Agent`.
        env: Id of the real environment. None: that of ``source``.
        start_states: Start states of dreams, required for an `Agent`: `rollouts.Store.latents`, or latents (S, latent).
        host: Network address of the page. "0.0.0.0": any machine can open it.
        port: Port of the page. 0: any free port.
        visitors: Largest number of dreams at the same time.
        record: Path of a folder that records what visitors play as rollouts: FOLDER/game and FOLDER/dream, two run folders.
            An existing recording is continued. None: nothing is recorded.

    Returns:
        The page, with ``url`` and ``stop()``. It is a context manager, and a notebook displays it.

    Raises:
        ValueError: ``source`` has no dream, an argument is out of range, a package is missing, or ``record`` holds something
            else.
        OSError: The port is in use.
    """
    validate_positive_int(visitors=visitors)
    if not 0 <= port < 65_536:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    if start_states is not None and not isinstance(source, Agent):
        raise ValueError("start_states must be given only with an Agent: a folder has its own start states")
    if isinstance(source, Agent):
        if start_states is None:
            raise ValueError(
                "start_states must be given with an Agent: start states of dreams, for example store.latents(vae)"
            )
        scene = _scene(source.world, start_states, {"trained": source.controller}, env or "", {}, env)
    else:
        scene = source if isinstance(source, Scene) else scene_of(_resolve(source), env)
    if record is not None:
        recorder = Recorder(folder_path(record, "record"), scene.world, scene.title, scene.env_options)
        scene = replace(scene, recorder=recorder)
    try:
        from worldmodel.agents.viewer.server import Page
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'worldmodel[viewer]'") from None
    return Page(scene, host, port, visitors)


def _resolve(source: Run | PretrainedAgent | str | os.PathLike[str]) -> Run | PretrainedAgent:
    """Return the run or the agent of a folder or a name."""
    if isinstance(source, Run | PretrainedAgent):
        return source
    path = expand(source)
    return resolve_agent(str(path), pretrained=not path.is_dir() and str(source) in pretrained_names())


def scene_of(source: Run | PretrainedAgent, env: str | None = None) -> Scene:
    """Build the scene of a run folder or of an agent's folder.

    Args:
        source: Run or agent.
        env: Id of the real environment. None: that of the folder, unless its id imports a module: a downloaded file must
            not choose which code runs.

    Raises:
        ValueError: The run has no trained world model or no rollouts, or a file of the agent is missing or damaged.
    """
    if isinstance(source, PretrainedAgent):
        agent, fidelity = source.agent(), Fidelity.of(source.folder)
        scene = _scene(
            agent.world, source.start_states(), {"trained": agent.controller},
            FAST.get(source.env, source.env), source.env_options, env,
        )  # fmt: skip
        return replace(scene, notes=(*scene.notes, *(fidelity.notes(scene.speed) if fidelity else ())))
    run = source
    world, store = run.world(), run.store()
    options = dict(store.metadata.get("env_options") or {})
    controllers: dict[str, Controller] = {}
    for where, name in CONTROLLER_NAMES.items():
        if (run.search(where) / "controller.safetensors").exists():
            controllers[name] = run.controller(where)
    scene = _scene(world, run.latents(world), controllers, store.env, options, env)
    return replace(scene, notes=(*scene.notes, *measure_run(store, world).notes(scene.speed)))


def _scene(
    world: WorldModel,
    start_states: EncodedEpisodes | Tensor,
    controllers: dict[str, Controller],
    saved_env: str,
    options: dict[str, Any],
    requested_env: str | None,
) -> Scene:
    """Build a scene with the speed and the action names of the requested or, without a request, the saved environment."""
    env, make, notes = requested_env or saved_env, _env_factory(requested_env, saved_env, options), list[str]()
    if saved_env and make is None:
        trust = " imports a module. If you trust it" if imported_module(saved_env) else ", whose rollouts were imported"
        notes.append(f"The real game is not shown: {saved_env}{trust}, add {' '.join(env_words(saved_env))}.")
    try:
        game = game_facts(env, options, make)
    except (ValueError, ImportError) as error:
        if requested_env:
            raise
        make, game = None, game_facts(env, options, None)
        notes.append(f"The real game cannot be shown: {error}")
    world.eval()
    key_map = controls(env, options, world, game.meanings)
    speed = min(max(game.speed, SPEEDS[0]), SPEEDS[1])
    return Scene(env or "a dream", world, start_states, key_map, controllers, make, speed, tuple(notes), options)


def _env_factory(
    requested_env: str | None, saved_env: str, options: dict[str, Any]
) -> Callable[[], gymnasium.Env[Any, Any]] | None:
    """Return a factory of the requested or the saved environment; None: no environment, or a saved id with a module."""
    if not (requested_env or saved_env):
        return None
    if requested_env or not env_words(saved_env):
        return partial(envs.make, requested_env or saved_env, **options)
    return None
