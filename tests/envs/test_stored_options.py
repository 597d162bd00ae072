"""Environment options in files of older versions."""

import json
import shlex

import numpy as np
import pytest

from worldmodel import envs, rollouts
from worldmodel.agents.evaluation import Report
from worldmodel.envs.registration import imported_module
from worldmodel.io.migration import renamed_env_options, run_config, stored_env_options

OLD = {"buttons": "run", "noops": 3, "sticky": 0.25, "machine": "fast"}
NEW = {"action_set": "run", "noop_max": 3, "sticky_action_prob": 0.25, "backend": "numba"}


def test_options_of_our_games_are_renamed():
    assert renamed_env_options("SuperMarioBros-1-1", OLD) == NEW
    assert renamed_env_options("SuperMarioBros-1-1", NEW) == NEW
    assert stored_env_options("SuperMarioBros-1-1", NEW) == OLD
    assert renamed_env_options("CarRacing", {"indicators": True}) == {"show_hud": True}
    assert renamed_env_options("my_package:MyGame-v0", OLD) == OLD
    assert renamed_env_options(3, []) == []


@pytest.mark.parametrize("env", ["CarRacing", "CarRacing-v3", "FastCarRacing", "envs:FastCarRacing"])
def test_every_id_of_car_racing_is_known(env):
    assert renamed_env_options(env, {"indicators": True}) == {"show_hud": True}


@pytest.mark.parametrize(
    "env", ["SuperMarioBros-8-4", "SuperMarioBros-v0", "worldmodel.envs:worldmodel/SuperMarioBros-v0"]
)
def test_every_id_of_mario_is_known(env):
    assert renamed_env_options(env, OLD) == NEW


@pytest.mark.parametrize(
    "env", ["my_pkg:MyCarRacing-v0", "my_pkg:CarRacing", "MySuperMarioBros-1-1", "SuperMarioBros-9-1"]
)
def test_options_of_foreign_environments_stay(env):
    options = OLD | {"indicators": True}
    assert renamed_env_options(env, options) == stored_env_options(env, options) == options


def test_options_of_a_config_are_renamed():
    config = {"env": "SuperMarioBros-1-1", "env_options": OLD, "seed": 1}
    assert run_config(config) == config | {"env_options": NEW}


@pytest.mark.slow
def test_an_older_store_loads_with_its_identity_and_grows(tmp_path):
    options = {"action_repeat": 2, "show_hud": True}
    store = rollouts.collect("FastCarRacing", "uniform", 1, seed=1, out=tmp_path, max_steps=3, env_options=options)
    path = tmp_path / "metadata.json"
    content = json.loads(path.read_text())
    content["env_options"] = {"action_repeat": 2, "indicators": True}
    path.write_text(json.dumps(content))
    older = rollouts.Store(tmp_path)
    assert older.metadata["env_options"] == options
    assert older.identity == store.identity
    grown = rollouts.collect("FastCarRacing", "uniform", 2, seed=1, out=tmp_path, max_steps=3, env_options=options)
    assert len(grown) == 2
    with pytest.raises(ValueError, match="env_options"):
        rollouts.collect("FastCarRacing", "uniform", 2, seed=1, out=tmp_path, max_steps=3)


def test_an_older_report_loads(tmp_path):
    command = "worldmodel evaluate 'my runs/mario' --where game --episodes 2 --seed 10000 --max_steps 3"
    command += """ --env_options '{"sticky": 0.25}'"""
    Report("SuperMarioBros-1-1", [1.0], [1], [10_000], env_options=OLD, command=command).save(tmp_path / "report.json")
    report = Report.load(tmp_path / "report.json")
    assert report.env_options == NEW
    assert shlex.split(report.command) == [
        *("worldmodel", "evaluate", "my runs/mario", "--where", "game", "--eval.episodes", "2", "--eval.seed", "10000"),
        *("--eval.max_steps", "3", "--env_options", '{"sticky_action_prob": 0.25}'),
    ]


@pytest.mark.parametrize(
    "command", ["", "python play.py --seed 1", "worldmodel evaluate 'runs", "worldmodel evaluate x --env_options"]
)
def test_other_commands_of_reports_stay(tmp_path, command):
    Report("CarRacing", [1.0], [1], [10_000], command=command).save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").command == command


@pytest.mark.parametrize(
    ("older", "present"),
    [
        ("FastCarRacing-v3", "worldmodel/FastCarRacing-v3"),
        ("envs:FastCarRacing-v3", "worldmodel.envs:worldmodel/FastCarRacing-v3"),
        ("envs:FastCarRacing", "FastCarRacing"),
        ("SuperMarioBros-v0", "worldmodel/SuperMarioBros-v0"),
    ],
)
def test_ids_of_older_stores_make_the_same_environment(older, present):
    frames = []
    for id in (older, present):
        env = envs.make(id)
        frames.append(env.reset(seed=3)[0])
        env.close()
    assert np.array_equal(*frames)
    assert imported_module(older) is imported_module(present) is None


@pytest.mark.parametrize("id", ["worldmodel.envs:evil:Bar-v0", "worldmodel.envs:FastCarRacing-v3", "envs:Mine-v0"])
def test_only_the_ids_of_this_package_need_no_trust(id):
    assert imported_module(id) is not None
