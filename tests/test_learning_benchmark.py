"""The recipes of the learning benchmark are settings of runs, and its table has their means."""

from dataclasses import asdict

import pytest

from benchmarks import learning
from benchmarks.learning import RECIPES, settings_of, table
from worldmodel.agents.config.sections import build
from worldmodel.io.files import read_json


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_changes_the_preset(recipe):
    changed = asdict(settings_of(recipe, seed=3))
    assert changed["seed"] == 3
    assert (changed == asdict(settings_of("preset", seed=3))) == (recipe == "preset")


def test_the_table_has_the_mean_over_training_seeds():
    row = {"n": 16, "hardware": "a machine", "iterations": [1.0, 7.0], "cpu_seconds": 600}
    rows = [{"recipe": "rmdn", "seed": seed, "mean": mean, **row} for seed, mean in ((1, 100.0), (2, 301.0))]
    [line] = [line for line in table(rows).splitlines() if RECIPES["rmdn"][0] in line]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["200", "100, 301", "600"]


@pytest.mark.slow
def test_a_cell_runs_from_shared_episodes_and_is_not_run_again(tmp_path, monkeypatch):
    tiny = {
        "env": "CartPole-v1",
        "workers": 1,
        "iterations": 1,
        "iterate": {"episodes": 2},
        "collect": {"episodes": 6},
        "vae": {"latent_dim": 2, "num_updates": 2, "batch_size": 4},
        "memory": {"hidden_size": 4, "num_updates": 2, "batch_size": 2, "seq_len": 4},
        "dream": {"generations": 1, "population": 3, "num_rollouts": 2, "horizon": 3},
        "game": {"generations": 0},
        "eval": {"episodes": 2, "max_steps": 9},
    }
    monkeypatch.setattr(learning, "settings_of", lambda recipe, seed: build(tiny | {"seed": seed}))
    for _ in range(2):
        learning.run_cell(tmp_path, "rmdn", 2)
    cell = read_json(tmp_path / "rmdn-2" / "cell.json")
    assert (cell["recipe"], cell["seed"], cell["n"], len(cell["iterations"])) == ("rmdn", 2, 2, 1)
    assert cell["cpu_seconds"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"seed-2", "rmdn-2"}
