"""Our NES emulator against nes-py: equal RAM after every frame, and equal images."""

import numpy as np
import pytest

from tests.skips import IMPOSSIBLE
from worldmodel import envs, rollouts
from worldmodel.agents.pretrained import pretrained_agent
from worldmodel.envs.mario import nes_py_backend, rom
from worldmodel.envs.mario.env import LEFT, RIGHT, START, A, B, SuperMarioBros
from worldmodel.envs.mario.nes_emulator import NumbaBackend

CHOICES = [0, RIGHT, RIGHT | B, RIGHT | A | B, RIGHT | A, LEFT | B, A]
theirs_is_8 = pytest.mark.skipif(
    any(rom.package_dir("nes_py").glob("_native*")),
    reason=f"{IMPOSSIBLE}nes-py 9 is another emulator; ours repeats nes-py 8.2.1",
)


@pytest.mark.slow
@theirs_is_8
def test_emulators_agree_from_power_on_through_the_title_and_a_game():
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


@pytest.mark.slow
@theirs_is_8
@pytest.mark.parametrize(
    ("world", "stage"),
    [(1, 1), (1, 2), (2, 2), (3, 1), (4, 4), (8, 3)],
)
def test_episodes_are_equal_in_every_kind_of_stage(world, stage):
    """Stages above and below ground, under water, at night, in a castle and with many sprites."""
    rng = np.random.default_rng(world)
    ours, theirs = (SuperMarioBros(world, stage, action_set="simple", backend=kind) for kind in ("numba", "nes-py"))
    for seed in range(2):
        our_frame, our_info = ours.reset(seed=seed)
        their_frame, their_info = theirs.reset(seed=seed)
        for step in range(100):
            assert np.array_equal(our_frame, their_frame), step
            assert our_info == their_info
            if step % 4 == 0:
                action = int(rng.integers(5))
            our_frame, *our_result, our_info = ours.step(action)
            their_frame, *their_result, their_info = theirs.step(action)
            assert our_result == their_result
            assert bytes(ours._ram) == bytes(theirs._ram)
            if our_result[1] or our_result[2]:
                break
    ours.close()
    theirs.close()


@theirs_is_8
@pytest.mark.slow
def test_emulators_agree_over_a_whole_stage():
    """Every frame of a stage that the pretrained agent completes."""
    ours, theirs = (
        envs.make("SuperMarioBros-1-1", action_set="run", action_repeat=8, noop_max=0, backend=kind)
        for kind in ("numba", "nes-py")
    )
    episode = rollouts.play(ours, pretrained_agent("mario-1-1").agent(), seed=0)
    frame, _ = theirs.reset(seed=0)
    for step, action in enumerate(episode.actions):
        assert np.array_equal(frame, episode.frames[step]), step
        frame, reward, terminated, _, info = theirs.step(action)
        assert reward == episode.rewards[step]
    assert terminated and info["flag_get"]
    assert np.array_equal(frame, episode.frames[-1])
    assert bytes(ours.unwrapped._ram) == bytes(theirs.unwrapped._ram)
    ours.close()
    theirs.close()


def test_deferred_drawing_gives_the_same_image():
    at_once, later = NumbaBackend(rom.rom_path()), NumbaBackend(rom.rom_path())
    for frame in range(200):
        pressed = START if frame in (60, 61) else 0
        at_once.frame_advance(pressed)
        later.frame_advance(pressed, draw=False)
        if frame % 20 == 0:
            assert np.array_equal(at_once.screen(), later.screen())
            assert at_once.save() == later.save()


def test_snapshots_restore_the_image_in_another_emulator():
    first, second = NumbaBackend(rom.rom_path()), NumbaBackend(rom.rom_path())
    for frame in range(100):
        first.frame_advance(START if frame == 60 else 0)
    second.load(first.save())
    assert np.array_equal(second.screen(), first.screen())
    first.frame_advance(RIGHT)
    second.frame_advance(RIGHT)
    assert bytes(first.ram) == bytes(second.ram)


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (6, 0x10), (6, 3), (6, 9), (7, 0x40), (4, 3), (5, 2)])
def test_other_cartridges_are_refused(tmp_path, offset, value):
    content = bytearray(rom.rom_path().read_bytes())
    content[offset] = value
    (tmp_path / "other.nes").write_bytes(content)
    with pytest.raises(ValueError, match="rom"):
        NumbaBackend(tmp_path / "other.nes")


@pytest.mark.parametrize("size", [0, 4, 16, 30_000])
def test_short_cartridges_are_refused(tmp_path, size):
    (tmp_path / "short.nes").write_bytes(rom.rom_path().read_bytes()[:size])
    with pytest.raises(ValueError, match="rom"):
        NumbaBackend(tmp_path / "short.nes")


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_invalid_snapshots_are_refused(content):
    with pytest.raises(ValueError, match="snapshot"):
        NumbaBackend(rom.rom_path()).load(content)
