"""The density benchmark: its corpora, its trainings and its page of results."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from benchmarks import density, density_corpora
from benchmarks.density_corpora import make_digits, make_speech
from benchmarks.density_tables import clusters
from worldmodel.corpora import open_corpus
from worldmodel.corpora.audio_files import inspect
from worldmodel.io.files import write_json
from worldmodel.io.migration import DENSITY_CONFIG


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    try:
        make_digits(folder, images=400)
    except ValueError as error:
        pytest.skip(str(error))
    return folder


@pytest.mark.slow
def test_digits_are_split_by_font(digits):
    about = json.loads((digits / "about.json").read_text(encoding="utf-8"))
    train, test = (set(about[part]["fonts"]) for part in ("train", "t10k"))
    assert train and test and not train & test
    corpus = open_corpus(f"mnist:{digits}")
    assert len(corpus.train) + len(corpus.held_out) == about["train"]["images"]
    assert len(corpus.test) == about["t10k"]["images"]
    pixels = corpus.train.pixels
    assert pixels.shape[1:] == (28, 28, 1)
    assert (pixels.reshape(len(pixels), -1).max(axis=1) > 40).all()  # something is drawn, and not all is white
    assert pixels.mean() < 100


def test_font_families_are_labelled_in_the_order_of_evaluation(digits):
    about = json.loads((digits / "about.json").read_text(encoding="utf-8"))
    corpus = open_corpus(f"mnist:{digits}")
    found = clusters(corpus, about)
    assert found["of"] == "font families"
    each = 10 * about["distortions of each digit"]["t10k"]
    families = [name for name, fonts in about["t10k"]["fonts"].items() for _ in range(each * len(fonts))]
    known: dict[bytes, set[str]] = {}
    for pixels, family in zip(corpus.test.pixels, families, strict=True):
        known.setdefault(pixels.tobytes(), set()).add(family)
    evaluated = [image for batch in corpus.test.batches(7) for image in corpus.to_data(batch.event).numpy()]
    assert all(label in known[image.tobytes()] for image, label in zip(evaluated, found["labels"], strict=True))
    assert clusters(corpus, {})["of"] == "images"


def test_audio_files_are_labelled_in_the_order_of_evaluation(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        loud = 0.01 * 2**number * rng.standard_normal(8_000 * (number + 1))
        density_corpora._write_wav(tmp_path / f"{number}.wav", loud)
    corpus = open_corpus(f"audio:{tmp_path}")
    found = clusters(replace(corpus, test=corpus.train), {})
    assert found["of"] == "files"
    assert len(set(found["labels"])) == 3
    evaluated = [segment for batch in corpus.train.batches(2) for segment in corpus.to_data(batch.event).numpy()]
    labels = [f"{round(np.log2(segment.std() / 0.01))}.wav" for segment in evaluated]
    assert labels == found["labels"]


def test_too_few_fonts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(density_corpora, "_families", lambda: {})
    with pytest.raises(ValueError, match=r"\bfonts\b.*\b0\b"):
        make_digits(tmp_path)


def test_a_missing_synthesiser_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(density_corpora.shutil, "which", lambda name: None)
    monkeypatch.setattr(density, "RUNS", tmp_path)
    assert density.main(["make", "espeak-16k"]) == 2
    assert "espeak-ng" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="apt-get install espeak-ng")
def test_speech_is_synthesized(tmp_path):
    make_speech(tmp_path, minutes=0.1, voices=3)
    sounds = [inspect(path) for path in sorted(tmp_path.glob("*.wav"))]
    assert [(sound.sample_rate, sound.num_samples) for sound in sounds] == [(16_000, 32_000)] * 3
    assert 0.01 < open_corpus(f"audio:{tmp_path}").train.normalizer.std < 0.5


def test_results_of_older_versions_are_read(tmp_path):
    job = density.TrainingJob(str(tmp_path), "FRMDN", density.DensityConfig("mnist:x"))
    current = {"name": job.name, **asdict(job.settings)}
    former = {new: old for old, new in DENSITY_CONFIG.items()}
    older = {former.get(name, name): value for name, value in current.items()}
    assert older != current
    write_json(tmp_path / "result.json", {"job": older, "status": "trained"})
    assert density.run_job(job) == {"job": current, "status": "trained"}


@pytest.mark.slow
def test_a_benchmark_is_run_and_resumed(tmp_path, monkeypatch, capsys):
    models, rng = ["RMDN", "FRMDN", "VRNN-Gauss"], np.random.default_rng(0)
    for number in range(4):
        density_corpora._write_wav(tmp_path / "speech" / f"{number}.wav", 0.1 * rng.standard_normal(16_500))
    monkeypatch.setattr(density, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(density, "RESULTS", tmp_path / "results")
    args = [
        "run",
        "mine",
        "--data",
        f"audio:{tmp_path / 'speech'}",
        "--seeds",
        "2",
        "--num_updates",
        "2",
        "--hidden_size",
        "8",
    ]
    args += ["--num_components", "2", "--batch_size", "2", "--workers", "1", "--models", *models]
    assert density.main(args) == 0
    folder, results_dir = tmp_path / "runs" / "mine" / "page", tmp_path / "results" / "density-mine"
    page = (folder / "README.md").read_text(encoding="utf-8")
    found = json.loads((results_dir / "results.json").read_text(encoding="utf-8"))
    assert [path.name for path in results_dir.iterdir()] == ["results.json"]
    assert len(found["trainings"]) == 6
    means = [row["measures"][0]["mean"] for row in found["trainings"] if row["job"]["name"] == "FRMDN"]
    assert f"| {np.mean(means):.1f} ± {np.std(means, ddof=1):.1f} |" in page
    values = {
        name: np.mean([r["measures"][0]["values"] for r in found["trainings"] if r["job"]["name"] == name], axis=0)
        for name in models
    }
    assert (
        f"| {(values['FRMDN'] - values['RMDN']).mean():+.1f} |" in page
    )  # a single file in the test part: no interval
    assert "≥ 28805" in page  # as published
    assert Image.open(folder / "samples.png").width > 300
    assert (folder / "frmdn.wav").stat().st_size == 96_044
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    assert density.main(args) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")} == written
    assert density.main(["write", "mine", "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "README.md").read_text(encoding="utf-8").partition(";")[0] == page.partition(";")[0]
    capsys.readouterr()
    assert density.main([*args, "--hidden_size", "9"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("benchmarks.density: ")


@pytest.mark.slow
def test_each_model_has_the_learning_rate_with_the_lowest_held_out_loss(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(4):
        density_corpora._write_wav(tmp_path / "speech" / f"{number}.wav", 0.1 * rng.standard_normal(16_500))
    monkeypatch.setattr(density, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(density, "RESULTS", tmp_path / "results")
    models, rates = ["RMDN", "Autoregressive"], [1e-7, 1e-2]
    words = ["run", "mine", "--data", f"audio:{tmp_path / 'speech'}", "--seeds", "1", "--hidden_size", "8"]
    words += ["--num_updates", "60", "--eval_every", "4", "--patience", "2", "--tuning_updates", "8", "--workers", "1"]
    words += ["--batch_size", "2", "--num_components", "2", "--models", *models]
    assert density.main([*words, "--learning_rates", *map(str, rates)]) == 0
    losses = json.loads((tmp_path / "runs" / "mine" / "tuning.json").read_text())
    found = json.loads((tmp_path / "results" / "density-mine" / "results.json").read_text())
    for row in found["trainings"]:
        each = [losses[f"{row['job']['name']}, {rate:g}"] for rate in rates]
        assert row["job"]["learning_rate"] == rates[int(np.argmin(each))]
        last = row["best_update"] + 2 * 4  # patience
        assert row["best_update"] == 60 or last <= 60
    assert {row["job"]["learning_rate"] for row in found["trainings"]} == {1e-2}
