"""The world model of an iteration, and the ensemble of memories that imagine its dreams. Start reading at `ensemble_of`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from worldmodel import Memory, WorldModel
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.worker_parts import run_in_workers, runs_in_workers
from worldmodel.agents.progress import bar
from worldmodel.agents.runs.iteration import IterationContext
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.io.files import fingerprint
from worldmodel.vector_encoder import Encoder


def ensemble_of(context: IterationContext) -> tuple[WorldModel, list[Memory] | None]:
    """Return the world model of the iteration and the memories of the ensemble; None: there is no ensemble."""
    count = context.settings.iterate.ensemble_size
    members = range(1, count + 1) if count > 1 else ()
    folders = [context.current, *(Run(context.current.folder / f"world-{member}") for member in members)]
    _train_memories(context, folders)
    world, *others = [_world_model(context, into, member) for member, into in enumerate(folders)]
    return world, [other.memory for other in others] or None


def _train_memories(context: IterationContext, folders: Sequence[Run]) -> None:
    """Train the missing memories of an iteration in worker processes, if there are several and no GPU."""
    run, settings = context.run, context.settings
    trainings = [
        _MemoryTraining(context.untimed, into, member)
        for member, into in enumerate(folders)
        if (member or context.copied_world is None) and not (into.world_folder / "config.json").exists()
    ]
    if not runs_in_workers(trainings):
        return
    vae = _vae(context)
    with run.stage("encode"), bar("encode frames", "frames") as progress:  # once; the workers read the file
        run.store().latents(vae, progress, settings.memory.stall_delay)
    with run.stage("train memory"), bar(f"train {len(trainings)} memories", "updates") as progress:
        run_in_workers(trainings, settings.executor["workers"], progress)


@dataclass(frozen=True)
class _MemoryTraining:
    """The training of one memory of an iteration."""

    context: IterationContext
    into: Run
    member: int

    def run(self) -> None:
        """Train the memory, and save its world model."""
        _world_model(self.context, self.into, self.member)

    @property
    def progress(self) -> tuple[int, int]:
        """Number of gradient steps up to the last validation, and of all."""
        total = _num_updates(self.context, self.into)
        if (self.into.world_folder / "config.json").exists():
            return total, total
        rows = rows_of(self.into.folder / "memory" / "metrics.jsonl")
        return (int(rows[-1]["update"]) if rows else 0), total


def _world_model(context: IterationContext, into: Run, member: int = 0) -> WorldModel:
    """Train a world model of an iteration on all episodes so far, from new weights or those of the previous iteration.

    The agent's own world model is copied unchanged in the first iteration, and with ``init_from`` "best".

    Args:
        context: Present iteration.
        into: Folder of the world model.
        member: Number of the memory in the ensemble, from 1 on; 0: the agent's own world model.
    """
    if (into.world_folder / "config.json").exists():
        return into.world()
    if not member and (source := context.copied_world) is not None:
        source.world().save(into.world_folder)
        return into.world()
    run, settings, loop = context.run, context.settings, context.settings.iterate
    weights = None
    if context.previous is not None:
        weights = partial(recent_episode_weights, recent_episodes=loop.recent_episodes)
    last = _last_world(context, into)
    further = replace(settings, memory=replace(settings.memory, num_updates=_num_updates(context, into)))
    seed, before = settings.seed + context.number + 1_000 * member, None if last is None else last.world().memory
    return stages.train_memory(run, further, seed, into, _vae(context), before, weights)


def _last_world(context: IterationContext, into: Run) -> Run | None:
    """Return the folder of the world model of the previous iteration whose memory learns on; None: a new memory is trained."""
    if context.previous is None or context.settings.iterate.memory_updates is None:
        return None
    own = into.folder == context.current.folder
    last = context.previous if own else Run(context.previous.folder / into.folder.name)
    return last if last.folder.exists() else None  # the ensemble may have been smaller


def _num_updates(context: IterationContext, into: Run) -> int:
    """Return the number of gradient steps of a memory's training."""
    further = context.settings.iterate.memory_updates
    return context.settings.memory.num_updates if further is None or _last_world(context, into) is None else further


def recent_episode_weights(
    lengths: Sequence[int], recent_episodes: int | None, recent_fraction: float = 0.5
) -> np.ndarray | None:
    """Return sampling weights that give the last ``recent_episodes`` episodes a probability of ``recent_fraction``.

    Args:
        lengths: Number of steps of each episode.
        recent_episodes: Number of recent episodes; None: all.
        recent_fraction: Probability of the recent episodes.

    Returns:
        A weight for each step of an episode, (episodes,); None: all steps have the same weight.
    """
    if recent_episodes is None or recent_episodes >= len(lengths):
        return None
    recent = np.arange(len(lengths)) >= len(lengths) - recent_episodes
    steps = np.asarray(lengths, np.float64)
    return np.where(recent, recent_fraction / steps[recent].sum(), (1 - recent_fraction) / steps[~recent].sum())


def _vae(context: IterationContext) -> Encoder:
    """Return the VAE of the iteration: the previous one, or the previous one after more training on all frames so far.

    Raises:
        ValueError: The search starts at the best agent, whose VAE differs from the previous iteration's.
    """
    if context.previous is None:
        return context.run.vae()
    loop = context.settings.iterate
    previous = context.previous.world().vae
    if loop.init_from == "best" and (start := context.init_from()) is not None:
        best = start.world().vae
        if fingerprint(best) != fingerprint(previous):
            raise ValueError(
                f"iterate.init_from best needs an agent with the VAE of the previous iteration, got "
                f"{start.folder}, whose VAE differs"
            )
        return best
    if not loop.vae_updates:
        return previous
    settings = context.settings
    further = replace(settings, vae=replace(settings.vae, num_updates=loop.vae_updates))
    return stages.train_vae(context.run, further, settings.seed + context.number, context.current, previous)
