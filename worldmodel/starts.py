"""Where dreams begin: real moments, with the memory of what came before them.

Dreaming in batches (`rollouts.dream`) and dreaming as an environment (`envs.DreamEnv`) both start here.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checkpoints import read_tensors, understood, write_tensors
from worldmodel.model import WorldModel, WorldState
from worldmodel.paths import folder_path
from worldmodel.streams import Stream

STARTS = "starts.safetensors"


@runtime_checkable
class EncodedEpisodes(Protocol):
    """Encoded real episodes (`rollouts.Store.latents`)."""

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Any:
        """One episode with ``mean`` (T+1, latent) and ``action`` (T, actions)."""
        ...


@torch.no_grad()
def begin(
    world: WorldModel,
    starts: EncodedEpisodes | Float[Tensor, "starts latent"],
    count: int,
    rng: np.random.Generator,
    burn_in: int = 32,
) -> WorldState:
    """Draw ``count`` real moments and bring a state there: the latent in view, the memory of the steps before.

    Raises:
        ValueError: there is no start, or its latents do not fit the world model.
    """
    if burn_in < 0:
        raise ValueError(f"burn_in must be zero or more, got {burn_in}")
    weight = next(world.memory.parameters())
    check_starts(world, starts)
    if isinstance(starts, Tensor | np.ndarray):
        choices = torch.as_tensor(starts)
        latent = choices[torch.from_numpy(rng.integers(len(choices), size=count))].to(weight)
        return world.initial(count).seeing(latent)
    return awake(world, [_moment(world, starts, rng) for _ in range(count)], burn_in)


def check_starts(world: WorldModel, starts: Any) -> None:
    """Refuse starts that a world model was not made for.

    Raises:
        ValueError: there is no start, or its latents or actions do not fit the world model.
    """
    if isinstance(starts, Tensor | np.ndarray):
        if starts.ndim != 2 or len(starts) == 0 or starts.shape[1] != world.latent:
            raise ValueError(f"starts must have shape (S, {world.latent}) with S > 0, got {tuple(starts.shape)}")
        return
    if not isinstance(starts, EncodedEpisodes):
        raise ValueError(
            f"starts must be store.latents(vae) or a tensor (S, {world.latent}), got {type(starts).__name__}"
        )
    if len(starts) == 0:
        raise ValueError("starts must hold at least one episode, got none")
    _check_episode(world, starts.episode(0))


def _check_episode(world: WorldModel, episode: Any) -> None:
    if (came := (episode.mean.shape[1], episode.action.shape[1])) != (world.latent, world.actions):
        raise ValueError(
            f"starts must hold {world.latent} latents and {world.actions} actions, got {came[0]} and {came[1]}"
        )


class Moment(NamedTuple):
    """A step of an encoded real episode."""

    episode: Any
    """With ``mean`` (T+1, latent) and ``action`` (T, actions)."""
    step: int


@torch.no_grad()
def awake(world: WorldModel, moments: Sequence[Moment], burn_in: int = 32) -> WorldState:
    """The state at real moments, after the memory lived through the ``burn_in`` steps before, or as many as there are."""
    weight, count = next(world.memory.parameters()), len(moments)
    seen, done = torch.zeros(count, burn_in + 1, world.latent), torch.zeros(count, burn_in, world.actions)
    known = torch.zeros(count, burn_in, dtype=torch.bool)
    for row, (episode, step) in enumerate(moments):
        first = max(step - burn_in, 0)
        past = slice(burn_in - (step - first), None)
        seen[row, past] = torch.from_numpy(np.array(episode.mean[first : step + 1], np.float32))
        done[row, past] = torch.from_numpy(np.array(episode.action[first:step], np.float32))
        known[row, past] = True
    seen, done = seen.to(weight), done.to(weight)
    return world.relive(seen[:, :-1], done, known.to(weight.device)).seeing(seen[:, -1].contiguous())


def _moment(world: WorldModel, starts: EncodedEpisodes, rng: np.random.Generator) -> Moment:
    """A real moment, any step of any episode."""
    episode = starts.episode(int(rng.integers(len(starts))))
    _check_episode(world, episode)
    action = episode.action
    if not len(action):
        raise ValueError("starts must hold episodes with at least one step, got one without")
    return Moment(episode, int(rng.integers(len(action))))  # never the last frame: the episode has ended there


class Excerpt(NamedTuple):
    """A few real steps."""

    mean: np.ndarray
    """(T + 1, latent)."""
    action: np.ndarray
    """(T, actions)."""


class Starts:
    """Real moments that travel with a world model: short excerpts of encoded episodes, to begin dreams at.

    Args:
        mean: (S, T + 1, latent): latents, padded behind each excerpt's end.
        action: (S, T, actions): the memory's action inputs.
        steps: (S,): steps of each excerpt, from 1 to T.

    Raises:
        ValueError: shapes do not fit together.
    """

    def __init__(self, mean: Tensor, action: Tensor, steps: Tensor) -> None:
        fit = mean.ndim == 3 and action.ndim == 3 and steps.ndim == 1 and len(mean) == len(action) == len(steps) > 0
        if not fit or mean.shape[1] != action.shape[1] + 1:
            raise ValueError(
                "starts must have mean (S, T + 1, latent), action (S, T, actions) and steps (S,), "
                f"got {tuple(mean.shape)}, {tuple(action.shape)} and {tuple(steps.shape)}"
            )
        whole = all(bool(torch.isfinite(part).all()) for part in (mean, action))
        if not (int(steps.min()) >= 1 and int(steps.max()) <= action.shape[1] and whole):
            raise ValueError(f"steps must be from 1 to {action.shape[1]}, latents and actions finite numbers")
        self.mean, self.action, self.steps = mean, action, steps

    def __len__(self) -> int:
        """Excerpts."""
        return len(self.steps)

    def episode(self, index: int) -> Excerpt:
        """One excerpt."""
        steps = int(self.steps[index])
        return Excerpt(self.mean[index, : steps + 1].float().numpy(), self.action[index, :steps].float().numpy())

    @classmethod
    def cut(cls, episodes: EncodedEpisodes, count: int = 64, length: int = 48, seed: int = 0) -> "Starts":
        """Cut excerpts of up to ``length`` steps out of random places of encoded episodes.

        Raises:
            ValueError: no episode has a step.
        """
        rng = np.random.default_rng([seed, Stream.KEEP])
        found = [episodes.episode(int(index)) for index in rng.permutation(len(episodes))[: 4 * count]]
        found = [episode for episode in found if len(episode.action)]
        if not found:
            raise ValueError("episodes must hold at least one with a step, got none")
        latent, actions = found[0].mean.shape[1], found[0].action.shape[1]
        mean, action = torch.zeros(count, length + 1, latent), torch.zeros(count, length, actions)
        steps = torch.zeros(count, dtype=torch.int32)
        for row in range(count):
            episode = found[row % len(found)]
            first = int(rng.integers(max(len(episode.action) - length, 0) + 1))
            taken = min(length, len(episode.action) - first)
            mean[row, : taken + 1] = torch.from_numpy(np.array(episode.mean[first : first + taken + 1], np.float32))
            action[row, :taken] = torch.from_numpy(np.array(episode.action[first : first + taken], np.float32))
            steps[row] = taken
        return cls(mean.half(), action.half(), steps)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``starts.safetensors`` into a world model's folder."""
        write_tensors(
            folder_path(folder, "folder") / STARTS, {"mean": self.mean, "action": self.action, "steps": self.steps}
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Starts":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, or of another kind.
        """
        path = folder_path(folder, "folder") / STARTS
        tensors = read_tensors(path)
        with understood(path, values=True):
            return cls(tensors["mean"], tensors["action"], tensors["steps"])
