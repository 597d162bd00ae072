"""Memories compared: on data with a known best answer, resumed, reported."""

import json

import numpy as np
import pytest
import torch

import rollouts
from agents.cli import main
from agents.comparison import learning
from agents.comparison.judging import inputs, judge, reliability
from agents.comparison.learning import ABLATIONS, VARIANTS, Job, build
from agents.run import Run
from tests import toys
from worldmodel import VAE, seeded
from worldmodel.checkpoints import write_json, write_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten episodes of the counter, and a VAE that was never trained, but sees with scales far from one."""
    run = Run(tmp_path_factory.mktemp("comparison") / "run")
    rollouts.collect(toys.counter, rollouts.uniform, 10, seed=3, out=run.rollouts_folder)
    with seeded(0):
        vae = VAE(latent=3)
    vae.posterior.bias.data[3:] -= torch.tensor([1.0, 0.5, 1.5])
    write_tensors(run.folder / "vae" / "weights.safetensors", vae.state_dict())
    write_json(run.folder / "vae" / "settings.json", {"model_settings": vae.settings})
    return run


@pytest.mark.parametrize("name", [*VARIANTS, *ABLATIONS])
def test_every_variant_can_be_built(name):
    memory = build((VARIANTS | ABLATIONS)[name], 3, 2, seed=0)
    assert memory.latent == 3
    assert memory.actions == 2


def test_a_comparison_is_made_resumed_and_reported(run, tmp_path, capsys):
    words = ["compare", str(run.folder), "--out", str(tmp_path / "c"), "--seeds", "2", "--updates", "4", "--length", "8",
             "--variants", '["RMDN", "FRMDN", "FRMDN, no memory", "FRMDN, untrained"]']  # fmt: skip
    assert main(words) == 0
    page = (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "c" / "results.json").read_text(encoding="utf-8"))
    assert len(results) == 4 * 2 * 2
    held_out = {tuple(row["episodes"]) for row in results}
    assert len(held_out) == 1
    assert len(next(iter(held_out))) == 2
    mean = np.mean([row["nll"] for row in results if row["job"]["name"] == "FRMDN" and row["job"]["targets"] == "mean"])
    assert f"| FRMDN | {results[1]['parameters']:,} | {mean:.2f} |" in page
    for words_of in ("The floor", "What did not help", "Calibration", "Ablations"):
        assert words_of in page
    for picture in ("nll-mean.png", "nll-sample.png", "calibration.png"):
        assert (tmp_path / "c" / picture).stat().st_size > 1000
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".md", ".json", ".png"}
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "compare").rglob("*.*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (run.folder / "compare").rglob("*.*")} == before
    capsys.readouterr()
    assert main([*words[:-4], "--length", "9", *words[-2:]]) == 2
    assert "other settings" in capsys.readouterr().err


def test_held_out_episodes_are_never_trained_on(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(learning, "fit", lambda memory, data, **settings: seen.extend(data.chosen))
    job = Job(str(run.folder), "RMDN", {"model": "rmdn"}, "mean", 9, 3, 2, 8)
    result = learning.learn(job)
    assert not set(seen) & set(result["episodes"])
    assert sorted([*map(int, seen), *result["episodes"]]) == list(range(10))


def test_the_nll_of_an_episode_is_the_mean_over_its_frames(run):
    latents, memory = run.store().latents(run.vae()), build({}, 3, 2, seed=0)
    result = judge(memory, latents, np.array([4]), "mean", memoryless=False)
    episode = latents.episode(4)
    z, action = torch.from_numpy(episode.mean.astype(np.float32)), torch.from_numpy(np.array(episode.action))
    prediction, _ = memory(z[None, :-1], action[None])
    wanted = -float(prediction.latent.log_prob(z[None, 1:]).mean().detach())
    assert result["nll"] == [pytest.approx(wanted, rel=1e-5)]
    alone = []
    for t in range(20):  # every step without what was before it
        prediction, _ = memory(z[None, t : t + 1], action[None, t : t + 1])
        alone.append(-float(prediction.latent.log_prob(z[None, t + 1 : t + 2]).detach()))
    result = judge(memory, latents, np.array([4]), "mean", memoryless=True)
    assert result["nll"] == [pytest.approx(np.mean(alone), rel=1e-5)]


def test_sampled_targets_are_the_same_for_every_model_and_below_them_is_the_floor(run):
    latents = run.store().latents(run.vae())
    first, again = (inputs(latents.episode(2), "sample", 2) for _ in range(2))
    assert first.latent.equal(again.latent)
    assert first.next_latent[:, :-1].equal(first.latent[:, 1:])
    many = torch.cat([inputs(latents.episode(2), "sample", index).latent[0, :1] for index in range(3_000)])
    episode = latents.episode(2)
    np.testing.assert_allclose(many.std(0), np.exp(0.5 * episode.logvar[0].astype(np.float32)), rtol=0.1)
    result = judge(build({}, 3, 2, seed=0), latents, np.array([2]), "sample", memoryless=False)
    wanted = (0.5 * np.log(2 * np.pi * np.e) + 0.5 * episode.logvar[1:].astype(np.float64)).sum(1).mean()
    assert result["floor"] == [pytest.approx(wanted)]


def test_reliability_counts_what_came_true():
    chance = torch.tensor([0.0, 0.3, 0.3, 0.3, 0.9], dtype=torch.float64)
    happened = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    rows = reliability(chance, happened)
    assert [row[2] for row in rows] == [1, 3, 1]
    assert rows[1][:2] == (pytest.approx(0.3), pytest.approx(1 / 3))


def test_unknown_variants_are_refused(run, capsys):
    assert main(["compare", str(run.folder), "--variants", '["GAN"]']) == 2
    assert "'GAN' is none of RMDN; " in capsys.readouterr().err
