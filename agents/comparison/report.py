"""A comparison of memories as a page: tables and plots, all from ``results.json``.

Start reading at `write_comparison`; `write_page` writes the page again from what is kept.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from agents import plots, video
from agents.comparison.metrics import HORIZONS, TEMPERATURES
from agents.comparison.statistics import Interval, interval
from agents.comparison.train import ABLATIONS, DETAILED_VARIANTS, REFERENCE
from agents.evaluation import hardware
from worldmodel import migration
from worldmodel.calibration import LEVELS
from worldmodel.formatting import format_number
from worldmodel.io import atomic, error_context, read_json, write_json

Results = list[dict[str, Any]]
WORDS = {"mean": "posterior means", "sample": "draws from the posterior"}


def write_comparison(out: Path, env: str, command: str, seconds: float) -> Path:
    """Keep the facts of a comparison, and write ``README.md`` and its plots into its folder; returns the page's path."""
    about = out / "about.json"
    with error_context(about):
        before = float(read_json(about)["seconds"]) if about.exists() else 0.0
    facts: dict[str, Any] = {
        "env": env,
        "command": command,
        "seconds": round(before + seconds, 1),
        "hardware": hardware(),
    }
    write_json(about, facts)
    return write_page(out)


def write_page(out: Path) -> Path:
    """Write ``README.md`` and its plots from ``results.json`` and ``about.json``; returns the page's path.

    Raises:
        ValueError: not all results are of the same episodes.
    """
    results: Results = [migration.comparison_result(row) for row in read_json(out / "results.json")]
    validate_pairs(results)
    facts = read_json(out / "about.json")
    jobs = [row["job"] for row in results]
    targets = list(dict.fromkeys(job["latent_targets"] for job in jobs))
    seeds = len({job["seed"] for job in jobs})
    names = list(dict.fromkeys(job["name"] for job in jobs))
    models, ablations = [n for n in names if n not in ABLATIONS], [n for n in names if n in ABLATIONS]
    parts = [
        f"# Memories of {facts['env']}, compared\n",
        f"{len(results[0]['episodes'])} held-out episodes; {seeds} trainings of each variant with {jobs[0]['num_updates']:,} "
        f"updates of {jobs[0]['batch_size']} x {jobs[0]['seq_len']} steps. `{facts['command']}`; {facts['hardware']}; "
        f"{facts['seconds'] / 60:.0f} min. All figures are in `results.json`.\n",
        "NLL is -log p(next latent) in nats a frame: lower is better, and it may be negative. The spread is the standard "
        f"deviation over seeds. {_intervals(names, seeds)}\n",
    ]
    for kind in targets:
        rows = [row for row in results if row["job"]["latent_targets"] == kind]
        floor = float(np.mean(rows[0]["floor"]))
        parts += [f"## Likelihood of {WORDS[kind]}\n"]
        if kind == "sample":
            parts += [
                f"The floor, the posterior's mean entropy, is {format_number(floor, 2)} nats a frame: no "
                f"model's expected NLL is "
                "below it, and how near to it one can come is not known.\n"
            ]
        parts += [_table(rows, models), _plot(out, rows, models, kind, floor)]
        if ablations:
            parts += ["### Ablations\n", _table(rows, ablations)]
        parts += _verdict(rows, kind)
    parts += _calibration(out, results, targets)
    parts += _dreams(out, results, targets)
    with atomic(out / "README.md") as aside:
        aside.write_text("\n".join(parts), encoding="utf-8")
    return out / "README.md"


def _of(rows: Results, name: str) -> Results:
    return [row for row in rows if row["job"]["name"] == name]


def episodes(rows: Results, name: str) -> np.ndarray:
    """NLL of each held-out episode, averaged over seeds."""
    return np.mean([row["nll"] for row in _of(rows, name)], axis=0)


def validate_pairs(rows: Results) -> None:
    """Refuse results that cannot be paired by episode.

    Raises:
        ValueError: they were judged on different episodes, or on episodes of different data.
    """
    judged = [(row["job"].get("data"), row["episodes"]) for row in rows]
    if other := next((one for one in judged if one != judged[0]), None):
        raise ValueError(
            f"results must be of the same episodes, got episodes {judged[0][1]} of {judged[0][0]} and {other[1]} of {other[0]}"
        )


def difference(rows: Results, name: str, reference: str = REFERENCE) -> Interval:
    """NLL against the reference's, paired by held-out episode and by seed; rows are of one kind of targets.

    Raises:
        ValueError: not all of them are of the same episodes.
    """
    validate_pairs(rows)
    nll = [{row["job"]["seed"]: row["nll"] for row in _of(rows, model)} for model in (name, reference)]
    return interval(np.array([np.subtract(nll[0][seed], nll[1][seed]) for seed in nll[0] if seed in nll[1]]))


def _intervals(names: list[str], seeds: int) -> str:
    """What the differences' intervals are."""
    if REFERENCE not in names or len(names) == 1:
        return ""
    paired = f"Differences to the {REFERENCE} are paired by episode and by seed (the same batches); minus means better."
    if seeds < 2:
        return f"{paired} One training of each variant does not tell how sure they are."
    return (
        f"{paired} Their 95 % intervals are for other trainings and other episodes, of the same policy and the same VAE: the "
        f"variance over {seeds} seeds plus that over episodes, with Student's t (`agents/comparison/statistics.py`). "
        f"{len(names) - 1} variants are compared with the {REFERENCE} without a correction for their number: of those that do "
        "not differ from it, one in twenty will seem to."
    )


def terminations(rows: Results) -> tuple[int, int]:
    """How many held-out steps ended an episode, and how many there are: what the Brier scores rest on."""
    bins = rows[0]["termination_reliability"]
    return round(sum(share * count for _, share, count in bins)), sum(count for _, _, count in bins)


def _table(rows: Results, names: list[str]) -> str:
    lines = [
        "| Variant | Parameters | NLL, nats a frame | a dimension | spread | difference | reward RMSE | Brier | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = _of(rows, name)
        means = [float(np.mean(row["nll"])) for row in mine]
        wrong = [row["status"] for row in mine if row["status"] not in ("trained", "untrained")]
        change = ""
        if name != REFERENCE and _of(rows, REFERENCE):
            change = difference(rows, name).text()
        cells = [
            name + (f" ({len(wrong)} diverged)" if wrong else ""),
            f"{mine[0]['parameters']:,}",
            format_number(float(np.mean(means)), 2),
            format_number(float(np.mean(means)) / mine[0]["latent"], 3),
            format_number(float(np.std(means, ddof=1)) if len(means) > 1 else 0, 2),
            change,
            format_number(float(np.mean([row["reward_rmse"] for row in mine])), 3),
            f"{np.mean([row['termination_brier'] for row in mine]):.5f}",
            f"{np.mean([row['seconds'] for row in mine]):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    lines.append(
        f"\nRewards have a standard deviation of {first['reward_std']:.3f}; always predicting the rate of terminations has a "
        f"Brier score of {first['termination_base_brier']:.5f}, with {terminations(rows)[0]:,} terminations in the "
        f"{terminations(rows)[1]:,} held-out steps.\n"
    )
    return "\n".join(lines)


def _plot(out: Path, rows: Results, names: list[str], kind: str, floor: float) -> str:
    values = {name: [float(np.mean(row["nll"])) for row in _of(rows, name)] for name in names}
    lines = {"posterior entropy: the floor": floor} if kind == "sample" else {}
    video.write_png(out / f"nll-{kind}.png", plots.dots(values, "NLL (nats a frame)", lines))
    return f"![Every training's NLL](nll-{kind}.png)\n"


def _verdict(rows: Results, kind: str) -> list[str]:
    """What helped and what did not, from the intervals alone."""
    names = [name for name in dict.fromkeys(row["job"]["name"] for row in rows) if name != REFERENCE]
    if not _of(rows, REFERENCE):
        return []
    better, same, worse = list[str](), list[str](), list[str]()
    for name in names:
        {-1: better, 0: same, 1: worse}[difference(rows, name).sign].append(name)
    return [
        f"Significantly better than the {REFERENCE} on {WORDS[kind]}: {'; '.join(better) or 'none'}. "
        f"**What did not help**: no significant difference: {'; '.join(same) or 'none'}; significantly worse: "
        f"{'; '.join(worse) or 'none'}.\n"
    ]


def _calibration(out: Path, results: Results, targets: list[str]) -> list[str]:
    parts = [
        "## Calibration\n",
        "One-step predictions at held-out steps. Error: the mean distance of the probability integral transform from uniform, "
        "of the latent's dimensions and of 32 random directions (0 is calibrated). The energy score judges the whole "
        "distribution; lower is better.\n",
        "| Targets | Variant | marginals | directions | energy score |\n|---|---|---|---|---|",
    ]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for kind in targets:
        rows = [row for row in results if row["job"]["latent_targets"] == kind and "calibration" in row]
        for name in DETAILED_VARIANTS:
            mine = [row["calibration"] for row in _of(rows, name)]
            if mine:
                numbers = (np.mean([row[key] for row in mine]) for key in ("marginals", "projections", "energy_score"))
                marginals, directions, score = numbers
                parts.append(f"| {kind} | {name} | {marginals:.4f} | {directions:.4f} | {score:.4f} |")
                curves[f"{name}, {kind}"] = (LEVELS.tolist(), list(np.mean([row["coverage"] for row in mine], axis=0)))
    chosen = {
        name: curve
        for name, curve in curves.items()
        if name.split(", ")[0] in ("RMDN", "FRMDN") and name.count(",") == 1
    }
    chosen["calibrated"] = (LEVELS.tolist(), LEVELS.tolist())
    video.write_png(out / "calibration.png", plots.curves(chosen, "probability", "share of events below"))
    return [*parts, "\n![Shares of events below the predicted quantiles](calibration.png)\n"]


def _dreams(out: Path, results: Results, targets: list[str]) -> list[str]:
    parts = [
        "## Dreams beside reality\n",
        "From held-out moments, under the real actions. Root mean squared error of a latent's dimension after so many steps: "
        "of a dream, of the best of 16, and of their mean; their spread; and the energy distance between dreamed and real "
        "latents. Persistence: the error of the first latent. Pixels: mean absolute error of a decoded dream, of 255. "
        "Dreams share their beginnings with what really followed, so that perfect ones have an energy distance below zero: it "
        "compares variants, and says nothing by itself. Reality is the mean of q(z|x), models of samples dream with its noise: "
        "do not compare the two kinds of targets here.\n",
        "| Targets | Variant | temperature | steps | a dream | best of 16 | mean of 16 | spread | energy distance | pixels "
        "| persistence | n |\n|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    keys = ("mean", "best", "of_mean", "spread", "energy_distance", "pixels", "persistence")
    dreamed = [row for row in results if row.get("dreams", {}).get("starts")]
    for kind, name, temperature, horizon in itertools.product(targets, DETAILED_VARIANTS, TEMPERATURES, HORIZONS):
        rows = [row["dreams"][str(temperature)] for row in _of(dreamed, name) if row["job"]["latent_targets"] == kind]
        found = [row[str(horizon)] for row in rows if str(horizon) in row]
        if not found:
            continue
        means = {key: float(np.mean([row[key] for row in found])) for key in keys}
        cells = [kind, name, str(temperature), str(horizon), *(f"{means[key]:.3f}" for key in keys), str(found[0]["n"])]
        parts.append(f"| {' | '.join(cells)} |")
        if temperature == 1.0 and kind == targets[-1]:
            for label, key in ((name, "of_mean"), ("persistence", "persistence")):
                x, y = curves.setdefault(label, ([], []))
                if horizon not in x:
                    x.append(horizon)
                    y.append(means[key])
    if not curves:
        return []
    picture = plots.curves(curves, "steps dreamed", "error of the mean of 16 dreams")
    video.write_png(out / "dreams.png", picture)
    return [*parts, "\n![Errors of the mean of 16 dreams at temperature 1](dreams.png)\n"]
