"""Compare dream returns of the pretrained agents with real ones, and measure small moving objects in their reconstructions.

Start reading at `measure`.

python -m benchmarks.fidelity car-racing car-racing-dream mario-1-1 [--keep]     # --keep: save in the agents' folders
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from worldmodel import envs, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import FAST
from worldmodel.agents.pretrained import pretrained_agent
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.fidelity import Fidelity, agree, small_moving
from worldmodel.batches import tree_map
from worldmodel.envs.wrappers import FRAME_SPACE
from worldmodel.imagination import imagine_steps
from worldmodel.rollouts.policy.policies import smooth_random
from worldmodel.world_model import WorldState

NUM_START_STATES, NUM_DREAMS, HORIZON = 8, 3, 120
INITIAL_STATE = "no key, from the start of the game"
"""Name of the behavior that starts at the first state of an episode."""
NUM_FRAMES = 200
"""Number of steps of an episode whose frames are searched for small moving objects."""
SEED = 90_000
"""Seed of the first episode."""
MIN_STEPS, MAX_STEPS = 20, 120
"""Range of the number of real steps before a start state."""


def held(*keys: str) -> Callable[[dict[str, Any]], list[float]]:
    """Return a function from controls (`agents.viewer.controls.controls`) to the action of keys that are held."""

    def action(given: dict[str, Any]) -> list[float]:
        if given["kind"] == "box":
            return [
                1.0 if axis["positive"] in keys else -1.0 if axis["negative"] in keys else axis["rest"]
                for axis in given["axes"]
            ]
        scores = [sum(2 if key in keys else -1 for key in choice["keys"]) for choice in given["choices"]]
        return np.eye(len(scores))[int(np.argmax(scores))].tolist()

    return action


BEHAVIORS: dict[str, Callable[[dict[str, Any]], list[float]] | None] = {
    "its controller": None,
    "no key": held(),
    "gas": held("up"),
    "gas and right, off the road": held("up", "right"),
    "random": None,
}
DISCRETE_BEHAVIORS = {"its controller": None, "no key": held(), "jump": held("a"), "random": None}


@torch.inference_mode()
def measure(name: str) -> Fidelity:
    """Play and dream from the same start states of the controller's own episodes, with each behavior."""
    pretrained = pretrained_agent(name)
    agent = pretrained.agent()
    world = agent.world.eval()
    env = FAST.get(pretrained.env, pretrained.env)
    game = envs.make(env, **pretrained.env_options)
    given = controls(env, pretrained.env_options, world)
    behaviors = DISCRETE_BEHAVIORS if world.discrete else BEHAVIORS
    names = (*behaviors, INITIAL_STATE)
    dreamed, real = {name: [] for name in names}, {name: [] for name in names}
    for index in range(NUM_START_STATES):
        rng = np.random.default_rng(index)
        prefix, state = _start_state(agent, game, SEED + index, int(rng.integers(MIN_STEPS, MAX_STEPS)))
        policy = smooth_random(game.action_space, rng)
        random_actions = [world.action_inputs(np.asarray(policy(FRAME_SPACE.low))) for _ in range(HORIZON)]
        for behavior, hold in behaviors.items():
            actions = random_actions if behavior == "random" else hold and [torch.tensor(hold(given))] * HORIZON
            dreamed[behavior].append(_dream_return(agent, state, actions, index))
            _replay(game, SEED + index, prefix, world.discrete)
            real[behavior].append(_real_return(agent, game, state, actions))
        initial = WorldState(_encode(agent, _replay(game, SEED + index, [], world.discrete)), world.initial(1))
        no_key = [torch.tensor(held()(given))] * HORIZON
        dreamed[INITIAL_STATE].append(_dream_return(agent, initial, no_key, index))
        real[INITIAL_STATE].append(_real_return(agent, game, initial, no_key))
    frames = rollouts.play(game, agent, SEED + 1, max_steps=NUM_FRAMES).frames
    game.close()
    return Fidelity(
        small_moving(world.vae, torch.from_numpy(np.ascontiguousarray(frames))), HORIZON, NUM_START_STATES, list(dreamed),
        [round(float(np.mean(returns)), 1) for returns in dreamed.values()],
        [round(float(np.mean(returns)), 1) for returns in real.values()],
    )  # fmt: skip


def _start_state(agent: Agent, game: Any, seed: int, steps: int) -> tuple[list[torch.Tensor], Any]:
    """Play the first steps of the controller; return its actions and the state after them."""
    frame, _ = game.reset(seed=seed)
    state, actions = WorldState(_encode(agent, frame), agent.world.initial(1)), []
    for _ in range(steps):
        actions.append(agent.world.squash(agent.controller(state.controller_inputs))[0])
        frame, _, terminated, truncated, _ = game.step(_env_action(actions[-1], agent.world.discrete))
        assert not (terminated or truncated), "the episode ended before the start state"
        memory = agent.world.observe(state, state.latent, actions[-1][None])
        state = WorldState(_encode(agent, frame), memory)
    return actions, state


def _replay(game: Any, seed: int, actions: list[torch.Tensor], discrete: bool) -> np.ndarray:
    """Repeat the actions from the start of an episode; return the last frame."""
    frame, _ = game.reset(seed=seed)
    for action in actions:
        frame, *_ = game.step(_env_action(action, discrete))
    return frame


def _real_return(agent: Agent, game: Any, state: Any, actions: list[torch.Tensor] | None) -> float:
    """Return the real return of the next steps; ``actions`` None: the controller acts."""
    total = 0.0
    for step in range(HORIZON):
        action = agent.world.squash(agent.controller(state.controller_inputs))[0] if actions is None else actions[step]
        frame, reward, terminated, truncated, _ = game.step(_env_action(action, agent.world.discrete))
        total += float(reward)
        if terminated or truncated:
            break
        if actions is None:
            memory = agent.world.observe(state, state.latent, action[None])
            state = WorldState(_encode(agent, frame), memory)
    return total


def _dream_return(agent: Agent, state: Any, actions: list[torch.Tensor] | None, seed: int) -> float:
    """Return the mean return of `NUM_DREAMS` dreams of the next steps; ``actions`` None: the controller acts."""
    world, generator = agent.world, torch.Generator().manual_seed(seed)
    state = tree_map(state, lambda part: part.expand(NUM_DREAMS, *part.shape[1:]).contiguous())
    total, active = torch.zeros(NUM_DREAMS), torch.ones(NUM_DREAMS)
    policy = lambda state: world.squash(agent.controller(state.controller_inputs))  # noqa: E731
    if actions is not None:
        policy = torch.stack(actions).float()[:, None].expand(-1, NUM_DREAMS, -1)
    for imagined in imagine_steps(world, state, policy, HORIZON, generator=generator):
        total += imagined.step.reward * active
        active *= 1 - imagined.step.terminated.float()
    return float(total.mean())


def _encode(agent: Agent, frame: np.ndarray) -> torch.Tensor:
    """Return the latent of a frame, with a batch dimension."""
    return agent.world.encode(torch.from_numpy(np.ascontiguousarray(frame))[None])


def _env_action(action: torch.Tensor, discrete: bool) -> Any:
    """Convert an action of the world model to one of the environment."""
    return int(action.argmax()) if discrete else action.numpy()


def main(*words: str) -> None:
    """Measure the named agents, and print the results; ``--keep`` saves them."""
    for name in (word for word in words if not word.startswith("--")):
        found = measure(name)
        print(
            f"{name}: {found.horizon} steps, {found.num_start_states} start states; "
            f"small moving objects: {found.small_motion:.2f}"
        )
        scale = max(map(abs, found.real_returns))
        for behavior, dreamed, real in zip(found.behaviors, found.dream_returns, found.real_returns, strict=True):
            note = "" if agree(dreamed, real, scale) else "differs"
            print(f"  {behavior:34s} dream {dreamed:7.1f}   real {real:7.1f}   {note}")
        if "--keep" in words:
            found.save(pretrained_agent(name).folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
