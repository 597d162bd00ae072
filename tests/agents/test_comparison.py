"""Comparisons of memories on data with a known best answer: training, metrics and report."""

import json
import shlex
import shutil

import numpy as np
import pytest
import torch

from tests import toys
from tests.command_line import refused
from tests.tolerance import assert_same_sums
from worldmodel import VAE, rollouts, seeded
from worldmodel.agents.analysis.metrics import evaluate_memory, inputs, reliability
from worldmodel.agents.cli.main import main
from worldmodel.agents.comparison import train
from worldmodel.agents.comparison.report import _conclusion, _table, difference
from worldmodel.agents.comparison.train import ABLATIONS, VARIANTS, TrainingJob, build
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint, write_json, write_tensors
from worldmodel.rollouts.executors.workers import Shared


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with ten episodes of the counter and an untrained VAE whose posterior scales are far from one."""
    run = Run(tmp_path_factory.mktemp("comparison") / "run")
    rollouts.collect(toys.counter, rollouts.uniform, 10, seed=3, out=run.rollouts_folder)
    with seeded(0):
        vae = VAE(latent_dim=3)
    vae.posterior.bias.data[3:] -= torch.tensor([1.0, 0.5, 1.5])
    write_tensors(run.folder / "vae" / "weights.safetensors", vae.state_dict())
    write_json(run.folder / "vae" / "settings.json", {"model_config": vae.config})
    return run


@pytest.mark.parametrize("name", [*VARIANTS, *ABLATIONS])
def test_every_variant_can_be_built(name):
    memory = build((VARIANTS | ABLATIONS)[name], 3, 2, seed=0)
    assert memory.latent_dim == 3
    assert memory.action_dim == 2


@pytest.mark.slow
def test_comparisons_run_resume_and_report(run, tmp_path, capsys):
    words = [
        "compare",
        str(run.folder),
        "--out",
        str(tmp_path / "c"),
        "--workers",
        "1",
        "--seeds",
        "2",
        "--num_updates",
        "2",
    ]
    words += [
        "--batch_size",
        "4",
        "--seq_len",
        "8",
        "--variants",
        '["RMDN", "FRMDN", "FRMDN, no memory", "FRMDN, untrained"]',
    ]
    assert main(words) == 0
    readme = (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "c" / "results.json").read_text(encoding="utf-8"))
    assert len(results) == 4 * 2 * 2
    held_out = {tuple(row["episodes"]) for row in results}
    assert len(held_out) == 1
    assert len(next(iter(held_out))) == 2
    mean = np.mean(
        [row["nll"] for row in results if row["job"]["name"] == "FRMDN" and row["job"]["latent_targets"] == "mean"]
    )
    assert f"| FRMDN | {results[1]['parameters']:,} | {mean:.2f} |" in readme
    for picture in ("nll-mean.png", "nll-sample.png", "calibration.png"):
        assert (tmp_path / "c" / picture).stat().st_size > 1000
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".md", ".json", ".png"}
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "compare").rglob("*.*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (run.folder / "compare").rglob("*.*")} == before
    assert "seq_len = 8" in refused(capsys, *words[:-4], "--seq_len", "9", *words[-2:])


def test_the_reported_command_reproduces_the_comparison(run, tmp_path):
    words = ["compare", str(run.folder), "--seeds", "1", "--num_updates", "2", "--batch_size", "3", "--seq_len", "4"]
    words += ["--variants", '["RMDN per dimension"]', "--latent_targets", '["mean"]', "--out", str(tmp_path / "my c")]
    assert main([*words, "--workers", "1"]) == 0
    about = json.loads((tmp_path / "my c" / "about.json").read_text(encoding="utf-8"))
    assert shlex.split(about["command"]) == ["worldmodel", *words, "--workers", "1"]


ONE = ["--workers", "1", "--batch_size", "4", "--seeds", "1", "--num_updates", "1", "--latent_targets", '["sample"]']
ONE += ["--variants", '["RMDN per dimension"]']


@pytest.mark.slow
def test_results_of_other_episodes_or_another_vae_are_refused(run, tmp_path, capsys):
    copy = Run(shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("compare")))
    words = ["compare", str(copy.folder), *ONE]
    assert main(words) == 0
    rollouts.collect(toys.counter, rollouts.uniform, 14, seed=3, out=copy.rollouts_folder)
    message = refused(capsys, *words)
    assert "data" in message
    assert str(copy.folder / "compare") in message  # the folder to remove
    shutil.rmtree(copy.folder / "compare")
    assert main(words) == 0
    weights = copy.vae().state_dict()
    weights["posterior.bias"] += 1
    write_tensors(copy.folder / "vae" / "weights.safetensors", weights)
    assert "data" in refused(capsys, *words)


def test_results_of_older_versions_get_current_names(tmp_path):
    job = TrainingJob(str(tmp_path), "FRMDN", {"num_couplings": 3}, "mean", 1, 2, 4, 8, "episodes")
    names = {"latent_targets": "targets", "num_updates": "updates", "batch_size": "batch", "seq_len": "length"}
    older = {names.get(name, name): value for name, value in job.to_json.items()} | {"settings": {"couplings": 3}}
    write_json(job.folder / "result.json", {"job": older, "calibration": {"margins": 1}})
    assert train._saved_result(job) == {"job": job.to_json, "calibration": {"marginals": 1}}


@pytest.mark.slow
def test_all_trainings_use_the_episodes_present_at_the_start(run, tmp_path):
    copy = Run(shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("compare")))

    def collect(done, total, note):
        if not done:
            rollouts.collect(toys.counter, rollouts.uniform, 30, seed=3, out=copy.rollouts_folder)

    train.compare(copy, tmp_path / "out", {"RMDN": {"model": "rmdn"}}, 2, 1, 2, 4, ("mean",), 1, collect)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(copy.store()) == 30
    assert all(len(row["episodes"]) == 2 and max(row["episodes"]) < 10 for row in rows)


def test_results_of_different_episodes_are_not_paired():
    rows = [
        {"job": {"name": name, "seed": 0}, "episodes": episodes, "nll": [1.0] * len(episodes)}
        for name, episodes in (("RMDN", [1]), ("FRMDN", [1, 2]))
    ]
    with pytest.raises(ValueError, match=r"results"):
        difference(rows, "FRMDN")


def test_variants_without_a_common_seed_are_named():
    rows = [
        {"job": {"name": name, "seed": seed}, "episodes": [1], "nll": [1.0]} for seed, name in enumerate(("RMDN", "A"))
    ]
    with pytest.raises(ValueError, match=r"A and RMDN must have a common seed"):
        difference(rows, "A")


@pytest.mark.parametrize(("seeds", "words"), [(1, "not tested (one training)"), (2, "Significantly better")])
def test_one_training_is_not_tested(seeds, words):
    rng = np.random.default_rng(0)
    rows = [
        {
            "job": {"name": name, "seed": seed, "latent_targets": "mean"},
            "episodes": list(range(20)),
            "nll": (level + 0.1 * rng.normal(size=20)).tolist(),
            "status": "trained",
            "parameters": 1,
            "latent": 2,
            "reward_rmse": 0.0,
            "reward_std": 0.0,
            "termination_brier": 0.0,
            "termination_base_brier": 0.0,
            "termination_reliability": [(0.5, 0.5, 2)],
            "seconds": 1.0,
        }
        for name, level in (("RMDN", 50.0), ("FRMDN", 0.0))
        for seed in range(seeds)
    ]
    (text,) = _conclusion(rows, "mean")
    assert words in text
    assert ("No significant difference" in text) == (seeds > 1)
    std = _table(rows, ["RMDN"]).splitlines()[2].split("|")[5].strip()
    assert bool(std) == (seeds > 1)


@pytest.mark.parametrize("name", ["README.md", "results.json"])
def test_folders_with_other_files_are_left_alone(run, tmp_path, capsys, name):
    (tmp_path / name).write_text('["mine"]')
    assert str(tmp_path) in refused(capsys, "compare", str(run.folder), *ONE, "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '["mine"]'


@pytest.mark.parametrize(
    "words", [["--seeds", "0"], ["--seeds", "18446744073709551617"], ["--latent_targets", "[]"]], ids=" ".join
)
def test_bad_sizes_give_one_line(run, capsys, words):
    assert words[0].removeprefix("--") in refused(capsys, "compare", str(run.folder), *words)


def test_held_out_episodes_are_never_trained_on(run, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "fit", lambda memory, data, **settings: trained.extend(data.episodes))
    latents = run.store().latents(run.vae())
    job = TrainingJob(str(run.folder), "RMDN", {"model": "rmdn"}, "mean", 9, 3, 2, 8, latents.identity)
    result = train.learn(job, Shared("seen", (run.vae(), latents)))
    assert not set(trained) & set(result["episodes"])
    assert sorted([*map(int, trained), *result["episodes"]]) == list(range(10))
    assert len(result["episodes"]) == 2  # a fifth


def test_weights_and_trainings_depend_on_the_seed(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        train, "fit", lambda memory, data, **settings: seen.append((settings["seed"], fingerprint(memory)))
    )
    vae, latents = run.vae(), run.store().latents(run.vae())
    for seed in (0, 1):
        job = TrainingJob(str(tmp_path), "RMDN", {"model": "rmdn"}, "mean", seed, 3, 2, 8, latents.identity)
        train.learn(job, Shared(f"seen {seed}", (vae, latents)))
    assert [seed for seed, _ in seen] == [0, 1]
    assert seen[0][1] != seen[1][1]


def test_the_nll_of_an_episode_is_the_mean_over_its_frames(run):
    latents, memory = run.store().latents(run.vae()), build({}, 3, 2, seed=0)
    result = evaluate_memory(memory, latents, np.array([4]), "mean", memoryless=False)
    episode = latents.episode(4)
    z, action = torch.from_numpy(episode.mean.astype(np.float32)), torch.from_numpy(np.array(episode.action))
    prediction, _ = memory(z[None, :-1], action[None])
    frames = prediction.latent.log_prob(z[None, 1:])
    assert_same_sums(result["nll"], [-frames.mean().item()], count=20, terms=frames)
    memoryless_nll = []
    for t in range(20):  # each step without its history
        prediction, _ = memory(z[None, t : t + 1], action[None, t : t + 1])
        memoryless_nll.append(-float(prediction.latent.log_prob(z[None, t + 1 : t + 2]).detach()))
    result = evaluate_memory(memory, latents, np.array([4]), "mean", memoryless=True)
    assert_same_sums(result["nll"], [np.mean(memoryless_nll)], count=20, terms=memoryless_nll)


def test_sampled_targets_are_equal_for_all_models_and_give_the_floor(run):
    latents = run.store().latents(run.vae())
    first, again = (inputs(latents.episode(2), "sample", 2) for _ in range(2))
    assert first.latent.equal(again.latent)
    assert first.next_latent[:, :-1].equal(first.latent[:, 1:])
    draws = torch.cat([inputs(latents.episode(2), "sample", index).latent[0, :1] for index in range(3_000)])
    episode = latents.episode(2)
    np.testing.assert_allclose(draws.std(0), np.exp(0.5 * episode.logvar[0].astype(np.float32)), rtol=0.1)
    result = evaluate_memory(build({}, 3, 2, seed=0), latents, np.array([2]), "sample", memoryless=False)
    expected = (0.5 * np.log(2 * np.pi * np.e) + 0.5 * episode.logvar[1:].astype(np.float64)).sum(1).mean()
    assert result["floor"] == [pytest.approx(expected)]


def test_reliability_counts_outcomes():
    predicted = torch.tensor([0.0, 0.3, 0.3, 0.3, 0.9], dtype=torch.float64)
    outcomes = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    rows = reliability(predicted, outcomes)
    assert [row[2] for row in rows] == [1, 3, 1]
    assert rows[1][:2] == (pytest.approx(0.3), pytest.approx(1 / 3))


def test_unknown_variants_are_refused(run, capsys):
    assert "'GAN'" in refused(capsys, "compare", str(run.folder), "--variants", '["GAN"]')
