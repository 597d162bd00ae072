"""Datasets of a store: splits, passes, repeatability, constant memory."""

import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import toys
from worldmodel import VAE, rollouts, seeded
from worldmodel.batches import Data
from worldmodel.rollouts.store import datasets
from worldmodel.rollouts.store import encoded_dataset as encoding
from worldmodel.rollouts.store.datasets import split_episodes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("views") / "store"
    return rollouts.collect(toys.counter, toys.marking, episodes=6, seed=3, out=out, episodes_per_shard=2)


@pytest.fixture(scope="module")
def vae():
    """An untrained VAE with small posterior scales: about exp(-1), exp(-0.5) and exp(-1.5)."""
    with seeded(0):
        vae = VAE(latent_dim=3)
    vae.posterior.bias.data[3:] -= torch.tensor([1.0, 0.5, 1.5])
    return vae


def test_datasets_implement_the_data_protocol(store, vae):
    assert isinstance(store.frames(), Data)
    assert isinstance(store.sequences(vae), Data)


def test_a_pass_contains_every_frame_once(store):
    frames = torch.cat(list(store.frames().batches(50)))
    assert len(frames) == len(store.frames()) == 6 * 21
    counts = np.bincount(frames[:, 0, 0, 0].numpy(), minlength=21)
    assert counts.tolist() == [6] * 21


def test_a_pass_contains_every_step_once(store, vae):
    rewards = [round(r) for b in store.sequences(vae, seq_len=8).batches(4) for r in b.reward[b.mask > 0].tolist()]
    assert sorted(rewards) == sorted(list(range(1, 21)) * 6)


@pytest.mark.parametrize("kind", ["frames", "sequences"])
def test_split_is_by_whole_episodes_and_repeats(store, vae, kind):
    dataset = store.frames() if kind == "frames" else store.sequences(vae)
    training, held_out = dataset.split(0.3, seed=1)
    assert 1 <= len(held_out.episodes) <= 2
    assert sorted([*training.episodes, *held_out.episodes]) == list(range(6))
    assert dataset.split(0.3, seed=1)[1].episodes.tolist() == held_out.episodes.tolist()


@pytest.mark.parametrize("kind", ["frames", "sequences"])
def test_same_generator_same_batch(store, vae, kind):
    dataset = store.frames() if kind == "frames" else store.sequences(vae)
    first, second = (dataset.batch(10, np.random.default_rng(4)) for _ in range(2))
    if kind == "frames":
        assert first.equal(second)
    else:
        assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_sampled_targets_follow_the_posterior(store, vae):
    dataset, mean = store.sequences(vae, seq_len=4), store.sequences(vae, seq_len=4, latent_targets="mean")
    logvar = np.concatenate([store.latents(vae).episode(i).logvar for i in range(6)]).astype(np.float64)
    drawn = dataset.batch(2000, np.random.default_rng(0))
    centre = mean.batch(2000, np.random.default_rng(0))
    spread = (drawn.latent - centre.latent).std(dim=(0, 1))
    np.testing.assert_allclose(spread, np.exp(0.5 * logvar).mean(0), rtol=0.05)
    assert drawn.latent[:, 1:].equal(drawn.next_latent[:, :-1])  # one draw per frame, used as input and as target


def test_latents_are_the_posterior_and_encoded_once(store, vae, monkeypatch):
    episode, latents = store.episode(4), store.latents(vae)
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(episode.frames).movedim(-1, 1).float() / 255)
    np.testing.assert_allclose(latents.episode(4).mean, posterior.loc, atol=2e-3)
    np.testing.assert_allclose(latents.episode(4).logvar, 2 * posterior.scale.log(), atol=2e-3)
    monkeypatch.setattr(encoding, "_encode_shard", lambda *_: pytest.fail("encoded twice"))
    store.latents(vae)


def test_partial_encodings_are_completed(store, vae):
    folder = store.latents(vae).folder
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "000002.latents.npy").write_bytes(b"half")
    (folder / "000004.outcomes.npy").unlink()
    store.latents(vae)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_windows_are_aligned_with_episodes(store, vae):
    sequences = store.sequences(vae, seq_len=8, latent_targets="mean")
    batch = sequences.batch(60, np.random.default_rng(0))
    encoded = store.latents(vae).episode(0).mean  # all episodes have the same frames
    for row in range(60):
        start = round(float(batch.action[row, 0, 0]) * 100)
        np.testing.assert_allclose(batch.latent[row], encoded[start : start + 8])
        np.testing.assert_allclose(batch.next_latent[row], encoded[start + 1 : start + 9])
        np.testing.assert_allclose(batch.action[row, :, 0] * 100, np.arange(start, start + 8), atol=1e-5)
        assert batch.reward[row].tolist() == list(range(start + 1, start + 9))
        assert batch.terminated[row].tolist() == [0.0] * 7 + [float(start + 8 == 20)]
    assert bool((batch.mask == 1).all())


def test_windows_of_short_episodes_are_padded(tmp_path, vae):
    short = rollouts.collect(toys.short_counter, toys.marking, 3, out=tmp_path / "s")
    batch = short.sequences(vae, seq_len=4, latent_targets="mean").batch(5, np.random.default_rng(0))
    assert batch.mask.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 5
    assert batch.latent[:, 2:].abs().sum() == 0
    assert batch.terminated.sum() == 5


def test_a_pass_of_windows_contains_every_step_once_and_splits_are_disjoint(store, vae):
    sequences = store.sequences(vae, seq_len=8)
    assert isinstance(sequences, Data)
    rewards = [round(r) for b in sequences.batches(4) for r in b.reward[b.mask > 0].tolist()]
    assert sorted(rewards) == sorted(list(range(1, 21)) * 6)
    training, held_out = sequences.split(0.3, 1)
    assert sorted([*training.episodes, *held_out.episodes]) == list(range(6))
    assert training.identity != held_out.identity


def test_every_start_of_a_window_is_equally_likely(store, vae):
    starts = store.sequences(vae, seq_len=8).batch(4_000, np.random.default_rng(0)).action[:, 0, 0] * 100
    counts = np.bincount(starts.round().int().numpy(), minlength=13)
    assert len(counts) == 13
    assert counts.min() > 0.7 * 4_000 / 13


@pytest.mark.parametrize("length", [1, 8, 19, 20, 50])
def test_windows_with_padded_ends_contain_every_step_equally_often(store, vae, length):
    """Including the last step, the only terminal one. Each count is within four standard errors of its expectation."""
    dataset = store.sequences(vae, seq_len=length, pad_episode_ends=True)
    batch = dataset.batch(1_500, np.random.default_rng(0))
    counts = np.bincount(batch.reward[batch.mask > 0].round().int().numpy(), minlength=21)[1:]
    probability = 1.0 if length >= 20 else length / (20 + length - 1)  # that a window contains a step
    assert (abs(counts - 1_500 * probability) <= 4 * np.sqrt(1_500 * probability * (1 - probability))).all(), counts
    assert int(batch.terminated.sum()) == counts[-1]
    starts = (batch.action[:, 0, 0] * 100).round().int()
    steps = batch.mask.sum(dim=1).int()
    # of full length, or at an end
    assert bool(((steps == min(length, 20)) | (starts == 0) | (starts + steps == 20)).all())
    assert dataset.identity != store.sequences(vae, seq_len=length).identity
    assert dataset.split(0.3, 1)[0].pad_episode_ends


class Uneven(toys.Counter):
    """A counter that ends after 2, 8 or 20 steps."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.length = int(self.np_random.choice([2, 8, 20]))
        return result


def test_episodes_are_drawn_in_proportion_to_their_length(tmp_path, vae):
    """Within an episode every start is equally likely. Each count is within four standard errors of its expectation."""
    store = rollouts.collect(Uneven, rollouts.uniform, episodes=5, seed=2, out=tmp_path / "store")
    assert set(store.lengths) == {2, 8, 20}
    dataset, count = store.sequences(vae, seq_len=4), 1_500
    batch = dataset.batch(count, np.random.default_rng(0))
    for index, steps in enumerate(store.lengths):
        actions, starts = torch.from_numpy(store.episode(index).actions), max(steps - 4, 0) + 1
        for start in range(starts):
            probability = steps / store.steps / starts
            drawn = int((batch.action[:, 0] == actions[start]).all(dim=1).sum())
            assert abs(drawn - count * probability) < 4 * np.sqrt(count * probability * (1 - probability)), (
                steps,
                start,
            )


def test_weights_scale_how_often_steps_of_an_episode_are_drawn(tmp_path, vae):
    """Each count is within four standard errors of its expectation, also after a split. A pass contains all steps once."""
    store = rollouts.collect(Uneven, rollouts.uniform, episodes=5, seed=2, out=tmp_path / "store")
    weights = np.array([1.0, 4.0, 0.5, 2.0, 9.0])
    whole, count = store.sequences(vae, seq_len=4, weights=weights), 1_500
    for dataset in (whole, whole.split(0.3, 1)[0]):
        batch = dataset.batch(count, np.random.default_rng(0))
        odds = {index: weights[index] * store.lengths[index] for index in dataset.episodes.tolist()}
        for index, odd in odds.items():
            probability = odd / sum(odds.values())
            own = torch.from_numpy(store.episode(index).actions)
            drawn = int((batch.action[:, :1] == own).all(dim=2).any(dim=1).sum())
            assert abs(drawn - count * probability) < 4 * np.sqrt(count * probability * (1 - probability)), index
    assert sum(int(part.mask.sum()) for part in whole.batches(4)) == store.steps
    none, once, twice = (store.sequences(vae, weights=given).identity for given in (None, weights, 2 * weights))
    assert none != once != twice != none


def test_windows_with_padded_ends_contain_steps_in_proportion_to_weights(tmp_path, vae):
    """Each count is within four standard errors of its expectation. Episodes without steps are never drawn."""
    store = rollouts.collect(Uneven, rollouts.uniform, episodes=5, seed=2, out=tmp_path / "store")
    weights, count = np.array([1.0, 4.0, 0.5, 2.0, 9.0]), 1_500
    batch = store.sequences(vae, seq_len=4, weights=weights, pad_episode_ends=True).batch(
        count, np.random.default_rng(0)
    )
    windows = np.array([4 if steps <= 4 else steps + 3 for steps in store.lengths])
    for index, steps in enumerate(store.lengths):
        probability = 4 * weights[index] / (weights * windows).sum()
        for action in torch.from_numpy(store.episode(index).actions):
            drawn = int(((batch.action == action).all(dim=2) & (batch.mask > 0)).any(dim=1).sum())
            assert abs(drawn - count * probability) < 4 * np.sqrt(count * probability * (1 - probability)), (
                index,
                steps,
            )
    drawn = datasets._sample_windows(
        np.arange(2), np.array([0, 10]), 4, 200, np.random.default_rng(0), pad_episode_ends=True
    )
    assert {window.episode for window in drawn} == {1}


def test_encodings_older_than_their_shard_are_recomputed(store, vae):
    latents = store.latents(vae)
    path = latents.folder / "000002.latents.npy"
    before = path.read_bytes()
    os.utime(path, (0, 0))
    store.latents(vae)
    assert path.stat().st_mtime > 1
    assert path.read_bytes() == before


def test_stores_with_other_episodes_have_other_identities(store, tmp_path):
    same = rollouts.collect(toys.counter, toys.marking, episodes=6, seed=3, out=tmp_path / "same", episodes_per_shard=3)
    other = rollouts.collect(toys.counter, toys.marking, episodes=6, seed=4, out=tmp_path / "other")
    assert same.identity == store.identity != other.identity
    assert same.frames().identity == store.frames().identity != other.frames().identity


def test_memory_stays_flat(store, monkeypatch):
    monkeypatch.setattr(datasets, "CACHE_BYTES", 3 * 16 * 64 * 64 * 3)
    frames = store.frames()
    for update in range(50):
        frames.batch(8, np.random.default_rng(update))
        assert frames._cached <= datasets.CACHE_BYTES
        assert frames._cached == sum(chunk.nbytes for chunk in frames._cache.values())


def test_bad_arguments_are_refused(store, vae, tmp_path):
    with pytest.raises(ValueError, match="seq_len"):
        store.sequences(vae, seq_len=0)
    for length in (None, float("nan"), 1.5):
        with pytest.raises(ValueError, match="seq_len"):
            store.sequences(vae, seq_len=length)
    with pytest.raises(ValueError, match="latent_targets"):
        store.sequences(vae, latent_targets="mode")
    with pytest.raises(ValueError, match=r"weights"):
        store.sequences(vae, weights=np.ones(5))
    for weight in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="weights"):
            store.sequences(vae, weights=np.array([1, 1, 1, 1, 1, weight]))
    with pytest.raises(ValueError, match="index"):
        store.episode(6)
    one = rollouts.collect(toys.counter, toys.marking, episodes=1, out=tmp_path / "one")
    with pytest.raises(ValueError, match="episodes"):
        one.frames().split(0.1, 0)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.sets(st.integers(0, 300), min_size=2, max_size=60),
    st.sets(st.integers(301, 600), max_size=60),
    st.floats(0.01, 0.5),
    st.integers(0, 9),
)
@example({0, 1, 26}, {301}, 0.49999999999999994, 0)
def test_training_episodes_are_never_held_out_later(first, more, fraction, seed):
    training, held_out = split_episodes(np.array(sorted(first)), fraction, seed)
    assert sorted([*training, *held_out]) == sorted(first)
    assert len(training) and len(held_out)
    _, later = split_episodes(np.array(sorted(first | more)), fraction, seed)
    assert not set(training) & set(later) or len(training) == 1


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
def test_the_held_out_fraction_is_the_requested_one(fraction):
    training, held_out = split_episodes(np.arange(1000), fraction, 3)
    assert abs(len(held_out) - 1000 * fraction) <= 1
    distances = np.diff(held_out if fraction <= 0.5 else training)
    assert distances.max() <= 2 / min(fraction, 1 - fraction)  # evenly spread over the store
    assert held_out.tolist() != split_episodes(np.arange(1000), fraction, 4)[1].tolist()
