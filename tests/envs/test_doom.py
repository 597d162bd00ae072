"""Take Cover: scores, actions, frames; its process and its files end with the process that started it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from worldmodel import VAE, envs, rollouts
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.game import game_facts
from worldmodel.envs import doom

PLAY = """
import time
from worldmodel import envs
games = [envs.make(id) for id in ("DoomTakeCover", "VizdoomTakeCover-v1")]
for game in games:
    game.reset(seed=1)
print(flush=True)
time.sleep(60)
"""


def play(env, seed, actions, steps=2100):
    """Play an episode with a cycle of actions; return the frames, the rewards and the two flags."""
    frames, rewards, ended = [env.reset(seed=seed)[0]], [], [False, False]
    while not any(ended) and len(rewards) < steps:
        frame, reward, *ended, _ = env.step(actions[len(rewards) % len(actions)])
        frames.append(frame)
        rewards.append(reward)
    return np.stack(frames), rewards, ended


def children(pid):
    """Process ids of the games of a process and of its descendants."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                is_game = b"viz_instance_id" in Path(f"/proc/{child}/cmdline").read_bytes()
                found += ([child] if is_game else []) + children(child)
    return found


def ends(pid, seconds=30.0):
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def instances(games):
    """Names of games, with which their files in shared memory end; other games may run on this machine."""
    words = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in games]
    return tuple(one[one.index("+viz_instance_id") + 1] for one in words)


def test_the_score_is_the_number_of_tics_whatever_the_repeat():
    returns = []
    for repeat in (3, 8):
        env = envs.make("DoomTakeCover", action_repeat=repeat)
        frames, rewards, ended = play(env, 3, [1])
        assert ended == [True, False]
        assert frames.shape[1:] == (64, 64, 3)
        assert rewards[:-1] == [repeat] * (len(rewards) - 1) and 1 <= rewards[-1] <= repeat
        assert frames[-1].mean() > 20  # not the black screen of a finished game
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(1)
        returns.append(sum(rewards))
        env.close()
    assert len(set(returns)) == 1


def test_a_game_starts_from_folders_with_quotes_and_spaces(monkeypatch, tmp_path):
    (folder := tmp_path / "it's a folder").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    env = envs.make("DoomTakeCover")
    assert env.reset(seed=1)[0].shape == (64, 64, 3)
    env.close()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_skill_is_that_of_world_models():
    """doom-py 0.0.15 passed skill 5 of its file on as 4."""
    env = envs.make("DoomTakeCover")
    assert env.unwrapped._game.get_doom_skill() == 4
    env.close()


def test_an_episode_is_truncated_at_the_time_limit(monkeypatch):
    monkeypatch.setattr(doom, "MAX_TICS", 30)
    env = envs.make("DoomTakeCover", action_repeat=4)
    _, rewards, ended = play(env, 1, [1])
    assert (sum(rewards), ended) == (30, [False, True])
    env.close()


def test_seeds_determine_episodes_whatever_was_played_before():
    one, other = envs.make("DoomTakeCover"), envs.make("DoomTakeCover")
    play(other, 8, [0, 2], 20)
    first, second = play(one, 5, [0, 0, 2], 60), play(other, 5, [0, 0, 2], 60)
    assert np.array_equal(first[0], second[0]) and first[1:] == second[1:]
    assert not np.array_equal(first[0], play(one, 6, [0, 0, 2], 60)[0])
    one.close()
    other.close()


def test_actions_move_the_player_and_continuous_ones_have_a_threshold():
    discrete, continuous = envs.make("DoomTakeCover"), envs.make("DoomTakeCover", continuous=True)
    actions = np.random.default_rng(1).integers(3, size=60)
    for below, stay, above in ((-1.0, 0.3, 1.0), (-0.334, -0.333, 0.334)):
        floats = np.array([[below], [stay], [above]], np.float32)[actions]
        assert np.array_equal(play(discrete, 2, actions, 60)[0], play(continuous, 2, floats, 60)[0])
    views = [play(discrete, 2, [action], 20)[0][20] for action in range(3)]
    shifts = [np.abs(np.roll(views[1], (0, shift), (0, 1))[:, 16:48].astype(int) - views[action][:, 16:48]).mean()
              for action in (0, 2) for shift in (4, -4)]  # fmt: skip
    assert shifts[0] < shifts[1] and shifts[2] > shifts[3]  # to the left: the room moves to the right
    for env in (discrete, continuous):
        env.close()


def test_a_cropped_view_is_the_middle_of_the_whole_view():
    whole, cropped = (
        play(env, 3, [0, 0, 2], 40)[0] for env in (envs.make("DoomTakeCover"), envs.make("DoomTakeCover", crop=True))
    )
    # rows 80 to 160 of 240 become 64 rows: three of them are one row of the whole view, the first of which is row 21.33
    rows = np.arange(22, 42)
    middle = cropped[:, np.round((rows + 0.5 - 64 / 3) * 3 - 0.5).astype(int)].astype(int)
    others = whole[::-1, rows].astype(int)
    assert np.abs(middle - whole[:, rows]).mean() < 0.6 * np.abs(middle - others).mean()
    assert cropped.std(axis=(2, 3)).mean() > 1.5 * whole.std(axis=(2, 3)).mean()


@pytest.mark.parametrize("options", [{"action_repeat": 0}, {"continuous": 1}, {"crop": 2}, {"lives": 3}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        envs.make("DoomTakeCover", **options)


def test_actions_enter_the_memory_one_hot(tmp_path):
    store = rollouts.collect("DoomTakeCover", "uniform", 2, seed=1, max_steps=20, out=tmp_path, workers=1)
    assert (store.discrete, store.action_dim, store.steps) == (True, 3, 40)
    action = store.latents(VAE(latent_dim=2)).episode(0).action
    assert action.shape == (20, 3) and (action.sum(axis=1) == 1).all() and set(action.flat) == {0, 1}


def test_the_page_has_the_keys_left_and_right(tmp_path):
    class World:
        discrete, action_dim = True, 3

    game = game_facts("DoomTakeCover", {"action_repeat": 4}, lambda: envs.make("DoomTakeCover", action_repeat=4))
    assert game.speed == 35 / 4
    keys = [choice["keys"] for choice in controls("DoomTakeCover", {}, World, game.meanings)["choices"]]
    assert keys == [["left"], [], ["right"]]
    World.discrete, World.action_dim = False, 1
    [axis] = controls("DoomTakeCover", {"continuous": True}, World)["axes"]
    assert (axis["negative"], axis["positive"], axis["rest"]) == ("left", "right", 0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_games_and_files_end_with_a_killed_process(number, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    folder = tmp_path / "work"
    folder.mkdir()
    player = subprocess.Popen(
        [sys.executable, "-c", PLAY], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    player.stdout.readline()
    games = children(player.pid)
    names = instances(games)
    player.send_signal(number)
    player.wait(60)
    assert len(games) == 2 and all(ends(pid) for pid in games)
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.endswith(names)]
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("starts", [True, False])
def test_a_game_starts_only_while_its_process_runs(starts, tmp_path):
    parent = os.getpid() if starts else os.getppid()
    (folder := tmp_path / "it's a folder").mkdir()
    (launcher := folder / "launcher").write_text(doom.launcher_script(folder, "/bin/echo", parent), encoding="utf-8")
    launcher.chmod(0o700)
    assert subprocess.run([launcher, "started"], capture_output=True, text=True).stdout == "started\n" * starts


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_games_end_with_a_command(number, tmp_path):
    words = ["collect", "doom-take-cover", "--collect.episodes", "100000", "--workers", "2", "--out", "runs/x"]
    code = "import sys; from worldmodel.agents.cli.main import main; sys.exit(main(sys.argv[1:]))"
    if number is None:
        words[words.index("100000")] = "2"
    command = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    games, deadline = set(), time.monotonic() + 240
    while len(games) < 2 and command.poll() is None and time.monotonic() < deadline:
        games |= set(children(command.pid))
        time.sleep(0.02)
    if number is not None:
        assert len(games) == 2
        command.send_signal(number)
    assert (command.wait(240) == 0) == (number is None)
    assert all(ends(pid) for pid in games)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
