"""Densities of speech and images from the command line: learn, judge, draw, on tiny corpora in the true formats."""

import json
import math
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from agents import density
from agents.cli import build_parser, main
from agents.density import (
    DensityConfig,
    complete_images,
    evaluate_density,
    fit_density,
    load_density,
    report,
    sample_density,
)
from agents.density.config import PRESETS
from agents.density.evaluation import _stderr
from agents.density.training_summary import TrainingSummary
from tests.command_line import refused
from tests.worldmodel.corpora.formats import speech, sphere_bytes, wav_bytes, write_mnist
from worldmodel.corpora import open_corpus
from worldmodel.corpora.audio_files import inspect, read
from worldmodel.registry import MODEL_NAMES

SMALL = {"hidden_size": 8, "latent_dim": 3, "width": 6, "num_updates": 6, "eval_every": 2, "batch_size": 4}
FEW = {"rmdn": 3, "frmdn": 3, "vrnn-gmm": 2}


@pytest.fixture(scope="module", autouse=True)
def short_samples():
    """The pages of these tests have short sounds and few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "SECONDS", 0.05)
        patch.setattr(report, "IMAGES", 4)
        yield


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """TIMIT with three training speakers and two for the test; MNIST of 12 x 10 pixels."""
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


@pytest.fixture(scope="module")
def learned(corpora, tmp_path_factory):
    """An FRMDN of each kind."""
    root = tmp_path_factory.mktemp("learned")
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


def words_of(data, model, out):
    options = SMALL | ({"num_components": FEW[model]} if model in FEW else {})
    return ["density", "fit", "--data", data, "--model", model, "--out", str(out)] + [
        f"--{name}={value}" for name, value in options.items()
    ]


FAST = (("timit", "frmdn"), ("mnist", "vrnn-gmm"))


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_model_is_learned_and_judged(corpora, tmp_path, model):
    mixtures = {"num_components": FEW[model]} if model in FEW else {}
    found = fit_density(DensityConfig(corpora["mnist"], model, **SMALL, **mixtures), tmp_path / "run", report=False)
    assert found.measures[0].mean == pytest.approx(direct(tmp_path / "run", corpora["mnist"]), rel=1e-5)


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
    assert main(words_of(corpora[kind], model, out)) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.yaml", "weights.safetensors", "metrics.jsonl", "resume.pt", "results.json", "report.html"}
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3

    mean, measure = direct(out, corpora[kind]), results["measures"][0]
    assert measure["mean"] == pytest.approx(mean, rel=1e-5)
    assert f"{measure['mean']:.4f} ± {measure['stderr']:.4f}" in said
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
        assert page.count("<audio") == 6  # two of the test part, two at each temperature
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
        (((9, 10), (6, 7), (4, 7.01)), 200, False),  # no more than it wavers
        (((9, 10), (6, 7), (6.5, 8)), 200, False),  # it does not learn the training part by heart
        (((9, 10), (6, 7), (4, 6)), 300, False),
        (((9, 10),), 100, False),
    ],
)
def test_overfitting_is_found(tmp_path, losses, best, overfits):
    (tmp_path / "metrics.jsonl").write_text(rows(*losses))
    learning = TrainingSummary.of(tmp_path)
    assert (learning.best_update, learning.last_update) == (best, 100 * len(losses))
    assert learning.overfits is overfits
    words = learning.sentences("frame")
    assert str(best) in words[0]
    assert len(words) == 1 + overfits
    assert not overfits or "8" in words[1]
    assert TrainingSummary.of(tmp_path / "none") is None


def test_what_is_scored_and_drawn_is_said(learned, tmp_path, capsys):
    for kind, run in learned.items():
        best = TrainingSummary.of(run).best_update
        assert f"update {best}" in str(evaluate_density(run))
        assert f"update {best}" in (run / "report.html").read_text(encoding="utf-8")
        assert json.loads((run / "results.json").read_text(encoding="utf-8"))["learned"]
        length = "0.05" if kind == "timit" else "2"
        assert main(["density", "sample", str(run), "--count", "1", "--length", length, "--out", str(tmp_path)]) == 0
        assert f"update {best}" in capsys.readouterr().out


def test_n_counts_files_and_not_their_pieces(tmp_path):
    rng = np.random.default_rng(2)
    for number in range(40):
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav_bytes(speech(rng, 1_600 + 400 * (number % 3))))
    settings = DensityConfig(
        f"audio:{tmp_path / 'audio'}", "rnn-gauss", **SMALL | {"num_updates": 1}, segment_length=400
    )
    found = fit_density(settings, tmp_path / "run", report=False)
    (measure,) = found.measures
    part = open_corpus(settings.data, segment_length=400).test
    assert measure.n == len(part.recordings) == 2
    assert measure.sequences == len(part) == len(measure.values) > 2
    totals, sizes = (np.bincount(part.file_indices, weights) for weights in (measure.values, None))
    rest = totals - sizes * measure.mean
    assert measure.stderr == pytest.approx(rest.std(ddof=1) / math.sqrt(2) / sizes.mean())


def test_a_density_is_compared_with_a_gaussian(corpora, learned):
    for kind in corpora:
        corpus = open_corpus(corpora[kind])
        found = evaluate_density(learned[kind])
        events = torch.cat(
            [batch.event.reshape(-1, corpus.event_dim)[batch.mask.flatten() > 0] for batch in corpus.train.batches(8)]
        )
        normal = torch.distributions.Normal(events.mean(0), events.std(0))
        values = torch.cat([
            (normal.log_prob(batch.event).sum(-1) * batch.mask).sum(-1) + batch.log_jacobian
            for batch in corpus.test.batches(8)
        ])  # fmt: skip
        values = values if kind == "timit" else corpus.bits(values)
        assert found.gaussian == pytest.approx(float(values.mean()), rel=0.03)
        sign = 1 if kind == "timit" else -1
        assert found.better == pytest.approx(sign * (found.measures[0].mean - found.gaussian), rel=1e-4)
    ways = ((-2.0, 0.1), (2.0, 0.1), (2.0, 5.0))  # worse, better, and no better than its error
    told = [replace(found, better=better, better_stderr=stderr).findings[0].split()[0] for better, stderr in ways]
    assert len(set(told)) == 3


def test_the_command_that_is_printed_next_runs(corpora, tmp_path, capsys):
    assert main(words_of(corpora["mnist"], "rmdn", tmp_path / "a run")) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("Next: ")]
    words = shlex.split(line.removeprefix("Next: "))
    assert main(words[words.index("density") :]) == 0


def direct(folder, data):
    """The test part's mean, straight from the model and the corpus."""
    model, _ = load_density(folder)
    corpus, values = open_corpus(data), []
    for number, batch in enumerate(corpus.test.batches(32)):
        with torch.no_grad():
            if hasattr(model, "elbo"):
                found = model.elbo(batch, torch.Generator().manual_seed(number))
            else:
                found = model.log_prob(batch)
        values.append(found if corpus.kind == "speech" else corpus.bits(found))
    return float(torch.cat(values).double().mean())


def test_numbers_of_speech_have_frames_and_ceilings(learned):
    found = evaluate_density(learned["timit"])
    (measure,), model = found.measures, load_density(learned["timit"])[0]
    frames = found.corpus["parts"]["test"]["frames"]
    assert measure.n == 4
    assert measure.frame == pytest.approx(sum(measure.values) / frames)
    assert measure.stderr == pytest.approx(np.std(measure.values, ddof=1) / 2)
    assert found.ceiling == pytest.approx(model.ceiling * 200)
    assert found.levels == pytest.approx(found.corpus["scale"]["ceiling"] * 200)
    assert evaluate_density(learned["mnist"]).ceiling is None


def test_a_corpus_of_another_name_or_content_is_told(corpora, learned, tmp_path, capsys):
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
    assert evaluate_density(tmp_path / "run", data=f"audio:{tmp_path / 'moved'}").own is None
    assert main(["density", "evaluate", str(tmp_path / "run"), "--data", f"blizzard:{tmp_path / 'moved'}"]) == 0
    said = capsys.readouterr().out
    assert "blizzard" in said and "audio" in said
    about = json.loads((tmp_path / "run" / "evaluation-test.json").read_text(encoding="utf-8"))
    assert about["corpus"]["corpus"] == "blizzard" and about["own"].startswith("audio, test: 1 files")

    for path in (tmp_path / "moved").iterdir():
        path.write_bytes(wav_bytes(speech(rng, 2_000)))
    words = ["density", "evaluate", str(tmp_path / "run"), "--data", f"audio:{tmp_path / 'moved'}"]
    assert "scale.json" in refused(capsys, *words)

    write_mnist(tmp_path / "other", *((rng.random((count, 12, 10)) * 256).astype(np.uint8) for count in (20, 6)))
    found = evaluate_density(learned["mnist"], data=f"mnist:{tmp_path / 'other'}")
    assert found.own == open_corpus(corpora["mnist"]).test.identity != found.corpus["parts"]["test"]["identity"]


def test_runs_that_knew_no_contents_are_judged_on_their_own_corpus(learned, tmp_path):
    run = shutil.copytree(learned["timit"], tmp_path / "run", ignore=shutil.ignore_patterns("media"))
    for name in ("corpus.json", "scale.json"):
        older = re.sub(r", contents \w+", "", (run / name).read_text(encoding="utf-8"))
        (run / name).write_text(older, encoding="utf-8")
    assert evaluate_density(run).own is None


class Stop(Exception):
    """Raised in the middle of a training."""


@pytest.mark.parametrize("model", ["frmdn", "vrnn"])
def test_stop_and_continue_equals_undisturbed(corpora, tmp_path, monkeypatch, model):
    monkeypatch.setattr("worldmodel.training.SAVE_SECONDS", 0.0)
    settings = DensityConfig(corpora["mnist"], model, **SMALL)

    def stop(done, total, note):
        if done == 5:
            raise Stop

    whole = fit_density(settings, tmp_path / "whole", report=False)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path / "stopped", stop, report=False)
    with pytest.raises(ValueError, match="stopped.*worldmodel density fit"):
        evaluate_density(tmp_path / "stopped")
    again = fit_density(settings, tmp_path / "stopped", report=False)
    assert again.measures == whole.measures
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_a_training_that_was_stopped_before_it_was_saved_leaves_no_rows(corpora, tmp_path):
    def stop(done, total, note):
        if done == 5:
            raise Stop

    settings = DensityConfig(corpora["mnist"], "rnn-gauss", **SMALL)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path, stop, report=False)
    fit_density(settings, tmp_path, report=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [2, 4, 6]


def test_another_configuration_is_refused(corpora, learned, capsys):
    said = refused(capsys, *words_of(corpora["mnist"], "frmdn", learned["mnist"]), "--hidden_size", "9")
    assert str(learned["mnist"] / "config.yaml") in said and "hidden_size = 8" in said


def test_a_refused_fit_leaves_what_is_known_of_the_corpus(learned, tmp_path):
    rng, run = np.random.default_rng(1), learned["mnist"]
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
def test_too_little_memory_is_one_line(learned, capsys, monkeypatch, error):
    def starved(*arguments):
        raise error

    monkeypatch.setattr("agents.density.sample_density", starved)
    assert "memory" in refused(capsys, "density", "sample", str(learned["mnist"]))


def test_a_run_s_own_settings_continue_it(learned, capsys):
    run = learned["mnist"]
    before = (run / "weights.safetensors").read_bytes()
    assert main(["density", "fit", "--config", str(run / "config.yaml"), "--out", str(run)]) == 0
    assert (run / "weights.safetensors").read_bytes() == before


def test_sounds_are_read_by_our_own_reader(learned, tmp_path):
    drawn = sample_density(learned["timit"], count=3, temperature=0.9, seed=2, out=tmp_path, length=0.11)
    assert [path.name for path in drawn.paths] == [f"t0.9-s2-{number}.wav" for number in range(3)]
    for path in drawn.paths:
        sound = inspect(path)
        assert (sound.sample_rate, sound.num_channels, sound.num_samples, sound.encoding) == (16_000, 1, 1_760, "<i2")
    model, _ = load_density(learned["timit"])
    corpus = open_corpus(json_config(learned["timit"])["data"])
    events = model.sample(9, 3, 0.9, torch.Generator().manual_seed(2))
    wanted = corpus.to_data(events)[1, :1_760].clamp(-1, 1 - 2**-15)
    np.testing.assert_allclose(read(inspect(drawn.paths[1]), 0, 1_760), wanted, atol=2**-15)
    assert drawn.speed > 0
    again = sample_density(learned["timit"], count=3, temperature=0.9, seed=2, out=tmp_path / "again", length=0.11)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in drawn.paths]


def json_config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def test_samples_that_stop_being_numbers_leave_no_file(learned, tmp_path, monkeypatch):
    nothing = torch.full((1, 200), math.nan)
    monkeypatch.setattr("worldmodel.SequenceDensity.stream", lambda *a, **k: iter([torch.zeros(1, 200), nothing]))
    with pytest.raises(ValueError, match="temperature"):
        sample_density(learned["timit"], count=1, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_have_the_size_of_their_grid(learned, tmp_path):
    (path,) = sample_density(learned["mnist"], count=5, out=tmp_path).paths
    assert Image.open(path).size == (
        2 * (3 * 10 + 2 * 2),
        2 * (2 * 12 + 2),
    )  # 3 columns, 2 rows, gaps of 2, twice as large
    path = complete_images(learned["mnist"], count=4, out=tmp_path)
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
    # numbers
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
    # what belongs to the other kind
    "sample RUN --complete --length 2": "length",
    "sample SPEECH --complete": "images",
}
"""A class of refusals each: a command, and the argument, value or file that its line names."""


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(
    corpora, corpora_by_shape, learned, tmp_path, capsys, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    known = corpora_by_shape | {
        "MNIST": corpora["mnist"],
        "TIMIT": corpora["timit"],
        "RUN": str(learned["mnist"]),
        "SPEECH": str(learned["timit"]),
    }
    assert REFUSED[words] in refused(capsys, "density", *(known.get(word, word) for word in words.split()))
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
def test_a_scale_that_does_not_fit_is_one_line_that_names_its_file(learned, tmp_path, capsys, kind, name, value, named):
    path = shutil.copytree(learned[kind], tmp_path / "run", ignore=shutil.ignore_patterns("media")) / "corpus.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["scale"][name] = value
    path.write_text(json.dumps(about), encoding="utf-8")
    said = refused(capsys, "density", "sample", str(path.parent), "--count", "1")
    assert str(path) in said and named in said


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_set_what_they_say(path):
    kind, name = path.stem.split(".")
    options = {"--data": {"speech": "timit:x", "image": "mnist:x"}[kind], "--preset": name}
    joined, apart = [f"{key}={value}" for key, value in options.items()], [w for o in options.items() for w in o]
    for words in (joined, apart):
        words = ["density", "fit", "--hidden_size", "7", *words]
        parsed = build_parser(words).parse_args(words).density.fit
        written = yaml.safe_load(path.read_text(encoding="utf-8")) | {"hidden_size": 7}
        assert {key: parsed[key] for key in written} == written


def test_help_teaches_with_an_example(capsys):
    for name in ("fit", "evaluate", "sample"):
        with pytest.raises(SystemExit):
            main(["density", name, "--help"])
        assert f"worldmodel density {name} " in capsys.readouterr().out


def test_the_public_names():
    assert all(hasattr(density, name) for name in density.__all__)


def test_standard_errors_are_clustered_by_file():
    """Copies of a sequence in a file add nothing: the standard error is that of the files' means."""
    values, files = np.array([1.0, 2.0, 4.0]), np.arange(3)
    alone = _stderr(values, files)
    assert alone == pytest.approx(values.std(ddof=1) / np.sqrt(3))
    assert _stderr(values.repeat(5), files.repeat(5)) == pytest.approx(alone)
