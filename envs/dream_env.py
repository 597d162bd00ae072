"""Dreams as Gymnasium environments, with the world model as the simulator.

Start reading at `DreamEnv`; `DreamVectorEnv` computes several dreams as one batch.
"""

import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldmodel.batches import tree_map
from worldmodel.envs.choices import ChoiceSpace
from worldmodel.envs.wrappers import StandardEnv
from worldmodel.imagination import NoiseStreams, imagine
from worldmodel.io.paths import folder_path
from worldmodel.start_states import EncodedEpisodes, StartStates, sample_start_states
from worldmodel.validation import validate_positive_int, validate_temperature
from worldmodel.world_model import WorldModel, WorldState


class DreamEnv(StandardEnv, gymnasium.Env[np.ndarray, Any]):
    """An environment of one dream at a time.

    Args:
        world: World model, or the path of a folder with one (a run, its ``world`` or its ``agent``).
        start_states: ``store.latents(vae)``, or a tensor (S, latent) of first latents. None: the folder's start states.
        temperature: Sampling temperature above zero; 1 is the model's own uncertainty.
        horizon: Number of steps after which a dream is truncated.
        burn_in: Number of real steps that the memory replays before a dream (where ``start_states`` has them).
        observation: None: what the world model decodes ("pixels", 64x64x3 frames, or "vector"). "latent": latent and hidden
            state, a controller's inputs.
        render_mode: "rgb_array", "human" (a window) or None.

    Raises:
        ValueError: An argument is out of range, or the start states do not fit the world model.

    Example:
        >>> from worldmodel import FRMDN, VAE, Memory
        >>> world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32)))
        >>> env = DreamEnv(world, start_states=torch.zeros(4, 32))
        >>> env.reset(seed=1)[0].shape
        (64, 64, 3)
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 50}

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        start_states: EncodedEpisodes | Tensor | None = None,
        temperature: float = 1.0,
        horizon: int = 1000,
        burn_in: int = 32,
        observation: str | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'rgb_array', 'human' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._window: _Window | None = None
        self._dream = _DreamBatch(world, start_states, 1, temperature, horizon, burn_in, observation)
        self.observation_space, self.action_space = self._dream.observation_space, self._dream.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a dream at a random start state."""
        super().reset(seed=seed)
        self._dream.reset([self.np_random])
        self._render_human()
        return self._dream.observe()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Imagine one step.

        The last value has ``termination_probability`` and ``reward_probs``, the probability of each reward in
        ``world.memory.support``; no probabilities without a reward head.
        """
        if not self._dream.has_started:
            raise gymnasium.error.ResetNeeded("call reset before step")
        rewards, terminated, truncated, info = self._dream.step(np.asarray(action)[None])
        self._render_human()
        values = float(rewards[0]), bool(terminated[0]), bool(truncated[0])
        return self._dream.observe()[0], *values, {name: value[0] for name, value in info.items()}

    def render(self) -> np.ndarray | None:
        """Return the current frame (64, 64, 3) uint8, or show it in a window."""
        if self.render_mode == "rgb_array":
            return self._dream.render_frames()[0]
        self._render_human()
        return None

    def _render_human(self) -> None:
        if self.render_mode == "human":
            self._window = self._window or _Window(self.metadata["render_fps"])
            self._window.show(self._dream.render_frames()[0])

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None


class _Window:
    """A window that shows enlarged frames, at most ``fps`` per second."""

    def __init__(self, fps: int, size: int = 512) -> None:
        import pygame

        pygame.display.init()
        self.pygame, self.fps, self.size = pygame, fps, (size, size)
        self.surface = pygame.display.set_mode(self.size)
        pygame.display.set_caption("a dream")
        self.clock = pygame.time.Clock()

    def show(self, frame: np.ndarray) -> None:
        surface = self.pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self.surface.blit(self.pygame.transform.scale(surface, self.size), (0, 0))
        self.pygame.event.pump()
        self.pygame.display.flip()
        self.clock.tick(self.fps)

    def close(self) -> None:
        self.pygame.display.quit()


class DreamVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """Several dreams as one batch.

    Dream i with seed s + i takes the same steps as a `DreamEnv` with that seed, up to rounding.

    Args:
        world: World model, or the path of a folder with one; its device computes the dreams.
        start_states: ``store.latents(vae)``, or a tensor (S, latent) of first latents. None: the folder's start states.
        num_envs: Number of dreams.
        temperature: Sampling temperature above zero.
        horizon: Number of steps after which a dream is truncated.
        burn_in: Number of real steps that the memory replays before a dream.
        observation: None, "pixels" or "vector": what the world model decodes. "latent": a controller's inputs.
        render_mode: "rgb_array" or None.
        autoreset_mode: When a dream that ended starts anew: in the next step, in the same step (its last observation and
            info are ``info["final_obs"]`` and ``info["final_info"]``), or only by ``reset`` with
            ``options={"reset_mask": mask}`` (disabled).

    Raises:
        ValueError: An argument is out of range, or the start states do not fit the world model.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        start_states: EncodedEpisodes | Tensor | None = None,
        num_envs: int = 16,
        temperature: float = 1.0,
        horizon: int = 1000,
        burn_in: int = 32,
        observation: str | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        validate_positive_int(num_envs=num_envs)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._dream = _DreamBatch(world, start_states, num_envs, temperature, horizon, burn_in, observation)
        self.single_observation_space = self._dream.observation_space
        self.single_action_space = self._dream.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, bool)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start dreams at random start states.

        Args:
            seed: Seeds of the dreams; a number s: s + i for dream i. None: a dream goes on with its generator.
            options: ``reset_mask``, a boolean array of the dreams that start anew. Without it all do.

        Raises:
            ValueError: The number of seeds or the mask is invalid.
        """
        if seed is None or isinstance(seed, int | np.integer):
            seeds: list[int | None] = [None if seed is None else int(seed) + number for number in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must have {self.num_envs} numbers, got {len(seeds)}")
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (self.num_envs,) and mask.any()):
            raise ValueError(f"reset_mask must be a boolean array ({self.num_envs},) with a true value, got {mask!r}")
        if not (mask.all() or self._dream.has_started):
            raise gymnasium.error.ResetNeeded("call reset without a mask first")
        for number in np.flatnonzero(mask):
            if (one := seeds[number]) is not None:
                self._rngs[number] = np_random(one)[0]
        self._start(mask)
        return self._dream.observe(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine one step of each dream; the last value is that of `DreamEnv.step` with one row for each dream."""
        if not self._dream.has_started:
            raise gymnasium.error.ResetNeeded("call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise gymnasium.error.ResetNeeded("dreams have ended: call reset with reset_mask")
        restarted = self._ended
        rewards, terminated, truncated, values = self._dream.step(np.asarray(actions))
        if restarted.any():  # only in the mode of the next step
            self._start(restarted)
            rewards[restarted], terminated[restarted], truncated[restarted] = 0.0, False, False
        self._ended = terminated | truncated
        info: dict[str, Any] = {}
        for name, value in values.items():
            info |= {name: value, f"_{name}": ~restarted}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and (ended := self._ended.copy()).any():
            info |= {
                "final_obs": self._dream.observe(),
                "_final_obs": ended,
                "final_info": dict(info),
                "_final_info": ended,
            }
            self._start(ended)
        return self._dream.observe(), rewards, terminated, truncated, info

    def _start(self, mask: np.ndarray) -> None:
        self._dream.reset([rng for rng, chosen in zip(self._rngs, mask, strict=True) if chosen], mask)
        self._ended = self._ended & ~mask

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return the current frames, ``num_envs`` arrays (64, 64, 3) uint8."""
        return tuple(self._dream.render_frames()) if self.render_mode == "rgb_array" else None


def _load_world(
    world: WorldModel | str | os.PathLike[str], start_states: EncodedEpisodes | Tensor | None
) -> tuple[WorldModel, EncodedEpisodes | Tensor]:
    """Load a world model from a folder, and its start states if none are given."""
    if isinstance(world, WorldModel):
        if start_states is None:
            raise ValueError("start_states must be given with a world model; only a folder has its own")
        return world, start_states
    folder = folder_path(world, "world")
    candidates = [folder, folder / "world", folder / "agent"]
    folder = next((candidate for candidate in candidates if (candidate / "config.json").exists()), folder)
    return WorldModel.load(folder), StartStates.load(folder) if start_states is None else start_states


def action_space(world: WorldModel) -> spaces.Discrete | spaces.Box:
    """Return the action space of the environments of a world model."""
    if world.nvec:
        return ChoiceSpace(world.nvec)
    return spaces.Discrete(world.action_dim) if world.discrete else spaces.Box(-1, 1, (world.action_dim,), np.float32)


class _DreamBatch:
    """A batch of ``num_dreams`` dreams."""

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        start_states: EncodedEpisodes | Tensor | None,
        num_dreams: int,
        temperature: float,
        horizon: int,
        burn_in: int,
        observation: str | None,
    ) -> None:
        validate_temperature(temperature)
        validate_positive_int(horizon=horizon)
        world, start_states = _load_world(world, start_states)
        decoded = "pixels" if len(world.observation_shape) > 1 else "vector"
        if observation not in (None, decoded, "latent"):
            raise ValueError(f"observation of this world model must be {decoded} or latent, got {observation!r}")
        self.world, self.start_states, self.num_dreams = world.eval(), start_states, num_dreams
        self.temperature, self.horizon, self.burn_in, self.kind = temperature, horizon, burn_in, observation or decoded
        sample_start_states(world, start_states, 1, np.random.default_rng(0), burn_in)  # raises now if they do not fit
        size = world.num_features if observation == "latent" else world.observation_shape[0]
        vector_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        frames = spaces.Box(0, 255, world.observation_shape, np.uint8)
        self.observation_space: spaces.Box = frames if self.kind == "pixels" else vector_space
        self.action_space = action_space(world)
        self.elapsed_steps = np.zeros(num_dreams, np.int64)
        self.noise = NoiseStreams(world, [np.random.default_rng(0)] * num_dreams)
        self._state: WorldState | None = None

    @property
    def has_started(self) -> bool:
        """Whether `reset` was called."""
        return self._state is not None

    @property
    def state(self) -> WorldState:
        """Current state of the dreams."""
        assert self._state is not None
        return self._state

    def reset(self, rngs: Sequence[np.random.Generator], mask: np.ndarray | None = None) -> None:
        """Start the dreams of ``mask`` anew (None: all); their generators determine all randomness."""
        fresh = sample_start_states(self.world, self.start_states, len(rngs), rngs, self.burn_in)
        dreams = np.arange(self.num_dreams) if mask is None else np.flatnonzero(mask)
        for dream, rng in zip(dreams.tolist(), rngs, strict=True):
            self.noise.restart(dream, np.random.default_rng(int(rng.integers(2**62))))
        self.elapsed_steps[dreams] = 0
        if len(dreams) == self.num_dreams:
            self._state = fresh
            return
        rows = torch.from_numpy(dreams)
        self._state = tree_map(self.state, torch.clone)
        self.state.latent[rows] = fresh.latent
        for tensor, new in zip(self.state.memory, fresh.memory, strict=True):
            tensor[rows] = new

    @torch.no_grad()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Imagine one step of every dream; return rewards, terminated, truncated, and the predicted distributions."""
        inputs = self.world.action_inputs(actions)
        _, step, self._state, _ = next(imagine(self.world, self.state, lambda _: inputs, self.noise, self.temperature))
        self.elapsed_steps += 1
        terminated = step.terminated.cpu().numpy()
        info = {
            "termination_probability": step.termination.cpu().numpy(),
            "reward_probs": step.reward_probs.cpu().numpy(),
        }
        truncated = (self.elapsed_steps >= self.horizon) & ~terminated
        return step.reward.double().cpu().numpy(), terminated, truncated, info

    def observe(self) -> np.ndarray:
        """Return the current observations."""
        if self.kind == "latent":
            return self.state.controller_inputs.float().cpu().numpy()
        return self.world.decode(self.state.latent)

    @torch.no_grad()
    def render_frames(self) -> np.ndarray:
        """Return the current frames, (num_dreams, 64, 64, 3) uint8."""
        return self.world.draw(self.state.latent)
