"""The world model: an eye and a memory that live one step at a time, awake (`observe`) or dreaming (`imagine`)."""

import os
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor, nn

from worldmodel.batches import action_inputs, frames_to_float, frames_to_uint8
from worldmodel.distributions import standard_gumbel
from worldmodel.io import load_module, read_json, write_json, write_tensors
from worldmodel.mdn_rnn import State
from worldmodel.memory import ActionSource, Memory
from worldmodel.paths import folder_path
from worldmodel.registry import build_memory, build_vae
from worldmodel.vae import MERGED_KEY, VAE, merge_decoder, split_decoder
from worldmodel.validation import validate_positive_int, validate_temperature

FORMAT = 1


class WorldState(NamedTuple):
    """Where a life stands: the latent in view, and the memory of everything before it."""

    latent: Float[Tensor, "batch latent"] | None
    """The latent now in view; None when it was not seen yet, so that `WorldModel.imagine` draws it first."""
    memory: State

    @property
    def hidden(self) -> Float[Tensor, "batch hidden"]:
        """The memory's last hidden state: what a controller sees beside the latent."""
        return self.memory.hidden[:, -1]

    @property
    def controller_inputs(self) -> Float[Tensor, "batch features"]:
        """What a controller sees: the latent in view, then the hidden state."""
        assert self.latent is not None, "nothing is in view yet"
        return torch.cat((self.latent, self.hidden), dim=-1)

    def with_latent(self, latent: Float[Tensor, "batch latent"]) -> "WorldState":
        """The same memory, with ``latent`` in view."""
        return self._replace(latent=latent)


class Noise(NamedTuple):
    """All randomness of an imagined step."""

    gumbel: Float[Tensor, "batch *mixtures"]
    """Standard Gumbel numbers, which choose the mixture's component."""
    normal: Float[Tensor, "batch normals"]
    """Standard Normal numbers."""
    uniform: Float[Tensor, "batch"]
    """Numbers in [0, 1): the episode ends where one is below the probability."""


class Step(NamedTuple):
    """One imagined step."""

    latent: Float[Tensor, "batch latent"]
    """The latent that comes into view."""
    reward: Float[Tensor, "batch"]
    """The expected reward (zero for a memory without a reward head)."""
    terminated: Bool[Tensor, "batch"]
    """Whether the episode ended, drawn with the probability below."""
    termination: Float[Tensor, "batch"]
    """The probability that the episode ended with this step (zero without a termination head)."""


class WorldModel(nn.Module):
    """An eye (`VAE`) and a memory (`Memory`) made for one kind of action.

    Args:
        vae: compresses frames to latents.
        memory: predicts the next latent, reward and termination.
        store: the rollouts; their kind of actions is taken (`rollouts.Store`).
        discrete: False: actions are numbers in [-1, 1] (a Box); True: one-hot choices. None: as in ``store``, or a Box.

    Raises:
        ValueError: the parts do not fit together, or were not made for the store's actions.

    Example:
        >>> from worldmodel import FRMDN
        >>> world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32)))
        >>> state = world.initial(4)
        >>> state = world.observe(state, torch.zeros(4, 32), torch.zeros(4, 3))
        >>> step, state = world.imagine(state, torch.zeros(4, 3), temperature=1.0)
        >>> step.latent.shape
        torch.Size([4, 32])
    """

    def __init__(
        self, vae: VAE, memory: Memory, store: ActionSource | None = None, *, discrete: bool | None = None
    ) -> None:
        super().__init__()
        if isinstance(store, bool):
            raise TypeError(f"store must be rollouts, got {store}: discrete={store} says the kind of actions")
        if vae.latent_dim != memory.latent_dim:
            raise ValueError(
                f"memory must predict the VAE's {vae.latent_dim} latents, got one that predicts {memory.latent_dim}"
            )
        if store is not None and store.action_dim != memory.action_dim:
            raise ValueError(
                f"memory must take the store's {store.action_dim} actions, got one that takes {memory.action_dim}"
            )
        if store is not None and discrete not in (None, store.discrete):
            raise ValueError(f"discrete must be {store.discrete} as in the store, got {discrete}")
        self.vae, self.memory = vae, memory
        self.discrete = bool(discrete if store is None else store.discrete)

    @property
    def latent_dim(self) -> int:
        """Latent dimensions."""
        return self.vae.latent_dim

    @property
    def action_dim(self) -> int:
        """Action numbers: the size of a Box action, or the number of discrete choices."""
        return self.memory.action_dim

    @property
    def hidden_size(self) -> int:
        """Size of the memory's hidden state."""
        return self.memory.hidden_size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def num_features(self) -> int:
        """How many numbers a controller sees: latent and hidden."""
        return self.latent_dim + self.hidden_size

    def __repr__(self) -> str:
        """The call that builds it."""
        return f"WorldModel({self.vae!r}, {self.memory!r}, discrete={self.discrete})"

    def initial(self, batch: int) -> WorldState:
        """The state before anything was seen, for ``batch`` lives."""
        validate_positive_int(batch=batch)
        return WorldState(None, self.memory.initial(batch))

    def encode(self, frames: UInt8[Tensor, "batch 64 64 3"]) -> Float[Tensor, "batch latent"]:
        """What a controller sees of frames of bytes: the mean of q(z|x), on this model's device."""
        return self.vae.encode(frames_to_float(frames.to(self.device))).loc

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "*batch latent"], chunk: int = 256) -> UInt8[np.ndarray, "*batch 64 64 3"]:
        """The inverse of `encode`: latents as frames of bytes, decoded ``chunk`` at a time."""
        flat = latents.reshape(-1, latents.shape[-1])
        frames = [frames_to_uint8(self.vae.decode(part)).cpu() for part in flat.split(chunk)]
        return torch.cat(frames).numpy().reshape(*latents.shape[:-1], 64, 64, 3)

    def squash(self, outputs: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """A controller's outputs as the memory's action input: tanh for a Box, the one-hot argmax for discrete actions."""
        if not self.discrete:
            return outputs.tanh()
        return torch.zeros_like(outputs).scatter_(-1, outputs.argmax(dim=-1, keepdim=True), 1.0)

    def action_inputs(self, actions: np.ndarray) -> Float[Tensor, "*batch actions"]:
        """Actions of an environment as the memory's inputs: clipped to [-1, 1], or one-hot; on this model's device."""
        inputs = action_inputs(np.asarray(actions), self.action_dim, self.discrete)
        return torch.from_numpy(inputs).to(next(self.parameters())).clamp(-1, 1)

    def observe(
        self, state: WorldState, latent: Float[Tensor, "batch latent"], action: Float[Tensor, "batch actions"]
    ) -> WorldState:
        """Step with what really happened: ``latent`` was in view and ``action`` was taken.

        The returned state has no latent in view; give it the next one with the next `observe`, with
        `WorldState.with_latent`, or let `imagine` draw it.
        """
        self._check(latent, self.latent_dim, "latent", state)
        self._check(action, self.action_dim, "action", state)
        _, memory = self.memory.unroll(latent[:, None], action[:, None], state.memory)
        return WorldState(None, memory)

    def replay(
        self,
        latent: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time actions"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> WorldState:
        """The state after steps that really happened, from the beginning of a life: `observe`, step by step.

        Args:
            latent: what was in view.
            action: what was done.
            mask: which steps there were; None: all. Before its first one a life has not begun.
        """
        state = self.initial(len(latent))
        for time in range(latent.shape[1]):
            after = self.observe(state, latent[:, time], action[:, time]).memory
            if mask is not None:
                happened = mask[:, time, None, None]
                after = type(after)(
                    *(torch.where(happened, new, old) for new, old in zip(after, state.memory, strict=True))
                )
            state = WorldState(None, after)
        return state

    def imagine(
        self,
        state: WorldState,
        action: Float[Tensor, "batch actions"],
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        noise_temperature: float | Tensor | None = None,
    ) -> tuple[Step, WorldState]:
        """Take ``action`` in the dream and draw what follows.

        Args:
            state: where the dream stands.
            action: (batch, actions), as `squash` makes them.
            temperature: above zero; 1 is the model's own uncertainty, towards 0 the most likely future.
            generator: the source of all randomness.
            noise_temperature: another temperature for the Gaussian noise; None: the same.
        """
        validate_temperature(temperature)
        if noise_temperature is not None:
            validate_temperature(noise_temperature)
        if state.latent is None:
            unseen = self.memory.density.distribution(state.hidden)
            state = state.with_latent(unseen.sample((), temperature, generator, noise_temperature))
        return self.imagine_from(
            state, action, self.noise(len(state.hidden), generator), temperature, noise_temperature
        )

    def noise(self, batch: int, generator: Generator | None = None) -> Noise:
        """Draw the randomness of a step of ``batch`` dreams."""
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
        noise_temperature: float | Tensor | None = None,
    ) -> tuple[Step, WorldState]:
        """The step that ``noise`` stands for: `imagine` without its randomness. A latent must be in view."""
        self._check(action, self.action_dim, "action", state)
        if state.latent is None:
            raise ValueError("state must have a latent in view, got one without: see WorldState.with_latent")
        hidden, memory = self.memory.unroll(state.latent[:, None], action[:, None], state.memory)
        prediction = self.memory.predict(hidden[:, -1])
        following = prediction.latent.rsample_from_noise(noise.gumbel, noise.normal, temperature, noise_temperature)
        reward = following.new_zeros(len(following))
        if prediction.reward_logits is not None:
            reward = self.memory.expected_reward(prediction.reward_logits)
        termination = following.new_zeros(len(following))
        if prediction.termination_logit is not None:
            termination = prediction.termination_logit.sigmoid()
        step = Step(following, reward, noise.uniform < termination, termination)
        return step, WorldState(following, memory)

    def save(self, folder: str | os.PathLike[str], compact: bool = False) -> None:
        """Write ``vae.safetensors``, ``memory.safetensors`` and ``config.json`` into ``folder``.

        Args:
            folder: where; made if it is not there.
            compact: whether to write half precision, and the decoder's first layers as one (`worldmodel.vae.merge_decoder`): a
                tenth of the size, and nearly the same function.
        """
        folder = folder_path(folder, "folder")
        (folder / "config.json").unlink(missing_ok=True)  # a folder with a config is whole: it comes back last
        vae, memory = self.vae.state_dict(), self.memory.state_dict()
        if compact:
            vae, memory = (
                {name: part.half() for name, part in state.items()} for state in (merge_decoder(vae), memory)
            )
        write_tensors(folder / "vae.safetensors", vae)
        write_tensors(folder / "memory.safetensors", memory)
        config = {"format": FORMAT, "discrete": self.discrete, "vae": self.vae.config, "memory": self.memory.config}
        write_json(folder / "config.json", config)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "WorldModel":
        """Read what `save` wrote. Nothing in the files is executed.

        Raises:
            ValueError: a file is missing, truncated, foreign, or belongs to another model; the message names it.
        """
        folder = folder_path(folder, "folder")
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a world model folder: there is no such folder")
        path = folder / "config.json"
        config = read_json(path)
        try:
            if config["format"] != FORMAT:
                raise ValueError(f"format {config['format']} is not {FORMAT}")
            with torch.device("meta"):  # that the parts fit together is told before the weights are looked at
                cls(build_vae(config["vae"]), build_memory(config["memory"]), discrete=bool(config["discrete"]))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            words = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} does not describe a world model: {words}") from None
        vae = load_module(lambda: build_vae(config["vae"]), folder / "vae.safetensors", _split_if_merged)
        memory = load_module(lambda: build_memory(config["memory"]), folder / "memory.safetensors")
        return cls(vae, memory, discrete=bool(config["discrete"]))

    def _check(self, value: Tensor, size: int, name: str, state: WorldState) -> None:
        batch = len(state.memory.hidden)
        if value.shape != (batch, size):
            raise ValueError(f"{name} must have shape ({batch}, {size}), got {tuple(value.shape)}")


def _split_if_merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return split_decoder(state) if MERGED_KEY in state else state
