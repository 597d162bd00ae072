"""Densities of speech and images from the command line: fit, evaluate and sample on tiny corpora in the true formats."""

import functools
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.command_line import refused
from tests.worldmodel.corpora.formats import speech, sphere_bytes, wav_bytes, write_mnist
from worldmodel.agents import density
from worldmodel.agents.cli.main import build_parser, main
from worldmodel.agents.density import (
    DensityConfig,
    complete_images,
    continue_speech,
    evaluate_density,
    fit_density,
    fitting,
    load_density,
    report,
    sample_density,
    stream_speech,
)
from worldmodel.agents.density.config import PRESETS
from worldmodel.agents.density.evaluation import _stderr
from worldmodel.agents.density.report import _results
from worldmodel.agents.density.training_summary import TrainingSummary
from worldmodel.corpora import open_corpus
from worldmodel.corpora.audio_files import inspect, read
from worldmodel.io.files import fingerprint
from worldmodel.registry import MODEL_NAMES

SMALL = {"hidden_size": 8, "latent_dim": 3, "width": 6, "num_updates": 6, "eval_every": 2, "batch_size": 4}
NUM_COMPONENTS = {"rmdn": 3, "frmdn": 3, "vrnn-gmm": 2}


@pytest.fixture(scope="module", autouse=True)
def short_samples():
    """Reports with short sounds and few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "SECONDS", 0.05)
        patch.setattr(report, "IMAGES", 4)
        yield


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """TIMIT with three training and two test speakers; MNIST of 12 x 10 pixels."""
    root, rng = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    for part, speakers in (("TRAIN", ("FAB0", "FCD0", "MEF0")), ("TEST", ("FGH0", "MIJ0"))):
        for number, speaker in enumerate(speakers):
            folder = root / "timit" / part / "DR1" / speaker
            folder.mkdir(parents=True)
            for sentence in range(2):
                samples = speech(rng, 1_200 + 250 * sentence + 100 * number)
                (folder / f"SX{sentence}.WAV").write_bytes(sphere_bytes(samples))
    images = [(rng.random((count, 12, 10)) * 256).astype(np.uint8) for count in (20, 6)]
    write_mnist(root / "mnist", *images)
    return {kind: f"{kind}:{root / kind}" for kind in ("timit", "mnist")}


def test_weights_and_training_depend_on_the_seed(corpora, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    @functools.wraps(fitting.fit)
    def start(model, data, *, seed, **settings):
        started.append((seed, fingerprint(model)))
        raise Started

    started = []
    monkeypatch.setattr(fitting, "fit", start)
    for seed in (0, 1, 1):
        with pytest.raises(Started):
            fit_density(DensityConfig(corpora["mnist"], seed=seed, **SMALL), tmp_path / str(seed))
    first, *others = started
    assert [seed for seed, _ in started] == [0, 1, 1]
    assert others[0] == others[1] != (1, first[1])


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
    """One fitted FRMDN for each corpus."""
    root = tmp_path_factory.mktemp("trained")
    for kind, data in corpora.items():
        fit_density(DensityConfig(data, num_components=3, **SMALL), root / kind)
    return {kind: root / kind for kind in corpora}


@pytest.fixture(scope="module")
def corpora_by_shape(tmp_path_factory):
    """Images of other sizes than those of `corpora`."""
    root = tmp_path_factory.mktemp("shapes")
    for name, shape in (("WIDE", (12, 11)), ("HIGH", (13, 10))):
        write_mnist(root / name, *(np.zeros((count, *shape), np.uint8) for count in (4, 2)))
    return {name: f"mnist:{root / name}" for name in ("WIDE", "HIGH")}


def fit_words(data, model, out):
    options = SMALL | ({"num_components": NUM_COMPONENTS[model]} if model in NUM_COMPONENTS else {})
    return ["density", "fit", "--data", data, "--model", model, "--out", str(out)] + [
        f"--{name}={value}" for name, value in options.items()
    ]


FAST = (("mnist", "vrnn-gmm"),)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_model_can_be_fitted_and_evaluated(corpora, tmp_path, model):
    mixtures = {"num_components": NUM_COMPONENTS[model]} if model in NUM_COMPONENTS else {}
    result = fit_density(DensityConfig(corpora["mnist"], model, **SMALL, **mixtures), tmp_path / "run", report=False)
    assert result.measures[0].mean == pytest.approx(direct_mean(tmp_path / "run", corpora["mnist"]), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        pytest.param(kind, model, marks=[pytest.mark.slow] * ((kind, model) not in FAST))
        for kind in ("timit", "mnist")
        for model in MODEL_NAMES
    ],
)
def test_fit_evaluate_sample(corpora, tmp_path, capsys, kind, model):
    out = tmp_path / "run"
    assert main(fit_words(corpora[kind], model, out)) == 0
    output = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.yaml", "weights.safetensors", "metrics.jsonl", "resume.pt", "results.json", "report.html"}
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3

    mean, measure = direct_mean(out, corpora[kind]), results["measures"][0]
    assert measure["mean"] == pytest.approx(mean, rel=1e-5)
    assert f"{measure['mean']:.4f} ± {measure['stderr']:.4f}" in output
    assert len(results["measures"]) == (2 if "vrnn" in model else 1)  # two bounds, or the value itself

    assert main(["density", "evaluate", str(out), "--part", "held_out", "--samples", "2"]) == 0
    held_out = json.loads((out / "evaluation-held_out.json").read_text(encoding="utf-8"))
    assert held_out["measures"][0]["n"] == 2

    page = (out / "report.html").read_text(encoding="utf-8")
    assert measure["what"] in page
    length = "0.1" if kind == "timit" else "6"
    assert main(["density", "sample", str(out), "--count", "2", "--length", length, "--temperature", "0.9"]) == 0
    assert "t0.9-s1" in capsys.readouterr().out
    if kind == "timit":
        assert page.count("<audio") == 18  # two of the test part, two at each temperature
        assert (out / "media" / "real-1.wav").exists()
    else:
        assert (out / "media" / "real.png").exists()


def rows(*losses):
    """Lines of a ``metrics.jsonl``, from (training loss, held-out loss)."""
    return "".join(
        json.dumps({"update": 100 * (number + 1), "train": {"loss": train}, "held_out": {"loss": held_out}}) + "\n"
        for number, (train, held_out) in enumerate(losses)
    )


@pytest.mark.parametrize(
    ("losses", "best", "overfits"),
    [
        (((9, 10), (6, 7), (4, 8)), 200, True),
        (((9, 10), (6, 7), (4, 7.01)), 200, False),  # within the noise of the loss
        (((9, 10), (6, 7), (6.5, 8)), 200, False),  # the training loss does not fall
        (((9, 10), (6, 7), (4, 6)), 300, False),
        (((9, 10),), 100, False),
    ],
)
def test_overfitting_is_detected(tmp_path, losses, best, overfits):
    (tmp_path / "metrics.jsonl").write_text(rows(*losses))
    summary = TrainingSummary.from_run(tmp_path)
    assert (summary.best_update, summary.last_update) == (best, 100 * len(losses))
    assert summary.overfits is overfits
    words = summary.sentences("frame")
    assert str(best) in words[0]
    assert len(words) == 1 + overfits
    assert not overfits or "8" in words[1]
    assert TrainingSummary.from_run(tmp_path / "none") is None


def test_results_and_samples_name_the_update(trained, tmp_path, capsys):
    for kind, run in trained.items():
        best = TrainingSummary.from_run(run).best_update
        assert f"update {best}" in str(evaluate_density(run))
        assert f"update {best}" in (run / "report.html").read_text(encoding="utf-8")
        assert json.loads((run / "results.json").read_text(encoding="utf-8"))["training_summary"]
        length = "0.05" if kind == "timit" else "2"
        assert main(["density", "sample", str(run), "--count", "1", "--length", length, "--out", str(tmp_path)]) == 0
        assert f"update {best}" in capsys.readouterr().out


@pytest.mark.slow
def test_n_counts_files_and_not_segments(tmp_path):
    rng = np.random.default_rng(2)
    for number in range(40):
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav_bytes(speech(rng, 1_600 + 400 * (number % 3))))
    settings = DensityConfig(
        f"audio:{tmp_path / 'audio'}", "rnn-gauss", **SMALL | {"num_updates": 1}, segment_length=400
    )
    result = fit_density(settings, tmp_path / "run", report=False)
    (measure,) = result.measures
    part = open_corpus(settings.data, segment_length=400).test
    assert measure.n == len(part.recordings) == 2
    assert measure.sequences == len(part) == len(measure.values) > 2
    totals, sizes = (np.bincount(part.file_indices, weights) for weights in (measure.values, None))
    rest = totals - sizes * measure.mean
    assert measure.stderr == pytest.approx(rest.std(ddof=1) / math.sqrt(2) / sizes.mean())


def test_densities_are_compared_with_a_gaussian(corpora, trained):
    for kind in corpora:
        corpus = open_corpus(corpora[kind])
        result = evaluate_density(trained[kind])
        events = torch.cat(
            [batch.event.reshape(-1, corpus.event_dim)[batch.mask.flatten() > 0] for batch in corpus.train.batches(8)]
        )
        normal = torch.distributions.Normal(events.mean(0), events.std(0))
        values = torch.cat([
            (normal.log_prob(batch.event).sum(-1) * batch.mask).sum(-1) + batch.log_jacobian
            for batch in corpus.test.batches(8)
        ])  # fmt: skip
        values = values if kind == "timit" else corpus.bits(values)
        assert result.gaussian == pytest.approx(float(values.mean()), rel=0.03)
        sign = 1 if kind == "timit" else -1
        assert result.gain == pytest.approx(sign * (result.measures[0].mean - result.gaussian), rel=1e-4)
    with_two_files = replace(result, measures=(replace(result.measures[0], n=2),), gain=1.0, gain_stderr=0.1)
    assert with_two_files.findings[0].startswith(
        "Not significantly"
    )  # t has one degree of freedom: 12.7 standard errors
    differences = ((-2.0, 0.1), (2.0, 0.1), (2.0, 5.0))  # worse, better, and within the standard error
    first_words = [
        replace(result, gain=gain, gain_stderr=stderr).findings[0].split()[0] for gain, stderr in differences
    ]
    assert len(set(first_words)) == 3


def test_the_printed_next_command_runs(corpora, tmp_path, capsys):
    assert main(fit_words(corpora["mnist"], "rmdn", tmp_path / "a run")) == 0
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith("Next: ")]
    words = shlex.split(line.removeprefix("Next: "))
    assert main(words[words.index("density") :]) == 0


def direct_mean(folder, data):
    """The mean of the test part, computed from the model and the corpus."""
    model, _ = load_density(folder)
    corpus, values = open_corpus(data), []
    for number, batch in enumerate(corpus.test.batches(32)):
        with torch.no_grad():
            if hasattr(model, "elbo"):
                value = model.elbo(batch, torch.Generator().manual_seed(number))
            else:
                value = model.log_prob(batch)
        values.append(value if corpus.kind == "speech" else corpus.bits(value))
    return float(torch.cat(values).double().mean())


def test_results_of_speech_have_frames_and_ceilings(trained):
    result = evaluate_density(trained["timit"])
    (measure,), model = result.measures, load_density(trained["timit"])[0]
    frames = result.corpus["parts"]["test"]["frames"]
    assert measure.n == 4
    assert measure.frame == pytest.approx(sum(measure.values) / frames)
    assert measure.stderr == pytest.approx(np.std(measure.values, ddof=1) / 2)
    assert result.ceiling == pytest.approx(model.ceiling * 200)
    assert result.quantization_limit == pytest.approx(result.corpus["scale"]["ceiling"] * 200)
    assert evaluate_density(trained["mnist"]).ceiling is None


@pytest.mark.slow
def test_corpora_with_another_name_or_content_are_reported(corpora, trained, tmp_path, capsys):
    rng = np.random.default_rng(1)
    for number in range(4):
        path = tmp_path / "au" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav_bytes(speech(rng, 2_000)))
    density_of = DensityConfig(
        f"audio:{tmp_path / 'au'}", "rnn-gauss", **SMALL | {"num_updates": 1}, segment_length=400
    )
    fit_density(density_of, tmp_path / "run", report=False)
    assert main(["density", "evaluate", str(tmp_path / "run")]) == 0
    shutil.move(tmp_path / "au", tmp_path / "moved")
    assert evaluate_density(tmp_path / "run", data=f"audio:{tmp_path / 'moved'}").training_identity is None
    assert main(["density", "evaluate", str(tmp_path / "run"), "--data", f"blizzard:{tmp_path / 'moved'}"]) == 0
    output = capsys.readouterr().out
    assert "blizzard" in output and "audio" in output
    about = json.loads((tmp_path / "run" / "evaluation-test.json").read_text(encoding="utf-8"))
    assert about["corpus"]["corpus"] == "blizzard" and about["training_identity"].startswith("audio, test: 1 files")

    for path in (tmp_path / "moved").iterdir():
        path.write_bytes(wav_bytes(speech(rng, 2_000)))
    words = ["density", "evaluate", str(tmp_path / "run"), "--data", f"audio:{tmp_path / 'moved'}"]
    assert "scale.json" in refused(capsys, *words)

    write_mnist(tmp_path / "other", *((rng.random((count, 12, 10)) * 256).astype(np.uint8) for count in (20, 6)))
    result = evaluate_density(trained["mnist"], data=f"mnist:{tmp_path / 'other'}")
    assert (
        result.training_identity
        == open_corpus(corpora["mnist"]).test.identity
        != result.corpus["parts"]["test"]["identity"]
    )


def test_runs_without_content_hashes_are_evaluated_on_their_own_corpus(trained, tmp_path):
    run = shutil.copytree(trained["timit"], tmp_path / "run", ignore=shutil.ignore_patterns("media"))
    for name in ("corpus.json", "scale.json"):
        older = re.sub(r", contents \w+", "", (run / name).read_text(encoding="utf-8"))
        (run / name).write_text(older, encoding="utf-8")
    assert evaluate_density(run).training_identity is None


class Stop(Exception):
    """Raised in the middle of a training."""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["frmdn", "vrnn"])
def test_resumed_training_equals_uninterrupted_training(corpora, tmp_path, monkeypatch, model):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    settings = DensityConfig(corpora["mnist"], model, **SMALL)

    def stop(done, total, note):
        if done == 5:
            raise Stop

    uninterrupted = fit_density(settings, tmp_path / "whole", report=False)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path / "stopped", stop, report=False)
    with pytest.raises(ValueError, match="stopped.*worldmodel density fit"):
        evaluate_density(tmp_path / "stopped")
    resumed = fit_density(settings, tmp_path / "stopped", report=False)
    assert resumed.measures == uninterrupted.measures
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_more_updates_continue_a_finished_density(corpora, trained, tmp_path):
    run = shutil.copytree(trained["mnist"], tmp_path / "run", ignore=shutil.ignore_patterns("media"))
    first = (run / "metrics.jsonl").read_text()
    words = [*fit_words(corpora["mnist"], "frmdn", run), "--num_updates"]
    assert main([*words, "10"]) == 0
    text = (run / "metrics.jsonl").read_text()
    assert text.startswith(first) and [json.loads(row)["update"] for row in text.splitlines()] == [2, 4, 6, 8, 10]
    assert json_config(run)["num_updates"] == 10
    best = min(json.loads(row)["held_out"]["loss"] for row in text.splitlines())
    assert TrainingSummary.from_run(run).best == best
    assert main([*words, "9"]) == 2
    config = ["density", "fit", "--config", str(run / "config.yaml"), "--out", str(run)]
    assert main([*config, "--num_updates", "12"]) == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 12


def test_a_training_stopped_before_its_first_save_leaves_no_rows(corpora, tmp_path):
    def stop(done, total, note):
        if done == 5:
            raise Stop

    settings = DensityConfig(corpora["mnist"], "rnn-gauss", **SMALL)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path, stop, report=False)
    fit_density(settings, tmp_path, report=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [2, 4, 6]


def test_another_configuration_is_refused(corpora, trained, capsys):
    message = refused(capsys, *fit_words(corpora["mnist"], "frmdn", trained["mnist"]), "--hidden_size", "9")
    assert str(trained["mnist"] / "config.yaml") in message and "hidden_size = 8" in message


def test_a_refused_fit_leaves_the_corpus_file_unchanged(trained, tmp_path):
    rng, run = np.random.default_rng(1), trained["mnist"]
    write_mnist(tmp_path / "other", *((rng.random((count, 12, 10)) * 256).astype(np.uint8) for count in (30, 6)))
    other = f"mnist:{tmp_path / 'other'}"
    config, before = (run / "config.yaml").read_text(), (run / "corpus.json").read_bytes()
    try:
        (run / "config.yaml").write_text(yaml.safe_dump(json_config(run) | {"data": other}))
        with pytest.raises(ValueError, match=r"\bdata = "):
            fit_density(DensityConfig(other, num_components=3, **SMALL), run)
    finally:
        (run / "config.yaml").write_text(config)
    assert (run / "corpus.json").read_bytes() == before


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_out_of_memory_gives_one_line(trained, capsys, monkeypatch, error):
    def out_of_memory(*arguments):
        raise error

    monkeypatch.setattr("worldmodel.agents.density.sample_density", out_of_memory)
    assert "memory" in refused(capsys, "density", "sample", str(trained["mnist"]))


def test_the_saved_settings_continue_a_run(trained, capsys):
    run = trained["mnist"]
    before = (run / "weights.safetensors").read_bytes()
    assert main(["density", "fit", "--config", str(run / "config.yaml"), "--out", str(run)]) == 0
    assert (run / "weights.safetensors").read_bytes() == before


def test_sampled_sounds_can_be_read(trained, tmp_path):
    drawn = sample_density(trained["timit"], count=3, temperature=0.9, seed=2, out=tmp_path, length=0.11)
    assert [path.name for path in drawn.paths] == [f"t0.9-s2-{number}.wav" for number in range(3)]
    for path in drawn.paths:
        sound = inspect(path)
        assert (sound.sample_rate, sound.num_channels, sound.num_samples, sound.encoding) == (16_000, 1, 1_760, "<i2")
    model, _ = load_density(trained["timit"])
    corpus = open_corpus(json_config(trained["timit"])["data"])
    events = model.sample(9, 3, 0.9, torch.Generator().manual_seed(2))
    expected = corpus.to_data(events)[1, :1_760].clamp(-1, 1 - 2**-15)
    np.testing.assert_allclose(read(inspect(drawn.paths[1]), 0, 1_760), expected, atol=2**-15)
    assert drawn.speed > 0
    again = sample_density(trained["timit"], count=3, temperature=0.9, seed=2, out=tmp_path / "again", length=0.11)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in drawn.paths]


def json_config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def test_a_stream_is_the_sample_of_a_file(trained, tmp_path):
    [path] = sample_density(trained["timit"], count=1, temperature=0.9, seed=2, out=tmp_path, length=0.111).paths
    with wave.open(str(path)) as file:
        expected = file.readframes(file.getnframes())
    assert b"".join(stream_speech(trained["timit"], 0.9, 2, 0.111)) == expected
    endless = stream_speech(trained["timit"], 0.9, 2)
    assert b"".join(next(endless) for _ in range(5)) == expected[: 5 * len(next(endless))]


def test_a_recording_is_continued_after_its_start(trained, tmp_path):
    """The first frames of a file are those of a test recording, and what follows depends on them."""
    drawn = continue_speech(trained["timit"], count=3, seed=3, out=tmp_path, length=0.05, given=0.05)
    sounds = [read(inspect(path), 0, 1_600) for path in drawn.paths]
    recordings = open_corpus(json_config(trained["timit"])["data"]).test.sounds(10, 1.0)
    for sound in sounds:
        assert any(np.abs(sound[:800] - recording[:800]).max() < 2**-15 for recording in recordings)
    assert len({sound.tobytes() for sound in sounds}) == 3
    again = continue_speech(trained["timit"], count=3, seed=3, out=tmp_path / "again", length=0.05, given=0.05)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in drawn.paths]
    shorter = continue_speech(trained["timit"], count=3, seed=3, out=tmp_path / "short", length=0.05, given=0.0125)
    assert all(
        not np.array_equal(sound[800:], read(inspect(path), 200, 1_000))
        for sound, path in zip(sounds, shorter.paths, strict=True)
    )
    with pytest.raises(ValueError, match="speech"):
        continue_speech(trained["mnist"])


@pytest.mark.slow
def test_a_stream_ends_with_its_player(trained):
    expected = b"".join(stream_speech(trained["timit"], 0.9, 2, 0.1))
    words = ["density", "sample", str(trained["timit"]), "--stream"]
    command = [sys.executable, "-m", "worldmodel.agents.cli.main", *words]
    with subprocess.Popen([*command, "--temperature", "0.9", "--seed", "2"], stdout=subprocess.PIPE) as player:
        assert player.stdout.read(400) == expected[:400]
        player.stdout.close()  # the player ends first
        assert player.wait(60) == 0


def test_only_speech_is_streamed_and_only_into_a_pipe(trained, capsys, monkeypatch):
    with pytest.raises(ValueError, match="speech"):
        next(stream_speech(trained["mnist"]))
    with pytest.raises(ValueError, match="length"):
        next(stream_speech(trained["timit"], length=-1.0))
    for option in (["--complete"], ["--out", "x"]):
        assert option[0] in refused(capsys, "density", "sample", str(trained["timit"]), "--stream", *option)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "pipe" in refused(capsys, "density", "sample", str(trained["timit"]), "--stream")


def test_samples_with_nan_leave_no_file(trained, tmp_path, monkeypatch):
    nan_frame = torch.full((1, 200), math.nan)
    monkeypatch.setattr("worldmodel.SequenceDensity.stream", lambda *a, **k: iter([torch.zeros(1, 200), nan_frame]))
    with pytest.raises(ValueError, match="temperature"):
        sample_density(trained["timit"], count=1, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_have_the_size_of_their_grid(trained, tmp_path):
    (path,) = sample_density(trained["mnist"], count=5, out=tmp_path).paths
    # 3 columns, 2 rows, margins of 2 pixels, enlarged twice.
    assert Image.open(path).size == (2 * (3 * 10 + 2 * 2), 2 * (2 * 12 + 2))
    path = complete_images(trained["mnist"], count=4, out=tmp_path)
    picture = np.asarray(Image.open(path))[::2, ::2]
    assert picture.shape == (3 * 12 + 2 * 2, 4 * 10 + 3 * 2, 3)
    given, completed, true = picture[:12], picture[14:26], picture[28:]
    assert (given[:6] == true[:6]).all() and (completed[:6] == true[:6]).all()
    assert (given[6:, :10] == 128).all()
    assert (completed[6:] != true[6:]).any()


def test_samples_need_no_corpus(corpora, tmp_path):
    fit_density(DensityConfig(corpora["mnist"], "rmdn", num_components=2, **SMALL), tmp_path / "run", report=False)
    config = json_config(tmp_path / "run") | {"data": "mnist:/gone"}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert sample_density(tmp_path / "run", count=1).paths[0].exists()
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        evaluate_density(tmp_path / "run")
    assert evaluate_density(tmp_path / "run", data=corpora["mnist"]).measures[0].n == 6


REFUSED = {
    # the corpus
    "fit": "data",
    "fit --data nothing": "KIND:FOLDER",
    "fit --data timit:/nowhere": "/nowhere",
    "fit --data MNIST --segment_length 400": "segment_length",
    "evaluate SPEECH --data MNIST": "mnist:",
    "evaluate RUN --data WIDE": "mnist:",
    "sample RUN --complete --data TIMIT": "timit:",
    "sample RUN --complete --data HIGH": "height=12",
    # the model
    "fit --data MNIST --model vrnn --rank 2": "rank",
    "fit --data MNIST --model vrnn --num_components 2": "num_components",
    "evaluate /nowhere": "/nowhere",
    # values out of range
    "fit --data MNIST --num_updates 0": "num_updates",
    "evaluate RUN --samples 0": "samples",
    "sample RUN --temperature 0": "temperature",
    "sample RUN --count 0": "count",
    "sample SPEECH --count 1000000": "count",
    "sample RUN --complete --count 10001": "count",
    "sample SPEECH --seed 9223372036854775808": "seed",
    "sample RUN --complete --seed -1": "seed",
    "sample RUN --length 13": "length",
    "sample RUN --length -1": "length",
    "sample SPEECH --length 1e308": "length",
    "sample SPEECH --length nan": "--length",
    # settings of the other kind of corpus
    "sample RUN --complete --length 2": "length",
    "sample SPEECH --complete": "count",  # recordings of a second
}
"""One command for each kind of refusal, and the argument, value or file that the error names."""


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(
    corpora, corpora_by_shape, trained, tmp_path, capsys, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    placeholders = corpora_by_shape | {
        "MNIST": corpora["mnist"],
        "TIMIT": corpora["timit"],
        "RUN": str(trained["mnist"]),
        "SPEECH": str(trained["timit"]),
    }
    assert REFUSED[words] in refused(capsys, "density", *(placeholders.get(word, word) for word in words.split()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "value", "named"),
    [
        ("timit", "std", "x", "std"),
        ("timit", "std", math.nan, "std"),
        ("timit", "std", -1, "std"),
        ("timit", "mean", 1e300, "mean"),
        ("timit", "rate", True, "rate"),
        ("timit", "rate", 2**31 - 1, "rate"),
        ("timit", "frame", 3, "200"),
        ("mnist", "height", 2**30, "height"),
        ("mnist", "height", 6, "dimensions"),
        ("mnist", "pixelwise", True, "10"),
        ("mnist", "levels", 0, "levels"),
    ],
)
def test_an_invalid_scale_gives_one_line_with_its_file(trained, tmp_path, capsys, kind, name, value, named):
    path = shutil.copytree(trained[kind], tmp_path / "run", ignore=shutil.ignore_patterns("media")) / "corpus.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["scale"][name] = value
    path.write_text(json.dumps(about), encoding="utf-8")
    message = refused(capsys, "density", "sample", str(path.parent), "--count", "1")
    assert str(path) in message and named in message


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_set_their_values(path):
    kind, name = path.stem.split(".")
    options = {"--data": {"speech": "timit:x", "image": "mnist:x"}[kind], "--preset": name}
    joined, apart = [f"{key}={value}" for key, value in options.items()], [w for o in options.items() for w in o]
    for words in (joined, apart):
        words = ["density", "fit", "--hidden_size", "7", *words]
        parsed = build_parser(words).parse_args(words).density.fit
        written = yaml.safe_load(path.read_text(encoding="utf-8")) | {"hidden_size": 7}
        assert {key: parsed[key] for key in written} == written


def test_help_shows_an_example(capsys):
    for name in ("fit", "evaluate", "sample"):
        with pytest.raises(SystemExit):
            main(["density", name, "--help"])
        assert f"worldmodel density {name} " in capsys.readouterr().out


def test_public_names_exist():
    assert all(hasattr(density, name) for name in density.__all__)


def test_standard_errors_are_clustered_by_file():
    """Copies of a sequence in a file add nothing: the standard error is that of the files' means."""
    values, files = np.array([1.0, 2.0, 4.0]), np.arange(3)
    alone = _stderr(values, files)
    assert alone == pytest.approx(values.std(ddof=1) / np.sqrt(3))
    assert _stderr(values.repeat(5), files.repeat(5)) == pytest.approx(alone)


def test_one_file_has_no_standard_error(trained):
    assert _stderr(np.array([1.0, 2.0]), np.zeros(2, int)) is None
    result = evaluate_density(trained["timit"])
    for stderr in (None, 0.0):  # older files have 0
        measure = replace(result.measures[0], n=1, stderr=stderr, frame_stderr=stderr)
        single = replace(result, measures=(measure,), gain=1.0, gain_stderr=stderr)
        numbers = str(single).splitlines()[0] + single.findings[0] + single.notes[0] + _results(single)
        assert "±" not in numbers
        assert "0.0000" not in numbers
    assert "±" in str(result).splitlines()[0]
