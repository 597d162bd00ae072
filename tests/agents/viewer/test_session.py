"""The session of a visitor: actions, controllers, rewinding, the real game and recordings."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from tests import toys
from tests.agents.viewer.scenes import scene, world
from tests.tolerance import assert_same_sums
from worldmodel.agents.viewer import session as session_module
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.session import REST, WARM_UP, Session


def started(*arguments, **options):
    """A running session."""
    session = Session(*arguments, **options)
    session.receive({"type": "pause", "value": False})
    return session


def test_a_session_is_paused_at_first_and_runs_at_the_speed_of_the_game():
    session = Session(replace(scene(), speed=7.5), seed=3)
    frame = session.advance()
    assert (frame.facts["step"], frame.facts["paused"], frame.facts["speed"]) == (0, True, 7.5)
    assert session.advance() is None
    session.receive({"type": "pause", "value": False})
    assert session.advance().facts["step"] == 1


def test_the_dream_continues_if_the_game_cannot_be_made():
    def broken():
        raise ValueError("no cartridge")

    session = started(replace(scene(), make_env=broken), seed=3)
    session.receive({"type": "reality", "value": True})
    frame = session.advance()
    assert "no cartridge" in frame.facts["notice"]
    assert frame.reality is None
    assert session.advance().facts["step"] == 2


def test_the_dream_follows_the_world_model_and_the_actions():
    session = started(scene(), seed=3)
    state, generator = session.state, torch.Generator().manual_seed(0)
    generator.set_state(session.generator.get_state())
    session.receive({"type": "temperature", "value": 0.4})
    total = 0.0
    for action in ([0.5, -1.0], [1.0, 3.0]):
        session.receive({"type": "action", "value": action})
        frame = session.advance()
        clipped = torch.tensor([action]).clamp(-1, 1)
        with torch.inference_mode():
            step, state = session.scene.world.imagine(state, clipped, 0.4, generator)
        total += float(step.reward)
        assert frame.facts["reward"] == float(step.reward)
        assert frame.facts["total"] == pytest.approx(total)
        assert frame.facts["termination"] == float(step.termination)
        assert frame.facts["action"] == clipped[0].tolist()
        with torch.inference_mode():
            expected = session.scene.world.memory.density.distribution(state.hidden)
        assert_same_sums(frame.facts["weights"], expected.weights[0], count=state.hidden.shape[1] + 1, terms=1.0)
        np.testing.assert_array_equal(frame.dream, session.scene.world.decode(step.latent)[0])
    assert frame.facts["step"] == 2
    assert frame.reality is None


def test_the_controller_drives_until_the_visitor_does():
    session = started(scene(), seed=3)
    session.receive({"type": "action", "value": [1, 1]})
    session.advance()
    session.receive({"type": "controller", "value": "evolved"})
    state = session.state
    frame = session.advance()
    inputs = torch.cat((state.latent, state.hidden), dim=1)
    expected = session.scene.controllers["evolved"](inputs).tanh()[0]
    assert_same_sums(frame.facts["action"], expected, count=inputs.shape[1] + 1, terms=1.0)
    session.receive({"type": "controller", "value": "you"})
    session.receive({"type": "action", "value": [-1, 0]})
    assert session.advance().facts["action"] == [-1, 0]


def test_pausing_stepping_and_rewinding(monkeypatch):
    monkeypatch.setattr(session_module, "PAST", 30)
    session = started(scene(), seed=3)
    frames = [session.advance() for _ in range(6)]
    session.receive({"type": "pause", "value": True})
    assert session.advance().facts["paused"]
    assert session.advance() is None  # nothing new
    session.receive({"type": "step"})
    assert session.advance().facts["step"] == 7
    session.receive({"type": "rewind", "value": 4})
    rewound = session.advance()
    assert rewound.facts["step"] == 3
    np.testing.assert_array_equal(rewound.dream, frames[2].dream)
    session.receive({"type": "rewind", "value": 1e9})
    assert session.advance().facts["step"] == 0
    for _ in range(3):
        session.receive({"type": "rewind", "value": 5})
    assert session.advance().facts["step"] == 0
    session.receive({"type": "pause", "value": False})
    for _ in range(40):
        session.advance()
    assert len(session.past) == 30


def test_the_real_game_runs_beside_the_dream():
    session = started(scene(), seed=3)
    session.receive({"type": "reality", "value": True})
    frame = session.advance()
    # the counter counts to 20 and starts again; the dream starts after WARM_UP real steps
    now = WARM_UP % 20 + 1
    assert (frame.reality == now).all()
    assert frame.facts["real"] == {"reward": now, "total": now, "over": False}
    for _ in range(25):
        frame = session.advance()
    assert frame.facts["real"]["over"]
    assert (frame.reality == 20).all()
    assert frame.facts["real"]["total"] == sum(range(now, 21))
    session.receive({"type": "rewind", "value": 2})
    assert session.advance().facts["real"] is None
    session.receive({"type": "restart"})
    assert (session.advance().reality == now).all()
    session.close()


def test_the_real_game_takes_the_actions_of_the_dream():
    taken = []

    class Game(toys.Counter):
        def step(self, action):
            taken.append(action.tolist())
            return super().step(action)

    session = started(replace(scene(), make_env=Game), seed=3)
    session.receive({"type": "reality", "value": True})
    for action in ([0.5, -1.0], [1.0, 0.25]):
        session.receive({"type": "action", "value": action})
        assert session.advance().facts["action"] == taken[-1] == action
    session.close()


def test_a_scene_without_a_game_has_no_real_frames():
    session = started(scene(real=False), seed=3)
    session.receive({"type": "reality", "value": True})
    assert session.advance().reality is None


def test_a_film_is_recorded_and_can_be_played(monkeypatch):
    monkeypatch.setattr(session_module, "FILM", 20)
    session = started(scene(), seed=3)
    with pytest.raises(ValueError, match="record"):
        session.recording()
    session.receive({"type": "record", "value": True})
    frames = [session.advance().dream for _ in range(12)]
    session.receive({"type": "record", "value": False})
    session.advance()
    with av.open(io.BytesIO(session.recording())) as container:
        played = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(played) == 13  # the first frame and the recorded ones
    assert played[0].shape == (256, 256, 3)
    # Other frames differ by 85; codecs lose some noise.
    assert np.abs(played[5][::4, ::4].astype(int) - frames[4]).mean() < 25
    session.receive({"type": "record", "value": True})
    for _ in range(29):
        session.advance()
    assert session.facts["film"] == 20


def test_a_finished_dream_rests_before_the_next_starts():
    ending_scene = scene()
    ending_scene.world.memory.termination_head.bias.data.fill_(20)
    session = started(ending_scene, seed=3)
    assert session.advance().facts["over"]
    waited = 0
    while (frame := session.advance()) is None:
        waited += 1
    assert waited == int(REST * 30)
    assert (frame.facts["step"], frame.facts["over"]) == (0, False)


def test_discrete_actions_are_choices():
    session = started(scene(actions=3, discrete=True, real=False), seed=3)
    assert session.action.tolist() == [[0, 1, 0]]  # the choice without keys
    session.receive({"type": "action", "value": [0.2, 0.1, 0.9]})
    assert session.advance().facts["action"] == [0, 0, 1]


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"type": "shutdown"},
        {"type": ["action"]},
        {"type": "action", "value": [1]},
        {"type": "action", "value": [1, float("nan")]},
        {"type": "action", "value": [1, True]},
        {"type": "action", "value": {"0": 1}},
        {"type": "action", "value": [10**400, 0]},
        {"type": "temperature", "value": float("inf")},
        {"type": "temperature", "value": "hot"},
        {"type": "rewind"},
        {"type": "pause", "value": 1},
        {"type": "controller", "value": ["you"]},
    ],
    ids=str,
)
def test_invalid_messages_are_refused(message):
    session = started(scene(), seed=3)
    with pytest.raises(ValueError):
        session.receive(message)
    assert session.advance().facts["step"] == 1


def test_values_are_clipped():
    session = started(scene(), seed=3)
    session.receive({"type": "temperature", "value": 1e9})
    session.receive({"type": "speed", "value": -4})
    assert {session.advance().facts[key] for key in ("temperature", "speed")} == {3.0, 1.0}


def test_controls_of_known_games():
    mario = controls("SuperMarioBros-1-1", {"action_set": "run"}, world(actions=2, discrete=True))
    assert mario["choices"] == [
        {"name": "right + run", "keys": ["right", "b"]},
        {"name": "right + run + jump", "keys": ["right", "b", "a"]},
    ]
    car = controls("FastCarRacing", {}, world(actions=3))
    assert [(axis["name"], axis["positive"], axis["rest"]) for axis in car["axes"]] == [
        ("steer", "right", 0), ("gas", "up", -1), ("brake", "down", -1),
    ]  # fmt: skip
    assert [does for _, does in car["help"]] == ["steer left", "steer right", "gas", "brake"]
    assert [keys for keys, _ in mario["help"]] == [[], ["a"]]  # what all choices share needs no key
    for actions in (2, 3, 4, 7):
        choices = controls("Any-v0", {}, world(actions=actions, discrete=True))["choices"]
        assert [choice["name"] for choice in choices] == [f"action {number}" for number in range(actions)]


def test_action_names_of_a_game_are_shown():
    names = ["NOOP", "FIRE", "RIGHT", "UPLEFTFIRE", "TURN_LEFT"]
    named = controls("Any-v0", {}, world(actions=5, discrete=True), names)
    assert [choice["name"] for choice in named["choices"]] == names
    assert [choice["keys"] for choice in named["choices"]] == [[], ["a"], ["right"], ["up", "left", "a"], ["4"]]
    unnamed = controls("Any-v0", {}, world(actions=3, discrete=True), names)  # the memory has another number of actions
    assert [choice["name"] for choice in unnamed["choices"]] == ["action 0", "action 1", "action 2"]


def test_every_dream_and_every_visitor_has_other_noise():
    generators = []
    for seed in (3, 4):
        session = Session(scene(real=False), seed=seed)
        for _ in range(2):
            generators.append(session.generator.get_state().numpy().tobytes())
            session.receive({"type": "restart"})
            session.advance()
    assert len(set(generators)) == 4


def test_many_requests_restart_once():
    resets = []

    class Game:
        def reset(self, seed=None):
            resets.append(seed)
            return np.zeros((64, 64, 3), np.uint8), {}

        def step(self, action):
            return np.zeros((64, 64, 3), np.uint8), 0.0, False, False, {}

        def close(self):
            pass

    session = started(replace(scene(), make_env=Game), seed=3)
    for message in ({"type": "reality", "value": True}, *[{"type": "restart"}] * 50):
        session.receive(message)
    assert session.advance().reality is not None
    assert len(resets) == 1
