"""An agent's controller on another world model: what it does is learned by a controller that sees through other eyes.

An eye and a memory that are learned anew see other numbers, and a controller that was evolved on the old ones means nothing on
them. What it does is known all the same, in every moment of the rollouts: behavioural cloning finds the controller that does
that on the new ones, and evolution goes on from there.

References:
    Pomerleau, Efficient Training of Artificial Neural Networks for Autonomous Navigation, 1991 (behavioural cloning).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from agents.agent import Agent
from agents.controller import Controller
from agents.whitening import Whitening, controller_inputs
from rollouts.store import Store
from worldmodel import WorldModel
from worldmodel.progress import Progress, shows_progress, silent

EPISODES = 256
"""From at most so many episodes, spread over all, it is learned."""
ITERATIONS = 60
"""Of L-BFGS, which has hardly more to win from then on."""
NOISE = 0.1
"""In the parameters where the fit begins, or hidden units of zeros would stay alike."""
DECAY = 1e-4
"""Of the squared parameters, on what is seen at one scale: it settles what the episodes leave open."""


@shows_progress("imitate", "frames")
def imitate(
    agent: Agent, world: WorldModel, store: Store, controller: Controller, progress: Progress | bool = silent
) -> Controller:
    """A controller for ``world`` that does in the store's episodes what an agent with another world model does in them.

    Args:
        agent: whose actions are learned: after the mean squared error for a Box, after the cross entropy for a discrete action.
        world: the eye and the memory that are seen through.
        store: rollouts, at best of this agent with some exploration; with the action repeat that it was made for.
        controller: the family.
        progress: called while frames are encoded; True: a bar.

    Returns:
        A controller of the same family; the same call gives the same one.

    Raises:
        ValueError: the agent acts in another action space, or the store has no episode.
    """
    kinds = [("discrete" if one.discrete else "box", one.action_dim) for one in (agent.world, world)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"agent must have {kinds[1][1]} {kinds[1][0]} actions, got {kinds[0][1]} {kinds[0][0]} ones")
    if not len(store):
        raise ValueError(f"store must have an episode to learn from, got none in {store.path}")
    old, new = (
        controller_inputs(one, store.latents(one.vae, progress=progress), EPISODES) for one in (agent.world, world)
    )
    return _fitted(controller, new, agent.controller(old), world.discrete)


def _fitted(
    controller: Controller, features: Float[Tensor, "n features"], wanted: Float[Tensor, "n actions"], discrete: bool
) -> Controller:
    """The controller whose actions are nearest to those of some raw outputs."""
    whitening = Whitening(controller, features.numpy())
    seen = whitening.whitened(features)[None]
    y = NOISE * torch.randn(controller.size, generator=torch.Generator().manual_seed(0))
    y.requires_grad_()
    optimizer = torch.optim.LBFGS([y], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")
    choices, actions = wanted.argmax(dim=-1), wanted.tanh()

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = controller.outputs(y[None], seen)[0]
        off = functional.cross_entropy(outputs, choices) if discrete else functional.mse_loss(outputs.tanh(), actions)
        total = off + DECAY * y.square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    return controller.with_parameters(whitening.to_parameters(y.detach().double().numpy()))
