"""Recordings hold what a person played: the steps of the game and of the dream, and nothing of controllers."""

import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from websockets.sync.client import connect

from tests import toys
from tests.agents.viewer.scenes import scene, world
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.viewer import recorder as recorder_module
from worldmodel.agents.viewer import serve
from worldmodel.agents.viewer.recorder import Recorder
from worldmodel.agents.viewer.session import Session
from worldmodel.envs.adapters import to_pixels
from worldmodel.rollouts import Store
from worldmodel.rollouts.store.write import DREAM_ENV_ID

MAIN = "from worldmodel.agents.cli.main import main; import sys; sys.exit(main())"


def recorded(folder, **options):
    """A running session that is recorded."""
    shown = scene(**options)
    recorder = Recorder(folder, shown.world, "Counter", {})
    session = Session(replace(shown, recorder=recorder), seed=3)
    session.receive({"type": "pause", "value": False})
    return session


def play(session, actions):
    """Take steps with these actions; returns the frames."""
    frames = []
    for action in actions:
        session.receive({"type": "action", "value": action})
        frames.append(session.advance())
    return frames


def actions(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype(np.float32).tolist()


def stores(folder):
    return Run(folder / "game").store(), Run(folder / "dream").store()


def test_a_game_and_a_dream_are_recorded_as_they_were_played(tmp_path):
    session = recorded(tmp_path)
    session.receive({"type": "reality", "value": True})
    frames = play(session, taken := actions(20))
    first = session.past[0].dream
    session.receive({"type": "restart"})
    session.advance()
    game, dream = stores(tmp_path)
    expected = toys.Counter()
    reset = expected.reset()[0]
    episode = game.episode(0)  # 20 steps from the first frame on: no warm-up by somebody else
    np.testing.assert_array_equal(episode.frames, [reset, *(expected.step(None)[0] for _ in range(20))])
    np.testing.assert_array_equal(episode.rewards, range(1, 21))
    assert (episode.terminated, episode.truncated) == (True, False)
    dreamed = dream.episode(0)
    np.testing.assert_array_equal(dreamed.frames, [first, *(frame.dream for frame in frames)])
    np.testing.assert_array_equal(dreamed.rewards, np.float32([frame.facts["reward"] for frame in frames]))
    assert (dreamed.terminated, dreamed.truncated) == (False, True)  # cut by the restart
    for one in (episode, dreamed):
        np.testing.assert_array_equal(one.actions, np.float32(taken))
    assert (game.env, dream.env) == ("Counter", DREAM_ENV_ID)
    assert game.metadata["policy"] == "person"


def test_a_terminated_dream_is_recorded_while_the_person_finishes_the_game(tmp_path):
    session = recorded(tmp_path)
    session.scene.world.memory.termination_head.bias.data.fill_(20)
    session.receive({"type": "reality", "value": True})
    steps = play(session, actions(20))
    assert steps[0].facts["over"] and steps[-1].facts["step"] == 1
    assert steps[-1].facts["real"]["over"]
    game, dream = stores(tmp_path)
    assert (game.lengths, dream.lengths) == ([20], [1])
    assert dream.episode(0).terminated


def test_discrete_actions_are_recorded_as_numbers(tmp_path):
    session = recorded(tmp_path, actions=3, discrete=True, real=False)
    play(session, [[0, 0, 1], [1, 0, 0]])
    session.close()
    store = Store(tmp_path / "dream" / "rollouts")
    assert store.discrete and store.action_dim == 3
    assert store.episode(0).actions.tolist() == [2, 0]
    assert not (tmp_path / "game").exists()


def test_a_recording_keeps_the_choices_of_its_actions(tmp_path):
    shown = world(actions=5)
    shown.nvec = (3, 2, 2)
    assert Recorder(tmp_path, shown, "Counter", {}).kind.nvec == (3, 2, 2)


def test_steps_of_a_controller_and_rewound_steps_are_not_recorded(tmp_path):
    session = recorded(tmp_path)
    taken = actions(9)
    play(session, taken[:5])
    session.receive({"type": "rewind", "value": 2})
    session.receive({"type": "pause", "value": True})
    session.advance()
    session.receive({"type": "pause", "value": False})
    play(session, taken[5:6])
    session.receive({"type": "controller", "value": "evolved"})
    for _ in range(4):
        session.advance()
    session.receive({"type": "controller", "value": "you"})
    play(session, taken[6:])
    session.receive({"type": "rewind", "value": 8})  # more steps than the episode has
    session.receive({"type": "pause", "value": True})
    session.advance()
    session.close()
    store = Store(tmp_path / "dream" / "rollouts")
    np.testing.assert_array_equal(store.episode(0).actions, np.float32([*taken[:3], taken[5]]))
    assert len(store) == 1


def test_a_recording_is_continued_and_finished_episodes_survive(tmp_path):
    session = recorded(tmp_path)
    session.receive({"type": "reality", "value": True})
    play(session, actions(23))  # killed: the session is never closed
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.h5")}
    assert len(kept) == 1
    again = recorded(tmp_path)
    assert again.scene.recorder.episodes == 1
    again.receive({"type": "reality", "value": True})
    play(again, actions(20))
    assert again.advance().facts["rollouts"] == {"episodes": 2, "error": ""}
    again.close()
    assert {path: path.read_bytes() for path in kept} == kept
    game, dream = stores(tmp_path)
    assert game.lengths == [20, 20] and len(dream) == 1


def test_a_long_episode_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "LONGEST", 4)
    session = recorded(tmp_path)
    play(session, actions(10))
    session.close()
    store = Store(tmp_path / "dream" / "rollouts")
    assert store.lengths == [4, 4, 2]
    np.testing.assert_array_equal(store.episode(0).frames[-1], store.episode(1).frames[0])


def test_an_episode_that_cannot_be_written_does_not_end_the_play(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "the disk is full")

    session = recorded(tmp_path)
    monkeypatch.setattr(recorder_module, "append", full)
    play(session, actions(3))
    session.receive({"type": "restart"})
    facts = session.advance().facts
    assert facts["rollouts"]["episodes"] == 0 and "full" in facts["rollouts"]["error"]
    assert session.advance().facts["step"] == facts["step"] + 1


def test_recordings_of_other_games_and_dreams_are_refused(tmp_path):
    session = recorded(tmp_path / "mine", real=False)
    play(session, actions(2))
    session.close()
    with pytest.raises(ValueError, match="world"):  # dreams of another world model
        Recorder(tmp_path / "mine", world(latent=4), "Counter", {})
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        serve(scene(), record=tmp_path / "mine")


@pytest.mark.slow
def test_ctrl_c_writes_the_episodes_of_connected_visitors(tmp_path):
    words = ["play", "car-racing-dream", "--pretrained", "--port", "0", "--browser", "false", "--record", str(tmp_path)]
    program = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + MAIN]
    with subprocess.Popen([*program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://(\S+)/", server.stdout.readline())[1]
        with connect(f"ws://{address}/dream") as visitor:
            visitor.send('{"type": "pause", "value": false}')
            for _ in range(12):
                visitor.recv(timeout=60)
            server.send_signal(signal.SIGINT)
            errors = server.communicate(timeout=60)[1]
    assert server.returncode == 0 and "Traceback" not in errors
    assert Store(tmp_path / "dream" / "rollouts").lengths[0] >= 10


class Fails(toys.Counter):
    """Fails in its seventh step."""

    def step(self, action):
        if self.now >= 6:
            raise RuntimeError("out of fuel")
        return super().step(action)


def test_a_game_that_fails_ends_and_says_why(tmp_path):
    shown = replace(scene(), make_env=lambda: to_pixels(Fails()))
    session = Session(replace(shown, recorder=Recorder(tmp_path, shown.world, "Counter", {})), seed=3)
    for message in ({"type": "pause", "value": False}, {"type": "reality", "value": True}):
        session.receive(message)
    frames = play(session, actions(9))
    assert "out of fuel" in frames[-1].facts["notice"]
    assert frames[-1].facts["real"]["over"] and not frames[-1].facts["over"]
    game, _ = Store(tmp_path / "game" / "rollouts"), session.close()
    assert len(game.episode(0)) == 6
