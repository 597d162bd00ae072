"""Behavior cloning: fit a controller to actions on the frames of stored episodes.

Start reading at `clone_actions`, which fits the stored actions, for example those of a person, and measures the fit on
held-out episodes. `imitate` fits the actions of an agent with another world model: a new VAE and memory give other latents
and hidden states, so the parameters of an old controller have no meaning on them. The fitted controller is the start of a
search.

References:
    Pomerleau, Efficient Training of Artificial Neural Networks for Autonomous Navigation, 1991 (behavior cloning).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldmodel import WorldModel
from worldmodel.agents.agent import Agent
from worldmodel.agents.evolution.whitening import Whitening, controller_inputs, episode_inputs
from worldmodel.envs.dream_env import action_space
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.datasets import split_episodes
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset
from worldmodel.rollouts.store.store import Store
from worldmodel.training.progress import Progress, shows_progress, silent

EPISODES = 256
"""Maximal number of episodes in the fit, evenly spaced over the store."""
ITERATIONS = 60
"""Maximal number of L-BFGS iterations; more of them hardly lower the loss."""
NOISE = 0.1
"""Standard deviation of the initial parameters; hidden units that all start at zero would stay equal."""
WEIGHT_DECAY = 1e-4
"""Weight of the mean squared parameters (on whitened inputs) in the loss; it fixes what the data do not determine."""
VAL_FRACTION = 0.2
"""Fraction of the episodes that `clone_actions` holds out."""


class Clone(NamedTuple):
    """A controller that is fitted to stored actions, with its errors on held-out episodes."""

    controller: Controller
    error: float
    """Mean squared error of Box actions, or fraction of choices that differ from the stored ones."""
    baseline_error: float
    """Likewise of a constant action: the mean action of the training episodes, or the most frequent one."""
    training_episodes: int
    validation_episodes: int
    validation_steps: int
    discrete: bool
    """Whether actions are choices, not numbers."""

    def __str__(self) -> str:
        """Return one line with the errors."""
        if self.discrete:
            values = f"accuracy {1 - self.error:.1%}, of a constant action {1 - self.baseline_error:.1%}"
        else:
            values = f"mean squared error {self.error:.3g}, of a constant action {self.baseline_error:.3g}"
        held_out = f"{self.validation_steps:,} steps of {self.validation_episodes} held-out episodes"
        return f"{values} ({held_out}, {self.training_episodes} for training)"


@shows_progress("clone", "frames")
def clone_actions(
    world: WorldModel, store: Store, controller: Controller, seed: int = 0, progress: Progress | bool = silent
) -> Clone:
    """Fit a controller to the actions of stored episodes, for example those that a person played.

    Args:
        world: the world model of the controller.
        store: episodes; at least two, one of them for validation.
        controller: the kind of controller; its parameters are not used.
        seed: seed of the choice of held-out episodes.
        progress: called while frames are encoded; True: a bar.

    Returns:
        The controller and its errors. The result is deterministic.

    Raises:
        ValueError: the store has another action space or other observations, or fewer than two episodes.
    """
    _validate_actions("store", store, world)
    if not len(store):
        raise ValueError(f"store must have at least one episode, got none in {store.path}")
    training, validation = split_episodes(np.arange(len(store)), VAL_FRACTION, seed)
    latents = store.latents(world.vae, progress=progress)
    inputs, actions = _samples(world, latents, training)
    fitted = _fit(controller, inputs, actions, world)
    inputs, expected = _samples(world, latents, validation)
    discrete = world.discrete or bool(world.nvec)
    constant = _most_frequent(actions) if discrete else actions.mean(dim=0)
    error, baseline = (_error(action, expected, discrete) for action in (world.squash(fitted(inputs)), constant))
    return Clone(fitted, error, baseline, len(training), len(validation), len(expected), discrete)


def _samples(world: WorldModel, latents: EncodedDataset, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return controller inputs (steps, features) and actions (steps, actions) of at most `EPISODES` episodes."""
    chosen = [latents.episode(int(index)) for index in episodes[:: max(1, -(-len(episodes) // EPISODES))]]
    inputs = torch.cat([episode_inputs(world, episode)[:-1] for episode in chosen])
    return inputs, torch.from_numpy(np.concatenate([episode.action for episode in chosen]))


def _most_frequent(actions: Tensor) -> Tensor:
    """Return the most frequent row of actions (steps, actions)."""
    rows, counts = actions.unique(dim=0, return_counts=True)
    return rows[counts.argmax()]


def _error(actions: Tensor, expected: Tensor, discrete: bool) -> float:
    """Return the fraction of different choices, or the mean squared error."""
    if discrete:
        return float((actions != expected).any(dim=-1).double().mean())
    return float((actions - expected).double().square().mean())


@shows_progress("imitate", "frames")
def imitate(
    agent: Agent, world: WorldModel, store: Store, controller: Controller, progress: Progress | bool = silent
) -> Controller:
    """Fit a controller for ``world`` to the actions of an agent on the frames of a store.

    The loss is the mean squared error of Box actions, or the cross entropy of discrete ones (of
    choices, that of each number).

    Args:
        agent: the agent that is copied.
        world: the world model of the new controller.
        store: rollouts, preferably of this agent with action noise, and with the action repeat of its training.
        controller: the kind of controller; its parameters are not used.
        progress: called while frames are encoded; True: a bar.

    Returns:
        A controller of the same kind. The result is deterministic.

    Raises:
        ValueError: the agent has another action space, or the store has no episode.
    """
    _validate_actions("agent", agent.world, world)
    if not len(store):
        raise ValueError(f"store must have at least one episode, got none in {store.path}")
    old, new = (
        controller_inputs(one, store.latents(one.vae, progress=progress), EPISODES) for one in (agent.world, world)
    )
    return _fit(controller, new, world.squash(agent.controller(old)), world)


def _validate_actions(name: str, found: Any, world: WorldModel) -> None:
    kinds = [str(action_space(one)) for one in (found, world)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name} must have the actions {kinds[1]}, got {kinds[0]}")


def _fit(
    controller: Controller, inputs: Float[Tensor, "n features"], actions: Float[Tensor, "n actions"], world: WorldModel
) -> Controller:
    """Return the controller whose actions are closest to these, the memory's inputs."""
    whitening = Whitening.from_inputs(controller, inputs.numpy())
    whitened = whitening.whitened(inputs)[None]
    y = NOISE * torch.randn(controller.size, generator=torch.Generator().manual_seed(0))
    y.requires_grad_()
    optimizer = torch.optim.LBFGS([y], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")
    classes = actions.argmax(dim=-1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = controller.outputs(y[None], whitened)[0]
        if world.discrete:
            error = functional.cross_entropy(outputs, classes)
        elif world.nvec:
            error = functional.binary_cross_entropy_with_logits(outputs, actions)
        else:
            error = functional.mse_loss(outputs.tanh(), actions)
        total = error + WEIGHT_DECAY * y.square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    return controller.with_parameters(whitening.to_parameters(y.detach().double().numpy()))
