"""Numbers of a comparison of densities, its page, and the table of docs/density.md.

Start reading at `keep`, which computes the numbers, and at `write_page`, which shows them beside samples of each model.
"""

import html
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.photographs import PHOTOGRAPHS_FILE
from worldmodel.agents.analysis import html as page
from worldmodel.agents.analysis import plots
from worldmodel.agents.analysis.statistics import Interval, interval
from worldmodel.agents.density import DensityConfig
from worldmodel.agents.density.report import samples
from worldmodel.agents.progress import duration
from worldmodel.agents.runs.run_folder import rows_of
from worldmodel.corpora import Corpus, open_corpus
from worldmodel.io.files import read_json, write_json

RESULTS = Path(__file__).parent.parent / "docs" / "results"
REFERENCES = ("RMDN", "FRMDN")
"""Models that all others are compared with."""
NAMES = ("fashion-mnist", "photographs", "prompts", "new-speaker")
"""Comparisons of the table of docs/density.md, in the order of its columns."""
MIN_SEEDS = 3
"""Number of trainings of a model from which on docs/density.md shows it."""
BEGIN = "<!-- densities: written by `python -m benchmarks.pages`, checked by `python -m benchmarks.pages --check` -->\n"
END = "<!-- end of densities -->"
LIU = "https://arxiv.org/abs/2111.11632, as quoted in the tutorial of ProbabilisticCircuits.jl"
CHUNG = "https://arxiv.org/abs/1506.02216, table 1: 2,000 (TIMIT) and 4,000 (Blizzard) LSTM units, until convergence"
PUBLISHED: dict[str, dict[str, tuple[str, str]]] = {
    "fashion-mnist": {
        "Bit-Swap, a hierarchical VAE (a bound)": ("3.28", LIU),
        "HCLT, a probabilistic circuit (exact)": ("3.34", LIU),
        "IDF, an integer discrete flow (exact)": ("3.47", LIU),
        "PixelVAE (a bound)": ("3.66", LIU),
    },
    "timit": {
        "RNN-Gauss": ("-1900", CHUNG),
        "RNN-GMM": ("26643", CHUNG),
        "VRNN-Gauss (a bound)": ("28805", CHUNG),
        "VRNN-GMM (a bound)": ("28982", CHUNG),
    },
    "blizzard": {
        "RNN-Gauss": ("3539", CHUNG),
        "RNN-GMM": ("7413", CHUNG),
        "VRNN-Gauss (a bound)": ("9223", CHUNG),
        "VRNN-GMM (a bound)": ("9107", CHUNG),
    },
}
"""Published values by comparison and model, in bits per dimension (images) or nats per sequence (speech), with their source.
Those of Fashion-MNIST are densities of the bytes themselves, without dequantization."""

Result = dict[str, Any]


class Sequences(NamedTuple):
    """The test sequences, in the order of evaluation.

    Args:
        of: Kind of group whose sequences depend on each other.
        groups: Name of the group of each sequence.
        frames: Number of frames of each sequence of speech; None for images.
    """

    of: str
    groups: list[str]
    frames: np.ndarray | None


def sequences_of(corpus: Corpus, folder: Path) -> Sequences:
    """Return the groups and lengths of the test sequences of the corpus in a folder."""
    if corpus.kind == "image":
        names, of = [str(number) for number in range(len(corpus.test))], "images"
        if (folder / PHOTOGRAPHS_FILE).exists():
            names = [name for name, count in read_json(folder / PHOTOGRAPHS_FILE)["test"] for _ in range(count)]
            of = "photographs"
        order = np.random.default_rng(0).permutation(len(names))  # of `worldmodel.corpora.images.Images.batches`
        return Sequences(of, [names[index] for index in order], None)
    recordings = corpus.test.recordings  # type: ignore[attr-defined]  # of `Recordings`
    files = corpus.test.file_indices
    speakers = len({one.group for one in recordings}) > 1 and corpus.name in ("timit", "accent", "prompts")
    groups = [recordings[file].group if speakers else recordings[file].name for file in files]
    segment = corpus.test.segmentation.segment_length  # type: ignore[attr-defined]
    lengths = [segment or recordings[file].num_used_samples for file in files]
    return Sequences("speakers" if speakers else "recordings", groups, np.array(lengths) // corpus.event_dim)


def difference(first: list[Result], second: list[Result], measure: int, sequences: Sequences) -> Interval:
    """Return the difference of a measure of one model to the first measure of another, paired by seed and sequence.

    For speech it is per frame, sum(d) / sum(n) for differences d and numbers n of frames: its variance is that of the residuals
    d - n sum(d) / sum(n) divided by the mean of n.
    """
    pairs = [(one, other) for one in first for other in second if one["job"]["seed"] == other["job"]["seed"]]
    values = np.array(
        [np.subtract(one["measures"][measure]["values"], other["measures"][0]["values"]) for one, other in pairs]
    )
    if sequences.frames is not None:
        ratio = values.sum(axis=1, keepdims=True) / sequences.frames.sum()
        values = ratio + (values - ratio * sequences.frames) / sequences.frames.mean()
    return interval(values, sequences.groups)


def corpus_of(job: Result) -> Corpus:
    """Open the corpus of a training's job."""
    known = {name: job[name] for name in DensityConfig.__dataclass_fields__ if name in job}
    return open_corpus(job["data"], **DensityConfig(**known).corpus_options)


def keep(path: Path, trainings: list[Result], command: str) -> None:
    """Write the means, differences and costs of all models, without the values of single sequences.

    Args:
        path: Path of the file, in ``docs/results``.
        trainings: Results of all trainings, in the order of the table.
        command: Command of the comparison.
    """
    job = trainings[0]["job"]
    sequences = sequences_of(corpus_of(job), Path(job["data"].partition(":")[2]))
    by_model: dict[str, list[Result]] = {}
    for training in trainings:
        by_model.setdefault(training["job"]["name"], []).append(training)
    budget = ("batch_size", "num_updates", "eval_every", "patience", "num_decays")
    write_json(
        path,
        {
            "command": command,
            **{name: trainings[0][name] for name in ("unit", "quantization_limit", "hardware", "corpus")},
            "budget": {name: job[name] for name in budget},
            "sequences": len(sequences.groups),
            "clusters": {"of": sequences.of, "number": len(set(sequences.groups))},
            "models": [_summary(name, rows, by_model, sequences) for name, rows in by_model.items()],
        },
    )


def _summary(name: str, rows: list[Result], by_model: dict[str, list[Result]], sequences: Sequences) -> Result:
    """Return the numbers of a model."""
    measures = []
    for index, measure in enumerate(rows[0]["measures"]):
        references = {other: by_model[other] for other in REFERENCES if other in by_model and other != name}
        pairs = {other: difference(rows, found, index, sequences) for other, found in references.items()}
        measures.append(
            {
                "what": measure["what"],
                "means": [row["measures"][index]["mean"] for row in rows],
                "per_frame": [row["measures"][index]["frame"] for row in rows],
                "differences": {
                    other: [found.mean, None if math.isnan(found.half) else found.half]
                    for other, found in pairs.items()
                },
            }
        )
    return {
        "name": name,
        "parameters": rows[0]["parameters"],
        "ceiling": rows[0]["ceiling"],
        "hidden_size": rows[0]["job"]["hidden_size"],
        "num_components": rows[0]["job"]["num_components"] or 1,
        "learning_rate": rows[0]["job"]["learning_rate"],
        "seeds": [row["job"]["seed"] for row in rows],
        "diverged": sum(row["status"] != "trained" for row in rows),
        "best_updates": [row["best_update"] for row in rows],
        "last_updates": [row["last_update"] for row in rows],
        "seconds": [round(row["seconds"]) for row in rows],
        "measures": measures,
    }


def write_page(name: str, folder: Path, out: Path) -> Path:
    """Write ``index.html`` with the numbers of ``docs/results``, learning curves, and samples of each model's first training.

    Args:
        name: Name of the comparison.
        folder: Path of the folder of its trainings; samples and curves are of those that are still there.
        out: Path of the folder of the page.
    """
    found = read_json(RESULTS / f"density-{name}.json")
    parts = [f"<p>{html.escape(text)}</p>" for text in _notes(found)]
    parts.append(_table(found))
    if rows := PUBLISHED.get(name, {}):
        cells = [[html.escape(model), value, html.escape(source)] for model, (value, source) in rows.items()]
        parts.append(f"<h2>Published, with other protocols</h2>{page.table(['Model', 'value', 'source'], cells)}")
    first = {
        config.parent.name.rpartition("-")[0]: config.parent
        for config in sorted(folder.glob("*/config.yaml"), reverse=True)
        if (config.parent / "result.json").exists()
    }
    if first:
        rows_by_model = {model: rows_of(run / "metrics.jsonl") for model, run in sorted(first.items())}
        series = {
            model: ([row["update"] for row in rows], [row["held_out"]["loss"] for row in rows])
            for model, rows in rows_by_model.items()
        }
        plot = page.image(plots.curves(series, "update", "nats per event"), "learning curves")
        parts.append(f"<h2>Held-out loss</h2>{plot}")
        corpus = corpus_of(read_json(next(iter(first.values())) / "result.json")["job"])
        for model, run in sorted(first.items()):
            parts.append(page.section(f"Samples of {model}", samples(run, out / model, corpus)))
    return page.write_page(out / "index.html", f"Densities of {name}", "".join(parts))


def _notes(found: Result) -> list[str]:
    """Return sentences on the trainings, the unit and the intervals."""
    budget, clusters, speech = found["budget"], found["clusters"], found["corpus"]["kind"] == "speech"
    seconds = sum(sum(model["seconds"]) for model in found["models"])
    late = sum(last >= budget["num_updates"] for model in found["models"] for last in model["last_updates"])
    trainings = sum(len(model["seeds"]) for model in found["models"])
    texts = [
        f"{found['command']}; {found['hardware']}; {duration(seconds)} of training in all.",
        f"Unit: {found['unit']}; {'higher' if speech else 'lower'} is better. Protocol: {found['corpus']['protocol']}.",
        f"Batches of {budget['batch_size']}, learning rates chosen on held-out data. When the held-out loss has not improved "
        f"for {(budget['patience'] or 0) * budget['eval_every']:,} updates, the learning rate is quartered, and after "
        f"{budget['num_decays']} times the training stops: {trainings - late} of {trainings} trainings; the others had "
        f"{budget['num_updates']:,} updates. Results are of the weights with the lowest held-out loss.",
        f"n = {found['sequences']:,} test sequences. ± of a mean: standard deviation over seeds. Differences are paired by "
        f"seed and sequence; their 95 % intervals generalize to other trainings and other {clusters['of']} "
        f"({clusters['number']:,}), without correction for the number of comparisons.",
    ]
    if speech:
        least = min(model["ceiling"] for model in found["models"] if model["ceiling"] is not None)
        texts.append(
            f"The clamp of precisions bounds an RMDN by {least:.0f} nats per frame. Above {found['quantization_limit']:.0f}, a "
            "density resolves 16-bit levels and does not model speech."
        )
    return texts


def _table(found: Result) -> str:
    """Return the HTML table of all models."""
    speech = found["corpus"]["kind"] == "speech"
    heads = ["Model", "units", "parameters", "rate", "nats per sequence" if speech else "bits per dimension"]
    heads += ["nats per frame"] if speech else []
    heads += [f"difference to {other}{' per frame' if speech else ''}" for other in REFERENCES]
    rows = []
    for model in found["models"]:
        for measure in model["measures"]:
            cells = [html.escape(_label(model, measure)), str(model["hidden_size"]), f"{model['parameters']:,}"]
            cells += [f"{model['learning_rate']:g}", spread(measure["means"], 1 if speech else 4)]
            cells += [spread(measure["per_frame"], 2)] if speech else []
            cells += [_difference(measure, other, 2 if speech else 4) for other in REFERENCES]
            cells += [f"{statistics.mean(model['best_updates']):,.0f}", f"{statistics.median(model['seconds']):,.0f}"]
            rows.append(cells)
    return page.table([*heads, "best update", "seconds"], rows)


def _difference(measure: Result, reference: str, digits: int) -> str:
    """Return the difference to another model with its interval, if there is one."""
    if reference not in measure["differences"]:
        return ""
    mean, half = measure["differences"][reference]
    return Interval(mean, math.nan if half is None else half).text(digits)


def _label(model: Result, measure: Result) -> str:
    """Return the name of a model with that of its bound, if it has one."""
    bound = (
        "" if "exact" in measure["what"] else ", bound" if "ELBO" in measure["what"] else ", importance-weighted bound"
    )
    diverged = f" ({model['diverged']} diverged)" if model["diverged"] else ""
    return f"{model['name']}{bound}{diverged}"


def spread(values: list[float], digits: int) -> str:
    """Return the mean of values with ± their standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def table() -> str:
    """Return the table of docs/density.md: the tightest measure of each model with `MIN_SEEDS` trainings; empty without any."""
    found = {name: read_json(path) for name in NAMES if (path := RESULTS / f"density-{name}.json").exists()}
    cells = {name: _cells(one) for name, one in found.items()}
    shown = [name for name in found if cells[name]]
    if not shown:
        return ""
    speech = {name: found[name]["corpus"]["kind"] == "speech" for name in shown}
    heads = [f"{name}, {'nats per frame' if speech[name] else 'bits per dimension'}" for name in shown]
    lines = [f"| Model | {' | '.join(heads)} |", "|---|" + "---|" * len(shown)]
    for model in dict.fromkeys(model for name in shown for model in cells[name]):
        lines.append(f"| {model} | {' | '.join(cells[name].get(model, '') for name in shown)} |")
    return "\n".join([*lines, ""])


def _cells(found: Result) -> dict[str, str]:
    """Return the last measure of each model, which is the tightest bound of one that has bounds."""
    speech, cells = found["corpus"]["kind"] == "speech", {}
    for model in found["models"]:
        measure = model["measures"][-1]
        sign = "" if "exact" in measure["what"] else "≥ " if speech else "≤ "
        if len(model["seeds"]) >= MIN_SEEDS:
            cells[model["name"]] = sign + (spread(measure["per_frame"], 2) if speech else spread(measure["means"], 3))
    return cells
