"""Files of older versions: ``tests/data/run-0.1.0-dev.tar.xz`` is a tiny run folder of commit 2855fb5.

The weights of its VAE are zeros and its media are left out, so the archive is small.
"""

import json
import shutil
import tarfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml

from tests import toys
from tests.agents.spheres import controller, sphere
from tests.command_line import refused
from worldmodel import RMDN, SequenceDensity, WorldModel, fit, seeded
from worldmodel.agents import evolve
from worldmodel.agents.agent import Agent
from worldmodel.agents.cli.main import main
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.provenance import save_config
from worldmodel.agents.config.schema import CollectConfig, RunConfig
from worldmodel.agents.config.sections import build, read_sections
from worldmodel.agents.evaluation import Report
from worldmodel.agents.pipeline import pipeline
from worldmodel.agents.pipeline.iterative_training import PER_ITERATION
from worldmodel.agents.pipeline.phases import plan
from worldmodel.agents.runs.renewal import set_aside
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import fingerprint, read_json, write_json
from worldmodel.rollouts import DreamFitness, EnvFitness, Store

PUBLISHED_VAE = True
"""The run of the archive goes on with the VAE that it has."""
ARCHIVE = Path(__file__).parent.parent / "data" / "run-0.1.0-dev.tar.xz"


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "car"


def test_every_part_of_an_older_run_loads(older):
    run, store = Run(older), Store(older / "rollouts")
    assert (len(store), sum(store.lengths)) == (3, 15)
    world = WorldModel.load(older / "world")
    assert (world.memory.latent_dim, world.memory.hidden_size, world.memory.action_dim) == (32, 4, 3)
    assert run.controller("dream").size == run.controller("game").size == 3 * (32 + 4 + 1)
    agent = Agent.load(older / "agent")
    act = agent(gymnasium.spaces.Box(-1, 1, (3,)), np.random.default_rng(0))
    assert act(np.zeros((64, 64, 3), np.uint8)).shape == (3,)
    report = Report.load(older / "tests" / "game.json")
    assert report.n == len(report.returns) == 2
    assert (
        report.command == "worldmodel evaluate car --where game --eval.episodes 2 --eval.seed 10000 --eval.max_steps 3"
    )
    assert read_yaml(older / "config.yaml")["env"] == "FastCarRacing"


@pytest.mark.slow
def test_an_older_run_continues_without_training(older, tmp_path):
    older = shutil.copytree(older, tmp_path / "car")  # the command writes its settings
    weights = {path: path.read_bytes() for path in older.glob("*/*.safetensors")}
    assert main(["run", "FastCarRacing", "--config", str(older / "config.yaml"), "--out", str(older)]) == 0
    assert {path: path.read_bytes() for path in weights} == weights
    assert yaml.safe_load((older / "config.yaml").read_text())["collect"]["episodes"] == 3


def test_inspect_describes_an_older_run(older, capsys):
    assert main(["inspect", str(older)]) == 0
    assert "FastCarRacing" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["dream", "game"])
def test_the_identity_of_an_older_search_is_that_of_its_fitness(older, where):
    run = Run(older)
    world, store = run.world(), run.store()
    fitness = {
        "dream": DreamFitness(
            world, store.latents(world.vae, stall_delay=0), 3, 2, 1.15, use_expected_continuation=False
        ),
        "game": EnvFitness(
            store.env, world, 1, max_idle_steps=20, max_steps=5, env_options=store.metadata["env_options"]
        ),
    }[where]
    with np.load(older / f"evolve-{where}" / "state.npz") as saved:
        settings = migration.search_state(json.loads(str(saved["about"])))["settings"]
    assert settings["fitness"] == fitness.identity
    if where == "game":
        assert settings["eval_fitness_identity"] == fitness.identity | {"max_idle_steps": None}


def test_an_older_search_of_the_same_episodes_is_not_set_aside(older):
    run = Run(older)
    world = run.world()
    fitness = DreamFitness(world, run.store().latents(world.vae, stall_delay=0))
    set_aside(run, "dream", fitness.identity)
    assert (older / "evolve-dream" / "state.npz").exists()


def test_an_older_search_of_other_episodes_is_set_aside(older, tmp_path):
    run = Run(shutil.copytree(older, tmp_path / "run"))
    set_aside(run, "dream", {"world": fingerprint(run.world()), "start_states": "other episodes"})
    assert (run.folder / "earlier" / "evolve-dream-1" / "state.npz").exists()


def test_the_identity_of_another_fitness_stays():
    identity = {"env": "game", "patience": 3, "starts": 4}
    old = {"settings": {"fitness": identity, "eval_fitness_identity": None}}
    settings = migration.search_state(old)["settings"]
    assert (settings["fitness"], settings["eval_fitness_identity"]) == (identity, None)


def test_steps_of_older_evaluations_count(tmp_path):
    (tmp_path / "evolve-game").mkdir()
    rows = '{"generation": 1, "steps": 5, "check_steps": 2}\n{"generation": 2, "steps": 5, "eval_steps": 3}\n'
    (tmp_path / "evolve-game" / "metrics.jsonl").write_text(rows)
    assert Run(tmp_path).evolution_steps("game") == 15


def test_an_older_corpus_gets_current_names():
    older = {"corpus": "timit", "event": 200, "scale": {"frame": 200, "piece": 8000}}
    newer = {"corpus": "timit", "event_dim": 200, "scale": {"frame": 200, "segment_length": 8000}}
    assert migration.corpus(older) == migration.corpus(newer) == newer


def test_the_state_of_an_older_search_keeps_its_counts():
    old = {"settings": {"check": None}, "best_check": 3.0, "generation": 9}
    new = migration.search_state(old)
    assert new == {
        "settings": migration.ADDED_SEARCH_SETTINGS | {"eval_fitness": None},
        "best_eval": 3.0,
        "generation": 9,
    }


MAPPINGS = {name: value for name, value in vars(migration).items() if name.isupper() and isinstance(value, dict)}


@pytest.mark.parametrize("names", MAPPINGS.values(), ids=MAPPINGS)
def test_no_two_older_names_become_the_same(names):
    flat = [value for value in names.values() if isinstance(value, str)]
    assert len(set(flat)) == len(flat)


OTHER_VALUES = {"cell": "gru", "shared": True, "antithetic": True, "bounds": 0.5, "covariance": "full", "restarts": 1}
OTHER_VALUES |= {"vae_every": 2, "termination_threshold": 0.5, "max_episodes": 9, "ranked": True}
OTHER_VALUES |= {"disagreement_penalty": 0.5, "hud_loss_weight": 2.0, "num_layers": 2, "mean_window": 3}
OTHER_VALUES |= {"patience": 7, "dtype": "bfloat16", "latent_targets": "mean", "hidden_units": 4, "target_return": 9.0}
OTHER_VALUES |= {"initial_state_fraction": 0.5, "eval_patience": 4, "min_sigma": 0.01, "normalize_episodes": True}
OTHER_VALUES |= {"min_steps": 50, "free_bits": 0.25, "action_noise": 0.3, "reset_horizon": 9, "recent_fraction": 0.25}
NO_EFFECT = {"envs_per_worker", "use_expected_continuation"}
REMOVED = [
    (section, name) for section, names in migration.REMOVED_RUN_SETTINGS.items() for name in {*names} - NO_EFFECT
]
REMOVED.sort()


def test_an_older_config_with_defaults_of_removed_settings_is_that_of_its_run(older, tmp_path):
    path = shutil.copy(older / "config.yaml", tmp_path)
    content = read_yaml(path)
    removed = [(section, name) for section, name in REMOVED if section in content]
    named = {section: migration.renamed(content[section], migration.RUN_SECTIONS[section]) for section, _ in removed}
    assert all(name in named[section] for section, name in removed)
    settings = build(migration.run_config(content))
    save_config(settings, Path(path))
    assert not any(name in read_yaml(path)[section] for section, name in removed)
    assert settings.training.learning_rates == (1e-30, 1e-3)
    assert settings.memory.stall_delay == 0


@pytest.mark.parametrize(("section", "name"), REMOVED)
def test_another_value_of_a_removed_setting_is_refused(section, name, tmp_path, capsys):
    label, path, value = f"{section}.{name}", tmp_path / "config.yaml", OTHER_VALUES[name]
    content = {name: value} | ({"vae_updates": 5} if name == "vae_every" else {})
    path.write_text(yaml.safe_dump({"env": "CartPole-v1", section: content}), encoding="utf-8")
    line = refused(capsys, "run", "CartPole-v1", "--config", str(path), "--out", str(tmp_path / "run"))
    assert label in line and repr(value) in line
    with pytest.raises(ValueError, match=label):
        save_config(RunConfig("CartPole-v1"), path)
    (tmp_path / "section.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert label in refused(capsys, "run", "CartPole-v1", f"--{section}", str(tmp_path / "section.yaml"))


def test_another_value_of_a_removed_setting_of_an_iteration_is_refused(tmp_path):
    write_json(tmp_path / "settings.json", {"iterate": {"vae_every": 4}, "dream": {"bounds": None}})
    assert read_sections(PER_ITERATION, tmp_path / "settings.json") == {
        name: getattr(RunConfig(""), name) for name in PER_ITERATION
    }
    write_json(tmp_path / "settings.json", {"iterate": {"vae_every": 4}, "dream": {"bounds": 2.0}})
    with pytest.raises(ValueError, match=r"dream\.bounds.*2\.0"):
        read_sections(PER_ITERATION, tmp_path / "settings.json")


@pytest.mark.parametrize("name", migration.REMOVED_NETWORK_SETTINGS)
def test_an_older_memory_with_a_removed_setting_is_refused(older, tmp_path, name, capsys):
    run = shutil.copytree(older, tmp_path / "run")
    path = run / "world" / "config.json"
    config = read_json(path)
    config["memory"][name] = OTHER_VALUES[name]
    write_json(path, config)
    with pytest.raises(ValueError, match=rf"memory\.{name}.*{OTHER_VALUES[name]}"):
        WorldModel.load(path.parent)
    assert f"memory.{name}" in refused(capsys, "evolve", str(run), "--where", "dream")


@pytest.mark.parametrize(
    "saved",
    [
        {"env": "CarRacing", "training_env": None, "eval_env": None, "eval_env_options": {}},
        {"env": "CarRacing", "training_env": "FastCarRacing"},
        {"env": "FastCarRacing", "eval_env": "CarRacing"},
    ],
)
def test_environments_of_an_older_config_stay(saved):
    settings = build(migration.run_config(saved))
    assert (settings.rollout_env, settings.evaluation_env) == ("FastCarRacing", "CarRacing")


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        ({"env": "CarRacing", "training_env": "CarRacing"}, "eval_env.*'CarRacing'"),
        ({"env": "FastCarRacing", "eval_env": "FastCarRacing"}, "eval_env.*'FastCarRacing'"),
        ({"env": "CartPole-v1", "eval_env": "Acrobot-v1"}, "eval_env.*'Acrobot-v1'"),
        ({"env": "CarRacing", "test_options": {"show_hud": True}}, "eval_env_options.*show_hud"),
        ({"iterate": {"recent_fraction": 0.0, "recent_episodes": 9}}, r"iterate\.recent_fraction.*0\.0"),
    ],
)
def test_older_values_that_no_setting_has_are_refused(saved, named):
    with pytest.raises(migration.RemovedSetting, match=named):
        migration.run_config(saved)


OLDER_AND_NEWER = [
    ({"workers": 8, "backend": "ray"}, {"workers": "8@ray"}),
    ({"collect": {"episodes": 100, "min_steps": 3000}}, {"collect": {"episodes": None}}),
    (
        {"collect": {"policy": "smooth,previous,a/b", "exploration": 0.2}},
        {"collect": {"policy": "smooth,previous:0.2,a/b:0.2"}},
    ),
    ({"memory": {"model": "rmdn", "full": True}}, {"memory": {"rank": "full", "flow": "none"}}),
    ({"memory": {"conditional": True, "rank": 2}}, {"memory": {"rank": 2, "flow": "conditional"}}),
    ({"memory": {"conditional": True, "spline": True}}, {"memory": {"flow": "conditional-spline"}}),
    ({"memory": {"spline": True}}, {"memory": {"flow": "spline"}}),
    ({"memory": {"overhang": True, "stalls_end": True}}, {"memory": {"pad_episode_ends": True, "stall_delay": 0}}),
    ({"memory": {"pad_episode_ends": True}}, {"memory": {"pad_episode_ends": True}}),
    ({"memory": {"lr": 3e-4}}, {"memory": {}, "training": {"learning_rate": [1e-3, 3e-4]}}),
    (
        {"vae": {"lr": 3e-4, "precision": "float32"}, "memory": {"lr": 3e-4, "patience": None}},
        {"vae": {}, "memory": {}, "training": {"learning_rate": 3e-4}},
    ),
    ({"game": {"moments": 8, "stretch": 30, "lanes": 16}}, {"game": {"state_resets": [8, 30]}}),
    ({"game": {"num_state_resets": 0, "reset_horizon": 60}}, {"game": {"state_resets": None}}),
    (
        {"dream": {"weigh_ends": True}, "iterate": {"newest_share": 0.0, "newest": None}},
        {"dream": {}, "iterate": {"recent_episodes": None}},
    ),
    (
        {"iterate": {"recent_fraction": 0.5, "recent_episodes": 9}, "training": {"patience": 20}},
        {"iterate": {"recent_episodes": 9}, "training": {}},
    ),
]


@pytest.mark.parametrize(("older", "newer"), OLDER_AND_NEWER)
def test_older_settings_that_became_one_stay(older, newer):
    assert migration.run_config(older) == migration.run_config(newer) == newer
    assert migration.run_config({"phases": [older]}) == {"phases": [newer]}
    build({"env": "CartPole-v1", **newer})


def test_a_run_goes_on_with_more_episodes_in_place_of_a_minimum_of_steps(tmp_path):
    run = Run(tmp_path)

    def save(episodes):
        settings = RunConfig("CartPole-v1", collect=CollectConfig(episodes))
        pipeline._save_settings(run, settings, plan(settings, run))

    for episodes in (None, 120, 130):
        save(episodes)
    for fewer in (129, None):
        with pytest.raises(ValueError, match=r"collect\.episodes"):
            save(fewer)


def test_the_environment_of_evaluation_is_the_official_one():
    settings = RunConfig("FastCarRacing")
    assert (settings.rollout_env, settings.evaluation_env) == ("FastCarRacing", "CarRacing")


def trained(out, num_updates):
    with seeded(0):
        model = SequenceDensity(RMDN(1, 1, hidden_size=4, num_components=2))
    data = toys.Sequences(lambda size, seed: toys.autoregressive(size, 5, seed)[0].float())
    return fingerprint(
        fit(model, data, num_updates=num_updates, batch_size=4, eval_every=2, out=out, tensorboard=False)
    )


def with_network_settings(folder, **settings):
    """Write network settings into the state of a training, as an older version wrote them."""
    saved = torch.load(folder / "resume.pt", weights_only=True)
    saved["settings"]["model_config"] |= settings
    torch.save(saved, folder / "resume.pt")


def test_an_older_training_continues(tmp_path):
    for name in ("new", "older"):
        trained(tmp_path / name, 4)
    with_network_settings(tmp_path / "older", **migration.REMOVED_NETWORK_SETTINGS)
    assert trained(tmp_path / "older", 8) == trained(tmp_path / "new", 8)


@pytest.mark.parametrize("name", migration.REMOVED_NETWORK_SETTINGS)
def test_an_older_training_with_a_removed_setting_is_refused(tmp_path, name):
    trained(tmp_path, 2)
    with_network_settings(tmp_path, **{name: OTHER_VALUES[name]})
    with pytest.raises(ValueError, match=rf"resume\.pt.*{name}.*{OTHER_VALUES[name]}"):
        trained(tmp_path, 4)


REMOVED_FROM_SEARCHES = migration.REMOVED_SEARCH_SETTINGS | migration.REMOVED_GAME_SETTINGS


def evolved(out, generations):
    best = evolve(controller(), sphere, seed=1, population=4, generations=generations, out=out)
    return best.parameters.tolist()


def with_search_settings(folder, settings, **counts):
    """Write settings and counts into the state of a search, as an older version wrote them."""
    with np.load(folder / "state.npz") as saved:
        state = dict(saved)
    about = json.loads(str(state["about"])) | counts
    about["settings"] |= settings
    np.savez(folder / "state.npz", **state | {"about": np.array(json.dumps(about))})


def test_an_older_search_continues(tmp_path):
    for name in ("new", "older"):
        evolved(tmp_path / name, 2)
    counts = migration.REMOVED_SEARCH_STATE | {"episodes": None, "noise": None}
    with_search_settings(tmp_path / "older", REMOVED_FROM_SEARCHES, **counts)
    assert evolved(tmp_path / "older", 4) == evolved(tmp_path / "new", 4)


@pytest.mark.parametrize("name", [*REMOVED_FROM_SEARCHES, *migration.REMOVED_SEARCH_STATE])
def test_an_older_search_with_a_removed_setting_is_refused(tmp_path, name):
    evolved(tmp_path, 2)
    other = {name: OTHER_VALUES[name]}
    settings, counts = (other, {}) if name in REMOVED_FROM_SEARCHES else ({}, other)
    with_search_settings(tmp_path, settings, **counts)
    with pytest.raises(ValueError, match=rf"state\.npz.*{name}.*{OTHER_VALUES[name]}"):
        evolved(tmp_path, 4)


def test_a_removed_argument_of_dreams_at_its_default_is_not_part_of_an_identity():
    newer = migration.ADDED_DREAM_ARGUMENTS | {"num_rollouts": 16, "world": "5a", "start_states": "7b"}
    older = {"dreams": 16, "world": "5a", "starts": "7b", "threshold": None}
    assert migration.fitness_identity(older) == newer
    assert migration.fitness_identity(newer | {"termination_threshold": None}) == newer
    ensemble = {"ensemble": ["6b"]}
    assert migration.fitness_identity(older | {"worlds": ["6b"], "caution": 0.0}) == newer | ensemble
    assert migration.fitness_identity(newer | ensemble | {"disagreement_penalty": 0.0}) == newer | ensemble
    with pytest.raises(ValueError, match=r"termination_threshold.*0\.5"):
        migration.fitness_identity(older | {"threshold": 0.5})
    with pytest.raises(ValueError, match=r"disagreement_penalty.*0\.5"):
        migration.fitness_identity(older | ensemble | {"caution": 0.5})
