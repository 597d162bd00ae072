"""Damaged stores: files are read as written or named in one line, and lost ones are collected or encoded again."""

import json
import math
import os

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import toys
from tests.trust.damage import HOW, damaged, flipped
from tests.trust.properties import OFFSET_AND_BIT, PLAIN, QUICK, one_line
from worldmodel import VAE, rollouts, seeded
from worldmodel.rollouts.store.store import Store


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Folder of a store of four short episodes in two shards, the first shard's content, and the episodes."""
    store = rollouts.collect(toys.counter, toys.marking, 4, seed=1, episodes_per_shard=2, max_steps=5,
                             out=tmp_path_factory.mktemp("store") / "s")  # fmt: skip
    return store.path, store.shards[0].path.read_bytes(), list(store.episodes())


def same(a, b):
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("frames", "actions", "rewards"))
    return arrays and (a.terminated, a.truncated) == (b.terminated, b.truncated)


@QUICK
@given(*OFFSET_AND_BIT)
def test_a_flipped_bit_in_a_shard_is_noticed(collected, place, bit):
    folder, content, episodes = collected
    path = folder / "shards" / "000000.h5"
    path.write_bytes(flipped(content, place % len(content), bit))
    store = Store(folder)
    if store.damaged:
        assert list(store.damaged) == [path.name]
        assert len(store) == 2
        return
    found = one_line(path, lambda _: list(store.episodes()))
    assert found is None or all(map(same, found, episodes))


@pytest.mark.parametrize("how", [*HOW, "that of the other"])
def test_a_damaged_shard_is_collected_again(collected, how):
    folder, content, episodes = collected
    path, other = folder / "shards" / "000000.h5", folder / "shards" / "000002.h5"
    path.write_bytes(other.read_bytes() if how == "that of the other" else damaged(content, how))
    store = rollouts.collect(toys.counter, toys.marking, 4, seed=1, max_steps=5, out=folder)
    if how.startswith("flipped") and len(store) == 4:  # only reading every value finds it
        found = one_line(path, lambda _: list(store.episodes()))
        assert found is None or all(map(same, found, episodes))
        return
    assert all(map(same, store.episodes(), episodes))


def test_a_shard_that_declares_more_than_it_holds_is_refused(collected):
    folder, content, _ = collected
    path = folder / "shards" / "000000.h5"
    for shape in ((5, 10**9), (5, 2, 10**9)):
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            group = file["episode_0"]
            del group["actions"]
            group.create_dataset("actions", shape, np.float32, chunks=(1, *[2] * (len(shape) - 1)))
        assert one_line(path, lambda _: Store(folder).episode(0)) is None
    path.write_bytes(content)


def test_shards_that_are_damaged_twice_are_kept_twice(collected, monkeypatch):
    folder, _, episodes = collected
    path = folder / "shards" / "000000.h5"
    for timestamp in (2_000_000_000.5, 2_000_000_000.4):
        monkeypatch.setattr("time.time", lambda timestamp=timestamp: timestamp)
        path.write_bytes(f"damaged at {timestamp}".encode())
        store = rollouts.collect(toys.counter, toys.marking, 4, seed=1, max_steps=5, out=folder)
        assert all(map(same, store.episodes(), episodes))
    kept = {aside.read_text() for aside in path.parent.glob("000000.h5.damaged-20000*")}
    assert kept == {"damaged at 2000000000.5", "damaged at 2000000000.4"}


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_shard_with_non_finite_rewards_is_named(collected, bad):
    folder, content, _ = collected
    path = folder / "shards" / "000000.h5"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        file["episode_0"]["rewards"][2] = bad
    assert one_line(path, lambda _: Store(folder).episode(0)) is None
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["latents", "actions", "outcomes"])
@pytest.mark.parametrize("how", ["emptied", "swapped", "flipped anywhere", "another shard's"])
def test_damaged_encodings_are_recomputed(collected, kind, how):
    folder, content, _ = collected
    (folder / "shards" / "000000.h5").write_bytes(content)
    with seeded(1):
        vae = VAE(2)
    latents = Store(folder).latents(vae)
    expected = [np.array(part) for part in latents.episode(0)]
    path = latents.folder / f"000000.{kind}.npy"
    other = (latents.folder / f"000002.{kind}.npy").read_bytes()
    path.write_bytes(other if how == "another shard's" else damaged(path.read_bytes(), how))
    again = Store(folder).latents(vae).episode(0)
    assert all(map(np.array_equal, expected, again))


def test_encodings_do_not_depend_on_file_times(collected):
    folder, content, _ = collected
    shard = folder / "shards" / "000000.h5"
    shard.write_bytes(content)
    with seeded(1):
        vae = VAE(2)
    expected = [np.array(part) for part in Store(folder).latents(vae).episode(0)]
    for timestamp in (0, 2**31 - 1):
        os.utime(shard, (timestamp, timestamp))
        assert all(map(np.array_equal, expected, Store(folder).latents(vae).episode(0)))


NAMES = [
    "format",
    "env",
    "discrete",
    "action_dim",
    "env_options",
    "episodes_per_shard",
    "policy_changes",
    "max_idle_steps",
]


@QUICK
@given(st.dictionaries(st.sampled_from(NAMES), PLAIN))
def test_any_metadata_are_a_store_s_or_named(collected, content):
    folder = collected[0]
    path = folder / "metadata.json"
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(whole) | content))
        store = one_line(path, lambda path: Store(path.parent))
        if store is not None:
            assert 1 <= store.action_dim <= 65_536
            assert store.max_idle_steps is None or store.max_idle_steps >= 1
            assert isinstance(repr(store), str) and store.identity["episodes"] == len(store)
    finally:
        path.write_bytes(whole)
