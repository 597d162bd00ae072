"""Our machine against nes-py's emulator: the same memory after every frame, the same pictures."""

import numpy as np
import pytest

import envs
import rollouts
from agents.pretrained import pretrained_agent
from envs import nes_py_backend, rom
from envs.mario import LEFT, RIGHT, START, A, B, SuperMarioBros
from envs.nes_emulator import NumbaBackend
from tests.skips import IMPOSSIBLE

CHOICES = [0, RIGHT, RIGHT | B, RIGHT | A | B, RIGHT | A, LEFT | B, A]
theirs_is_8 = pytest.mark.skipif(
    any(rom.package_dir("nes_py").glob("_native*")),
    reason=f"{IMPOSSIBLE}nes-py 9 is another emulator; ours repeats nes-py 8.2.1",
)


@theirs_is_8
def test_the_same_from_power_on_through_the_title_and_a_game():
    rng = np.random.default_rng(1)
    ours, theirs = NumbaBackend(rom.rom_path()), nes_py_backend.NesPyBackend()
    pressed = 0
    for frame in range(700):
        if frame % 11 == 0:
            pressed = START if frame < 300 and frame % 77 == 0 else int(rng.choice(CHOICES))
        theirs.frame_advance(pressed)
        ours.frame_advance(pressed, draw=frame % 5 == 0)
        assert bytes(ours.ram) == bytes(theirs.ram), frame
        if frame % 97 == 0 and frame:
            assert np.array_equal(ours.screen(), theirs.screen()), frame


@theirs_is_8
@pytest.mark.parametrize(
    ("world", "stage"),
    [(1, 2), (2, 2), *(pytest.param(*place, marks=pytest.mark.slow) for place in ((1, 1), (3, 1), (4, 4), (8, 3)))],
)
def test_episodes_are_the_same_in_every_kind_of_stage(world, stage):
    """Above and below ground, under water, at night, in a castle, among many sprites."""
    rng = np.random.default_rng(world)
    ours, theirs = (SuperMarioBros(world, stage, action_set="simple", backend=kind) for kind in ("numba", "nes-py"))
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
        envs.make("SuperMarioBros-1-1", action_set="run", action_repeat=8, noop_max=0, backend=kind)
        for kind in ("numba", "nes-py")
    )
    episode = rollouts.play(ours, pretrained_agent("mario-1-1").agent(), seed=0)
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
    at_once, later = NumbaBackend(rom.rom_path()), NumbaBackend(rom.rom_path())
    for frame in range(200):
        pressed = START if frame in (60, 61) else 0
        at_once.frame_advance(pressed)
        later.frame_advance(pressed, draw=False)
        if frame % 20 == 0:
            assert np.array_equal(at_once.screen(), later.screen())
            assert at_once.save() == later.save()


def test_a_snapshot_shows_its_picture_in_another_machine():
    first, second = NumbaBackend(rom.rom_path()), NumbaBackend(rom.rom_path())
    for frame in range(100):
        first.frame_advance(START if frame == 60 else 0)
    second.load(first.save())
    assert np.array_equal(second.screen(), first.screen())
    first.frame_advance(RIGHT)
    second.frame_advance(RIGHT)
    assert bytes(first.ram) == bytes(second.ram)


@pytest.mark.parametrize(("place", "value"), [(0, 0), (6, 0x10), (6, 3), (6, 9), (7, 0x40), (4, 3), (5, 2)])
def test_other_cartridges_are_refused(tmp_path, place, value):
    content = bytearray(rom.rom_path().read_bytes())
    content[place] = value
    (tmp_path / "other.nes").write_bytes(content)
    with pytest.raises(ValueError, match="rom"):
        NumbaBackend(tmp_path / "other.nes")


@pytest.mark.parametrize("size", [0, 4, 16, 30_000])
def test_short_cartridges_are_refused(tmp_path, size):
    (tmp_path / "short.nes").write_bytes(rom.rom_path().read_bytes()[:size])
    with pytest.raises(ValueError, match="rom"):
        NumbaBackend(tmp_path / "short.nes")


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_snapshots_of_others_are_refused(content):
    with pytest.raises(ValueError, match="snapshot"):
        NumbaBackend(rom.rom_path()).load(content)
