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
import yaml
from worldmodel.agents.agent import Agent
from worldmodel.agents.cli import main
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.evaluation import Report
from worldmodel.agents.renewal import set_aside
from worldmodel.agents.run import Run
from worldmodel.rollouts import DreamFitness, EnvFitness, Store

from worldmodel import WorldModel, migration
from worldmodel.io import fingerprint

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
def test_an_older_run_continues_without_training(older):
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
        "dream": DreamFitness(world, store.latents(world.vae, terminate_on_stall=True), 3, 2, 1.15),
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
    fitness = DreamFitness(world, run.store().latents(world.vae, terminate_on_stall=True))
    set_aside(run, "evolve-dream", fitness.identity)
    assert (older / "evolve-dream" / "state.npz").exists()


def test_an_older_search_of_other_episodes_is_set_aside(older, tmp_path):
    run = Run(shutil.copytree(older, tmp_path / "run"))
    set_aside(run, "evolve-dream", {"world": fingerprint(run.world()), "start_states": "other episodes"})
    assert (run.folder / "earlier" / "evolve-dream-1" / "state.npz").exists()


def test_the_identity_of_another_fitness_stays():
    identity = {"env": "game", "patience": 3, "starts": 4}
    old = {"settings": {"fitness": identity, "eval_fitness_identity": None}}
    assert migration.search_state(old)["settings"] == {"fitness": identity, "eval_fitness_identity": None}


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
    old = {"settings": {"check": None}, "noise": 0.5, "best_check": 3.0, "stale": 2, "generation": 9}
    new = migration.search_state(old)
    assert new == {
        "settings": {"eval_fitness": None},
        "noise_fraction": 0.5,
        "best_eval": 3.0,
        "num_stagnant_evals": 2,
        "generation": 9,
    }


def test_the_result_of_an_older_density_gets_the_current_names():
    old = {"levels": 1.0, "better": 0.5, "better_stderr": 0.1, "own": None, "learned": ["once"], "job": {"hidden": 8}}
    assert migration.density_result(old) == {
        "quantization_limit": 1.0,
        "gain": 0.5,
        "gain_stderr": 0.1,
        "training_identity": None,
        "training_summary": ["once"],
        "job": {"hidden_size": 8},
    }


MAPPINGS = {name: value for name, value in vars(migration).items() if name.isupper() and isinstance(value, dict)}


@pytest.mark.parametrize("names", MAPPINGS.values(), ids=MAPPINGS)
def test_no_two_older_names_become_the_same(names):
    flat = [value for value in names.values() if isinstance(value, str)]
    assert len(set(flat)) == len(flat)
