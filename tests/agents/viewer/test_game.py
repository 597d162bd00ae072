"""Facts about a game and its dream on the page: speed, action names and fidelity."""

from functools import partial

import gymnasium
import pytest
import torch

from tests import toys
from worldmodel import VAE, envs
from worldmodel.agents.viewer.fidelity import Fidelity, agree, small_moving
from worldmodel.agents.viewer.game import game_facts


@pytest.mark.parametrize(
    ("id", "options", "speed"),
    [
        ("FastCarRacing", {"action_repeat": 4}, 12.5),
        ("FastCarRacing", {}, 50),
        ("SuperMarioBros-1-1", {"action_repeat": 8}, 7.5),
        ("SuperMarioBros-1-1", {}, 15),
        ("CartPole-v1", {"action_repeat": 2}, 25),
    ],
)
def test_the_speed_is_that_of_the_game(id, options, speed):
    assert game_facts(id, options, partial(envs.make, id, **options)).speed == speed


def test_a_game_that_cannot_be_made_has_a_default_speed():
    assert game_facts("my_games:Mine-v0", {"action_repeat": 3}, None) == (10, ())


class Arcade(toys.Counter):
    metadata = {"render_fps": 30}
    spec = gymnasium.envs.registration.EnvSpec("Arcade-v0", kwargs={"frameskip": 4})

    def get_action_meanings(self):
        return ["NOOP", "FIRE"]


def test_arcade_games_have_action_names_and_frame_skips():
    assert game_facts("Arcade-v0", {}, Arcade) == (15, ("NOOP", "FIRE"))


class FixedReconstructions(VAE):
    """A VAE with given reconstructions."""

    def __init__(self, pictures):
        super().__init__(4)
        self.pictures = iter(pictures)

    def decode(self, latent):
        return next(self.pictures)


def test_missing_small_moving_objects_are_detected():
    frames = torch.full((16, 64, 64, 3), 90, dtype=torch.uint8)
    frames[:, 40:, :, 1] = 200  # large objects do not count
    plain = frames.permute(0, 3, 1, 2) / 255
    for time in range(16):
        frames[time, 30:33, 2 * time : 2 * time + 3] = 255
    whole = frames.permute(0, 3, 1, 2) / 255
    assert small_moving(FixedReconstructions(whole.split(16)), frames) == pytest.approx(1, abs=1e-5)
    share = small_moving(FixedReconstructions(plain.split(16)), frames)
    assert share == pytest.approx(0, abs=0.05)
    assert (
        small_moving(
            FixedReconstructions(plain[:1].expand(16, -1, -1, -1).split(16)), (plain * 255).byte().permute(0, 2, 3, 1)
        )
        is None
    )
    parts = small_moving(FixedReconstructions(plain.split(5)), frames, chunk=5)
    assert parts == pytest.approx(share, abs=1e-5)
    block = frames.clone()
    block[12:, 45:61, 20:40, 0] = 40  # a large object that appears and is not drawn
    assert small_moving(FixedReconstructions(whole.split(16)), block) > 0.9
    static = frames[:1].expand(16, -1, -1, -1)  # small objects at rest do not count
    assert small_moving(FixedReconstructions(plain.split(16)), static) is None
    assert len(Fidelity(share).notes(10)) == 1
    assert Fidelity(0.9).notes(10) == Fidelity(None).notes(10) == ()


def test_fidelity_is_saved_and_described(tmp_path):
    fidelity = Fidelity(0.1, 60, 12, ["gas", "no key"], [90.0, 40.0], [80.0, 4.0])
    fidelity.save(tmp_path)
    assert Fidelity.of(tmp_path) == fidelity
    returns, apart, small = fidelity.notes(15)
    assert "4.0 s" in returns
    assert "no key" in apart
    assert "gas" not in apart
    assert "10%" in small
    assert Fidelity.of(tmp_path / "elsewhere") is None
    (tmp_path / "fidelity.json").write_text('{"ways": ["gas"]}')
    with pytest.raises(ValueError, match="fidelity"):
        Fidelity.of(tmp_path)


@pytest.mark.parametrize(
    ("dreamed", "real", "scale", "same"),
    [(10, 5, 0, True), (10, 4, 0, False), (-6, -4, 0, True), (1, -1, 5, False), (1, -1, 50, True), (0, 0, 0, True)],
)
def test_returns_agree_within_a_factor_of_two(dreamed, real, scale, same):
    assert agree(dreamed, real, scale) is same
