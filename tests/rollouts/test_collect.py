"""Collecting and storing: alignment, repeatability, killed workers, damaged files."""

import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests import toys
from tests.tolerance import assert_same_sums
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, LinearController
from worldmodel.envs.adapters import to_vector
from worldmodel.envs.wrappers import StandardEnv
from worldmodel.io.files import locked
from worldmodel.rollouts.collect import episode_seed
from worldmodel.rollouts.episode import TEST_SEEDS, training_seeds
from worldmodel.rollouts.store.store import Store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def counter_store(tmp_path_factory):
    """Nine episodes of Counter; each action states its step."""
    out = tmp_path_factory.mktemp("counted") / "store"
    return rollouts.collect(toys.counter, toys.marking, episodes=9, seed=3, out=out, episodes_per_shard=4)


def equal(one, other):
    return (
        np.array_equal(one.frames, other.frames)
        and np.array_equal(one.actions, other.actions)
        and np.array_equal(one.rewards, other.rewards)
        and (one.seed, one.index, one.terminated, one.truncated)
        == (other.seed, other.index, other.terminated, other.truncated)
    )


def test_action_t_leads_from_frame_t_to_frame_t_plus_one(counter_store):
    assert len(counter_store) == 9
    for index, episode in enumerate(counter_store.episodes()):
        assert (len(episode), episode.index, episode.seed) == (20, index, episode_seed(3, index))
        assert episode.frames[:, 0, 0, 0].tolist() == list(range(21))
        np.testing.assert_allclose(episode.actions[:, 0] * 100, np.arange(20), atol=1e-5)
        assert episode.rewards.tolist() == list(range(1, 21))
        assert episode.terminated
        assert not episode.truncated


def test_alignment_holds_through_latents_and_memory_inputs(counter_store):
    with seeded(0):
        vae = VAE(latent_dim=3)
    latents, frames = counter_store.latents(vae), np.arange(21)
    brightness = {t: latents.episode(0).mean[t].tolist() for t in frames}
    batch = counter_store.sequences(vae, seq_len=8, latent_targets="mean").batch(40, np.random.default_rng(0))
    for row in range(40):
        first = round(float(batch.action[row, 0, 0]) * 100)
        for step in range(8):
            t = first + step
            assert batch.latent[row, step].tolist() == pytest.approx(brightness[t], abs=1e-6)
            assert batch.next_latent[row, step].tolist() == pytest.approx(brightness[t + 1], abs=1e-6)
            assert float(batch.action[row, step, 0]) == pytest.approx(t / 100, abs=1e-6)
            assert float(batch.reward[row, step]) == t + 1
            assert float(batch.terminated[row, step]) == (t == 19)


def test_stored_actions_are_clipped(tmp_path):
    """The wrapper clips actions beyond the bounds of a Box; the memory must train on the clipped ones."""

    def wild(space, rng):
        return lambda frame: np.full(2, 3.0, np.float32)

    store = rollouts.collect(toys.counter, wild, 1, seed=1, out=tmp_path / "store")
    np.testing.assert_array_equal(store.episode(0).actions, 1)


def test_max_steps_truncates(tmp_path):
    store = rollouts.collect(toys.counter, toys.marking, episodes=2, out=tmp_path / "s", max_steps=5)
    assert store.lengths == [5, 5]
    assert [(e.terminated, e.truncated) for e in store.episodes()] == [(False, True)] * 2


class Late(toys.Counter):
    """The reward is 0 after step 3."""

    def step(self, action):
        frame, _, *rest = super().step(action)
        return frame, float(self.now <= 3), *rest


def test_idle_episodes_are_truncated(tmp_path):
    store = rollouts.collect(Late, toys.marking, episodes=2, out=tmp_path / "s", max_idle_steps=4)
    assert store.lengths == [7, 7]
    assert [(e.terminated, e.truncated) for e in store.episodes()] == [(False, True)] * 2
    with pytest.raises(ValueError, match="max_idle_steps = 4"):
        rollouts.collect(Late, toys.marking, episodes=3, out=tmp_path / "s")
    plain = rollouts.collect(Late, toys.marking, episodes=1, out=tmp_path / "t")
    assert plain.lengths == [20]
    assert "max_idle_steps" not in plain.metadata  # the metadata of older stores is unchanged


@pytest.mark.slow
def test_episodes_do_not_depend_on_workers_or_shards(tmp_path):
    one = rollouts.collect(
        "CartPole-v1", rollouts.smooth_random, 6, seed=5, out=tmp_path / "a", workers=1, episodes_per_shard=6
    )
    two = rollouts.collect(
        "CartPole-v1", rollouts.smooth_random, 6, seed=5, out=tmp_path / "b", workers=2, episodes_per_shard=1
    )
    assert all(equal(a, b) for a, b in zip(one.episodes(), two.episodes(), strict=True))
    other = rollouts.collect("CartPole-v1", rollouts.smooth_random, 1, seed=6, out=tmp_path / "c")
    assert not equal(one.episode(0), other.episode(0))


def test_stores_grow_and_lost_shards_are_collected_again(tmp_path):
    whole = rollouts.collect(toys.counter, toys.marking, 7, seed=1, out=tmp_path / "whole", episodes_per_shard=2)
    store = rollouts.collect(toys.counter, toys.marking, 3, seed=1, out=tmp_path / "s", episodes_per_shard=2)
    assert len(store) == 3
    (store.shards[0].path).unlink()
    store = rollouts.collect(toys.counter, toys.marking, 7, seed=1, out=tmp_path / "s", episodes_per_shard=2)
    assert all(equal(a, b) for a, b in zip(whole.episodes(), store.episodes(), strict=True))


COLLECT = """
import sys
from worldmodel import rollouts
if __name__ == "__main__":
    rollouts.collect("CartPole-v1", rollouts.uniform, 40, seed=2, workers=2, out=sys.argv[1], episodes_per_shard=1)
"""


@pytest.mark.slow
def test_sigkill_loses_no_finished_shard(tmp_path):
    script = tmp_path / "collect.py"
    script.write_text(COLLECT)
    out = tmp_path / "store"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, str(script), str(out)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        before = len(list(out.glob("shards/*.h5"))) if out.exists() else 0
        deadline = time.monotonic() + 60
        while len(list(out.glob("shards/*.h5"))) < before + 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1.5)  # the orphaned workers exit
        finished = {path.name: path.read_bytes() for path in out.glob("shards/*.h5")}
        assert len(finished) >= before + 5
        assert Store(out).damaged == {}
    store = rollouts.collect("CartPole-v1", rollouts.uniform, 40, seed=2, workers=2, out=out, episodes_per_shard=1)
    assert all((out / "shards" / name).read_bytes() == content for name, content in finished.items())
    whole = rollouts.collect("CartPole-v1", rollouts.uniform, 40, seed=2, out=tmp_path / "whole")
    assert len(store) == 40
    assert all(equal(a, b) for a, b in zip(whole.episodes(), store.episodes(), strict=True))
    assert not list(out.glob("shards/.*"))


@pytest.mark.parametrize("how", ["truncated", "foreign", "zeroed", "swapped"])
def test_a_damaged_shard_is_named_and_the_others_are_read(tmp_path, how):
    out = tmp_path / "s"
    store = rollouts.collect(toys.counter, toys.marking, 4, seed=1, out=out, episodes_per_shard=2)
    path = store.shards[0].path
    content = path.read_bytes()
    if how == "swapped":
        with h5py.File(path, "w") as file:
            file["something"] = 1
    else:
        path.write_bytes({"truncated": content[:-100], "foreign": b"no", "zeroed": bytes(len(content))}[how])
    store = Store(out)
    assert list(store.damaged) == ["000000.h5"]
    assert "000000.h5" in store.damaged["000000.h5"]
    assert [e.index for e in store.episodes()] == [2, 3]
    again = rollouts.collect(toys.counter, toys.marking, 4, seed=1, out=out, episodes_per_shard=2)
    assert [e.index for e in again.episodes()] == [0, 1, 2, 3]
    assert len(list(out.glob("shards/*.damaged-*"))) == 1


@pytest.mark.parametrize("name", ["seed", "max_steps", "policy", "env"])
def test_a_store_with_other_settings_is_refused(tmp_path, name):
    settings = {"env": toys.counter, "policy": toys.marking, "seed": 1, "max_steps": None}
    rollouts.collect(**settings, episodes=1, out=tmp_path / "s")
    settings |= {name: {"seed": 2, "max_steps": 3, "policy": rollouts.uniform, "env": toys.beacon}[name]}
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        rollouts.collect(**settings, episodes=1, out=tmp_path / "s")


def test_numpy_integers_are_accepted_as_counts(tmp_path):
    for steps in (np.int32(2), 2):
        store = rollouts.collect(toys.counter, toys.marking, 2, max_steps=steps, out=tmp_path / "s")
        assert store.lengths == [2, 2]


def test_bad_arguments_are_refused(tmp_path):
    for name, value in {
        "episodes": 0,
        "workers": 0,
        "max_steps": 0,
        "episodes_per_shard": 0,
        "max_idle_steps": 0,
    }.items():
        with pytest.raises(ValueError, match=f"^{name} .*0"):
            rollouts.collect(**{"env": toys.counter, "policy": toys.marking, "episodes": 1, name: value})
    for episodes in (float("nan"), 1.5, True, "2", None):
        with pytest.raises(ValueError, match="episodes"):
            rollouts.collect(toys.counter, toys.marking, episodes)
    with pytest.raises(ValueError, match="env_options"):
        rollouts.collect("CartPole-v1", rollouts.uniform, 1, env_options={"x": float("nan")}, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "letters"))):
        rollouts.collect(toys.counter, toys.marking, 1, out=tmp_path / "letters")
    with pytest.raises(ValueError, match=r"metadata\.json"):
        Store(tmp_path)


def test_one_step_episodes(tmp_path):
    store = rollouts.collect(toys.short_counter, toys.marking, 3, out=tmp_path / "s")
    with seeded(0):
        vae = VAE(latent_dim=3)
    batch = store.sequences(vae, seq_len=4).batch(5, np.random.default_rng(0))
    assert batch.mask.sum(1).tolist() == [1.0] * 5
    assert bool(batch.terminated[:, 0].all())


def test_full_disk_is_reported_and_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "s"
    rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=out, episodes_per_shard=1)

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"000002\.h5"):
        rollouts.collect(toys.counter, toys.marking, 4, seed=1, out=out, episodes_per_shard=1)
    monkeypatch.undo()
    assert len(Store(out)) == 2
    assert sorted(p.name for p in (out / "shards").iterdir()) == ["000000.h5", "000001.h5"]


def test_two_collections_on_one_folder_are_refused(tmp_path):
    rollouts.collect(toys.counter, toys.marking, 1, seed=1, out=tmp_path / "s")
    with locked(tmp_path / "s"), pytest.raises(ValueError, match=re.escape(str(tmp_path / "s"))):
        rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=tmp_path / "s")
    assert len(rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=tmp_path / "s")) == 2


def agent():
    with seeded(0):
        world = WorldModel(VAE(latent_dim=32), Memory(RMDN(33, 32, hidden_size=64, num_components=1)))
        controller = LinearController.for_world_model(world)
        return Agent(world, controller.with_parameters(torch.randn(controller.size).numpy() / 10), action_noise=0.1)


def test_agent_episodes_do_not_depend_on_workers_lost_shards_or_growth(tmp_path, monkeypatch):
    """Episodes are bit-equal: an agent acts in batches of fixed size, since sums over another batch size round differently."""
    encode, sizes = WorldModel.encode, set()
    monkeypatch.setattr(WorldModel, "encode", lambda world, frames: sizes.add(len(frames)) or encode(world, frames))
    collect = partial(rollouts.collect, toys.beacon, agent(), seed=5, episodes_per_shard=4)
    one = collect(10, out=tmp_path / "a", workers=1)
    collect(3, out=tmp_path / "b")
    grown = collect(10, out=tmp_path / "b", workers=2)
    grown.shards[1].path.unlink()
    grown = collect(10, out=tmp_path / "b")
    assert all(equal(a, b) for a, b in zip(one.episodes(), grown.episodes(), strict=True))
    assert sizes == {4}
    alone = rollouts.play(toys.beacon(), agent(), one.episode(6).seed)
    assert_same_sums(alone.actions, one.episode(6).actions, count=5 * (agent().world.num_features + 1), terms=1.0)
    with pytest.raises(ValueError, match="episodes_per_shard = 4"):
        rollouts.collect(toys.beacon, agent(), 10, seed=5, episodes_per_shard=5, out=tmp_path / "b")


def test_options_are_compared_in_their_stored_form(tmp_path):
    for _ in range(2):  # the file stores a tuple as a list
        store = rollouts.collect("FrozenLake-v1", rollouts.uniform, 1, out=tmp_path / "s", max_steps=3,
                                 env_options={"desc": ("SF", "FG")})  # fmt: skip
    assert store.metadata["env_options"] == {"desc": ["SF", "FG"]}


def test_training_never_draws_a_test_seed():
    seeds = training_seeds(3, count=100_000)
    assert min(seeds) >= TEST_SEEDS
    assert max(seeds) < 2**31
    assert len(set(seeds)) > 99_000


def test_runs_with_different_seeds_share_no_episode():
    seeds = [episode_seed(seed, index) for seed in range(20) for index in range(50)]
    assert len(set(seeds)) == 1_000


def test_frames_of_an_environment_that_reuses_its_array_are_copied():
    class Reusing(StandardEnv, toys.Counter):
        frame = np.zeros((64, 64, 3), np.uint8)

        def _frame(self):
            self.frame[:] = self.now
            return self.frame

    episode = rollouts.play(Reusing(), rollouts.uniform, 1)
    assert episode.frames[:, 0, 0, 0].tolist() == list(range(21))


def test_hdf5_reads_the_same_frames(counter_store):
    with h5py.File(counter_store.shards[0].path) as file:  # HDF5's zlib reads the chunks that ISA-L compressed
        frames = file["episode_0/observations"][:]
    np.testing.assert_array_equal(frames, counter_store.episode(0).frames)


@pytest.mark.parametrize("where", ["middle", "checksum"])
def test_a_flipped_bit_in_a_frame_is_detected(tmp_path, where):
    store = rollouts.collect(toys.counter, toys.marking, 1, seed=1, out=tmp_path / "s")
    shard, number = store.locate(0)
    offset, length = map(int, store.reader.metadata(shard, number).chunk_locations[0])
    content = bytearray(shard.path.read_bytes())
    content[offset + (length // 2 if where == "middle" else length - 1)] ^= 1
    shard.path.write_bytes(content)
    with pytest.raises(ValueError, match=r"000000\.h5"):
        Store(tmp_path / "s").episode(0)


@pytest.mark.parametrize("how", ["bomb", "contiguous", "huge chunk", "missing chunk"])
def test_hostile_shards_are_refused_without_harm(tmp_path, how):
    store = rollouts.collect(toys.counter, toys.marking, 1, seed=1, out=tmp_path / "s")
    with h5py.File(store.shards[0].path, "a") as file:
        group = file["episode_0"]
        frames = group["observations"][:]
        del group["observations"]
        if how == "contiguous":
            group["observations"] = frames
        else:
            rows = 100_000 if how == "huge chunk" else 16
            made = group.create_dataset("observations", (21, 64, 64, 3), np.uint8, chunks=(rows, 64, 64, 3),
                                        maxshape=(None, 64, 64, 3), compression="gzip")  # fmt: skip
            if how == "bomb":  # a chunk of 128 MB when decompressed
                packer = zlib.compressobj()
                bomb = b"".join(packer.compress(bytes(2**24)) for _ in range(8)) + packer.flush()
                made.id.write_direct_chunk((0, 0, 0, 0), bomb)
                made.id.write_direct_chunk((16, 0, 0, 0), bomb)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"000000\.h5"):
        Store(tmp_path / "s").episode(0)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_partial_files_of_killed_workers_are_removed(tmp_path):
    out = tmp_path / "s"
    rollouts.collect(toys.counter, toys.marking, 1, seed=1, out=out)
    (out / "shards" / ".000001.h5.123.part").write_bytes(b"half")
    rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=out)
    assert sorted(p.name for p in (out / "shards").iterdir()) == ["000000.h5", "000001.h5"]


def test_estimates_state_time_and_disk_space(tmp_path):
    found = rollouts.estimate_collection("CartPole-v1", rollouts.uniform, 100, out=tmp_path / "not" / "there")
    assert "50,000" in str(found) and "MB" in str(found)


def test_new_policies_add_episodes_and_keep_the_first(tmp_path):
    settings = {"seed": 1, "out": tmp_path / "s", "episodes_per_shard": 2}
    first = rollouts.collect(toys.counter, toys.marking, 3, **settings)
    before = {shard.path.name: shard.path.read_bytes() for shard in first.shards}
    with pytest.raises(ValueError, match="policy"):
        rollouts.collect(toys.counter, rollouts.uniform, 5, **settings)
    rollouts.collect(toys.counter, rollouts.uniform, 5, **settings, allow_new_policy=True)
    store = rollouts.collect(toys.counter, rollouts.uniform, 6, **settings, allow_new_policy=True)
    assert len(store) == 6
    assert all((store.path / "shards" / name).read_bytes() == content for name, content in before.items())
    assert store.metadata["policy_changes"] == [{"first": 3, "policy": "uniform"}]
    alone = rollouts.collect(toys.counter, rollouts.uniform, 6, seed=1, out=tmp_path / "alone", episodes_per_shard=2)
    assert all(equal(alone.episode(index), store.episode(index)) for index in range(3, 6))
    with pytest.raises(ValueError, match="policy"):  # the first policy cannot continue
        rollouts.collect(toys.counter, toys.marking, 8, **settings)


def test_a_lost_shard_of_an_earlier_policy_is_not_collected_with_a_later_one(tmp_path):
    settings = {"seed": 1, "out": tmp_path / "s", "episodes_per_shard": 1}
    store = rollouts.collect(toys.counter, toys.marking, 3, **settings)
    rollouts.collect(toys.counter, rollouts.uniform, 5, **settings, allow_new_policy=True)
    store.shards[1].path.unlink()
    again = rollouts.collect(toys.counter, rollouts.uniform, 5, **settings, allow_new_policy=True)
    assert [shard.first for shard in again.shards] == [0, 2, 3, 4]


def test_partial_metadata_files_are_ignored(tmp_path):
    (tmp_path / ".metadata.json.123.part").write_text("{")
    store = rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=tmp_path)
    assert len(store) == 2


def test_an_episode_that_terminates_at_the_limit_is_not_truncated(tmp_path):
    store = rollouts.collect(toys.counter, toys.marking, 1, out=tmp_path / "s", max_steps=20)
    assert [(len(e.actions), e.terminated, e.truncated) for e in store.episodes()] == [(20, True, False)]


class Penalized(toys.Counter):
    """The reward is 1 up to step 3, then -1."""

    def step(self, action):
        frame, _, *rest = super().step(action)
        return frame, 1.0 if self.now <= 3 else -1.0, *rest


def test_a_penalty_is_no_progress(tmp_path):
    assert rollouts.collect(Penalized, toys.marking, 1, out=tmp_path / "s", max_idle_steps=4).lengths == [7]


class Changing(toys.Counter):
    """Each instance has one more number, and one more action, than the one before."""

    instances = 0

    def __init__(self, discrete):
        super().__init__(length=3)
        type(self).instances += 1
        self.action_space = spaces.Discrete(2 + self.instances) if discrete else self.action_space
        size = 4 if discrete else 3 + self.instances
        self.observation_space = spaces.Box(-9, 9, (size,), np.float32)

    def _frame(self):
        return np.zeros(self.observation_space.shape, np.float32)


@pytest.mark.parametrize("discrete", [True, False])
def test_an_environment_that_changes_its_spaces_is_refused(tmp_path, discrete):
    last = lambda space, rng: lambda frame: space.n - 1 if discrete else space.sample()  # noqa: E731
    Changing.instances = 0
    with pytest.raises(ValueError, match="episode 0"):
        rollouts.collect(lambda: Changing(discrete), last, 3, out=tmp_path, env_options={"observation": "vector"})
    assert len(rollouts.Store(tmp_path)) == 0


def test_vectors_of_an_array_that_the_environment_reuses_are_kept():
    env = to_vector(Reuses())
    first = env.reset(seed=1)[0]
    second = env.step(env.action_space.sample())[0]
    assert first.tolist() == [0, 0] and second.tolist() == [1, 1]


class Reuses(toys.Counter):
    def __init__(self):
        super().__init__()
        self.observation_space, self.array = spaces.Box(0, 99, (2,), np.float32), np.zeros(2, np.float32)

    def _frame(self):
        self.array[:] = self.now
        return self.array
