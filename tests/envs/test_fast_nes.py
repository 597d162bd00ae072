"""Our machine against nes-py's emulator: the same memory after every frame, the same pictures."""

import numpy as np
import pytest

import envs
import rollouts
from agents.pretrained import shipped
from envs import cartridge, nes
from envs.fast_nes import FastMachine
from envs.mario import LEFT, RIGHT, START, A, B, SuperMarioBros
from tests.skips import IMPOSSIBLE

CHOICES = [0, RIGHT, RIGHT | B, RIGHT | A | B, RIGHT | A, LEFT | B, A]
theirs_is_8 = pytest.mark.skipif(
    any(cartridge.folder_of("nes_py").glob("_native*")),
    reason=f"{IMPOSSIBLE}nes-py 9 is another emulator; ours repeats nes-py 8.2.1",
)


@theirs_is_8
def test_the_same_from_power_on_through_the_title_and_a_game():
    rng = np.random.default_rng(1)
    ours, theirs = FastMachine(cartridge.game_file()), nes.Machine()
    pressed = 0
    for frame in range(700):
        if frame % 11 == 0:
            pressed = START if frame < 300 and frame % 77 == 0 else int(rng.choice(CHOICES))
        theirs.frame(pressed)
        ours.frame(pressed, draw=frame % 5 == 0)
        assert bytes(ours.ram) == bytes(theirs.ram), frame
        if frame % 97 == 0 and frame:
            assert np.array_equal(ours.picture(), theirs.picture()), frame


@theirs_is_8
@pytest.mark.parametrize(
    ("world", "stage"),
    [(1, 2), (2, 2), *(pytest.param(*place, marks=pytest.mark.slow) for place in ((1, 1), (3, 1), (4, 4), (8, 3)))],
)
def test_episodes_are_the_same_in_every_kind_of_stage(world, stage):
    """Above and below ground, under water, at night, in a castle, among many sprites."""
    rng = np.random.default_rng(world)
    ours, theirs = (SuperMarioBros(world, stage, buttons="simple", machine=kind) for kind in ("fast", "nes-py"))
    for seed in range(2):
        shown, told = ours.reset(seed=seed)
        picture, info = theirs.reset(seed=seed)
        for step in range(100):
            assert np.array_equal(shown, picture), step
            assert told == info
            if step % 4 == 0:
                action = int(rng.integers(5))
            shown, *ours_told, told = ours.step(action)
            picture, *theirs_told, info = theirs.step(action)
            assert ours_told == theirs_told
            assert bytes(ours._ram) == bytes(theirs._ram)
            if ours_told[1] or ours_told[2]:
                break
    ours.close()
    theirs.close()


@theirs_is_8
@pytest.mark.slow
def test_a_whole_stage_is_the_same_to_the_flag():
    """Every frame of the game that the shipped agent wins: pipes, pits, the stairs, the flag."""
    ours, theirs = (
        envs.make("SuperMarioBros-1-1", buttons="run", action_repeat=8, noops=0, machine=kind)
        for kind in ("fast", "nes-py")
    )
    episode = rollouts.play(ours, shipped("mario-1-1").agent(), seed=0)
    shown, _ = theirs.reset(seed=0)
    for step, action in enumerate(episode.actions):
        assert np.array_equal(shown, episode.frames[step]), step
        shown, reward, terminated, _, told = theirs.step(action)
        assert reward == episode.rewards[step]
    assert terminated and told["flag_get"]
    assert np.array_equal(shown, episode.frames[-1])
    assert bytes(ours.unwrapped._ram) == bytes(theirs.unwrapped._ram)
    ours.close()
    theirs.close()


def test_a_picture_is_the_same_whether_it_was_drawn_at_once_or_later():
    at_once, later = FastMachine(cartridge.game_file()), FastMachine(cartridge.game_file())
    for frame in range(200):
        pressed = START if frame in (60, 61) else 0
        at_once.frame(pressed)
        later.frame(pressed, draw=False)
        if frame % 20 == 0:
            assert np.array_equal(at_once.picture(), later.picture())
            assert at_once.save() == later.save()


def test_a_snapshot_shows_its_picture_in_another_machine():
    first, second = FastMachine(cartridge.game_file()), FastMachine(cartridge.game_file())
    for frame in range(100):
        first.frame(START if frame == 60 else 0)
    second.load(first.save())
    assert np.array_equal(second.picture(), first.picture())
    first.frame(RIGHT)
    second.frame(RIGHT)
    assert bytes(first.ram) == bytes(second.ram)


@pytest.mark.parametrize(("place", "value"), [(0, 0), (6, 0x10), (6, 3), (6, 9), (7, 0x40), (4, 3), (5, 2)])
def test_other_cartridges_are_refused(tmp_path, place, value):
    content = bytearray(cartridge.game_file().read_bytes())
    content[place] = value
    (tmp_path / "other.nes").write_bytes(content)
    with pytest.raises(ValueError, match="rom"):
        FastMachine(tmp_path / "other.nes")


@pytest.mark.parametrize("size", [0, 4, 16, 30_000])
def test_short_cartridges_are_refused(tmp_path, size):
    (tmp_path / "short.nes").write_bytes(cartridge.game_file().read_bytes()[:size])
    with pytest.raises(ValueError, match="rom"):
        FastMachine(tmp_path / "short.nes")


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_snapshots_of_others_are_refused(content):
    with pytest.raises(ValueError, match="snapshot"):
        FastMachine(cartridge.game_file()).load(content)
