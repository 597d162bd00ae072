"""Each environment is collected, encoded, remembered and dreamed, or refused in one line that names the cure.

What is written can be read. `tests.odd_envs` has environments with one slip each; the others come with packages.
"""

import importlib.util
import os
import re

import gymnasium
import numpy as np
import pytest

from tests import odd_envs
from tests.command_line import exit_code
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, rollouts
from worldmodel.agents import LinearController
from worldmodel.vector_encoder import VectorEncoder

STEPS = 6


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Forget the environments of a test; do not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    yield
    for id in [id for id in gymnasium.registry if id.startswith("Odd-")]:
        del gymnasium.registry[id]


def collect(env, options, out):
    """Collect two episodes."""
    return rollouts.collect(env, "uniform", 2, seed=1, max_steps=STEPS, out=out, env_options=options)


def learn(store):
    """Train for two updates, and dream."""
    if len(store.observation_shape) == 1:
        vae = VectorEncoder.for_store(store)
    else:
        vae = VAE(latent_dim=2, base_channels=2, observation_shape=store.observation_shape)
        vae = fit(vae, store.frames(), num_updates=2, batch_size=4, seed=1)
    latents = store.latents(vae)
    memory = Memory.for_store(store, FRMDN, latent_dim=vae.latent_dim, hidden_size=4, num_components=2)
    memory = fit(memory, store.sequences(vae, seq_len=4), num_updates=2, batch_size=2, seed=1)
    world = WorldModel(vae, memory, store)
    dreams = rollouts.dream(world, LinearController.for_world_model(world), latents, horizon=3, num_rollouts=2)
    assert np.isfinite(dreams.returns).all()


def validate_stored(folder):
    """Every file of a store can be read, and says what it must."""
    store = rollouts.Store(folder)
    assert store.damaged == {}
    for episode in store.episodes():
        assert 1 <= len(episode) <= STEPS
        assert episode.frames.shape[1:] == store.observation_shape
        assert np.isfinite(episode.actions).all()
        assert np.isfinite(episode.rewards).all()
    return store


def meets(expectation, env, options, folder):
    """Assert that an environment can be collected, or is refused and the cure is named."""
    if expectation == odd_envs.WORKS:
        assert len(collect(env, options, folder)) == 2
    else:
        with pytest.raises(ValueError, match=expectation) as refused:
            collect(env, options, folder)
        assert "\n" not in str(refused.value)
    if expectation == odd_envs.WORKS or (folder / "metadata.json").exists():
        validate_stored(folder)


def meets_whole(expectation, env, options, folder, capsys):
    """Assert that all stages work, or that the command line refuses an environment and names the cure."""
    if expectation == odd_envs.WORKS:
        learn(collect(env, options, folder))
        return
    words = [f"--env_options.{name}={value}" for name, value in options.items()]
    capsys.readouterr()
    limits = ("--collect.episodes", "2", "--collect.max_steps", str(STEPS), "--workers", "1")
    assert exit_code("collect", env, "--out", str(folder.parent / "run"), *words, *limits) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert re.search(expectation, line), line
    if (folder.parent / "run" / "rollouts" / "metadata.json").exists():
        validate_stored(folder.parent / "run" / "rollouts")


def case(name):
    """Register a case; return its expectation, id and options."""
    _, expectation, *options = odd_envs.CASES[name]
    return expectation, odd_envs.register(name), options[0] if options else {}


@pytest.mark.parametrize("name", odd_envs.CASES)
def test_one_slip(name, tmp_path):
    meets(*case(name), tmp_path / "store")


@pytest.mark.parametrize("name", ["floats-to-1", "stack", "choices", "vector-of-a-dict", "one-step", "reward-none"])
def test_all_stages_and_the_command_line(name, tmp_path, capsys):
    meets_whole(*case(name), tmp_path / "store", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", odd_envs.CASES)
def test_all_stages_and_the_command_line_for_all(name, tmp_path, capsys):
    meets_whole(*case(name), tmp_path / "store", capsys)


def test_the_same_environments_as_functions(tmp_path):
    """Functions take another way than ids."""
    for number, name in enumerate(["stack", "two-images-named", "vector-of-a-dict", "unpicklable"]):
        options = odd_envs.CASES[name][2] if len(odd_envs.CASES[name]) > 2 else {}
        folder = tmp_path / str(number)
        rollouts.collect(lambda name=name: odd_envs.make(name), "uniform", 2, seed=1, out=folder, env_options=options)
        assert len(validate_stored(folder)) == 2


VECTOR = {"observation": "vector"}
NEEDS = {"minigrid": "minigrid", "ALE/": "ale_py", "Vizdoom": "vizdoom"}
THIRD_PARTY = [
    *((id, view, "") for id in ("CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1") for view in ({}, VECTOR)),
    *(
        (id, view, "")
        for id in ("MountainCarContinuous-v0", "LunarLander-v3", "BipedalWalker-v3")
        for view in ({}, VECTOR)
    ),
    *(
        (id, view, "")
        for id in ("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1")
        for view in ({}, VECTOR)
    ),
    ("CarRacing-v3", {}, ""),
    ("CarRacing-v3", VECTOR, "pixels"),
    ("LunarLander-v3", {"continuous": True}, ""),
    ("LunarLander-v3", {"wind": 3}, "wind"),
    ("Ant-v5", {}, "mujoco"),
    ("Ant-v2", {}, "Ant-v"),
    ("phys2d/CartPole-v1", {}, "jax"),
    ("minigrid:MiniGrid-Empty-5x5-v0", {}, ""),
    ("minigrid:MiniGrid-Empty-5x5-v0", VECTOR, "fixed amount"),
    ("minigrid:MiniGrid-Dynamic-Obstacles-8x8-v0", {}, ""),
    ("minigrid:BabyAI-GoToRedBall-v0", {}, ""),
    ("ALE/Pong-v5", {}, ""),
    ("ALE/Pong-v5", {"obs_type": "grayscale"}, ""),
    ("ALE/Pong-v5", {"obs_type": "ram"}, ""),
    ("ALE/Pong-v5", {"obs_type": "ram", **VECTOR}, ""),
    ("ALE/Breakout-v5", {"full_action_space": True}, ""),
    ("ALE/Breakout-v5", {"continuous": True}, ""),
    ("VizdoomBasic-v1", {}, ""),
    ("VizdoomBasic-v1", {"image_key": "screen"}, ""),
    ("VizdoomBasic-v1", VECTOR, "pixels"),
    ("VizdoomTakeCover-v1", {"max_buttons_pressed": 0}, ""),
    ("VizdoomDeathmatch-v1", {"max_buttons_pressed": 0}, "TransformAction"),
    ("VizdoomDefendLine-v1", {"frame_skip": 4}, ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("id", "options", "expectation"), THIRD_PARTY, ids=str)
def test_third_party(id, options, expectation, tmp_path, capsys):
    for start, module in NEEDS.items():
        if id.startswith(start) and importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    meets(expectation, id, options, tmp_path / "store")
    meets_whole(expectation, id, options, tmp_path / "whole", capsys)
