"""Combine a VAE and a memory into a world model that steps with real frames (`observe`) or in a dream (`imagine`).

Start reading at `WorldModel.observe` and `WorldModel.imagine`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor, nn

from worldmodel.batches import action_inputs
from worldmodel.distributions import standard_gumbel
from worldmodel.io import migration
from worldmodel.io.files import load_module, read_json, write_json, write_tensors
from worldmodel.io.paths import folder_path
from worldmodel.mdn_rnn import State
from worldmodel.memory import ActionSource, Memory
from worldmodel.registry import build_memory, build_vae
from worldmodel.vae import MERGED_KEY, merge_decoder, split_decoder
from worldmodel.validation import validate_positive_int, validate_temperature
from worldmodel.vector_encoder import Encoder

CHUNK = 256
"""Number of latents that are decoded at once."""
FORMAT = 1


class WorldState(NamedTuple):
    """State of a batch of episodes: the current latent, and the recurrent state after the steps before it."""

    latent: Float[Tensor, "batch latent"]
    memory: State

    @property
    def hidden(self) -> Float[Tensor, "batch hidden"]:
        """Hidden state of the memory's last layer."""
        return self.memory.hidden[:, -1]

    @property
    def controller_inputs(self) -> Float[Tensor, "batch features"]:
        """Inputs of a controller: the latent, then the hidden state."""
        return torch.cat((self.latent, self.hidden), dim=-1)


class Noise(NamedTuple):
    """All random numbers of one imagined step."""

    gumbel: Float[Tensor, "batch *components"]
    """Standard Gumbel numbers; they select the mixture component."""
    normal: Float[Tensor, "batch normals"]
    """Standard Normal numbers; they give the Gaussian noise of the component."""
    uniform: Float[Tensor, "batch"]
    """Uniform numbers in [0, 1). An episode terminates where its number is below the termination probability."""


class Step(NamedTuple):
    """Result of one imagined step."""

    latent: Float[Tensor, "batch latent"]
    """The next latent."""
    reward: Float[Tensor, "batch"]
    """Expected reward; zero without a reward head."""
    terminated: Bool[Tensor, "batch"]
    """Whether the episode terminated; sampled with probability ``termination``."""
    termination: Float[Tensor, "batch"]
    """Probability that this step terminates the episode; zero without a termination head."""
    reward_probs: Float[Tensor, "batch bins"]
    """Probability of each reward in `worldmodel.memory.Memory.support`; no bins without a reward head."""


class WorldModel(nn.Module):
    """A `VAE` (or a `VectorEncoder`) and a `Memory` for one type of action space.

    Args:
        vae: Model that encodes frames to latents, or vectors of numbers with a `VectorEncoder`.
        memory: Model that predicts the next latent, reward and termination.
        store: Rollouts (`rollouts.Store`) that define the action space. None: ``discrete`` defines it.
        discrete: Whether actions are one-hot choices; otherwise they are numbers in [-1, 1] (a Box). None: as in ``store``,
            or a Box without a store.
        nvec: Number of options of each choice of a Box that holds choices: a one-hot block each, 0 or 1 for two options. Empty:
            as in ``store``, or a Box of numbers without a store.

    Raises:
        ValueError: ``vae`` and ``memory`` have different latent sizes, or the action space differs from the store's.
        TypeError: ``store`` is a boolean.

    Example:
        >>> from worldmodel import FRMDN, VAE
        >>> world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32)))
        >>> memory = world.observe(world.initial(4), latent=torch.zeros(4, 32), action=torch.zeros(4, 3))
        >>> state = WorldState(torch.zeros(4, 32), memory)
        >>> step, state = world.imagine(state, torch.zeros(4, 3), temperature=1.0)
        >>> step.latent.shape
        torch.Size([4, 32])
    """

    def __init__(
        self,
        vae: Encoder,
        memory: Memory,
        store: ActionSource | None = None,
        *,
        discrete: bool | None = None,
        nvec: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if isinstance(store, bool):
            raise TypeError(f"store must be rollouts, got {store}; use discrete={store} to set the action space")
        if vae.latent_dim != memory.latent_dim:
            raise ValueError(f"memory must have the VAE's latent_dim {vae.latent_dim}, got {memory.latent_dim}")
        if store is not None and store.action_dim != memory.action_dim:
            raise ValueError(f"memory must have the store's action_dim {store.action_dim}, got {memory.action_dim}")
        if store is not None and discrete not in (None, store.discrete):
            raise ValueError(f"discrete must be {store.discrete} as in the store, got {discrete}")
        self.vae, self.memory = vae, memory
        self.discrete = bool(discrete if store is None else store.discrete)
        self.nvec = tuple(nvec or getattr(store, "nvec", ()))
        """Number of options of each choice of an action; empty without choices."""
        if self.nvec and (self.discrete or sum(self._widths) != memory.action_dim):
            raise ValueError(f"nvec must describe a Box of {memory.action_dim} numbers, got {self.nvec}")

    @property
    def _widths(self) -> list[int]:
        return [1 if options == 2 else options for options in self.nvec]

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions."""
        return self.vae.latent_dim

    @property
    def action_dim(self) -> int:
        """Size of a Box action, or number of discrete choices."""
        return self.memory.action_dim

    @property
    def hidden_size(self) -> int:
        """Size of the memory's hidden state."""
        return self.memory.hidden_size

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation: (64, 64, 3) for uint8 frames, (n,) for float32 vectors."""
        return self.vae.observation_shape

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def num_features(self) -> int:
        """Number of controller inputs: ``latent_dim + hidden_size``."""
        return self.latent_dim + self.hidden_size

    def __repr__(self) -> str:
        """Return the constructor call."""
        nvec = f", nvec={self.nvec}" if self.nvec else ""
        return f"WorldModel({self.vae!r}, {self.memory!r}, discrete={self.discrete}{nvec})"

    def initial(self, batch: int) -> State:
        """Return the recurrent state before the first step of ``batch`` episodes."""
        validate_positive_int(batch=batch)
        return self.memory.initial(batch)

    def encode(
        self, observations: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch observation"]
    ) -> Float[Tensor, "batch latent"]:
        """Return the mean of q(z|x) for observations, on the device of this model.

        Raises:
            ValueError: the observations are frames and the model encodes vectors, or the reverse, or of another size.
        """
        if (shape := tuple(observations.shape[1:])) != self.observation_shape:
            kind, frames = ("vector", False) if len(self.observation_shape) == 1 else ("pixels", len(shape) == 3)
            hint = (
                f": make the environment with observation={kind!r}" if len(shape) != len(self.observation_shape) else ""
            )
            if frames and shape[0] != self.observation_shape[0]:
                hint = f": make the environment with frame_size={self.observation_shape[0]}"
            raise ValueError(f"the world model observes {kind} {self.observation_shape}, got {shape}{hint}")
        return self.vae.encode(self.vae.to_inputs(observations)).loc

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "*batch latent"]
    ) -> UInt8[np.ndarray, "*batch height width channels"] | Float[np.ndarray, "*batch observation"]:
        """Decode latents to observations: uint8 frames, or float32 vectors."""
        return _in_chunks(lambda part: self.vae.to_observations(self.vae.decode(part)), latents)

    @torch.no_grad()
    def draw(self, latents: Float[Tensor, "*batch latent"]) -> UInt8[np.ndarray, "*batch height width 3"]:
        """Draw latents for people: as frames, or the numbers of a vector as bars (`VectorEncoder.draw`)."""
        return _in_chunks(self.vae.draw, latents)

    def draw_observations(self, observations: np.ndarray) -> UInt8[np.ndarray, "batch height width 3"]:
        """Draw observations for people: the newest image of frames, vectors as bars."""
        return (
            observations[..., -3:] if observations.ndim == 4 else self.draw(self.encode(torch.from_numpy(observations)))
        )

    def squash(self, outputs: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """Map controller outputs to action inputs of the memory: tanh for a Box, one-hot argmax for discrete actions.

        Of choices (``nvec``), each block is one-hot; a choice of two is 1 where its output is positive, else 0.
        """
        if self.nvec:
            blocks = zip(self.nvec, outputs.split(self._widths, dim=-1), strict=True)
            return torch.cat([(one > 0).to(one) if options == 2 else _one_hot(one) for options, one in blocks], dim=-1)
        return _one_hot(outputs) if self.discrete else outputs.tanh()

    def action_inputs(self, actions: np.ndarray) -> Float[Tensor, "*batch actions"]:
        """Map environment actions to action inputs on the device of this model: clipped to [-1, 1], or one-hot."""
        inputs = action_inputs(np.asarray(actions), self.action_dim, self.discrete)
        numbers = torch.from_numpy(inputs).to(next(self.parameters()))
        return self.squash(numbers) if self.nvec else numbers.clamp(-1, 1)

    def observe(
        self, state: State | WorldState, latent: Float[Tensor, "batch latent"], action: Float[Tensor, "batch actions"]
    ) -> State:
        """Advance the memory by one real step: the environment showed ``latent`` and the agent took ``action``.

        Returns:
            The recurrent state after the step. With the latent that the environment shows next it is a `WorldState`.
        """
        memory = _recurrent(state)
        self._validate(latent, self.latent_dim, "latent", memory)
        self._validate(action, self.action_dim, "action", memory)
        return self.memory.unroll(latent[:, None], action[:, None], memory)[1]

    def replay(
        self,
        latent: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time actions"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> State:
        """Return the recurrent state after real steps from the start of an episode; it applies `observe` to each step.

        Args:
            latent: Latents of the steps, (batch, time, latent).
            action: Actions of the steps, (batch, time, actions).
            mask: Whether a step is valid, (batch, time); the state does not change at other steps. None: all are valid.
        """
        state = self.initial(len(latent))
        for time in range(latent.shape[1]):
            after = self.observe(state, latent[:, time], action[:, time])
            if mask is not None:
                valid = mask[:, time, None, None]
                after = type(after)(*(torch.where(valid, new, old) for new, old in zip(after, state, strict=True)))
            state = after
        return state

    def imagine(
        self,
        state: State | WorldState,
        action: Float[Tensor, "batch actions"],
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
    ) -> tuple[Step, WorldState]:
        """Take ``action`` in the dream and sample the next step.

        Args:
            state: State of the dream. For a recurrent state, as `observe` returns it, the current latent is sampled first.
            action: Actions in the form that `squash` returns, (batch, actions).
            temperature: Sampling temperature, above zero. 1 samples the predicted distribution; near 0 it approaches its mode.
            generator: Source of all random numbers. None: torch's default generator.

        Returns:
            The imagined step, and the state after it.

        Raises:
            ValueError: a temperature or the shape of ``action`` is invalid.
        """
        validate_temperature(temperature)
        if not isinstance(state, WorldState):
            density = self.memory.density
            distribution = density.distribution(density.features(state))
            state = WorldState(distribution.sample((), temperature, generator), state)
        return self.imagine_from(state, action, self.noise(len(state.hidden), generator), temperature)

    def noise(self, batch: int, generator: Generator | None = None) -> Noise:
        """Sample the random numbers of one step of ``batch`` dreams."""
        gumbel, normal = self.memory.density.noise_shapes
        like = next(self.memory.parameters())
        return Noise(
            standard_gumbel(like, (batch, *gumbel), generator),
            like.new_empty(batch, *normal).normal_(generator=generator),
            like.new_empty(batch).uniform_(generator=generator),
        )

    def imagine_from(
        self,
        state: WorldState,
        action: Float[Tensor, "batch actions"],
        noise: Noise,
        temperature: float | Tensor = 1.0,
    ) -> tuple[Step, WorldState]:
        """Compute the step that `imagine` returns for given random numbers ``noise``.

        Raises:
            ValueError: ``action`` has the wrong shape.
        """
        self._validate(action, self.action_dim, "action", state.memory)
        hidden, memory = self.memory.unroll(state.latent[:, None], action[:, None], state.memory)
        prediction = self.memory.predict(hidden[:, -1])
        following = prediction.latent.rsample_from_noise(noise.gumbel, noise.normal, temperature)
        reward, reward_probs = following.new_zeros(len(following)), following.new_zeros(len(following), 0)
        if prediction.reward_logits is not None:
            reward_probs = prediction.reward_logits.softmax(dim=-1)
            reward = reward_probs @ self.memory.support
        termination = following.new_zeros(len(following))
        if prediction.termination_logit is not None:
            termination = prediction.termination_logit.sigmoid()
        step = Step(following, reward, noise.uniform < termination, termination, reward_probs)
        return step, WorldState(following, memory)

    def save(self, folder: str | os.PathLike[str], compact: bool = False) -> None:
        """Write ``vae.safetensors``, ``memory.safetensors`` and ``config.json`` into ``folder``.

        Args:
            folder: Path of the folder; it is created if needed.
            compact: Whether to write half precision and merge the decoder's first two layers
                (`worldmodel.vae.merge_decoder`). The files are a tenth of the size; the function is nearly the same.
        """
        folder = folder_path(folder, "folder")
        (folder / "config.json").unlink(missing_ok=True)  # written last: its presence marks a complete folder
        vae, memory = self.vae.state_dict(), self.memory.state_dict()
        if compact:
            memory = {name: part.half() for name, part in memory.items()}
            if len(self.observation_shape) > 1:  # means and scales of vectors may be beyond half precision
                vae = {name: part.half() for name, part in merge_decoder(vae).items()}
        write_tensors(folder / "vae.safetensors", vae)
        write_tensors(folder / "memory.safetensors", memory)
        config = {"format": FORMAT, "discrete": self.discrete, "vae": self.vae.config, "memory": self.memory.config}
        config |= {"nvec": list(self.nvec)} if self.nvec else {}
        write_json(folder / "config.json", config)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "WorldModel":
        """Load a world model that `save` wrote. No code in the files is executed.

        Raises:
            ValueError: a file is missing, truncated, in another format, or of another model; the message names the file.
        """
        folder = folder_path(folder, "folder")
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a world model folder: the folder does not exist")
        path = folder / "config.json"
        config = read_json(path)
        try:
            if config["format"] != FORMAT:
                raise ValueError(f"format {config['format']} is not {FORMAT}")
            config = migration.world_model(config)
            actions: dict[str, Any] = {
                "discrete": bool(config["discrete"]),
                "nvec": [*map(int, config.get("nvec", ()))],
            }
            with torch.device("meta"):  # compare the parts before reading any weights
                cls(build_vae(config["vae"]), build_memory(config["memory"]), **actions)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            words = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} does not describe a world model: {words}") from None
        vae = load_module(lambda: build_vae(config["vae"]), folder / "vae.safetensors", _split_if_merged)
        memory = load_module(lambda: build_memory(config["memory"]), folder / "memory.safetensors")
        return cls(vae, memory, **actions)

    def _validate(self, value: Tensor, size: int, name: str, memory: State) -> None:
        batch = len(memory.hidden)
        if value.shape != (batch, size):
            raise ValueError(f"{name} must have shape ({batch}, {size}), got {tuple(value.shape)}")


def _one_hot(outputs: Float[Tensor, "*batch choices"]) -> Float[Tensor, "*batch choices"]:
    """One-hot argmax."""
    return torch.zeros_like(outputs).scatter_(-1, outputs.argmax(dim=-1, keepdim=True), 1.0)


def _in_chunks(function: Callable[[Tensor], Tensor], latents: Float[Tensor, "*batch latent"]) -> np.ndarray:
    """Apply a function to `CHUNK` latents at a time."""
    results = torch.cat([function(part).cpu() for part in latents.reshape(-1, latents.shape[-1]).split(CHUNK)])
    return results.numpy().reshape(*latents.shape[:-1], *results.shape[1:])


def _recurrent(state: State | WorldState) -> State:
    return state.memory if isinstance(state, WorldState) else state


def _split_if_merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return split_decoder(state) if MERGED_KEY in state else state
