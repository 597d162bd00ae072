"""Super Mario Bros on the real cartridge: how episodes begin and end."""

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from envs.mario import BUTTONS, SuperMarioBros

RIGHT = 1
JUMP = 2


@pytest.fixture
def game():
    env = SuperMarioBros(buttons="right", noops=0)
    yield env
    env.close()


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize("stage", range(1, 5))
def test_every_stage_starts_and_moves(world, stage):
    env = SuperMarioBros(world, stage, noops=0)
    _, info = env.reset(seed=0)
    assert (info["world"], info["stage"], info["life"]) == (world, stage, 2)
    assert info["time"] in (300, 400)
    begun = info["x_pos"]
    for _ in range(10):
        info = env.step(RIGHT)[4]
    assert info["x_pos"] > begun
    assert all(type(value) in (int, bool, str) for value in info.values())
    env.close()


def test_running_into_the_first_enemy_is_a_death(game):
    game.reset(seed=0)
    total = 0.0
    for _ in range(200):
        _, reward, terminated, truncated, info = game.step(RIGHT)
        total += reward
        if terminated or truncated:
            break
    assert (terminated, truncated, info["flag_get"]) == (True, False, False)
    assert 290 < info["x_pos"] < 330
    assert reward < 0
    assert total == pytest.approx(info["x_pos"] - 40 - 15 - (400 - info["time"]), abs=8)
    with pytest.raises(gymnasium.error.ResetNeeded):
        game.step(RIGHT)


def test_the_end_of_the_clock_is_a_truncation(game):
    game.reset(seed=0)
    for _ in range(20):
        game.step(0)
    ram = game._ram
    ram[0x7F8], ram[0x7F9], ram[0x7FA] = 0, 0, 1
    for _ in range(30):
        _, _, terminated, truncated, info = game.step(0)
        if terminated or truncated:
            break
    assert (terminated, truncated, info["time"]) == (False, True, 0)


def test_the_flag_ends_the_stage_well(game):
    game.reset(seed=0)
    ram = game._ram
    reached = False
    for t in range(2_000):  # fly over everything, held high up; then jump at the pole
        if game.x < 3100:
            ram[0xCE], ram[0xB5], ram[0x9F] = 40, 1, 0
        _, _, terminated, truncated, info = game.step(JUMP if game.x >= 3100 and t % 10 < 7 else RIGHT)
        if terminated or truncated:
            reached = info["flag_get"]
            break
    assert reached
    assert terminated
    assert info["x_pos"] > 3100


def test_rewards_are_bounded_and_progress_pays(game):
    game.reset(seed=0)
    rewards = [game.step(JUMP if t % 12 < 8 else RIGHT)[1] for t in range(20)]
    assert all(-15 * 4 <= reward <= 15 * 4 for reward in rewards)
    assert sum(rewards) > 50


def test_seeds_differ_in_idle_frames_only():
    env = SuperMarioBros(noops=30)
    times = {seed: env.reset(seed=seed)[0].tobytes() for seed in range(6)}
    assert len(set(times.values())) > 1
    assert env.reset(seed=3)[0].tobytes() == times[3]
    env.close()


def test_sticky_actions_hold_the_last_buttons():
    env = SuperMarioBros(buttons="right", noops=0, sticky=0.9)
    env.reset(seed=1)
    for _ in range(12):
        x = env.step(RIGHT)[4]["x_pos"]
    free = SuperMarioBros(buttons="right", noops=0)
    free.reset(seed=1)
    for _ in range(12):
        y = free.step(RIGHT)[4]["x_pos"]
    assert x <= y
    env.close()
    free.close()


@pytest.mark.filterwarnings("error")
def test_the_registered_id_conforms():
    check_env(gymnasium.make("envs:SuperMarioBros-v0", world=2, stage=1, disable_env_checker=True).unwrapped)


def test_button_sets_have_the_sizes_of_gym_super_mario_bros():
    assert {name: len(choices) for name, choices in BUTTONS.items()} == {
        "run": 2,
        "right": 5,
        "simple": 7,
        "complex": 12,
    }


def test_bad_actions_and_stages_are_refused(game):
    game.reset(seed=0)
    with pytest.raises(ValueError, match="action must be one of 0 to 4, got 5"):
        game.step(5)
    with pytest.raises(ValueError, match="world must be 1 to 8 and stage 1 to 4, got 0 and 1"):
        SuperMarioBros(world=0)


def test_closing_twice_is_harmless(game):
    game.close()
    game.close()
