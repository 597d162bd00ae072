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
from agents.density import Density, complete_images, evaluate_density, fit_density, load_density, report, sample_density
from agents.density.learning import Learning
from agents.density.settings import PRESETS
from tests.worldmodel.corpora.formats import speech, sphere_bytes, wav_bytes, write_mnist
from worldmodel.builders import NAMES
from worldmodel.corpora import open_corpus
from worldmodel.corpora.audio_files import inspect, read

SMALL = {"hidden": 8, "latent": 3, "width": 6, "updates": 6, "check_every": 2, "batch": 4}
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
        fit_density(Density(data, mixtures=3, **SMALL), root / kind)
    return {kind: root / kind for kind in corpora}


@pytest.fixture(scope="module")
def corpora_by_shape(tmp_path_factory):
    """Images of other sizes than those of `corpora`."""
    root = tmp_path_factory.mktemp("shapes")
    for name, shape in (("WIDE", (12, 11)), ("HIGH", (13, 10))):
        write_mnist(root / name, *(np.zeros((count, *shape), np.uint8) for count in (4, 2)))
    return {name: f"mnist:{root / name}" for name in ("WIDE", "HIGH")}


def words_of(data, model, out):
    options = SMALL | ({"mixtures": FEW[model]} if model in FEW else {})
    return ["density", "fit", "--data", data, "--model", model, "--out", str(out)] + [
        f"--{name}={value}" for name, value in options.items()
    ]


@pytest.mark.parametrize("kind", ["timit", "mnist"])
@pytest.mark.parametrize("model", NAMES)
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
    assert [("bound" in each["what"]) for each in results["measures"]] == ([True] * 2 if "vrnn" in model else [False])

    assert main(["density", "evaluate", str(out), "--part", "held_out", "--samples", "2"]) == 0
    assert "held_out: " in capsys.readouterr().out
    held_out = json.loads((out / "evaluation-held_out.json").read_text(encoding="utf-8"))
    assert held_out["measures"][0]["n"] == 2

    page = (out / "report.html").read_text(encoding="utf-8")
    assert measure["what"] in page and "Protocol: " in page
    length = "0.1" if kind == "timit" else "6"
    assert main(["density", "sample", str(out), "--count", "2", "--length", length, "--temperature", "0.9"]) == 0
    assert "t0.9-s1" in (said := capsys.readouterr().out)
    if kind == "timit":
        assert page.count("<audio") == 6  # two of the test part, two at each temperature
        assert "waveforms and spectrograms" in page
        assert (out / "media" / "real-1.wav").exists()
        assert "x real time" in said
    else:
        assert "the lower half completed" in page
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
    learning = Learning.of(tmp_path)
    assert (learning.best_update, learning.last_update) == (best, 100 * len(losses))
    assert learning.overfits is overfits
    words = learning.words("frame")
    assert str(best) in words[0]
    assert len(words) == 1 + overfits
    assert not overfits or "1 to 8 nats a frame" in words[1]
    assert Learning.of(tmp_path / "none") is None


def test_what_is_scored_and_drawn_is_said(learned, tmp_path, capsys):
    for kind, run in learned.items():
        best = Learning.of(run).best_update
        assert f"update {best} of 6" in str(evaluate_density(run))
        assert f"update {best} of 6" in (run / "report.html").read_text(encoding="utf-8")
        assert json.loads((run / "results.json").read_text(encoding="utf-8"))["learned"]
        length = "0.05" if kind == "timit" else "2"
        assert main(["density", "sample", str(run), "--count", "1", "--length", length, "--out", str(tmp_path)]) == 0
        assert f"update {best} of 6" in capsys.readouterr().out


def test_n_counts_files_and_not_their_pieces(tmp_path):
    rng = np.random.default_rng(2)
    for number in range(40):
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav_bytes(speech(rng, 1_600 + 400 * (number % 3))))
    settings = Density(f"audio:{tmp_path / 'audio'}", "rnn-gauss", **SMALL | {"updates": 1}, piece=400)
    found = fit_density(settings, tmp_path / "run", report=False)
    (measure,) = found.measures
    part = open_corpus(settings.data, piece=400).test
    assert measure.n == len(part.recordings) == 2
    assert measure.sequences == len(part) == len(measure.values) > 2
    assert f"n = 2 recordings, {len(part)} sequences" in str(found)
    totals, sizes = (np.bincount(part.files, weights) for weights in (measure.values, None))
    rest = totals - sizes * measure.mean
    assert measure.stderr == pytest.approx(rest.std(ddof=1) / math.sqrt(2) / sizes.mean())


def test_a_density_is_compared_with_a_gaussian(corpora, learned):
    for kind in corpora:
        corpus = open_corpus(corpora[kind])
        found = evaluate_density(learned[kind])
        events = torch.cat(
            [batch.event.reshape(-1, corpus.event)[batch.mask.flatten() > 0] for batch in corpus.train.batches(8)]
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
    worse = replace(found, better=-2.0, better_stderr=0.1)
    assert worse.findings[0].startswith("WORSE")
    assert replace(found, better=2.0, better_stderr=0.1).findings[0].startswith("Better")
    assert replace(found, better=2.0, better_stderr=5.0).findings[0].startswith("No better")


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
            if hasattr(model, "bound"):
                found = model.bound(batch, torch.Generator().manual_seed(number))
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
    for words in ("Ceiling: at most", "16-bit levels", "nats a sequence, of samples standardised"):
        assert words in str(found)
    assert evaluate_density(learned["mnist"]).ceiling is None


def test_a_corpus_of_another_name_or_content_is_told(corpora, learned, tmp_path, capsys):
    rng = np.random.default_rng(1)
    for number in range(4):
        path = tmp_path / "au" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav_bytes(speech(rng, 2_000)))
    density_of = Density(f"audio:{tmp_path / 'au'}", "rnn-gauss", **SMALL | {"updates": 1}, piece=400)
    fit_density(density_of, tmp_path / "run", report=False)
    assert main(["density", "evaluate", str(tmp_path / "run")]) == 0
    assert "Another corpus" not in capsys.readouterr().out
    shutil.move(tmp_path / "au", tmp_path / "moved")
    assert evaluate_density(tmp_path / "run", data=f"audio:{tmp_path / 'moved'}").own is None
    assert main(["density", "evaluate", str(tmp_path / "run"), "--data", f"blizzard:{tmp_path / 'moved'}"]) == 0
    assert (
        "judged on blizzard, test: 1 files" in (said := capsys.readouterr().out) and "its own is audio, test: " in said
    )
    about = json.loads((tmp_path / "run" / "evaluation-test.json").read_text(encoding="utf-8"))
    assert about["corpus"]["corpus"] == "blizzard" and about["own"].startswith("audio, test: 1 files")

    for path in (tmp_path / "moved").iterdir():
        path.write_bytes(wav_bytes(speech(rng, 2_000)))
    assert main(["density", "evaluate", str(tmp_path / "run"), "--data", f"audio:{tmp_path / 'moved'}"]) == 2
    said = capsys.readouterr().err
    assert "scale.json does not hold the mean and std of these recordings" in said and said.count("\n") == 1

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
    settings = Density(corpora["mnist"], model, **SMALL)

    def stop(done, total, note):
        if done == 5:
            raise Stop

    whole = fit_density(settings, tmp_path / "whole", report=False)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path / "stopped", stop, report=False)
    with pytest.raises(ValueError, match="has no learned density yet: .*worldmodel density fit"):
        evaluate_density(tmp_path / "stopped")
    again = fit_density(settings, tmp_path / "stopped", report=False)
    assert again.measures == whole.measures
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_a_training_that_was_stopped_before_it_was_saved_leaves_no_rows(corpora, tmp_path):
    def stop(done, total, note):
        if done == 5:
            raise Stop

    settings = Density(corpora["mnist"], "rnn-gauss", **SMALL)
    with pytest.raises(Stop):
        fit_density(settings, tmp_path, stop, report=False)
    fit_density(settings, tmp_path, report=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [2, 4, 6]


def test_another_configuration_is_refused(corpora, learned, capsys):
    words = words_of(corpora["mnist"], "frmdn", learned["mnist"])
    assert main([*words, "--hidden", "9"]) == 2
    config = learned["mnist"] / "config.yaml"
    assert f"{config} holds a run with hidden = 8, asked for 9: use another --out" in capsys.readouterr().err


def test_a_refused_fit_leaves_what_is_known_of_the_corpus(learned, tmp_path):
    rng, run = np.random.default_rng(1), learned["mnist"]
    write_mnist(tmp_path / "other", *((rng.random((count, 12, 10)) * 256).astype(np.uint8) for count in (30, 6)))
    other = f"mnist:{tmp_path / 'other'}"
    config, before = (run / "config.yaml").read_text(), (run / "corpus.json").read_bytes()
    try:
        (run / "config.yaml").write_text(yaml.safe_dump(json_config(run) | {"data": other}))
        with pytest.raises(ValueError, match="holds a training with data = "):
            fit_density(Density(other, mixtures=3, **SMALL), run)
    finally:
        (run / "config.yaml").write_text(config)
    assert (run / "corpus.json").read_bytes() == before


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_one_line(learned, capsys, monkeypatch, error):
    def starved(*arguments):
        raise error

    monkeypatch.setattr("agents.density.sample_density", starved)
    assert main(["density", "sample", str(learned["mnist"])]) == 2
    said = capsys.readouterr().err
    assert "worldmodel density sample: not enough memory: " in said and said.count("\n") == 1


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
        assert (sound.rate, sound.channels, sound.samples, sound.encoding) == (16_000, 1, 1_760, "<i2")
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
    with pytest.raises(ValueError, match=r"stopped being numbers after 0\.0 s: draw at a lower temperature"):
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
    fit_density(Density(corpora["mnist"], "rmdn", mixtures=2, **SMALL), tmp_path / "run", report=False)
    config = json_config(tmp_path / "run") | {"data": "mnist:/gone"}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert sample_density(tmp_path / "run", count=1).paths[0].exists()
    with pytest.raises(ValueError, match="must hold train-images-idx3-ubyte"):
        evaluate_density(tmp_path / "run")
    assert evaluate_density(tmp_path / "run", data=corpora["mnist"]).measures[0].n == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--data", "timit:/nowhere"], "/nowhere must hold TRAIN/DR1/FCJF0/SA1.WAV"),
        (["fit", "--data", "nothing"], "a corpus must be KIND:FOLDER with one of timit"),
        (["fit", "--data", "MNIST", "--piece", "400"], "mnist takes the options logit, pixelwise, got piece"),
        (["fit", "--data", "MNIST", "--model", "vrnn", "--rank", "2"], "rank is no setting of vrnn"),
        (["fit", "--data", "MNIST", "--model", "vrnn", "--mixtures", "2"], "mixtures must be 1 for vrnn, got 2"),
        (["fit", "--data", "MNIST", "--updates", "0"], "updates must be above zero, got 0"),
        (["fit"], "data is missing"),
        (["evaluate", "/nowhere"], "/nowhere has no learned density yet"),
        (["evaluate", "RUN", "--samples", "0"], "samples must be a whole number of at least 1, got 0"),
        (["sample", "RUN", "--temperature", "0"], "temperature must be finite and above zero, got 0"),
        (["sample", "RUN", "--count", "0"], "count must be a whole number of at least 1, got 0"),
        (["sample", "RUN", "--count", "18446744073709551616"], "count must be at most 10000, got 18446744073709551616"),
        (["sample", "SPEECH", "--count", "1000000"], "count must be at most 128, got 1000000"),
        (["sample", "RUN", "--complete", "--count", "10001"], "count must be at most 10000, got 10001"),
        (["sample", "RUN", "--seed", "-1"], "seed must be a whole number from 0 to 2**63 - 1, got -1"),
        (
            ["sample", "SPEECH", "--seed", "9223372036854775808"],
            "seed must be a whole number from 0 to 2**63 - 1, got 92233720368547758",
        ),
        (["sample", "RUN", "--complete", "--seed", "-1"], "seed must be a whole number from 0 to 2**63 - 1, got -1"),
        (["sample", "RUN", "--length", "13"], "length must be whole rows, at most 12, got 13"),
        (["sample", "RUN", "--length", "-1"], "length must be above zero, got -1"),
        (["sample", "SPEECH", "--length", "1e6"], "length must be at most 134218 seconds"),
        (["sample", "SPEECH", "--length", "1e308"], "length must be at most 134218 seconds"),
        (["sample", "SPEECH", "--length", "inf"], "--length: "),
        (["sample", "SPEECH", "--length", "nan"], "--length: "),
        (["sample", "RUN", "--complete", "--length", "2"], "length is no setting of --complete"),
        (["sample", "SPEECH", "--complete"], "only images can be completed"),
        (["sample", "RUN", "--complete", "--data", "TIMIT"], "is a density of images, got speech: timit:"),
        (["evaluate", "SPEECH", "--data", "MNIST"], "is a density of speech, got images: mnist:"),
        (["evaluate", "RUN", "--data", "WIDE"], "is a density of events of 10 numbers, those of mnist:"),
        (
            ["sample", "RUN", "--complete", "--data", "HIGH"],
            "Dequantisation(height=12, width=10, channels=1, logit=False, ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(
    corpora, corpora_by_shape, learned, tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    known = corpora_by_shape | {
        "MNIST": corpora["mnist"],
        "TIMIT": corpora["timit"],
        "RUN": str(learned["mnist"]),
        "SPEECH": str(learned["timit"]),
    }
    try:
        code = main(["density", *(known.get(word, word) for word in words)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("timit", "std", "x", "TypeError std = 'x'"),
        ("timit", "mean", None, "TypeError mean = 'None'"),
        ("timit", "std", -1, "std must be above zero and at most 10000, got -1"),
        ("timit", "std", math.nan, "TypeError std = 'nan'"),
        ("timit", "mean", 1e300, "mean must be from -10000 to 10000, got 1e+300"),
        ("timit", "rate", 2**31 - 1, "rate must be from 1000 to 192000, got 2147483647"),
        ("timit", "rate", True, "TypeError rate = 'True'"),
        ("timit", "frame", 3, "an event must have 200 numbers, as the model's, got 3"),
        (
            "mnist",
            "height",
            2**30,
            f"height, width and channels (1 or 3) must be those of an image, got ({2**30}, 10, 1)",
        ),
        ("mnist", "height", 6, "dimensions must be 60, as height x width x channels, got 120"),
        ("mnist", "width", 5, "dimensions must be 60, as height x width x channels, got 120"),
        ("mnist", "pixelwise", True, "an event must have 10 numbers, as the model's, got 1"),
        ("mnist", "levels", 0, "levels must be 256, got 0"),
    ],
)
def test_a_scale_that_does_not_fit_is_one_line_that_names_its_file(
    learned, tmp_path, capsys, kind, name, value, message
):
    path = shutil.copytree(learned[kind], tmp_path / "run", ignore=shutil.ignore_patterns("media")) / "corpus.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["scale"][name] = value
    path.write_text(json.dumps(about), encoding="utf-8")
    assert main(["density", "sample", str(path.parent), "--count", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{path} does not hold what it should: {message}" in said and said.count("\n") == 1


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("joined", [True, False])
def test_presets_set_what_they_say(path, joined):
    kind, name = path.stem.split(".")
    options = {"--data": {"speech": "timit:x", "image": "mnist:x"}[kind], "--preset": name}
    words = [f"{key}={value}" for key, value in options.items()] if joined else [w for o in options.items() for w in o]
    words = ["density", "fit", "--hidden", "7", *words]
    parsed = build_parser(words).parse_args(words).density.fit
    written = yaml.safe_load(path.read_text(encoding="utf-8")) | {"hidden": 7}
    assert {key: parsed[key] for key in written} == written


def test_help_teaches_with_an_example(capsys):
    for name in ("fit", "evaluate", "sample"):
        with pytest.raises(SystemExit):
            main(["density", name, "--help"])
        assert f"worldmodel density {name} " in capsys.readouterr().out


def test_the_public_names():
    assert all(hasattr(density, name) for name in density.__all__)
