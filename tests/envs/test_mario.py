"""Super Mario Bros with the original ROM: starts and ends of episodes, snapshots, actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldmodel.envs.mario.env import ACTION_SETS, BUSY_STATES, SuperMarioBros

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
    start_x = info["x_pos"]
    for _ in range(10):
        info = env.step(RIGHT)[4]
    assert info["x_pos"] > start_x
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


def test_the_time_limit_of_the_game_is_a_truncation(game):
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


def test_the_flag_terminates_the_stage(game):
    game.reset(seed=0)
    ram = game._ram
    reached = False
    for t in range(2_000):  # hold Mario high above the stage, then jump at the pole
        if game.x_pos < 3100:
            ram[0xCE], ram[0xB5], ram[0x9F] = 40, 1, 0
        _, _, terminated, truncated, info = game.step(JUMP if game.x_pos >= 3100 and t % 10 < 7 else RIGHT)
        if terminated or truncated:
            reached = info["flag_get"]
            break
    assert reached
    assert terminated
    assert info["x_pos"] > 3100


def test_rewards_are_bounded_and_progress_is_rewarded(game):
    game.reset(seed=0)
    rewards = [game.step(JUMP if t % 12 < 8 else RIGHT)[1] for t in range(20)]
    assert all(-15 * 4 <= reward <= 15 * 4 for reward in rewards)
    assert sum(rewards) > 50


def test_seeds_change_the_number_of_noop_frames():
    env = SuperMarioBros(noop_max=30)
    times = {seed: env.reset(seed=seed)[0].tobytes() for seed in range(6)}
    assert len(set(times.values())) > 1
    assert env.reset(seed=3)[0].tobytes() == times[3]
    env.close()


def test_the_number_of_noop_frames_includes_the_maximum():
    env, starts = SuperMarioBros(noop_max=1), set()
    for seed in range(9):
        env.reset(seed=seed)
        starts.add(bytes(env._ram))
    assert len(starts) == 2
    env.close()


def test_sticky_actions_do_not_depend_on_the_previous_episode():
    env = SuperMarioBros(action_set="complex", noop_max=0, sticky_action_prob=0.5)

    def episode(seed):
        env.reset(seed=seed)
        return play_randomly(env, 5)

    first = [episode(seed) for seed in range(4)]
    assert [episode(seed) for seed in reversed(range(4))] == first[::-1]
    env.close()


def play_randomly(env, count=60, seed=5):
    """Frames, rewards, flags, infos and RAM of an episode with random actions."""
    rng, history = np.random.default_rng(seed), []
    for _ in range(count):
        frame, *rest = env.step(int(rng.integers(env.action_space.n)))
        history.append((frame.tobytes(), *rest, bytes(env._ram)))
        if rest[1] or rest[2]:
            break
    return history


def test_snapshots_restore_the_complete_state():
    env = SuperMarioBros(action_set="complex", noop_max=0, sticky_action_prob=0.25)
    env.reset(seed=1)
    play_randomly(env, 20, seed=0)
    first = env.save_state()
    first_steps = play_randomly(env)
    second = env.save_state()
    second_steps = play_randomly(env, seed=6)
    env.reset(seed=9)
    frame, info = env.load_state(first)
    assert np.array_equal(frame, env.render())
    assert info == env.info()
    assert play_randomly(env) == first_steps
    env.load_state(second)  # several snapshots, in any order
    assert play_randomly(env, seed=6) == second_steps
    env.load_state(first)
    assert play_randomly(env) == first_steps
    env.close()


@pytest.mark.parametrize("backend", ["numba", "nes-py"])
def test_closed_environments_refuse_calls(backend):
    env = SuperMarioBros(noop_max=0, backend=backend)
    env.reset(seed=1)
    env.step(0)
    snapshot = env.save_state()
    env.close()
    for use in (env.reset, env.render, env.save_state, lambda: env.step(0), lambda: env.load_state(snapshot)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert env.info()["coins"] == 0  # the RAM is still readable


def test_snapshots_stay_valid_after_close_and_in_another_environment():
    env = SuperMarioBros(noop_max=0)
    env.reset(seed=1)
    play_randomly(env, 10, seed=0)
    snapshot = env.save_state()
    expected = play_randomly(env)
    env.close()
    with pytest.raises(ValueError, match="closed"):
        env.load_state(snapshot)
    other = SuperMarioBros(4, 2, noop_max=0)
    other.reset(seed=3)
    play_randomly(other, 10, seed=2)
    other.load_state(snapshot)
    assert other.info()["world"] == 1
    assert play_randomly(other) == expected
    with pytest.raises(ValueError, match="snapshot"):
        other.load_state(snapshot._replace(backend=b"short"))
    other.close()


def test_snapshots_of_finished_episodes_are_finished(game):
    game.reset(seed=0)
    first = game.save_state()
    while not game._is_over:
        game.step(RIGHT)
    last = game.save_state()
    game.load_state(first)
    game.step(RIGHT)
    game.load_state(last)
    with pytest.raises(gymnasium.error.ResetNeeded):
        game.step(RIGHT)


def fly(env, x):
    """Move to a position of the stage, high in the air, and stop there."""
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


def test_entering_a_pipe_takes_no_step():
    """In the fourth pipe of 1-1, the animation is skipped, and the room below belongs to the same episode."""
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
    assert reward == env.time_left - clock  # the jump of x_pos is not counted as movement
    assert env.step(RIGHT)[4]["x_pos"] >= 24
    env.close()


CASTLE = "82 62 82 82 82 82 82 82 82 82 82 82 62 82 82 82 82 82 82 55 55 82 55 42 82"
"""Actions for 1-4: each pair has the number of steps with and without a jump; Mario always runs to the right."""


def test_the_axe_of_a_castle_terminates_the_stage():
    env = SuperMarioBros(1, 4, action_set="right", noop_max=0)
    env.reset(seed=0)
    for action in "".join("4" * int(jump) + "3" * int(run) for jump, run in CASTLE.split()):
        env._ram[0x79E] = 8  # invincible
        _, _, terminated, truncated, info = env.step(int(action))
        if terminated or truncated:
            break
    assert (terminated, truncated, info["flag_get"]) == (True, False, True)
    assert info["x_pos"] > 2240
    env.close()


def test_sticky_actions_repeat_the_last_buttons():
    """For each frame, the previous buttons stay pressed with probability ``sticky_action_prob``."""
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
    check_env(
        gymnasium.make(
            "worldmodel.envs:worldmodel/SuperMarioBros-v0", world=2, stage=1, disable_env_checker=True
        ).unwrapped
    )


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
