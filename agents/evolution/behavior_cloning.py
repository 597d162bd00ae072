"""Behavior cloning: fit a controller on a new world model to the actions of an agent with another world model.

Start reading at `imitate`. A new VAE and memory give other latents and hidden states, so the parameters of an old
controller have no meaning on them. Its actions on the frames of the rollouts are known. The fitted controller is the start of
a search.

References:
    Pomerleau, Efficient Training of Artificial Neural Networks for Autonomous Navigation, 1991 (behavior cloning).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldmodel import WorldModel
from worldmodel.agents.agent import Agent
from worldmodel.agents.evolution.whitening import Whitening, controller_inputs
from worldmodel.envs.dream_env import action_space
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.store import Store
from worldmodel.training.progress import Progress, shows_progress, silent

EPISODES = 256
"""Maximal number of episodes in the fit, evenly spaced over the store."""
ITERATIONS = 60
"""Maximal number of L-BFGS iterations; more of them hardly lower the loss."""
NOISE = 0.1
"""Standard deviation of the initial parameters; hidden units that all start at zero would stay equal."""
DECAY = 1e-4
"""Weight of the mean squared parameters (on whitened inputs) in the loss; it fixes what the data do not determine."""


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
    kinds = [str(action_space(one)) for one in (agent.world, world)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"agent must have the actions {kinds[1]}, got {kinds[0]}")
    if not len(store):
        raise ValueError(f"store must have at least one episode, got none in {store.path}")
    old, new = (
        controller_inputs(one, store.latents(one.vae, progress=progress), EPISODES) for one in (agent.world, world)
    )
    return _fit(controller, new, agent.controller(old), world)


def _fit(
    controller: Controller, inputs: Float[Tensor, "n features"], targets: Float[Tensor, "n actions"], world: WorldModel
) -> Controller:
    """The controller whose actions are closest to those of the raw outputs ``targets``."""
    whitening = Whitening(controller, inputs.numpy())
    whitened = whitening.whitened(inputs)[None]
    y = NOISE * torch.randn(controller.size, generator=torch.Generator().manual_seed(0))
    y.requires_grad_()
    optimizer = torch.optim.LBFGS([y], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")
    classes, actions = targets.argmax(dim=-1), world.squash(targets)

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = controller.outputs(y[None], whitened)[0]
        if world.discrete:
            error = functional.cross_entropy(outputs, classes)
        elif world.nvec:
            error = functional.binary_cross_entropy_with_logits(outputs, actions)
        else:
            error = functional.mse_loss(outputs.tanh(), actions)
        total = error + DECAY * y.square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    return controller.with_parameters(whitening.to_parameters(y.detach().double().numpy()))
