"""The page of a comparison of densities, from ``results.json``: tables, a picture, and two sounds.

Start reading at `write_page`.
"""

import io
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agents import video
from agents.comparison.statistics import Interval, interval
from agents.density import sample_density
from agents.density.samples import coloured
from agents.progress import duration
from worldmodel.corpora import Corpus, open_corpus
from worldmodel.io import atomic, read_json, write_json
from worldmodel.migration import CORPUS_OPTIONS, renamed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
REFERENCES = ("RMDN", "FRMDN")
"""Differences are shown to these."""
PUBLISHED = """## Published, on other corpora

Nats a sequence, from VRNN, [arXiv 1506.02216](https://arxiv.org/abs/1506.02216), table 1: other data, other lengths, models of
2,000 (TIMIT) and 4,000 (Blizzard) LSTM units, trained to the end; of VRNNs lower bounds. **They do not compare with the
numbers above.**

| Model | Blizzard | TIMIT |
|---|---|---|
| RNN-Gauss | 3539 | -1900 |
| RNN-GMM | 7413 | 26643 |
| VRNN-Gauss | ≥ 9223 | ≥ 28805 |
| VRNN-GMM | ≥ 9107 | ≥ 28982 |
"""
SECONDS = 3.0
"""Of the two sounds: 96 kB each."""

Results = list[dict[str, Any]]


def write_page(
    kept: Path,
    out: Path,
    name: str,
    results: Results | None = None,
    folders: dict[str, Path] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """Write ``results.json`` into ``kept``, samples and ``README.md`` into ``out``; or the page alone."""
    numbers = kept / "results.json"
    if results is not None and about is not None and folders is not None:
        before = read_json(numbers)["about"] if numbers.exists() else {}
        if before.get("command") == about["command"]:  # another sitting of the same comparison
            about["wall_clock_s"] = max(about["wall_clock_s"], before["wall_clock_s"])
        shared = {key: results[0][key] for key in ("unit", "levels", "corpus", "hardware", "part")}
        rows = [{key: value for key, value in row.items() if key not in shared} for row in results]
        for measure in (measure for row in rows for measure in row["measures"]):
            measure["values"] = [round(value, 3) for value in measure["values"]]
        _samples(out, rows, folders, shared["corpus"])
        write_json(numbers, {"about": about, **shared, "trainings": rows})
    found = read_json(numbers)
    if "clusters" not in found:
        found["clusters"] = clusters(_corpus(found["trainings"][0]["job"]), found["about"]["made_of"])
        write_json(numbers, found)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "README.md") as aside:
        aside.write_text(_page(name, found), encoding="utf-8")
    return out / "README.md"


def clusters(corpus: Corpus, made_of: dict[str, Any]) -> dict[str, Any]:
    """What the test sequences share, as far as it is known: ``labels``, in the order in which they are judged, ``of`` what."""
    if corpus.kind == "speech":
        recordings, piece = corpus.test.recordings, corpus.dimensions  # type: ignore[attr-defined]
        labels = [
            one.group for one in recordings for _ in range(one.num_used_samples // (piece or one.num_used_samples))
        ]
        of = "voices" if "voices" in made_of else "speakers" if corpus.name in ("timit", "accent") else "files"
    elif "t10k" in made_of:
        each = 10 * made_of["distortions of each digit"]["t10k"]  # of a font, one after the other
        labels = [name for name, fonts in made_of["t10k"]["fonts"].items() for _ in range(each * len(fonts))]
        of = "font families"
    else:
        labels, of = [str(number) for number in range(len(corpus.test))], "images"
    assert len(labels) == len(corpus.test), (len(labels), len(corpus.test))
    return {"of": of, "labels": [labels[place] for place in np.random.default_rng(0).permutation(len(labels))]}


def compared(found: dict[str, Any], name: str, measure: int, reference: str) -> Interval:
    """A model's difference to the first measure of another, in the unit of ``results.json``."""
    values = [
        [row["measures"][number]["values"] for row in found["trainings"] if row["job"]["name"] == model]
        for model, number in ((name, measure), (reference, 0))
    ]
    return interval(np.array(values[0]) - np.array(values[1]), found["clusters"]["labels"])


def _page(name: str, found: dict[str, Any]) -> str:
    rows, corpus, about = found["trainings"], found["corpus"], found["about"]
    speech = corpus["kind"] == "speech"
    seeds, job = len({row["job"]["seed"] for row in rows}), rows[0]["job"]
    better = "higher is better" if speech else "lower is better"
    sign = "plus" if speech else "minus"
    parts = [
        f"# Densities of {name}, compared\n",
        f"The same budget for every model: {job['updates']:,} updates of {job['batch']} sequences, hidden {job['hidden']}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}. `{about['command']}`; {found['hardware']}; "
        f"{duration(about['wall_clock_s'])}.\n",
        f"Unit: {found['unit']}; {better}. Protocol: {corpus['protocol']}.\n",
        f"± behind a mean is the standard deviation over seeds. {_intervals(found)} {sign.capitalize()} means better than the "
        "model in the column's name.\n",
        f"{_converged(rows)}\n",
        _table(found, speech),
    ]
    if speech:
        least = min((row["ceiling"] for row in rows if row["ceiling"] is not None), default=math.inf)
        parts.append(
            f"Ceilings: a diagonal Gaussian's precision is clamped, so that no such model passes {least:.0f} nats a frame; "
            f"above {found['levels']:.0f} nats a frame a density tells 16-bit levels apart instead of knowing speech.\n"
        )
        parts.append(
            "![A piece of the corpus, and samples: samples and spectrograms](samples.png)\n\n"
            "Samples at temperature 1: [RMDN](rmdn.wav), [FRMDN](frmdn.wav).\n"
        )
    else:
        parts.append("![Rows: test images, then samples of each model](samples.png)\n")
        order = ", ".join(dict.fromkeys(row["job"]["name"] for row in rows))
        parts.append(f"Rows: test images, then samples at temperature 1 of {order}.\n")
    return "\n".join([*parts, *([PUBLISHED] if speech else [])])


def _intervals(found: dict[str, Any]) -> str:
    """What the differences' intervals are."""
    labels, of = found["clusters"]["labels"], found["clusters"]["of"]
    seeds = len({row["job"]["seed"] for row in found["trainings"]})
    if seeds < 2 or len(set(labels)) < 2:
        return f"Differences have no interval: {seeds} seeds and {len(set(labels))} of the {of} in the test part."
    alone = (
        ", which are taken as independent of each other" if of == "images" else ", whose sequences are not independent"
    )
    return (
        "Differences are paired by sequence of the test part and by seed (the same batches). Their 95 % intervals are for "
        f"other trainings and other {of}: the variance over {seeds} seeds plus that over {len(set(labels))} {of}{alone}; "
        "quantiles of Student's t, with Satterthwaite's degrees of freedom (`agents/comparison/statistics.py`). No correction "
        "is made for the number of comparisons."
    )


def _converged(rows: Results) -> str:
    """Whether another budget could change the order."""
    late = sum(row["best_update"] > row["job"]["updates"] - row["job"]["check_every"] for row in rows)
    return (
        f"In {late} of {len(rows)} trainings one of the last two checks is the best: those had not converged, and the table "
        "says what this budget gives, not what the models can do."
    )


def _table(found: dict[str, Any], speech: bool) -> str:
    rows: Results = found["trainings"]
    unit, digits = ("nats a sequence", 1) if speech else ("bits a dimension", 4)
    frame = " nats a frame |" if speech else ""
    names = list(dict.fromkeys(row["job"]["name"] for row in rows))
    references = [name for name in REFERENCES if name in names]
    columns = "".join(f" difference to {name} |" for name in references)
    lines = [
        f"| Model | Parameters | {unit} |{columns}{frame} best update | seconds, median |",
        f"|---|---|---|{'---|' * len(references)}{'---|' if speech else ''}---|---|",
    ]
    for name in names:
        mine = [row for row in rows if row["job"]["name"] == name]
        wrong = sum(row["status"] != "trained" for row in mine)
        for number, measure in enumerate(mine[0]["measures"]):
            means = [row["measures"][number]["mean"] for row in mine]
            what = "" if "exact" in measure["what"] else ": bound" if number == 0 else ": importance-weighted bound"
            cells = [
                name + what + (f" ({wrong} diverged)" if wrong else ""),
                f"{mine[0]['parameters']:,}",
                f"{np.mean(means):.{digits}f} ± {np.std(means, ddof=1) if len(means) > 1 else 0:.{digits}f}",
            ]
            cells += [
                "" if name == other else compared(found, name, number, other).text(digits) for other in references
            ]
            cells += [f"{np.mean([row['measures'][number]['frame'] for row in mine]):.2f}"] if speech else []
            cells += [
                f"{np.mean([row['best_update'] for row in mine]):.0f}",
                f"{statistics.median(row['seconds'] for row in mine):.0f}",  # of trainings that ran beside other work
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"\nn = {len(rows[0]['measures'][0]['values'])} sequences of the test part.\n")
    return "\n".join(lines)


def _corpus(job: dict[str, Any]) -> Corpus:
    """The corpus of a training."""
    return open_corpus(
        job["data"],
        **renamed({key: job[key] for key in ("piece", "logit", "pixelwise") if job[key] is not None}, CORPUS_OPTIONS),
    )


def _samples(out: Path, rows: Results, folders: dict[str, Path], described: dict[str, Any]) -> None:
    """A picture with the corpus and samples of each model's first training; and sounds."""
    names = [name for name in dict.fromkeys(row["job"]["name"] for row in rows) if name in folders]
    corpus = _corpus(rows[0]["job"])
    if described["kind"] == "image":
        true = next(iter(corpus.test.batches(12))).event
        lines = [coloured(corpus.to_data(true).numpy())]
        lines += [coloured(_drawn(folders[name], corpus)) for name in names]
        video.write_png(out / "samples.png", video.png(video.grid(lines)))
        return
    true = next(iter(corpus.test.batches(1)))
    sounds = {"the corpus": corpus.to_data(true.event)[0].numpy()}
    for name in names:
        path = sample_density(folders[name], 1, seed=1, length=SECONDS).paths[0]
        sounds[name] = np.frombuffer(path.read_bytes()[44:], "<i2") / 2**15
        if name in ("RMDN", "FRMDN"):
            out.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / f"{name.lower()}.wav")
    video.write_png(out / "samples.png", _spectrograms(sounds, described["scale"]["rate"]))


def _drawn(folder: Path, corpus: Any) -> np.ndarray:
    """A dozen images of a model, as bytes."""
    import torch

    from agents.density import load_density

    model, _ = load_density(folder)
    length = corpus.dimensions // corpus.event_dim
    return corpus.to_data(model.sample(length, 12, generator=torch.Generator().manual_seed(1))).numpy()


def _spectrograms(sounds: dict[str, np.ndarray], rate: int) -> bytes:
    """Of each sound half a second: its samples, and its spectrogram."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 1.1 * len(sounds)), layout="constrained")
    for (above, below), (name, sound) in zip(figure.subplots(len(sounds), 2), sounds.items(), strict=True):
        sound = sound[: rate // 2]
        above.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4)
        above.set_ylabel(name, rotation=0, ha="right", fontsize=8)
        below.specgram(sound + 1e-8, NFFT=256, noverlap=192, Fs=rate, vmin=-140, vmax=-40)
        for axes in (above, below):
            axes.tick_params(labelsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    picture = Image.open(buffer).convert("RGB").quantize(64)  # a quarter of the size
    picture.save(small := io.BytesIO(), format="PNG", optimize=True)
    return small.getvalue()
