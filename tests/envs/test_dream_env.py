"""Dreams as Gymnasium environments."""

import av
import gymnasium
import numpy as np
import pygame
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from tests import toys
from tests.rollouts.dreams import STARTS, assert_same_rewards, world
from tests.tolerance import assert_same_sums
from worldmodel import envs, rollouts
from worldmodel.imagination import NoiseStreams
from worldmodel.start_states import StartStates, sample_start_states


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("dreams") / "store"
    return rollouts.collect(toys.counter, toys.marking, episodes=4, seed=3, out=out)


@pytest.mark.parametrize(("encoded", "temperature"), [(False, 1.0), (True, 0.3)])
def test_dream_env_equals_imagined_steps(store, encoded, temperature):
    """Ended dreams go on, so that all steps are compared."""
    model = world()
    starts, burn_in = (store.latents(model.vae), 5) if encoded else (STARTS, 32)
    env = envs.DreamEnv(model, starts, temperature, horizon=30, burn_in=burn_in, observation="latent")
    obs, _ = env.reset(seed=4)
    rng = np.random.default_rng(np.random.SeedSequence(4))
    state = sample_start_states(model, starts, 1, [rng], burn_in)
    assert encoded == bool(state.hidden.any())
    noise = NoiseStreams(model, [np.random.default_rng(int(rng.integers(2**62)))])
    for t in range(10):
        assert_same_sums(obs, state.controller_inputs[0], count=10 * (model.num_features + 1), terms=50.0)
        action = np.array([np.sin(t), 0.3], np.float32)
        obs, reward, terminated, _, info = env.step(action)
        with torch.no_grad():
            step, state = model.imagine_from(state, torch.from_numpy(action)[None], next(noise), temperature)
        assert_same_sums(info["termination_probability"], step.termination[0], count=10 * 8)
        assert_same_rewards(info["reward_probs"] @ model.memory.support.numpy(), reward, model.memory, steps=1)
        assert_same_rewards(reward, step.reward[0], model.memory, steps=10)
        assert terminated == bool(step.terminated)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("observation", ["pixels", "latent"])
@pytest.mark.filterwarnings("ignore:.*spec.*", "ignore:.*infinity.*")
def test_dream_envs_conform_to_gymnasium(discrete, observation):
    check_env(envs.DreamEnv(world(discrete), STARTS, horizon=10, observation=observation))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store):
    """Folder of a world model with its start states."""
    folder = tmp_path_factory.mktemp("folder") / "run" / "world"
    model = world()
    model.save(folder)
    StartStates.from_episodes(store.latents(model.vae), num=8, max_steps=6).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("subfolder", [".", ".."])
def test_gymnasium_makes_a_dream_env_from_a_folder(folder, subfolder):
    env = gymnasium.make("worldmodel.envs:worldmodel/Dream-v0", world=folder / subfolder, horizon=7)
    check_env(env.unwrapped, skip_render_check=True)
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    env.reset(seed=1)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards, over = [*rewards, reward], terminated or truncated
    assert_same_sums(info["episode"]["r"], sum(rewards), len(rewards), terms=rewards)
    assert 1 <= info["episode"]["l"] <= 7


@pytest.mark.slow
def test_gymnasium_records_videos_of_dreams(folder, tmp_path):
    env = gymnasium.make("worldmodel.envs:worldmodel/Dream-v0", world=folder, horizon=5, render_mode="rgb_array")
    env = gymnasium.wrappers.RecordVideo(env, str(tmp_path), episode_trigger=lambda number: True)
    env.reset(seed=1)
    for _ in range(5):
        if any(env.step(env.action_space.sample())[2:4]):
            break
    env.close()
    (video_path,) = tmp_path.glob("*.mp4")
    with av.open(str(video_path)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 2


def test_human_render_mode_shows_the_dream(folder, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = envs.DreamEnv(folder, render_mode="human")
    env.reset(seed=1)
    env.step(env.action_space.sample())
    image = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(image[::8, ::8], env._dream.render_frames()[0])
    env.close()
    assert pygame.display.get_surface() is None


def test_a_world_model_without_start_states_is_refused(folder):
    with pytest.raises(ValueError, match="start_states"):
        envs.DreamEnv(world())
    with pytest.raises(ValueError, match="render_mode"):
        envs.DreamEnv(folder, render_mode="ascii")


def test_vector_env_resets_in_the_next_step():
    env = envs.DreamVectorEnv(world(termination=False), STARTS, num_envs=3, horizon=4, observation="latent")
    assert env.reset(seed=1)[0].shape == (3, 8)
    steps = [env.step(env.action_space.sample()) for _ in range(10)]
    assert [bool(step[3].all()) for step in steps] == [False] * 3 + [True] + [False] * 4 + [True] + [False]
    assert steps[4][1].tolist() == [0.0] * 3  # the step that resets
    assert any(np.array_equal(steps[4][0][0, :3].round(5), start.numpy().round(5)) for start in STARTS)


def test_vector_env_repeats_with_its_seed():
    runs = []
    for _ in range(2):
        env = envs.DreamVectorEnv(world(), STARTS, num_envs=4, horizon=5)
        env.reset(seed=3)
        runs.append([env.step(np.zeros((4, 2), np.float32))[0] for _ in range(8)])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_new_dream_resets_the_hidden_state():
    model = world(termination=False)
    env = envs.DreamVectorEnv(model, STARTS, num_envs=2, horizon=3, observation="latent", burn_in=0)
    env.reset(seed=1)
    for _ in range(4):
        obs = env.step(np.ones((2, 2), np.float32))[0]
    assert (obs[:, 3:] == 0).all()  # the initial hidden state
    assert (env.step(np.ones((2, 2), np.float32))[0][:, 3:] != 0).all()


@pytest.mark.parametrize(
    ("discrete", "action", "expected_action"), [(True, 1, [0.0, 1.0]), (False, np.array([7.0, -0.5]), [1.0, -0.5])]
)
def test_dream_env_applies_the_given_action(discrete, action, expected_action):
    model = world(discrete)
    env = envs.DreamEnv(model, STARTS, observation="latent")
    env.reset(seed=4)
    before = env._dream.state
    obs = env.step(action)[0]
    hidden = model.observe(before, before.latent, torch.tensor([expected_action])).hidden[:, -1]
    assert_same_sums(obs[3:], hidden[0], count=model.num_features + 1, terms=1.0)


def drive(env, count, steps=12):
    """The observations, rewards and ends of a vector environment under fixed actions."""
    rows = []
    for t in range(steps):
        obs, rewards, terminated, truncated, _ = env.step(np.full((count, 2), np.sin(t), np.float32))
        rows.append((obs, rewards, terminated | truncated))
    return [np.stack(part) for part in zip(*rows, strict=True)]


@pytest.mark.parametrize("seeds", [np.int64(7), [7, 8, 9], [9, 7, 8]])
def test_a_dream_of_a_batch_equals_a_dream_alone_with_its_seed(seeds):
    model, options = world(), {"observation": "latent", "horizon": 5}
    batch = envs.DreamVectorEnv(model, STARTS, num_envs=3, **options)
    batch.reset(seed=seeds)
    together = drive(batch, 3)
    for number, seed in enumerate([7, 8, 9] if np.ndim(seeds) == 0 else seeds):
        alone = envs.DreamVectorEnv(model, STARTS, num_envs=1, **options)
        alone.reset(seed=seed)
        for found, expected in zip(together, drive(alone, 1), strict=True):
            assert_same_sums(found[:, number], expected[:, 0], count=12 * (model.num_features + 1), terms=50.0)
    single, first = envs.DreamEnv(model, STARTS, **options), 7 if np.ndim(seeds) == 0 else seeds[0]
    obs, _ = single.reset(seed=first)
    batch.reset(seed=first)
    assert_same_sums(obs, batch._dream.observe()[0], count=model.num_features + 1)


def test_a_masked_reset_leaves_the_other_dreams():
    model = world(termination=False)
    env = envs.DreamVectorEnv(model, STARTS, num_envs=3, observation="latent", autoreset_mode="Disabled", horizon=2)
    before, _ = env.reset(seed=1)
    env.step(np.zeros((3, 2), np.float32))
    middle = env._dream.observe()
    after, _ = env.reset(seed=[1, 5, 5], options={"reset_mask": np.array([True, False, False])})
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[1:], middle[1:])
    assert env.step(np.zeros((3, 2), np.float32))[3].tolist() == [False, True, True]  # of two steps
    for mask in (np.array([True, False]), np.zeros(3, bool), np.array([1, 0, 0]), [True, False, False]):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="seed"):
        env.reset(seed=[1, 2])


def test_every_autoreset_mode_starts_ended_dreams_as_gymnasium_does():
    model, options = world(termination=False), {"num_envs": 2, "horizon": 3, "observation": "latent"}
    action, found = np.zeros((2, 2), np.float32), {}
    for mode in AutoresetMode:
        env = envs.DreamVectorEnv(model, STARTS, autoreset_mode=mode, **options)
        assert env.metadata["autoreset_mode"] is mode
        env.reset(seed=1)
        found[mode] = [env.step(action) for _ in range(3)]
        assert found[mode][-1][3].all()
        if mode is AutoresetMode.DISABLED:
            with pytest.raises(gymnasium.error.ResetNeeded):
                env.step(action)
            again, _ = env.reset(options={"reset_mask": np.ones(2, bool)})
        else:
            again = env.step(action)[0] if mode is AutoresetMode.NEXT_STEP else found[mode][-1][0]
        found[mode].append(again)
    _, _, _, _, info = found[AutoresetMode.SAME_STEP][2]
    assert np.array_equal(info["final_obs"], found[AutoresetMode.DISABLED][2][0])
    assert info["_final_obs"].all()
    assert np.array_equal(found[AutoresetMode.SAME_STEP][-1], found[AutoresetMode.DISABLED][-1])
    assert np.array_equal(found[AutoresetMode.NEXT_STEP][-1], found[AutoresetMode.DISABLED][-1])


def test_gymnasium_wrappers_count_the_episodes_of_dreams():
    env = envs.DreamVectorEnv(world(termination=False), STARTS, num_envs=2, horizon=3, observation="latent")
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=1)
    infos = [env.step(np.zeros((2, 2), np.float32))[4] for _ in range(8)]
    lengths = [info["episode"]["l"].tolist() for info in infos if "episode" in info]
    assert lengths == [[3, 3], [3, 3]]
