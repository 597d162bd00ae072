"""Write the page of a comparison of densities from ``results.json``: tables, a picture, and two sounds.

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

from worldmodel.agents.analysis import video
from worldmodel.agents.analysis.statistics import Interval, interval
from worldmodel.agents.density import DensityConfig, sample_density
from worldmodel.agents.density.samples import coloured
from worldmodel.agents.progress import duration
from worldmodel.corpora import Corpus, open_corpus
from worldmodel.io.files import atomic, read_json, write_json
from worldmodel.io.migration import density_result
from worldmodel.rollouts import pictures

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
REFERENCES = ("RMDN", "FRMDN")
"""Models that all others are compared with."""
PUBLISHED = """## Published, on other corpora

Nats per sequence, from VRNN, [arXiv 1506.02216](https://arxiv.org/abs/1506.02216), table 1: other data, other lengths, models
of 2,000 (TIMIT) and 4,000 (Blizzard) LSTM units, trained until convergence; lower bounds for VRNNs. **They do not compare with
the numbers above.**

| Model | Blizzard | TIMIT |
|---|---|---|
| RNN-Gauss | 3539 | -1900 |
| RNN-GMM | 7413 | 26643 |
| VRNN-Gauss | ≥ 9223 | ≥ 28805 |
| VRNN-GMM | ≥ 9107 | ≥ 28982 |
"""
SECONDS = 3.0
"""Duration of each of the two sounds, which have 96 kB each."""

Results = list[dict[str, Any]]


def write_page(
    kept: Path,
    out: Path,
    name: str,
    results: Results | None = None,
    folders: dict[str, Path] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """Write ``results.json`` into ``kept``, and samples and ``README.md`` into ``out``.

    Args:
        kept: Path of the folder of ``results.json``.
        out: Path of the folder of the page.
        name: Name of the corpus.
        results: Results of all trainings. None: write only the page, from an existing ``results.json``.
        folders: Folder of one training of each model, for samples.
        about: Command, wall-clock seconds, and description of the corpus.

    Returns:
        Path of the page.
    """
    numbers = kept / "results.json"
    if results is not None and about is not None and folders is not None:
        before = read_json(numbers)["about"] if numbers.exists() else {}
        if before.get("command") == about["command"]:  # the comparison was stopped and continued
            about["wall_clock_s"] = max(about["wall_clock_s"], before["wall_clock_s"])
        shared = {key: results[0][key] for key in ("unit", "quantization_limit", "corpus", "hardware", "part")}
        rows = [{key: value for key, value in row.items() if key not in shared} for row in results]
        for measure in (measure for row in rows for measure in row["measures"]):
            measure["values"] = [round(value, 3) for value in measure["values"]]
        _samples(out, rows, folders, shared["corpus"])
        write_json(numbers, {"about": about, **shared, "trainings": rows})
    found = density_result(read_json(numbers))
    found["trainings"] = [density_result(row) for row in found["trainings"]]
    if "clusters" not in found:
        found["clusters"] = clusters(_corpus(found["trainings"][0]["job"]), found["about"]["made_of"])
        write_json(numbers, found)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "README.md") as temporary:
        temporary.write_text(_page(name, found), encoding="utf-8")
    return out / "README.md"


def clusters(corpus: Corpus, made_of: dict[str, Any]) -> dict[str, Any]:
    """Return the groups of dependent test sequences, such as files or speakers.

    Args:
        corpus: Corpus.
        made_of: Content of the corpus's ``about.json``; empty for other corpora.

    Returns:
        ``labels``, the group of each test sequence in the order of evaluation, and ``of``, the kind of group.
    """
    if corpus.kind == "speech":
        recordings, segment = corpus.test.recordings, corpus.dimensions  # type: ignore[attr-defined]
        labels = [
            one.group for one in recordings for _ in range(one.num_used_samples // (segment or one.num_used_samples))
        ]
        of = "voices" if "voices" in made_of else "speakers" if corpus.name in ("timit", "accent") else "files"
    elif "t10k" in made_of:
        each = 10 * made_of["distortions of each digit"]["t10k"]  # images of a font are consecutive
        labels = [name for name, fonts in made_of["t10k"]["fonts"].items() for _ in range(each * len(fonts))]
        of = "font families"
    else:
        labels, of = [str(number) for number in range(len(corpus.test))], "images"
    assert len(labels) == len(corpus.test), (len(labels), len(corpus.test))
    return {"of": of, "labels": [labels[place] for place in np.random.default_rng(0).permutation(len(labels))]}


def compared(found: dict[str, Any], name: str, measure: int, reference: str) -> Interval:
    """Return the difference of a model to the first measure of another, with its interval, in the unit of ``results.json``."""
    values = [
        [row["measures"][number]["values"] for row in found["trainings"] if row["job"]["name"] == model]
        for model, number in ((name, measure), (reference, 0))
    ]
    return interval(np.array(values[0]) - np.array(values[1]), found["clusters"]["labels"])


def _page(name: str, found: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    rows, corpus, about = found["trainings"], found["corpus"], found["about"]
    speech = corpus["kind"] == "speech"
    seeds, job = len({row["job"]["seed"] for row in rows}), rows[0]["job"]
    better = "higher is better" if speech else "lower is better"
    sign = "plus" if speech else "minus"
    parts = [
        f"# Comparison of densities: {name}\n",
        f"{_budget(rows)} Batches of {job['batch_size']} sequences, {job['hidden_size']} hidden units, "
        f"{seeds} seed{'s' if seeds > 1 else ''}. `{about['command']}`; "
        f"{found['hardware']}; {duration(about['wall_clock_s'])}.\n",
        f"Unit: {found['unit']}; {better}. Protocol: {corpus['protocol']}.\n",
        f"The ± of a mean is the standard deviation over seeds. {_intervals(found)} {sign.capitalize()} means better than the "
        "model in the head of the column.\n",
        f"{_converged(rows)}\n",
        _table(found, speech),
    ]
    if speech:
        least = min((row["ceiling"] for row in rows if row["ceiling"] is not None), default=math.inf)
        parts.append(
            f"Ceilings: the precision of diagonal Gaussians is clamped, so no model with one exceeds {least:.0f} nats per "
            f"frame. Above {found['quantization_limit']:.0f} nats per frame, a density separates 16-bit levels and does not "
            "model speech.\n"
        )
        parts.append(
            "![Waveforms and spectrograms of the corpus and of samples](samples.png)\n\n"
            "Samples at temperature 1: [RMDN](rmdn.wav), [FRMDN](frmdn.wav).\n"
        )
    else:
        parts.append("![Rows: test images, then samples of each model](samples.png)\n")
        order = ", ".join(dict.fromkeys(row["job"]["name"] for row in rows))
        parts.append(f"Rows: test images, then samples at temperature 1 of {order}.\n")
    return "\n".join([*parts, *([PUBLISHED] if speech else [])])


def _budget(rows: Results) -> str:
    """Return sentences on the length of the trainings, and on their learning rates."""
    job, rates = rows[0]["job"], {row["job"]["name"]: row["job"]["learning_rate"] for row in rows}
    same = len(set(rates.values())) == 1
    chosen = f"Learning rate {job['learning_rate']:g}." if same else (
        "Learning rates, chosen on held-out data: " + ", ".join(f"{name} {rate:g}" for name, rate in rates.items()) + "."
    )  # fmt: skip
    if job["patience"] is None:
        return f"The same budget for every model: {job['num_updates']:,} updates. {chosen}"
    patience = job["patience"] * job["eval_every"]
    return (
        f"Every model trains until its held-out loss has not improved for {patience:,} updates, and for at most "
        f"{job['num_updates']:,}. {chosen}"
    )


def _intervals(found: dict[str, Any]) -> str:
    """Return the explanation of the intervals of differences."""
    labels, of = found["clusters"]["labels"], found["clusters"]["of"]
    seeds = len({row["job"]["seed"] for row in found["trainings"]})
    if seeds < 2 or len(set(labels)) < 2:
        return f"Differences have no interval: the test part has {len(set(labels))} {of}, and there are {seeds} seeds."
    assumption = ", which are assumed to be independent" if of == "images" else ", whose sequences are not independent"
    return (
        "Differences are paired by sequence of the test part and by seed (the same batches). Their 95 % intervals "
        f"generalize to other trainings and other {of}: the variance over {seeds} seeds plus that over "
        f"{len(set(labels))} {of}{assumption}; each with a quantile of Student's t "
        "(`agents/analysis/statistics.py`). No correction is made for the number of comparisons."
    )


def _converged(rows: Results) -> str:
    """Return a sentence on convergence: whether another budget could change the order."""
    patience = rows[0]["job"]["patience"]
    if patience is not None:
        late = sum(row["best_update"] > row["job"]["num_updates"] - patience * row["job"]["eval_every"] for row in rows)
        return f"{len(rows) - late} of {len(rows)} trainings stopped by themselves."
    late = sum(row["best_update"] > row["job"]["num_updates"] - row["job"]["eval_every"] for row in rows)
    return (
        f"In {late} of {len(rows)} trainings one of the last two validations is the best. These have not converged: the table "
        "compares models at this budget, not at convergence."
    )


def _table(found: dict[str, Any], speech: bool) -> str:
    """Return the table of all models."""
    rows: Results = found["trainings"]
    unit, digits = ("nats per sequence", 1) if speech else ("bits per dimension", 4)
    frame = " nats per frame |" if speech else ""
    names = list(dict.fromkeys(row["job"]["name"] for row in rows))
    references = [name for name in REFERENCES if name in names]
    columns = "".join(f" difference to {name} |" for name in references)
    lines = [
        f"| Model | Parameters | {unit} |{columns}{frame} best update | median seconds |",
        f"|---|---|---|{'---|' * len(references)}{'---|' if speech else ''}---|---|",
    ]
    for name in names:
        mine = [row for row in rows if row["job"]["name"] == name]
        diverged = sum(row["status"] != "trained" for row in mine)
        for number, measure in enumerate(mine[0]["measures"]):
            means = [row["measures"][number]["mean"] for row in mine]
            what = "" if "exact" in measure["what"] else ": bound" if number == 0 else ": importance-weighted bound"
            cells = [
                name + what + (f" ({diverged} diverged)" if diverged else ""),
                f"{mine[0]['parameters']:,}",
                f"{np.mean(means):.{digits}f}" + (f" ± {np.std(means, ddof=1):.{digits}f}" if len(means) > 1 else ""),
            ]
            cells += [
                "" if name == other else compared(found, name, number, other).text(digits) for other in references
            ]
            cells += [f"{np.mean([row['measures'][number]['frame'] for row in mine]):.2f}"] if speech else []
            cells += [
                f"{np.mean([row['best_update'] for row in mine]):.0f}",
                f"{statistics.median(row['seconds'] for row in mine):.0f}",  # the machine also ran other work
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"\nn = {len(rows[0]['measures'][0]['values'])} sequences of the test part.\n")
    return "\n".join(lines)


def _corpus(job: dict[str, Any]) -> Corpus:
    """Open the corpus of a training."""
    known = {name: job[name] for name in DensityConfig.__dataclass_fields__ if name in job}
    return open_corpus(job["data"], **DensityConfig(**known).corpus_options)


def _samples(out: Path, rows: Results, folders: dict[str, Path], described: dict[str, Any]) -> None:
    """Write a picture with test data and samples of the first training of each model; for speech also two sounds."""
    names = [name for name in dict.fromkeys(row["job"]["name"] for row in rows) if name in folders]
    corpus = _corpus(rows[0]["job"])
    if described["kind"] == "image":
        true = next(iter(corpus.test.batches(12))).event
        lines = [coloured(corpus.to_data(true).numpy())]
        lines += [coloured(_sample_images(folders[name], corpus)) for name in names]
        video.write_png(out / "samples.png", pictures.png(pictures.grid(lines)))
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


def _sample_images(folder: Path, corpus: Any) -> np.ndarray:
    """Return 12 sampled images of a model, as bytes."""
    import torch

    from worldmodel.agents.density import load_density

    model, _ = load_density(folder)
    length = corpus.dimensions // corpus.event_dim
    return corpus.to_data(model.sample(length, 12, generator=torch.Generator().manual_seed(1))).numpy()


def _spectrograms(sounds: dict[str, np.ndarray], rate: int) -> bytes:
    """Return a PNG with the waveform and the spectrogram of half a second of each sound."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 1.1 * len(sounds)), layout="constrained")
    for (left, right), (name, sound) in zip(figure.subplots(len(sounds), 2), sounds.items(), strict=True):
        sound = sound[: rate // 2]
        left.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4)
        left.set_ylabel(name, rotation=0, ha="right", fontsize=8)
        right.specgram(sound + 1e-8, NFFT=256, noverlap=192, Fs=rate, vmin=-140, vmax=-40)
        for axes in (left, right):
            axes.tick_params(labelsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    picture = Image.open(buffer).convert("RGB").quantize(64)  # a palette quarters the file size
    picture.save(small := io.BytesIO(), format="PNG", optimize=True)
    return small.getvalue()
