"""How far the dreams of the agents that come with the package pay as the game does, and what their pictures miss.

python -m benchmarks.fidelity car-racing car-racing-dream mario-1-1 [--keep]     # --keep: into the agents' folders
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import envs
import rollouts
from agents.agent import Agent
from agents.config.schema import FAST
from agents.pretrained import pretrained_agent
from agents.viewer.controls import controls
from agents.viewer.fidelity import Fidelity, agree, small_moving
from envs.wrappers import FRAME_SPACE
from rollouts.policies import smooth_random

MOMENTS, DREAMS, STEPS = 8, 3, 120
FIRST = "no key, from the start of the game"
SEEN = 200
"""Number of steps of the controller's game whose frames are looked at for small things."""
SEED = 90_000
"""Of the first game."""
EARLIEST, LATEST = 20, 120
"""Real steps before a moment."""


def held(*keys: str) -> Callable[[dict[str, Any]], list[float]]:
    """The action of keys that are held all the time."""

    def action(given: dict[str, Any]) -> list[float]:
        if given["kind"] == "box":
            return [
                1.0 if axis["positive"] in keys else -1.0 if axis["negative"] in keys else axis["rest"]
                for axis in given["axes"]
            ]
        scores = [sum(2 if key in keys else -1 for key in choice["keys"]) for choice in given["choices"]]
        return np.eye(len(scores))[int(np.argmax(scores))].tolist()

    return action


WAYS: dict[str, Callable[[dict[str, Any]], list[float]] | None] = {
    "its controller": None,
    "no key": held(),
    "gas": held("up"),
    "gas and right, off the road": held("up", "right"),
    "random": None,
}
DISCRETE = {"its controller": None, "no key": held(), "jump": held("a"), "random": None}


@torch.inference_mode()
def measure(name: str) -> Fidelity:
    """Play and dream from the same moments of the controller's own games, in each way."""
    place = pretrained_agent(name)
    agent = place.agent()
    world = agent.world.eval()
    env = FAST.get(place.env, place.env)
    game = envs.make(env, **place.env_options)
    given = controls(env, place.env_options, world)
    ways = DISCRETE if world.discrete else WAYS
    dreamed, real = {way: [] for way in (*ways, FIRST)}, {way: [] for way in (*ways, FIRST)}
    for moment in range(MOMENTS):
        rng = np.random.default_rng(moment)
        lived, state = _lived(agent, game, SEED + moment, int(rng.integers(EARLIEST, LATEST)))
        drawn = smooth_random(game.action_space, rng)
        walk = [world.action_inputs(np.asarray(drawn(FRAME_SPACE.low))) for _ in range(STEPS)]
        for way, hold in ways.items():
            actions = walk if way == "random" else hold and [torch.tensor(hold(given))] * STEPS
            dreamed[way].append(_dream(agent, state, actions, moment))
            _replay(game, SEED + moment, lived, world.discrete)
            real[way].append(_live(agent, game, state, actions))
        first = world.initial(1).with_latent(_see(agent, _replay(game, SEED + moment, [], world.discrete)))
        still = [torch.tensor(held()(given))] * STEPS
        dreamed[FIRST].append(_dream(agent, first, still, moment))
        real[FIRST].append(_live(agent, game, first, still))
    seen = rollouts.play(game, agent, SEED + 1, max_steps=SEEN).frames
    game.close()
    return Fidelity(
        small_moving(world.vae, torch.from_numpy(np.ascontiguousarray(seen))), STEPS, MOMENTS, list(dreamed),
        [round(float(np.mean(found)), 1) for found in dreamed.values()],
        [round(float(np.mean(found)), 1) for found in real.values()],
    )  # fmt: skip


def _lived(agent: Agent, game: Any, seed: int, steps: int) -> tuple[list[torch.Tensor], Any]:
    """The controller's first steps: its actions, and the state after them."""
    frame, _ = game.reset(seed=seed)
    state, actions = agent.world.initial(1).with_latent(_see(agent, frame)), []
    for _ in range(steps):
        actions.append(agent.world.squash(agent.controller(state.controller_inputs))[0])
        frame, _, terminated, truncated, _ = game.step(_taken(actions[-1], agent.world.discrete))
        assert not (terminated or truncated), "the moment lies behind the game's end"
        state = agent.world.observe(state, state.latent, actions[-1][None]).with_latent(_see(agent, frame))
    return actions, state


def _replay(game: Any, seed: int, actions: list[torch.Tensor], discrete: bool) -> np.ndarray:
    """Play a game up to a moment; returns the last frame."""
    frame, _ = game.reset(seed=seed)
    for action in actions:
        frame, *_ = game.step(_taken(action, discrete))
    return frame


def _live(agent: Agent, game: Any, state: Any, actions: list[torch.Tensor] | None) -> float:
    """The real return of the next steps; None: the controller acts on what it sees."""
    total = 0.0
    for step in range(STEPS):
        action = agent.world.squash(agent.controller(state.controller_inputs))[0] if actions is None else actions[step]
        frame, reward, terminated, truncated, _ = game.step(_taken(action, agent.world.discrete))
        total += float(reward)
        if terminated or truncated:
            break
        if actions is None:
            state = agent.world.observe(state, state.latent, action[None]).with_latent(_see(agent, frame))
    return total


def _dream(agent: Agent, state: Any, actions: list[torch.Tensor] | None, seed: int) -> float:
    """The mean return of several dreams of the next steps."""
    world, generator = agent.world, torch.Generator().manual_seed(seed)
    many = lambda part: part.expand(DREAMS, *part.shape[1:]).contiguous()  # noqa: E731
    state = state._replace(latent=many(state.latent), memory=type(state.memory)(*map(many, state.memory)))
    total, alive = torch.zeros(DREAMS), torch.ones(DREAMS)
    for step in range(STEPS):
        action = (
            world.squash(agent.controller(state.controller_inputs))
            if actions is None
            else actions[step].expand(DREAMS, -1)
        )
        imagined, state = world.imagine(state, action.float(), generator=generator)
        total += imagined.reward * alive
        alive *= 1 - imagined.terminated.float()
    return float(total.mean())


def _see(agent: Agent, frame: np.ndarray) -> torch.Tensor:
    return agent.world.encode(torch.from_numpy(np.ascontiguousarray(frame))[None])


def _taken(action: torch.Tensor, discrete: bool) -> Any:
    return int(action.argmax()) if discrete else action.numpy()


def main(*words: str) -> None:
    """Measure the agents that are named."""
    for name in (word for word in words if not word.startswith("--")):
        found = measure(name)
        print(
            f"{name}: {found.horizon} steps, {found.num_start_states} moments; small moving things: {found.small_motion:.2f}"
        )
        scale = max(map(abs, found.real_returns))
        for way, dreamed, real in zip(found.behaviors, found.dream_returns, found.real_returns, strict=True):
            apart = "" if agree(dreamed, real, scale) else "apart"
            print(f"  {way:34s} dreamed {dreamed:7.1f}   real {real:7.1f}   {apart}")
        if "--keep" in words:
            found.save(pretrained_agent(name).folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
