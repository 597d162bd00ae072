"""The density benchmark: its models, its trainings, its numbers and its page."""

import json
import re

import numpy as np
import pytest

from benchmarks import density, density_tables
from benchmarks.density_tables import Sequences, difference, sequences_of
from tests.worldmodel.corpora.formats import wav_bytes, write_prompts
from worldmodel.agents.analysis.statistics import interval
from worldmodel.agents.density import DensityConfig, report
from worldmodel.corpora import open_corpus


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Four recordings of noise, from one to four segments, each with its own loudness."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for number in range(4):
        samples = 0.02 * 2**number * rng.standard_normal(8_000 * (number + 1))
        (folder / f"{number}.wav").write_bytes(wav_bytes(samples))
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of trainings and of results; reports with short sounds."""
    monkeypatch.setattr(density, "RUNS", tmp_path / "runs")
    for module in (density, density_tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "SECONDS", 0.05)
    monkeypatch.setattr(report, "SOUNDS", 1)
    return tmp_path / "runs", tmp_path / "results"


def test_recordings_are_labelled_in_the_order_of_evaluation(noise):
    corpus = open_corpus(f"audio:{noise}")
    whole = sequences_of(type(corpus)(**vars(corpus) | {"test": corpus.train}), noise)
    assert whole.of == "recordings"
    assert set(whole.frames) == {40}
    evaluated = [segment for batch in corpus.train.batches(2) for segment in corpus.to_data(batch.event).numpy()]
    assert [f"{round(np.log2(segment.std() / 0.02))}.wav" for segment in evaluated] == whole.groups


def test_prompts_are_grouped_by_speaker_and_have_their_lengths(tmp_path):
    folder = write_prompts(tmp_path)
    everybody = open_corpus(f"prompts:{folder}", segment_length=400)
    found = sequences_of(everybody, folder)
    assert (found.of, len(set(found.groups))) == ("speakers", 3)
    frames = [int(row.sum()) for batch in everybody.test.batches(3) for row in batch.mask]
    assert frames == found.frames.tolist()
    one = sequences_of(open_corpus(f"prompts:{folder}", segment_length=400, test_speaker="it_IT_m_C"), folder)
    assert (one.of, len(set(one.groups))) == ("recordings", len(one.groups))


def results(name, values):
    return [
        {"job": {"name": name, "seed": seed}, "measures": [{"values": row.tolist()}]}
        for seed, row in enumerate(values, 1)
    ]


def test_differences_are_paired_by_seed_and_sequence():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 3, 50))
    images = Sequences("images", [str(number) for number in range(50)], None)
    found = difference(results("A", first), results("B", second)[::-1], 0, images)
    assert found == pytest.approx(interval(first - second))


def test_differences_of_speech_are_per_frame():
    """Longer recordings count more, and a difference in proportion to the length varies with the seeds alone."""
    rng = np.random.default_rng(0)
    frames, second = rng.integers(5, 500, 40), rng.standard_normal((3, 40))
    sequences = Sequences("recordings", [str(number) for number in range(40)], frames)
    extra = np.array([[1.0], [2.0], [4.5]])
    found = difference(results("A", second + extra * frames), results("B", second), 0, sequences)
    alone = interval(np.tile(extra, 2))
    assert found.mean == pytest.approx(2.5)
    assert found.half == pytest.approx(alone.half, rel=1e-6)
    values = rng.standard_normal((3, 40))
    found = difference(results("A", values), results("B", second), 0, sequences)
    assert found.mean == pytest.approx((values - second).sum() / (3 * frames.sum()))
    assert found.half > 0


@pytest.mark.parametrize("name", density.MATCHED)
def test_rivals_as_large_as_the_frmdn_have_its_number_of_parameters(noise, name):
    shared = DensityConfig(f"audio:{noise}", hidden_size=20, num_components=3, latent_dim=5, width=8)
    wanted = density.num_parameters(density.settings_of("FRMDN", shared), 200)
    settings = density.settings_of(name, shared)
    smaller = type(settings)(**vars(settings) | {"hidden_size": settings.hidden_size - 1})
    assert density.num_parameters(smaller, 200) < wanted <= density.num_parameters(settings, 200)


def test_another_corpus_needs_a_name_or_data(capsys):
    assert density.main(["run", "mine"]) == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_is_run_resumed_and_grows(noise, folders, capsys):
    runs, kept = folders
    words = ["run", "mine", "--data", f"audio:{noise}", "--seeds", "2", "--num_updates", "4", "--hidden_size", "8"]
    words += ["--eval_every", "2", "--num_components", "2", "--batch_size", "2", "--workers", "1"]
    words += ["--learning_rates", "1e-3", "--models"]
    assert density.main([*words, "RMDN", "FRMDN"]) == 0
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    assert len(written) == 4
    assert density.main([*words, "RMDN", "FRMDN", "VRNN-Gauss"]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert density.main([*words, "VRNN-Gauss"]) == 0  # the others stay in the table
    found = json.loads((kept / "density-mine.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in found["models"]] == ["RMDN", "FRMDN", "VRNN-Gauss"]
    trainings = [json.loads((runs / "mine" / f"frmdn-{seed}" / "result.json").read_text()) for seed in (1, 2)]
    means = [row["measures"][0]["mean"] for row in trainings]
    [frmdn] = [model for model in found["models"] if model["name"] == "FRMDN"]
    assert frmdn["measures"][0]["means"] == means
    assert len(found["models"][2]["measures"]) == 2  # two bounds
    page = (runs / "mine" / "page" / "index.html").read_text(encoding="utf-8")
    assert f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}" in page
    assert page.count("<audio") == 3 * 4  # one real, one at each of two temperatures, one continued
    sounds = re.findall(r'src="([^"]+\.wav)"', page)
    assert len({*sounds}) == len(sounds) == 12
    assert all((runs / "mine" / "page" / sound).exists() for sound in sounds)
    capsys.readouterr()
    assert density.main([*words, "RMDN", "--hidden_size", "9"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("benchmarks.density: ")


@pytest.mark.slow
def test_each_model_has_the_learning_rate_with_the_lowest_held_out_loss(noise, folders):
    runs, kept = folders
    rates = [1e-7, 1e-2]
    words = ["run", "mine", "--data", f"audio:{noise}", "--seeds", "1", "--hidden_size", "8", "--num_updates", "60"]
    words += ["--eval_every", "4", "--patience", "2", "--num_decays", "1", "--tuning_updates", "8", "--workers", "1"]
    words += ["--batch_size", "2", "--num_components", "2", "--models", "RMDN", "Autoregressive"]
    assert density.main([*words, "--learning_rates", *map(str, rates)]) == 0
    losses = json.loads((runs / "mine" / "tuning.json").read_text())
    found = json.loads((kept / "density-mine.json").read_text())
    for model in found["models"]:
        each = [losses[f"{model['name']}, {rate:g}"] for rate in rates]
        assert model["learning_rate"] == rates[int(np.argmin(each))]
        [last], [best] = model["last_updates"], model["best_updates"]
        assert last == 60 or last >= best + 2 * 4
    assert {model["learning_rate"] for model in found["models"]} == {1e-2}


def test_the_table_of_the_docs_has_a_column_for_each_comparison(folders):
    _, kept = folders
    assert density_tables.table() == ""
    kept.mkdir()
    measures = [{"what": "log p, exact", "means": [3.0, 5.0, 4.0], "per_frame": [None] * 3, "differences": {}}]
    models = [
        {"name": "RMDN", "seeds": [1, 2, 3], "measures": measures},
        {"name": "FRMDN", "seeds": [1], "measures": measures},
    ]
    (kept / "density-fashion-mnist.json").write_text(json.dumps({"corpus": {"kind": "image"}, "models": models}))
    measures = [{"what": "lower bound", "means": [1.0] * 3, "per_frame": [40.0, 41.0, 42.0], "differences": {}}]
    models = [{"name": "VRNN", "seeds": [1, 2, 3], "measures": measures}]
    (kept / "density-prompts.json").write_text(json.dumps({"corpus": {"kind": "speech"}, "models": models}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in density_tables.table().splitlines()]
    assert rows[2:] == [["RMDN", "4.000 ± 1.000", ""], ["VRNN", "", "≥ 41.00 ± 1.00"]]
