"""Dream, play, learn, again: controllers evolved in dreams alone, of a memory that has seen what they do in the game.

Start reading at `iterate`. A memory that only saw random play is exploited: evolution finds what it does not know. Each
iteration plays the new controller in the real game, adds those episodes to the store, and learns a new memory from all.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 5, iterative training procedure).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rollouts
from agents import story
from agents.agent import Agent
from agents.controller import Controller
from agents.display import bar, console
from agents.excerpts import Beginnings, Comparable, lived
from agents.run import Run
from agents.settings import DREAMS, RunSettings
from worldmodel import VAE, Memory, WorldModel
from worldmodel.checkpoints import atomic, read_json, understood, write_json
from worldmodel.starts import Starts


@dataclass(frozen=True)
class Iteration:
    """What one iteration came to."""

    number: int
    dream: float
    """Mean return of the controller over ``horizon`` dreamed steps that begin within its own real episodes."""
    real: float
    """Mean return of the same controller over ``horizon`` steps of these episodes, from the same moments on."""
    gap: float
    """Dream minus real: how far evolution exploited the memory."""
    disagreement: float
    """Standard deviation between its mean returns in several worlds; 0 with a single one."""
    episode_mean: float
    """Mean return of its whole real episodes."""
    episode_std: float
    n: int
    """Whole real episodes, played without exploration."""
    real_steps: int
    """Real steps in the store afterwards."""
    dream_steps: int


def iterate(run: Run, env: str, settings: RunSettings, workers: int, backend: str) -> list[Iteration]:
    """Tell ``settings.iterations`` iterations, and leave the best one's world model and controller in the run.

    The best has the highest mean return over whole episodes of the real game; no return of the game reaches a controller in
    any other way.

    Raises:
        ValueError: the run's controller of the dream comes from a search beside the iterations.
    """
    if (search := run.folder / "evolve-dream" / "state.npz").exists():
        raise ValueError(
            f"{search.parent} holds an evolution of its own, which the best iteration would replace: remove it"
        )
    done: list[Iteration] = []
    for number in range(1, settings.iterations + 1):
        here = home(run, number)
        world, worlds = _worlds(run, here, settings, number)
        controller = _dream(run, here, world, worlds, settings, number)
        if not (here.folder / "iteration.json").exists():
            with run.chapter("play"):
                first = _play(run, here, env, Agent(world, controller), settings, workers, backend)
            _record(run, here, world, worlds, controller, settings, number, first)
        with understood(path := here.folder / "iteration.json"):
            done.append(Iteration(**read_json(path)))
        with atomic(run.folder / "iterations" / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(asdict(one)) + "\n" for one in done), encoding="utf-8")
        console.print(told(done[-1]), markup=False)
    best = best_of(done)
    chosen = home(run, best.number)
    world = WorldModel.load(chosen.world_folder)
    world.save(run.world_folder)
    Starts.cut(run.store().latents(world.vae), seed=settings.seed).save(run.world_folder)  # as this eye sees them
    (run.folder / "evolve-dream").mkdir(exist_ok=True)
    chosen.controller("dream").save(run.folder / "evolve-dream" / "controller.safetensors")
    write_json(run.folder / "iterations" / "summary.json", {"best": best.number, "rows": [asdict(one) for one in done]})
    return done


def home(run: Run, number: int) -> Run:
    """The folder of an iteration: a run's, without rollouts of its own."""
    return Run(run.folder / "iterations" / f"{number:02d}")


def told(one: Iteration) -> str:
    """One line for people."""
    return (
        f"iteration {one.number}: in dreams {one.dream:.0f}, in the game {one.real:.0f}, gap {one.gap:.0f}; "
        f"whole episodes {one.episode_mean:.0f} +- {one.episode_std:.0f} (n = {one.n}), {one.real_steps:,} real steps"
    )


def _worlds(run: Run, here: Run, settings: RunSettings, number: int) -> tuple[WorldModel, list[Memory] | None]:
    """The iteration's world model, and the memories that dreams happen in; None: its own."""
    count = settings.iterate.worlds
    world = _world(run, here, settings, number, here)
    if count == 1:
        return world, None
    others = [Run(here.folder / f"world-{which}") for which in range(1, count + 1)]
    return world, [_world(run, one, settings, number, here, which + 1).memory for which, one in enumerate(others)]


def _world(run: Run, into: Run, settings: RunSettings, number: int, here: Run, which: int = 0) -> WorldModel:
    """A world model of an iteration; its memory learned from all that was played before, or goes on from the last one's."""
    if (into.world_folder / "config.json").exists():
        return into.world()
    if number == 1 and which == 0:
        run.world().save(into.world_folder)
        return into.world()
    wanted = settings.iterate
    seed = settings.seed + number + 1_000 * which
    eye = _eye(run, here, settings, number)
    if number == 1 or wanted.memory_updates is None:
        return story.train_memory(run, settings.memory, seed, into, eye)
    before = Run(home(run, number - 1).folder / into.folder.name) if which else home(run, number - 1)
    further = replace(settings.memory, updates=wanted.memory_updates)
    return story.train_memory(run, further, seed, into, eye, before.world().memory)


def _eye(run: Run, here: Run, settings: RunSettings, number: int) -> VAE:
    """The iteration's VAE: that of the one before, or one whose training went on with all frames so far."""
    if number == 1:
        return run.vae()
    before, wanted = home(run, number - 1).world().vae, settings.iterate
    if not wanted.vae_updates or (number - 1) % wanted.vae_every:
        return before
    further = replace(settings.vae, updates=wanted.vae_updates)
    return story.train_vae(run, further, settings.seed + number, here, before)


def _dream(
    run: Run, here: Run, world: WorldModel, worlds: list[Memory] | None, settings: RunSettings, number: int
) -> Controller:
    if (here.folder / "iteration.json").exists():
        return here.controller("dream")
    starts: Any = _beginnings(run, here, settings)
    last = home(run, number - 1).controller("dream") if number > 1 and settings.iterate.start == "last" else None
    return story.evolve_dream(
        run,
        settings.dream,
        settings.seed + number,
        settings.controller,
        here,
        world,
        starts,
        last,
        worlds=worlds,
        caution=settings.iterate.caution if worlds else 0.0,
    )


def _beginnings(run: Run, here: Run, settings: RunSettings) -> Beginnings:
    """The episodes that were there when the iteration began: what it plays itself must not change what it dreams."""
    path = here.folder / "episodes.json"
    if not path.exists():
        write_json(path, {"episodes": len(run.store())})
    with understood(path):
        count = int(read_json(path)["episodes"])
    newest = min(settings.iterate.newest or count, count)
    return Beginnings(run.store().latents(here.world().vae), count, newest, settings.iterate.beginnings)


def _play(run: Run, here: Run, env: str, agent: Agent, settings: RunSettings, workers: int, backend: str) -> int:
    """Add episodes of the controller to the store: as it is, and with exploration. Returns the first one's number."""
    wanted = settings.iterate
    with understood(path := here.folder / "episodes.json"):
        first = int(read_json(path)["episodes"])
    total = first
    for exploration in (0.0, wanted.exploration):
        total += wanted.episodes
        store = run.store()
        player = Agent(agent.world, agent.controller, exploration)
        if len(store) >= total:
            continue
        with bar("play the new controller", "episodes") as progress:
            rollouts.collect(
                env,
                player,
                total,
                seed=settings.seed,
                workers=workers,
                out=run.rollouts_folder,
                max_steps=settings.collect.max_steps,
                env_options=settings.env_options,
                backend=backend,
                further=True,
                progress=progress,
            )
    return first


def _record(
    run: Run,
    here: Run,
    world: WorldModel,
    worlds: list[Memory] | None,
    controller: Controller,
    settings: RunSettings,
    number: int,
    first: int,
) -> None:
    """Measure the controller in dreams and in the game over equally long stretches from the same moments; write it down."""
    horizon, store = settings.dream.horizon, run.store()
    played = range(first, first + settings.iterate.episodes)
    starts: Any = Comparable(store.latents(world.vae), played, horizon)
    dreams = rollouts.dream(
        world,
        controller,
        starts,
        horizon,
        DREAMS,
        settings.dream.temperature,
        seed=settings.seed + 1_000_003,
        worlds=worlds,
    )
    courses = [store.course(index) for index in played]
    returns = np.array([course.rewards.sum() for course in courses])
    stretches = [np.mean(lived(course.rewards, course.terminated, horizon)) for course in courses]
    dream, real = float(dreams.returns.mean()), float(np.mean(stretches))
    one = Iteration(
        number,
        dream,
        real,
        dream - real,
        0.0 if worlds is None else float(rollouts.disagreement(dreams.returns, len(worlds))[0]),
        float(returns.mean()),
        float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        len(returns),
        store.steps,
        here.evolution_steps("dream"),
    )
    write_json(here.folder / "iteration.json", asdict(one))


def best_of(done: Sequence[Iteration]) -> Iteration:
    """The iteration whose controller had the highest mean return over whole episodes of the real game; the first of equals."""
    return max(done, key=lambda one: one.episode_mean)


def begun(folder: Path) -> bool:
    """Whether a run has begun to iterate: its first rollouts and its first memory are done."""
    return (folder / "iterations" / "01" / "world" / "config.json").exists()
