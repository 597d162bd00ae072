"""Train Stable-Baselines3's PPO in dreams, and evaluate it in the real game. A few minutes on two cores.

    pip install stable-baselines3
    python examples/dream_with_sb3.py                                # dreams of a pretrained world model
    python examples/dream_with_sb3.py 1 runs/car-racing-quick/agent  # or of your own run

An observation of the dream is a controller's input: the latent and the hidden state of the memory. In the real game
`WorldModelObservation` gives the same observations.
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from worldmodel import WorldModel, envs
from worldmodel.agents.pretrained import HOME, PretrainedAgent
from worldmodel.mdn_rnn import State
from worldmodel.world_model import WorldState


class WorldModelObservation(gymnasium.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """Replaces the frames of an environment by latent and hidden state of a world model.

    Args:
        env: Environment with 64x64 frames.
        world: World model.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any], world: WorldModel) -> None:
        super().__init__(env)
        self.world = world.eval()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (world.num_features,), np.float32)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, and reset the hidden state."""
        frame, info = self.env.reset(**options)
        return self.encode(frame, self.world.initial(1)), info

    @torch.no_grad()
    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Update the hidden state, and take a step."""
        inputs = self.world.action_inputs(np.asarray(action)[None])
        memory = self.world.observe(self.state, self.state.latent, inputs)
        frame, reward, terminated, truncated, info = self.env.step(action)
        return self.encode(frame, memory), float(reward), terminated, truncated, info

    @torch.no_grad()
    def encode(self, frame: np.ndarray, memory: State) -> np.ndarray:
        """Encode a frame; return its latent and the hidden state of the steps before."""
        self.state = WorldState(self.world.encode(torch.from_numpy(frame[None])), memory)
        return self.state.controller_inputs[0].numpy()


def main(size: float = 1.0, folder: str | Path = HOME / "car-racing", seed: int = 1) -> tuple[float, float]:
    """Train in dreams and evaluate in the game; return the mean and standard deviation of real returns.

    Args:
        size: Factor on the amount of work.
        folder: Path of an agent.
        seed: Random seed of PPO.
    """
    agent, steps, episodes = PretrainedAgent(Path(folder), Path(folder)), round(20_000 * size), max(2, round(8 * size))
    dream = gymnasium.make("worldmodel.envs:worldmodel/Dream-v0", world=folder, observation="latent", horizon=250)
    model = PPO("MlpPolicy", dream, seed=seed, device="cpu", verbose=0)
    model.learn(steps)
    game = envs.make(agent.env, **agent.env_options)
    real = gymnasium.wrappers.RecordEpisodeStatistics(WorldModelObservation(game, WorldModel.load(folder)))
    real.reset(seed=10_000)
    mean, std = evaluate_policy(model, real, episodes, warn=False)
    print(f"PPO after {steps:,} dreamed steps, in {agent.env}: {mean:.1f} +- {std:.1f} (n = {episodes})")
    return float(mean), float(std)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:3])
