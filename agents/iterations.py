"""Dream, play, learn, again: controllers evolved in dreams alone, of a memory that has seen what they do in the game.

Start reading at `iterate`. A memory that only saw random play is exploited: evolution finds what it does not know. Each
iteration plays the new controller in the real game, adds those episodes to the store, and learns a new memory from all.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 5, iterative training procedure).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rollouts
from agents import story
from agents.agent import Agent
from agents.checks import check_together
from agents.controller import Controller
from agents.display import bar, console
from agents.excerpts import Beginnings, own_returns
from agents.run import Run
from agents.sections import built, read_sections, write_sections
from agents.settings import DreamEvolving, Iterating, RunSettings
from agents.yaml_files import read_yaml
from worldmodel import VAE, Memory, WorldModel
from worldmodel.formatting import format_number
from worldmodel.io import atomic, error_context, fingerprint, from_json, read_json, write_json
from worldmodel.start_states import StartStates

OWN: dict[str, type[Iterating] | type[DreamEvolving]] = {"iterate": Iterating, "dream": DreamEvolving}
"""Sections of settings that each iteration has of its own: a run may go on with others."""


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
    any other way (with ``iterate.start`` "best" the search of the next one begins there, too).

    Raises:
        ValueError: the run's controller of the dream comes from a search beside the iterations.
    """
    refuse_search(run)
    done: list[Iteration] = []
    for number in range(1, settings.iterations + 1):
        turn = _begin(run, settings, number)
        if not turn.written.exists():
            _tell(turn, env, workers, backend)
        done.append(_came_to(run, number))
        with atomic(run.folder / "iterations" / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(asdict(one)) + "\n" for one in done), encoding="utf-8")
        console.print(told(done[-1]), markup=False)
    best = best_of(done)
    chosen = home(run, best.number)
    world = WorldModel.load(chosen.world_folder)
    world.save(run.world_folder)
    latents = run.latents(world)  # as this eye sees them
    StartStates.from_episodes(latents, seed=settings.seed).save(run.world_folder)
    (run.folder / "evolve-dream").mkdir(exist_ok=True)
    chosen.controller("dream").save(run.folder / "evolve-dream" / "controller.safetensors")
    write_json(run.folder / "iterations" / "summary.json", {"best": best.number, "rows": [asdict(one) for one in done]})
    return done


def home(run: Run, number: int) -> Run:
    """The folder of an iteration: a run's, without rollouts of its own."""
    return Run(run.folder / "iterations" / f"{number:02d}")


@dataclass(frozen=True)
class _Turn:
    """An iteration that is under way, and the settings that it began with."""

    run: Run
    settings: RunSettings
    number: int

    @property
    def here(self) -> Run:
        """Its own folder."""
        return home(self.run, self.number)

    @property
    def before(self) -> Run | None:
        """The folder of the iteration before; None: this is the first one."""
        return home(self.run, self.number - 1) if self.number > 1 else None

    @property
    def begins_at(self) -> Run | None:
        """The folder of the iteration whose controller its search starts at; None: at zeros."""
        start = self.settings.iterate.start
        if self.before is None or start == "zeros":
            return None
        return self.before if start == "last" else home(self.run, best_of(_done(self.run, self.number)).number)

    @property
    def written(self) -> Path:
        """What it came to, once it is over."""
        return self.here.folder / "iteration.json"

    @property
    def episodes(self) -> int:
        """How many there were when it began, once it has dreamed: what it plays itself must not change that."""
        with error_context(path := self.here.folder / "episodes.json"):
            return int(read_json(path)["episodes"])


def _begin(run: Run, settings: RunSettings, number: int) -> _Turn:
    """An iteration with the settings of its own: those that it began with, or the run's, if it begins now."""
    turn = _Turn(run, settings, number)
    path = turn.here.folder / "settings.json"
    if turn.written.exists():
        return turn
    if not path.exists():
        write_sections({name: getattr(settings, name) for name in OWN}, path)
        return turn
    with error_context(path, wrap_value_errors=True):
        own = replace(settings, **read_sections(OWN, path))
        check_together(own)
    if own != settings:
        console.print(
            f"iteration {number} goes on with the settings that it began with; remove {path.parent} to begin it anew",
            markup=False,
        )
    return replace(turn, settings=own)


def settle(run: Run) -> None:
    """Give an iteration that an older version began the settings of its own: the run's, before these may change."""
    for folder in (run.folder / "iterations").glob("[0-9]*"):
        if not any((folder / name).exists() for name in ("iteration.json", "settings.json")):
            with error_context(path := run.folder / "config.yaml", wrap_value_errors=True):
                content = read_yaml(path)
                write_sections(built({name: content.get(name, {}) for name in OWN}, OWN), folder / "settings.json")


def refuse_search(run: Run) -> None:
    """Refuse to iterate where the best iteration would replace a controller from a search beside the iterations.

    Raises:
        ValueError: names the search.
    """
    if (search := run.folder / "evolve-dream" / "state.npz").exists():
        raise ValueError(
            f"{search.parent} holds an evolution of its own, which the best iteration would replace: remove it"
        )


def _tell(turn: _Turn, env: str, workers: int, backend: str) -> None:
    """Learn, dream, play, and write down what came of it."""
    world, worlds = _worlds(turn)
    controller = _dream(turn, world, worlds)
    with turn.run.chapter("play"):
        _play(turn, env, Agent(world, controller), workers, backend)
    _record(turn, world, worlds, controller)


def told(one: Iteration) -> str:
    """One line for people."""
    dream, real, gap, mean, std = (
        format_number(value, 0) for value in (one.dream, one.real, one.gap, one.episode_mean, one.episode_std)
    )
    return (
        f"iteration {one.number}: in dreams {dream}, in the game {real}, gap {gap}; "
        f"whole episodes {mean} +- {std} (n = {one.n}), {one.real_steps:,} real steps"
    )


def _worlds(turn: _Turn) -> tuple[WorldModel, list[Memory] | None]:
    """The iteration's world model, and the memories that dreams happen in; None: its own."""
    count = turn.settings.iterate.worlds
    world = _world(turn, turn.here)
    if count == 1:
        return world, None
    others = [Run(turn.here.folder / f"world-{which}") for which in range(1, count + 1)]
    return world, [_world(turn, one, which + 1).memory for which, one in enumerate(others)]


def _world(turn: _Turn, into: Run, which: int = 0) -> WorldModel:
    """A world model of an iteration; its memory learned from all that was played before, or goes on from the last one's.

    Where the search starts at the best agent so far, the agent's own stays as it is.
    """
    run, settings = turn.run, turn.settings
    if (into.world_folder / "config.json").exists():
        return into.world()
    if turn.before is None and which == 0:
        run.world().save(into.world_folder)
        return into.world()
    seed = settings.seed + turn.number + 1_000 * which
    eye, wanted = _eye(turn), settings.iterate
    if which == 0 and wanted.start == "best" and turn.begins_at is not None:
        turn.begins_at.world().save(into.world_folder)
        return into.world()
    weights = None
    if turn.before is not None:
        weights = partial(weights_of_newest, newest=wanted.newest, share=wanted.newest_share)
    last = turn.before and (Run(turn.before.folder / into.folder.name) if which else turn.before)
    if wanted.memory_updates is None or last is None or not last.folder.exists():  # it may have had fewer worlds
        return story.train_memory(run, settings.memory, seed, into, eye, weights=weights, split_seed=settings.seed)
    further = replace(settings.memory, updates=wanted.memory_updates)
    return story.train_memory(run, further, seed, into, eye, last.world().memory, weights, split_seed=settings.seed)


def weights_of_newest(lengths: Sequence[int], newest: int | None, share: float) -> np.ndarray | None:
    """Weights of episodes with which the newest ones are ``share`` of all that is drawn; None: all steps count alike."""
    if not share or newest is None or newest >= len(lengths):
        return None
    new = np.arange(len(lengths)) >= len(lengths) - newest
    steps = np.asarray(lengths, np.float64)
    return np.where(new, share / steps[new].sum(), (1 - share) / steps[~new].sum())


def _eye(turn: _Turn) -> VAE:
    """The iteration's VAE: that of the one before, or one whose training went on with all frames so far.

    Raises:
        ValueError: the search starts at the best agent, whose eye is another one than that of the newest memories.
    """
    if turn.before is None:
        return turn.run.vae()
    wanted = turn.settings.iterate
    before = turn.before.world().vae
    if wanted.start == "best" and turn.begins_at is not None:
        best = turn.begins_at.world().vae
        if fingerprint(best) != fingerprint(before):
            raise ValueError(
                f"iterate.start best needs an agent with the eye of the newest memories, got {turn.begins_at.folder}, "
                "whose eye has learned on since"
            )
        return best
    if not wanted.vae_updates or (turn.number - 1) % wanted.vae_every:
        return before
    further = replace(turn.settings.vae, updates=wanted.vae_updates)
    seed = turn.settings.seed
    return story.train_vae(turn.run, further, seed + turn.number, turn.here, before, split_seed=seed)


def _dream(turn: _Turn, world: WorldModel, worlds: list[Memory] | None) -> Controller:
    settings = turn.settings
    starts: Any = _beginnings(turn)
    before = turn.begins_at
    return story.evolve_dream(
        turn.run,
        settings.dream,
        settings.seed + turn.number,
        settings.controller,
        turn.here,
        world,
        starts,
        before.controller("dream") if before is not None else None,
        ensemble=worlds,
        disagreement_penalty=settings.iterate.caution if worlds else 0.0,
    )


def _beginnings(turn: _Turn) -> Beginnings:
    """Where its dreams begin: in the newest of the episodes that were there when it began."""
    path, wanted = turn.here.folder / "episodes.json", turn.settings.iterate
    if not path.exists():
        write_json(path, {"episodes": len(turn.run.store())})
    count = turn.episodes
    newest = min(wanted.newest or count, count)
    return Beginnings(turn.run.store().latents(turn.here.world().vae), count, newest, wanted.beginnings)


def _play(turn: _Turn, env: str, agent: Agent, workers: int, backend: str) -> None:
    """Add episodes of the controller to the store: as it is, and with exploration.

    The last collection is met again where all episodes are there: a kill may have come before its index for Minari.
    """
    run, settings = turn.run, turn.settings
    total = turn.episodes
    exploring = replace(agent, exploration=settings.iterate.exploration, spread=settings.iterate.spread)
    for player in (agent, exploring):
        total += settings.iterate.episodes
        if player is agent and len(run.store()) >= total:
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
                max_idle_steps=settings.collect.patience,
                env_options=settings.env_options,
                backend=backend,
                allow_new_policy=True,
                progress=progress,
            )


def _record(turn: _Turn, world: WorldModel, worlds: list[Memory] | None, controller: Controller) -> None:
    """Measure the controller in dreams and in the game over equally long stretches from the same moments; write it down."""
    settings, first = turn.settings, turn.episodes
    horizon, store = settings.dream.horizon, turn.run.store()
    played = range(first, first + settings.iterate.episodes)
    patience = settings.collect.patience
    latents = store.latents(world.vae, terminate_on_stall=settings.memory.stalls_end)
    dreamed, stretches = own_returns(
        world,
        controller,
        latents,
        played,
        horizon,
        settings.dream.temperature,
        settings.seed + 1_000_003,
        patience,
        worlds,
    )
    returns = np.array([store.episode_metadata(index).rewards.sum(dtype=np.float64) for index in played])
    dream, real = float(dreamed.mean()), float(stretches.mean())
    one = Iteration(
        turn.number,
        dream,
        real,
        dream - real,
        0.0 if worlds is None else float(rollouts.disagreement(dreamed, len(worlds))[0]),
        float(returns.mean()),
        float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        len(returns),
        store.steps,
        turn.here.evolution_steps("dream"),
    )
    write_json(turn.written, asdict(one))


def _done(run: Run, number: int) -> list[Iteration]:
    """What the iterations before this one came to."""
    return [_came_to(run, earlier) for earlier in range(1, number)]


def _came_to(run: Run, number: int) -> Iteration:
    """What an iteration wrote down.

    Raises:
        ValueError: names the file, if it is missing, damaged, or another iteration's.
    """
    path = home(run, number).folder / "iteration.json"
    with error_context(path, wrap_value_errors=True):
        one = from_json(Iteration, read_json(path), path)
        if one.number != number:
            raise ValueError(f"number must be {number}, got {one.number}")
    return one


def best_of(done: Sequence[Iteration]) -> Iteration:
    """The iteration whose controller had the highest mean return over whole episodes of the real game; the first of equals."""
    return max(done, key=lambda one: one.episode_mean)


def begun(folder: Path) -> bool:
    """Whether a run has begun to iterate: its first rollouts and its first memory are done."""
    return (folder / "iterations" / "01" / "world" / "config.json").exists()
