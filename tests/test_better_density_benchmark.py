"""The comparison of densities by their controllers: matched sizes, cells that are run once, and means over seeds."""

import numpy as np
import pytest

from benchmarks import better_density
from benchmarks.better_density import UNTRAINED, VARIANTS, main, memory_settings, num_parameters, table
from worldmodel.agents.config.provenance import save_config
from worldmodel.agents.config.sections import build
from worldmodel.agents.pipeline import stages
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json

TINY = {
    "env": "CartPole-v1",
    "workers": 1,
    "iterations": 0,
    "collect": {"episodes": 12},
    "vae": {"latent_dim": 2, "num_updates": 2, "batch_size": 4},
    "memory": {"hidden_size": 6, "num_updates": 2, "batch_size": 2, "seq_len": 4},
    "dream": {"generations": 1, "population": 3, "num_rollouts": 2, "horizon": 3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_memory_has_as_many_parameters_as_the_frmdn(variant):
    settings, sizes = build(TINY), (35, 32)
    frmdn = memory_settings(settings, "FRMDN", sizes)
    assert frmdn.hidden_size == better_density.HIDDEN_SIZE
    wanted = num_parameters(frmdn, sizes)
    assert wanted <= num_parameters(memory_settings(settings, variant, sizes), sizes) < 1.02 * wanted


def test_the_table_has_means_over_seeds():
    row = {"env": "game", "variant": "RMDN", "nll": -2.0, "promise_r": [0.5, 0.1], "hardware": "a machine"}
    rows = [row | {"seed": 1, "returns": [1.0, 3.0]}, row | {"seed": 2, "returns": [5.0, 7.0]}]
    [line] = [line for line in table(rows).splitlines() if "RMDN" in line]
    deviation = np.std([2, 6], ddof=1)
    assert [cell.strip() for cell in line.split("|")[3:-1]] == [
        "-2.0 ± 0.0",
        "0.50 ± 0.00",
        f"4 ± {deviation:.0f}",
        "2, 6",
    ]


@pytest.mark.slow
def test_cells_are_run_once_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(better_density, "RESULT", tmp_path / "better-density.json")
    for name, value in {"NUM_UPDATES": 6, "HIDDEN_SIZE": 9, "EVAL_EVERY": 2, "GENERATIONS": 1, "EPISODES": 2}.items():
        monkeypatch.setattr(better_density, name, value)
    run, settings = Run(tmp_path / "run"), build(TINY)
    run.folder.mkdir()
    save_config(settings, run.folder / "config.yaml")
    stages.collect(run, settings)
    stages.train_vae(run, settings)
    words = ["run", str(run.folder), "--seeds", "1", "--variants", "RMDN, differences", UNTRAINED]
    main(words)
    cells = {path: path.stat().st_mtime_ns for path in run.folder.rglob("cell.json")}
    assert len(cells) == 2
    main(words)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("cell.json")} == cells
    rows = read_json(tmp_path / "better-density.json")
    assert [row["variant"] for row in rows] == [UNTRAINED, "RMDN, differences"]
    assert all(len(row["returns"]) == 2 and np.isfinite(row["nll"]) for row in rows)
    assert not (run.folder / "better-density" / "frmdn-untrained-1" / "memory").exists()
