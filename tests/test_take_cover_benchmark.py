"""The temperature table of Take Cover, with tiny sizes."""

import pytest

from benchmarks import take_cover
from worldmodel import rollouts
from worldmodel.agents.config.sections import build
from worldmodel.agents.pipeline import stages
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json


def test_the_table_has_the_published_columns():
    scores = {"dream": {"mean": 1.0, "std": 2.0}, "game": {"mean": 3.0, "std": 4.0}}
    cells = [{"model": model, "temperature": tau} | scores for model in ("frmdn", "rmdn") for tau in (0.1, 1.15, 2.0)]
    random = {"mean": 5.0, "std": 6.0, "n": 7}
    head, _, cold, warm, hot, last, *_ = take_cover.table({"cells": cells, "random": random}).splitlines()
    assert head.count("FRMDN") == 2 and head.count("published") == 2
    assert cold == "| 0.1 | 1 ± 2 | 3 ± 4 | 1 ± 2 | 3 ± 4 | 2086 ± 140 | 193 ± 58 |"
    assert "918 ± 546 | 1092 ± 556" in warm
    assert hot.startswith("| 2 | 1 ± 2") and {line.count("|") for line in (head, cold, warm, hot, last)} == {8}
    assert "210 ± 108" in last and last.count("5 ± 6") == 2


@pytest.mark.slow
def test_a_tiny_table_resumes(tmp_path):
    run = Run(tmp_path / "run")
    options = {"action_repeat": 8}
    rollouts.collect(
        "DoomTakeCover", "uniform", 4, seed=1, max_steps=12, workers=1, out=run.rollouts_folder, env_options=options
    )
    vae = {"num_updates": 2, "batch_size": 4, "latent_dim": 4}
    stages.train_vae(run, build({"env": "DoomTakeCover", "env_options": options, "vae": vae}))
    sizes = {"memory_updates": 2, "hidden_size": 8, "generations": 2, "population": 4, "num_rollouts": 2, "tics": 60}
    words = [str(run.folder), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    words += [
        word for name, size in (sizes | {"episodes": 2, "workers": 1}).items() for word in (f"--{name}", str(size))
    ]
    take_cover.main([*words, "--temperatures", "1.15"])
    first = read_json(tmp_path / "results" / "results.json")
    assert [(cell["model"], cell["temperature"]) for cell in first["cells"]] == [("frmdn", 1.15), ("rmdn", 1.15)]
    assert all(0 < cell["dream"]["mean"] <= 64 and cell["game"]["mean"] > 0 for cell in first["cells"])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("cell.json")}
    take_cover.main([*words, "--temperatures", "1.15", "0.5"])
    second = read_json(tmp_path / "results" / "results.json")
    assert [cell for cell in second["cells"] if cell["temperature"] == 1.15] == first["cells"]
    assert len(second["cells"]) == 4 and second["random"] == first["random"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert (tmp_path / "results" / "table.md").read_text(encoding="utf-8").count("\n") >= 5
