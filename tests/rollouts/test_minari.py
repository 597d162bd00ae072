"""Minari lists, reads, filters and splits stores in place, and recovers their environments."""

import json
import shutil
import tomllib
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import toys
from worldmodel import rollouts
from worldmodel.envs.registration import UNKNOWN_ENV
from worldmodel.io.files import read_json
from worldmodel.rollouts import Store

minari = pytest.importorskip("minari")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mine" / "rollouts"
    rollouts.collect("FrozenLake-v1", rollouts.uniform, 5, seed=1, out=out, env_options={"is_slippery": False})
    return out


@pytest.fixture
def store(collected, tmp_path, monkeypatch):
    shutil.copytree(collected.parent, tmp_path / "mine")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Misconfigured dataset")
        yield Store(tmp_path / "mine" / "rollouts")


def test_minari_lists_and_reads_a_run(store):
    [(name, metadata)] = minari.list_local_datasets().items()
    assert name == "mine/rollouts/minari-v0" and metadata["total_episodes"] == 5
    dataset = minari.load_dataset(name)
    assert dataset.total_steps == store.steps and dataset.observation_space.shape == (64, 64, 3)
    for ours, theirs in zip(store.episodes(), dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.observations)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        assert bool(theirs.terminations[-1]) is ours.terminated


def test_minari_filters_and_splits(store):
    dataset = minari.load_dataset("mine/rollouts/minari-v0")
    assert dataset.filter_episodes(lambda episode: episode.id > 1).total_episodes == 3
    first, rest = minari.split_dataset(dataset, [2, 3])
    assert (first.total_episodes, rest.total_episodes) == (2, 3)


@pytest.mark.parametrize("env", ["FrozenLake-v1", None])
def test_minari_combines_collected_and_imported_stores(store, tmp_path, env):
    for name in ("a", "b"):
        rollouts.write(store.episodes(), tmp_path / name / "rollouts", env, {"is_slippery": False} if env else None, 4)
    one, other = (minari.load_dataset(f"{name}/rollouts/minari-v0") for name in (("mine", "a") if env else ("a", "b")))
    combined = minari.combine_datasets([one, other], "all-v0")
    assert combined.total_episodes == 5 + 5 == len(list(combined.iterate_episodes()))
    for theirs, ours in zip(combined.iterate_episodes(range(5)), store.episodes(), strict=True):
        np.testing.assert_array_equal(theirs.actions, ours.actions)
        assert theirs.observations.shape == ours.frames.shape  # Minari compresses them as JPEG
    again = minari.load_dataset("all-v0")
    if env:
        again.recover_environment().close()
    imported = rollouts.import_from("all-v0", tmp_path / "back")
    assert imported.steps == again.total_steps and imported.env == (env or UNKNOWN_ENV)


def test_recovered_environments_have_the_same_frames_and_options(store):
    env = minari.load_dataset("mine/rollouts/minari-v0").recover_environment()
    episode = store.episode(0)
    frame, _ = env.reset(seed=episode.seed)
    np.testing.assert_array_equal(frame, episode.frames[0])
    for action, reward, after in zip(episode.actions, episode.rewards, episode.frames[1:], strict=True):
        frame, replayed, *_ = env.step(action)
        np.testing.assert_array_equal(frame, after)
        assert replayed == reward
    env.close()


@pytest.mark.slow
def test_the_command_line_of_minari_lists_and_shows(store):
    runner = pytest.importorskip("typer.testing").CliRunner()
    from minari.cli import app

    for words in (["list", "local"], ["show", "mine/rollouts/minari-v0"]):
        done = runner.invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "minari-v0" in done.output.replace("\n", "") or "5" in done.output


def test_stores_with_invalid_names_do_not_break_the_listing(store, tmp_path):
    other = rollouts.collect(toys.counter, toys.marking, 2, seed=1, out=tmp_path / "a.b c" / "rollouts")
    assert list(minari.list_local_datasets()) == ["mine/rollouts/minari-v0"]
    assert other.minari().total_episodes == 2
    with pytest.raises(ValueError, match="env_spec"):
        other.minari().recover_environment()


def test_an_index_of_an_older_version_is_replaced(store):
    old, new = store.path / "data", store.path / "minari-v0" / "data"
    old.mkdir()
    metadata = read_json(new / "metadata.json") | {"dataset_id": "rollouts-v0"}
    (old / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(old / "main_data.hdf5", "w") as index:
        for number in range(5):
            index[f"episode_{number}"] = h5py.ExternalLink("../shards/000000.h5", f"/episode_{number}")
    shutil.rmtree(new.parent)
    assert store.minari().total_episodes == 5 and len(next(store.minari().iterate_episodes()).rewards)
    rollouts.collect("FrozenLake-v1", rollouts.uniform, 6, seed=1, out=store.path, env_options={"is_slippery": False})
    assert not old.exists() and minari.list_local_datasets()["mine/rollouts/minari-v0"]["total_episodes"] == 6


def test_the_index_has_the_oldest_version_that_the_extra_allows(store):
    metadata = read_json(store.path / "minari-v0" / "data" / "metadata.json")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["minari"] == [f"minari>={metadata['minari_version']}"]
    assert metadata["minari_version"] in minari.supported_dataset_versions
    assert json.loads(metadata["env_spec"])["kwargs"] == {"id": "FrozenLake-v1", "is_slippery": False}


def test_a_moved_run_has_the_name_of_its_new_folder(store, tmp_path):
    moved = shutil.move(tmp_path / "mine", tmp_path / "other")
    assert Store(f"{moved}/rollouts").minari().id == "other/rollouts/minari-v0"
    assert list(minari.list_local_datasets()) == ["other/rollouts/minari-v0"]
