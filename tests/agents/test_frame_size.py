"""Frames of 96 and 128 pixels go through environments, files, models, dreams, films and the page."""

import json
import struct

import numpy as np
import pytest
import torch

from tests import toys
from tests.agents.test_pipeline import SMALL
from worldmodel import FRMDN, VAE, Memory, WorldModel, envs, rollouts, seeded
from worldmodel.agents import Agent, LinearController, evaluate
from worldmodel.agents.analysis.dream_video import reconstructions
from worldmodel.agents.cli.main import main
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.viewer import scene_of
from worldmodel.agents.viewer.server import pack
from worldmodel.agents.viewer.session import Frame, Session
from worldmodel.envs.adapters import to_pixels
from worldmodel.envs.wrappers import resize_frame

SIZES = [64, 96, 128]


@pytest.mark.parametrize("size", [96, 128])
def test_every_kind_of_environment_shows_frames_of_the_size(size):
    for id, options in (("CarRacing", {}), ("FastCarRacing", {"show_hud": True}), ("CartPole-v1", {})):
        env = envs.make(id, frame_size=size, **options)
        frame = env.reset(seed=1)[0]
        assert frame.shape == (size, size, 3)
        assert env.observation_space.contains(frame)
        env.close()
    small, large = (envs.make("FastCarRacing", frame_size=one) for one in (64, size))
    frames = [env.reset(seed=1)[0] for env in (small, large)]
    assert np.abs(resize_frame(frames[1]).astype(float) - frames[0]).mean() < 12  # the same crop of the same view
    small.close()
    large.close()


@pytest.mark.parametrize("size", [63, 0, 64.0, "96", True])
def test_other_sizes_are_refused(size):
    for make in (lambda: envs.make("CarRacing", frame_size=size), lambda: to_pixels(toys.Counter(), frame_size=size)):
        with pytest.raises(ValueError, match="frame_size"):
            make()
    with pytest.raises(ValueError, match="observation_shape"):
        VAE(observation_shape=(63, 63, 3))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compact", [False, True])
def test_a_model_of_any_size_is_saved_and_loaded(size, compact, tmp_path):
    shape = (size, size, 6)
    with seeded(1):
        world = WorldModel(VAE(latent_dim=3, observation_shape=shape), Memory(FRMDN(5, 3, hidden_size=4)))
    world.save(tmp_path, compact=compact)
    read = WorldModel.load(tmp_path)
    assert read.observation_shape == shape
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, *shape), np.uint8))
    torch.testing.assert_close(read.encode(frames), world.encode(frames), atol=2e-2 if compact else 0, rtol=0)
    latent = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    drawn = [model.decode(latent).astype(int) for model in (world, read)]
    assert drawn[0].shape == (2, *shape)
    assert np.abs(drawn[0] - drawn[1]).max() <= (2 if compact else 0)
    assert world.draw(latent).shape == (2, size, size, 3)
    world.vae.loss(frames).value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in world.vae.parameters())


@pytest.mark.parametrize("size", [96, 128])
def test_stores_agents_dreams_and_films_have_the_size(size, tmp_path):
    options = {"frame_size": size}
    store = rollouts.collect(toys.beacon, "uniform", 2, seed=1, out=tmp_path / "s", env_options=options)
    assert store.observation_shape == (size, size, 3)
    read = rollouts.Store(store.path).episode(1)
    assert (read.frames.shape, read.frames.min(), read.frames.max()) == ((6, size, size, 3), 0, 255)
    copied = rollouts.write(store.episodes(), tmp_path / "copy")
    np.testing.assert_array_equal(copied.episode(1).frames, read.frames)
    memory = Memory.for_store(store, FRMDN, latent_dim=2, hidden_size=4)
    world = WorldModel(VAE(latent_dim=2, observation_shape=store.observation_shape), memory, store)
    agent = Agent(world, LinearController.for_world_model(world))
    assert evaluate(agent, lambda: to_pixels(toys.beacon(), frame_size=size), episodes=1, seed=1).n == 1
    with pytest.raises(ValueError, match=f"frame_size={size}"):
        evaluate(agent, toys.beacon, episodes=1, seed=1)
    dream = envs.DreamEnv(world, store.latents(world.vae), horizon=2)
    assert dream.observation_space.contains(dream.reset(seed=1)[0])
    assert reconstructions(world, read.frames[:2]).shape[0] >= 3 * size


def test_the_page_gets_the_size_of_its_frames():
    message = pack(Frame({"step": 1}, np.zeros((96, 96, 3), np.uint8), None))
    length = struct.unpack("<I", message[:4])[0]
    assert json.loads(message[4 : 4 + length]) == {"step": 1, "size": 96}
    assert len(message) == 4 + length + 96 * 96 * 3


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("size", [96, 128])
def test_whole_runs(size, tmp_path):
    out = tmp_path / "run"
    assert main(["run", "CartPole-v1", *SMALL, "--env_options.frame_size", str(size), "--out", str(out)]) == 0
    run = Run(out)
    assert run.store().observation_shape == run.world().observation_shape == (size, size, 3)
    for words in (
        ["evaluate", str(out), "--eval.episodes", "2"],
        ["inspect", str(out)],
        ["dream", str(out), "--horizon", "4"],
        ["dream", str(out), "--horizon", "4", "--num_rollouts", "2", "--store", str(tmp_path / "dreams")],
    ):
        assert main(words) == 0, words
    assert rollouts.Store(tmp_path / "dreams").observation_shape == (size, size, 3)
    session = Session(scene_of(run), seed=1)
    session.receive({"type": "reality", "value": True})
    session.receive({"type": "step"})
    frame = session.advance()
    session.close()
    assert frame.dream.shape == frame.reality.shape == (size, size, 3)
