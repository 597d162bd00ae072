"""Start states of dreams: steps of real episodes, with the recurrent state after the steps before them.

Dreams in batches (`rollouts.dream`) and the dream environment (`envs.DreamEnv`) use them. Start reading at
`sample_start_states`.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.io.files import error_context, read_tensors, write_tensors
from worldmodel.io.paths import folder_path
from worldmodel.rng import Stream
from worldmodel.world_model import WorldModel, WorldState

FILE_NAME = "starts.safetensors"


@runtime_checkable
class EncodedEpisodes(Protocol):
    """Protocol of encoded real episodes (`rollouts.Store.latents`)."""

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Any:
        """Return an episode with ``mean`` (T + 1, latent) and ``action`` (T, actions)."""
        ...


@torch.no_grad()
def sample_start_states(
    world: WorldModel,
    start_states: EncodedEpisodes | Float[Tensor, "starts latent"],
    num: int,
    rng: np.random.Generator | Sequence[np.random.Generator],
    burn_in: int = 32,
) -> WorldState:
    """Sample ``num`` start states from real steps.

    Args:
        world: World model.
        start_states: Encoded episodes, or latents (S, latent) whose recurrent state is the initial one.
        num: Number of start states.
        rng: Random number generator, or one for each start state.
        burn_in: Number of real steps before the start state that the memory processes.

    Raises:
        ValueError: ``burn_in`` is negative, ``start_states`` is empty, or its sizes do not match the world model.
    """
    if burn_in < 0:
        raise ValueError(f"burn_in must be zero or more, got {burn_in}")
    weight = next(world.memory.parameters())
    validate_start_states(world, start_states)
    if isinstance(start_states, Tensor | np.ndarray):
        choices = torch.as_tensor(start_states)
        drawn = (
            rng.integers(len(choices), size=num)
            if isinstance(rng, np.random.Generator)
            else np.array([one.integers(len(choices)) for one in rng])
        )
        return WorldState(choices[torch.from_numpy(drawn)].to(weight), world.initial(num))
    rngs = [rng] * num if isinstance(rng, np.random.Generator) else rng
    return burn_in_states(world, [_random_start_state(world, start_states, one) for one in rngs], burn_in)


def validate_start_states(world: WorldModel, start_states: Any) -> None:
    """Check that start states match a world model.

    Raises:
        ValueError: ``start_states`` is empty, has another type, or its sizes do not match the world model.
    """
    if isinstance(start_states, Tensor | np.ndarray):
        if start_states.ndim != 2 or len(start_states) == 0 or start_states.shape[1] != world.latent_dim:
            raise ValueError(
                f"start_states must have shape (S, {world.latent_dim}) with S > 0, got {tuple(start_states.shape)}"
            )
        return
    if not isinstance(start_states, EncodedEpisodes):
        raise ValueError(
            f"start_states must be store.latents(vae) or a tensor (S, {world.latent_dim}), got {type(start_states).__name__}"
        )
    if len(start_states) == 0:
        raise ValueError("start_states must hold at least one episode, got none")
    _validate_episode(world, start_states.episode(0))


def _validate_episode(world: WorldModel, episode: Any) -> None:
    if (came := (episode.mean.shape[1], episode.action.shape[1])) != (world.latent_dim, world.action_dim):
        raise ValueError(
            f"start_states must have latent size {world.latent_dim} and action size {world.action_dim}, "
            f"got {came[0]} and {came[1]}"
        )


class StartState(NamedTuple):
    """A step of an encoded real episode."""

    episode: Any
    """Episode with ``mean`` (T + 1, latent) and ``action`` (T, actions)."""
    step: int


@torch.no_grad()
def burn_in_states(world: WorldModel, start_states: Sequence[StartState], burn_in: int = 32) -> WorldState:
    """Return the states at real steps, after the memory has processed up to ``burn_in`` steps before them."""
    weight, count = next(world.memory.parameters()), len(start_states)
    latent, action = torch.zeros(count, burn_in + 1, world.latent_dim), torch.zeros(count, burn_in, world.action_dim)
    valid = torch.zeros(count, burn_in, dtype=torch.bool)
    for row, (episode, step) in enumerate(start_states):
        first = max(step - burn_in, 0)
        past = slice(burn_in - (step - first), None)
        latent[row, past] = torch.from_numpy(np.array(episode.mean[first : step + 1], np.float32))
        action[row, past] = torch.from_numpy(np.array(episode.action[first:step], np.float32))
        valid[row, past] = True
    latent, action = latent.to(weight), action.to(weight)
    memory = world.replay(latent[:, :-1], action, valid.to(weight.device))
    return WorldState(latent[:, -1].contiguous(), memory)


def _random_start_state(world: WorldModel, start_states: EncodedEpisodes, rng: np.random.Generator) -> StartState:
    """Return a random step of a random episode."""
    episode = start_states.episode(int(rng.integers(len(start_states))))
    _validate_episode(world, episode)
    action = episode.action
    if not len(action):
        raise ValueError("start_states must hold episodes with at least one step, got one without")
    return StartState(episode, int(rng.integers(len(action))))  # excludes the last frame, where the episode has ended


class EncodedClip(NamedTuple):
    """A clip of an encoded episode."""

    mean: np.ndarray
    """Latents, (T + 1, latent)."""
    action: np.ndarray
    """Actions, (T, actions)."""


class StartStates:
    """Clips of encoded episodes that are saved with a world model and provide start states.

    Args:
        mean: Latents (S, T + 1, latent), padded after the end of each clip.
        action: Action inputs of the memory (S, T, actions).
        steps: Number of steps of each clip (S,), from 1 to T.

    Raises:
        ValueError: the shapes are inconsistent, or a value is out of range.
    """

    def __init__(self, mean: Tensor, action: Tensor, steps: Tensor) -> None:
        fit = mean.ndim == 3 and action.ndim == 3 and steps.ndim == 1 and len(mean) == len(action) == len(steps) > 0
        if not fit or mean.shape[1] != action.shape[1] + 1:
            raise ValueError(
                "start states must have mean (S, T + 1, latent), action (S, T, actions) and steps (S,), "
                f"got {tuple(mean.shape)}, {tuple(action.shape)} and {tuple(steps.shape)}"
            )
        whole = all(bool(torch.isfinite(part).all()) for part in (mean, action))
        if not (int(steps.min()) >= 1 and int(steps.max()) <= action.shape[1] and whole):
            raise ValueError(f"steps must be from 1 to {action.shape[1]}, and mean and action must be finite")
        self.mean, self.action, self.steps = mean, action, steps

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.steps)

    def episode(self, index: int) -> EncodedClip:
        """Return a clip without its padding."""
        steps = int(self.steps[index])
        return EncodedClip(self.mean[index, : steps + 1].float().numpy(), self.action[index, :steps].float().numpy())

    @classmethod
    def from_episodes(
        cls, episodes: EncodedEpisodes, num: int = 64, max_steps: int = 48, seed: int = 0
    ) -> "StartStates":
        """Cut ``num`` clips of up to ``max_steps`` steps at random steps of encoded episodes.

        Raises:
            ValueError: no episode has a step.
        """
        rng = np.random.default_rng([seed, Stream.KEPT_START_STATES])
        found = [episodes.episode(int(index)) for index in rng.permutation(len(episodes))[: 4 * num]]
        found = [episode for episode in found if len(episode.action)]
        if not found:
            raise ValueError("episodes must hold at least one with a step, got none")
        latent, actions = found[0].mean.shape[1], found[0].action.shape[1]
        mean, action = torch.zeros(num, max_steps + 1, latent), torch.zeros(num, max_steps, actions)
        steps = torch.zeros(num, dtype=torch.int32)
        for row in range(num):
            episode = found[row % len(found)]
            first = int(rng.integers(max(len(episode.action) - max_steps, 0) + 1))
            taken = min(max_steps, len(episode.action) - first)
            mean[row, : taken + 1] = torch.from_numpy(np.array(episode.mean[first : first + taken + 1], np.float32))
            action[row, :taken] = torch.from_numpy(np.array(episode.action[first : first + taken], np.float32))
            steps[row] = taken
        return cls(mean.half(), action.half(), steps)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``starts.safetensors`` into a world model's folder."""
        write_tensors(
            folder_path(folder, "folder") / FILE_NAME, {"mean": self.mean, "action": self.action, "steps": self.steps}
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "StartStates":
        """Load start states that `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, or has other content.
        """
        path = folder_path(folder, "folder") / FILE_NAME
        tensors = read_tensors(path)
        with error_context(path, wrap_value_errors=True):
            return cls(tensors["mean"], tensors["action"], tensors["steps"])
