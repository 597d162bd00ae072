"""Episodes added one at a time make the store of one call; nothing of a store is overwritten."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from tests import toys
from tests.rollouts.formats import equal_stores
from worldmodel import rollouts
from worldmodel.rollouts.store.append import append
from worldmodel.rollouts.store.conversion import ActionKind
from worldmodel.rollouts.store.write import store_metadata, write_store

KIND, METADATA = ActionKind(False, 2), store_metadata("Counter-v0", {}, "person")


@pytest.fixture(scope="module")
def episodes():
    return [rollouts.play(toys.Counter(length=length), rollouts.uniform, seed=length) for length in (3, 7, 1, 4)]


def test_appended_episodes_are_those_of_one_call(episodes, tmp_path):
    counts = [append(episode, tmp_path / "one", METADATA, KIND) for episode in episodes]
    assert counts == [1, 2, 3, 4]
    found, expected = rollouts.Store(tmp_path / "one"), write_store(episodes, tmp_path / "all", METADATA, KIND)
    assert equal_stores(found.path, expected.path)
    assert found.metadata == expected.metadata and not found.missing(4)


def test_a_damaged_shard_is_not_replaced(episodes, tmp_path):
    for episode in episodes[:2]:
        append(episode, tmp_path, METADATA, KIND)
    last = tmp_path / "shards" / "000001.h5"
    last.write_bytes(b"damaged")
    append(episodes[2], tmp_path, METADATA, KIND)
    assert last.read_bytes() == b"damaged"
    assert rollouts.Store(tmp_path).lengths == [3, 1]


def test_a_store_of_another_source_is_refused(episodes, tmp_path):
    append(episodes[0], tmp_path, METADATA, KIND)
    for metadata, kind, named in (
        (METADATA | {"env": "Other-v0"}, KIND, "env"),
        (METADATA | {"env_options": {"crop": True}}, KIND, "env_options"),
        (METADATA | {"policy": "uniform"}, KIND, "policy"),
        (METADATA, ActionKind(False, 3), "action_dim"),
        (METADATA, ActionKind(True, 2), "discrete"),
    ):
        with pytest.raises(ValueError, match=f"{tmp_path}.*{named} ="):
            append(episodes[1], tmp_path, metadata, kind)
    assert len(rollouts.Store(tmp_path)) == 1


def test_a_folder_of_something_else_is_refused(episodes, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=str(tmp_path)):
        append(episodes[0], tmp_path, METADATA, KIND)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_episode_with_other_frames_is_refused(episodes, tmp_path):
    append(episodes[0], tmp_path, METADATA, KIND)
    larger = replace(episodes[1], frames=np.zeros((len(episodes[1].frames), 96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="frames"):
        append(larger, tmp_path, METADATA, KIND)
    assert rollouts.Store(tmp_path).lengths == [3]


def _append(episode, folder, barrier):
    barrier.wait()
    append(episode, folder, METADATA, KIND)


def test_two_processes_that_start_a_store_lose_no_episode(episodes, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_append, args=(episode, tmp_path / "one", barrier)) for episode in episodes[:2]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(rollouts.Store(tmp_path / "one").lengths) == [3, 7]
