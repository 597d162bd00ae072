"""Shards: accepted episodes are read back equal, and invalid ones are refused."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.store.shards import Reader, read_shard, shard_bytes

ARRAYS = st.one_of(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)),
    arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)),
    arrays.arrays(np.int64, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)),
    arrays.arrays(np.bool_, arrays.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=5)),
)
SHAPES = st.sampled_from([(64, 64, 3)] * 8 + [(64, 64), (64, 64, 4), (32, 64, 3)])


@st.composite
def episodes(draw):
    """Mostly valid episodes, some with an invalid part."""
    steps = draw(st.integers(0, 20))
    size = draw(st.integers(0, 3))
    kind = draw(st.sampled_from([np.uint8] * 6 + [np.float32, np.int64]))
    frames = np.random.default_rng(steps).integers(0, 256, (steps + 1, *draw(SHAPES))).astype(kind)
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    actions = draw(
        arrays.arrays(np.float32, (steps, size), elements=finite)
        | arrays.arrays(np.int64, (steps,))
        | ARRAYS.filter(lambda a: len(a) == steps)
        if steps < 6
        else arrays.arrays(np.float32, (steps, size), elements=finite)
    )
    rewards = draw(arrays.arrays(np.float32, (steps,), elements=finite | st.floats(width=32)))
    ends = st.sampled_from([True, False, np.True_, np.False_, None, 2])
    seed = draw(st.integers(-(2**64), 2**64) | st.integers(0, 2**31))
    return Episode(frames, actions, rewards, draw(ends), draw(ends), seed)


def read_back(content, count):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.h5"
        path.write_bytes(content)
        shard, reader = read_shard(path), Reader()
        assert len(shard.lengths) == count
        return [reader.episode(shard, number) for number in range(count)]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(episodes(), max_size=3), st.integers(-1, 5), st.booleans())
def test_accepted_episodes_are_read_back_equal(drawn_episodes, first, skips_an_index):
    numbered = [
        episode.at(first + number + (skips_an_index and number > 0)) for number, episode in enumerate(drawn_episodes)
    ]
    try:
        content = shard_bytes(numbered)
    except ValueError:
        return
    for wrote, read in zip(numbered, read_back(content, len(numbered)), strict=True):
        for name in ("frames", "actions", "rewards"):
            before, after = getattr(wrote, name), getattr(read, name)
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert np.array_equal(before, after)
        assert (wrote.terminated, wrote.truncated, wrote.seed, wrote.index) == (
            read.terminated,
            read.truncated,
            read.seed,
            read.index,
        )


def valid_episode(steps=3):
    return Episode(
        np.zeros((steps + 1, 64, 64, 3), np.uint8),
        np.zeros((steps, 2), np.float32),
        np.zeros(steps, np.float32),
        terminated=True,
        truncated=False,
    )


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("frames", {"frames": np.zeros((4, 64, 64, 3), np.float32)}),
        ("frames", {"frames": np.zeros((4, 84, 84, 4), np.uint8)}),
        ("rewards", {"rewards": np.array([0, np.nan, 0], np.float32)}),
        ("rewards", {"rewards": np.array([0, np.inf, 0], np.float32)}),
        ("rewards", {"rewards": np.zeros(3, np.float64)}),
        ("rewards", {"rewards": np.zeros((3, 1), np.float32)}),
        ("actions", {"actions": np.array([[np.nan], [0], [0]], np.float32)}),
        ("actions", {"actions": np.zeros(3, np.float32)}),
        ("actions", {"actions": np.zeros((3, 0), np.float32)}),
        ("actions", {"actions": np.zeros((3, 2), np.int64)}),
        ("actions", {"actions": np.array([b"a", b"b", b"c"])}),
        ("terminated", {"terminated": None}),
        ("seed", {"seed": 2**63}),
    ],
)
def test_invalid_episodes_are_refused(named, changes):
    assert len(read_back(shard_bytes([valid_episode()]), 1)) == 1
    with pytest.raises(ValueError, match=named):
        shard_bytes([replace(valid_episode(), **changes)])


def test_empty_or_noncontiguous_shards_are_refused():
    for drawn_episodes in ([], [valid_episode(0)], [valid_episode().at(1), valid_episode().at(3)]):
        with pytest.raises(ValueError, match="episode"):
            shard_bytes(drawn_episodes)
