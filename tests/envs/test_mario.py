"""Super Mario Bros on the real cartridge: how episodes begin and end."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.mario import ACTION_SETS, BUSY_STATES, SuperMarioBros

RIGHT = 1
JUMP = 2


@pytest.fixture
def game():
    env = SuperMarioBros(action_set="right", noop_max=0)
    yield env
    env.close()


@pytest.mark.parametrize(
    ("world", "stage"),
    [
        pytest.param(world, stage, marks=[pytest.mark.slow] * (stage != world % 4 + 1))
        for world in range(1, 9)
        for stage in range(1, 5)
    ],
)
def test_every_stage_starts_and_moves(world, stage):
    env = SuperMarioBros(world, stage, noop_max=0)
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
        if game.x_pos < 3100:
            ram[0xCE], ram[0xB5], ram[0x9F] = 40, 1, 0
        _, _, terminated, truncated, info = game.step(JUMP if game.x_pos >= 3100 and t % 10 < 7 else RIGHT)
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
    env = SuperMarioBros(noop_max=30)
    times = {seed: env.reset(seed=seed)[0].tobytes() for seed in range(6)}
    assert len(set(times.values())) > 1
    assert env.reset(seed=3)[0].tobytes() == times[3]
    env.close()


def played(env, count=60, seed=5):
    """All that happens under random buttons: pictures, rewards, ends, infos, memory."""
    rng, history = np.random.default_rng(seed), []
    for _ in range(count):
        frame, *rest = env.step(int(rng.integers(env.action_space.n)))
        history.append((frame.tobytes(), *rest, bytes(env._ram)))
        if rest[1] or rest[2]:
            break
    return history


def test_a_snapshot_is_the_whole_machine():
    env = SuperMarioBros(action_set="complex", noop_max=0, sticky_action_prob=0.25)
    env.reset(seed=1)
    played(env, 20, seed=0)
    first = env.save_state()
    lived = played(env)
    second = env.save_state()
    on = played(env, seed=6)
    env.reset(seed=9)
    shown, info = env.load_state(first)
    assert np.array_equal(shown, env.render())
    assert info == env.info()
    assert played(env) == lived
    env.load_state(second)  # several at once, in any order
    assert played(env, seed=6) == on
    env.load_state(first)
    assert played(env) == lived
    env.close()


@pytest.mark.parametrize("machine", ["numba", "nes-py"])
def test_what_is_closed_refuses(machine):
    env = SuperMarioBros(noop_max=0, backend=machine)
    env.reset(seed=1)
    env.step(0)
    moment = env.save_state()
    env.close()
    for use in (env.reset, env.render, env.save_state, lambda: env.step(0), lambda: env.load_state(moment)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert env.info()["coins"] == 0  # of a memory that is there


def test_a_snapshot_outlives_its_environment_and_fits_into_another():
    env = SuperMarioBros(noop_max=0)
    env.reset(seed=1)
    played(env, 10, seed=0)
    moment = env.save_state()
    lived = played(env)
    env.close()
    with pytest.raises(ValueError, match="closed"):
        env.load_state(moment)
    other = SuperMarioBros(4, 2, noop_max=0)
    other.reset(seed=3)
    played(other, 10, seed=2)
    other.load_state(moment)
    assert other.info()["world"] == 1
    assert played(other) == lived
    with pytest.raises(ValueError, match="snapshot"):
        other.load_state(moment._replace(backend=b"short"))
    other.close()


def test_a_finished_episode_stays_finished_in_its_snapshot(game):
    game.reset(seed=0)
    begun = game.save_state()
    while not game._is_over:
        game.step(RIGHT)
    ended = game.save_state()
    game.load_state(begun)
    game.step(RIGHT)
    game.load_state(ended)
    with pytest.raises(gymnasium.error.ResetNeeded):
        game.step(RIGHT)


def fly(env, x):
    """To a place of the stage, high up; and stand still in the air there."""
    ram = env._ram
    while env.x_pos < x:
        ram[0xCE], ram[0xB5], ram[0x9F] = 40, 1, 0
        env.step(RIGHT)
    ram[0x57] = 0


def test_falling_into_a_pit_is_a_death(game):
    game.reset(seed=0)
    fly(game, 1112)  # the first pit of 1-1
    for _ in range(60):
        game._ram[0x57] = 0
        _, reward, terminated, truncated, info = game.step(0)
        if terminated or truncated:
            break
    assert (terminated, truncated, info["flag_get"]) == (True, False, False)
    assert 1104 < info["x_pos"] < 1136
    assert game._ram[0xB5] > 1  # below the screen
    assert reward < 0


def test_a_pipe_leads_on_without_a_step_of_its_own():
    """Down the fourth pipe of 1-1: the walk into it is skipped, and the room below is the same episode."""
    env = SuperMarioBros(action_set="complex", noop_max=0)
    env.reset(seed=0)
    ram, down = env._ram, 10
    fly(env, 918)
    for _ in range(60):
        ram[0x57] = 0
        clock = env.time_left
        _, reward, terminated, truncated, _ = env.step(down if ram[0x1D] == 0 else 0)
        assert not terminated
        assert not truncated
        if ram[0x74E] == 2:  # below the ground
            break
    assert ram[0x74E] == 2
    assert ram[0x0E] not in BUSY_STATES
    assert env.x_pos < 100 < 918
    assert reward == env.time_left - clock  # the jump back is no way that was gone
    assert env.step(RIGHT)[4]["x_pos"] >= 24
    env.close()


CASTLE = "82 62 82 82 82 82 82 82 82 82 82 82 62 82 82 82 82 82 82 55 55 82 55 42 82"
"""Through 1-4: steps with a jump, steps without, and again; always running to the right."""


def test_the_axe_of_a_castle_is_a_win():
    env = SuperMarioBros(1, 4, action_set="right", noop_max=0)
    env.reset(seed=0)
    for action in "".join("4" * int(jump) + "3" * int(run) for jump, run in CASTLE.split()):
        env._ram[0x79E] = 8  # untouched by fire
        _, _, terminated, truncated, info = env.step(int(action))
        if terminated or truncated:
            break
    assert (terminated, truncated, info["flag_get"]) == (True, False, True)
    assert info["x_pos"] > 2240
    env.close()


def test_sticky_actions_hold_the_last_buttons():
    """Frame by frame as drawn: with the probability ``sticky_action_prob`` what was pressed before is pressed on."""
    env = SuperMarioBros(action_set="right", noop_max=0, sticky_action_prob=0.6)
    env.reset(seed=1)
    pressed, frame = [], env._backend.frame_advance
    env._backend.frame_advance = lambda buttons, draw=True: (pressed.append(buttons), frame(buttons, draw))[1]
    draws, held, expected = np.random.default_rng(1), 0, []
    draws.integers(env.noop_max + 1)
    choices = [1, 3, 2, 4, 0] * 3
    for action in choices:
        env.step(action)
        for _ in range(env.frame_skip):
            held = held if draws.random() < env.sticky_action_prob else env.button_sets[action]
            expected.append(held)
    assert pressed == expected
    assert len(set(pressed)) > 3
    env.close()


@pytest.mark.filterwarnings("error")
def test_the_registered_id_conforms():
    check_env(gymnasium.make("envs:SuperMarioBros-v0", world=2, stage=1, disable_env_checker=True).unwrapped)


def test_button_sets_have_the_sizes_of_gym_super_mario_bros():
    assert {name: len(choices) for name, choices in ACTION_SETS.items()} == {
        "run": 2,
        "right": 5,
        "simple": 7,
        "complex": 12,
    }


def test_bad_actions_and_stages_are_refused(game):
    game.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        game.step(5)
    with pytest.raises(ValueError, match="world"):
        SuperMarioBros(world=0)


def test_closing_twice_is_harmless(game):
    game.close()
    game.close()
