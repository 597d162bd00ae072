"""Page of a comparison of memories: tables and plots from ``results.json``.

Start reading at `write_comparison`; `write_page` writes the page again from the saved results.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.analysis import plots, video
from worldmodel.agents.analysis.metrics import HORIZONS, TEMPERATURES
from worldmodel.agents.analysis.statistics import Interval, interval
from worldmodel.agents.comparison.train import ABLATIONS, DETAILED_VARIANTS, REFERENCE
from worldmodel.agents.evaluation import hardware
from worldmodel.calibration import LEVELS
from worldmodel.io import migration
from worldmodel.io.files import atomic, error_context, read_json, write_json
from worldmodel.messages import format_number

Results = list[dict[str, Any]]
TARGET_NAMES = {"mean": "posterior means", "sample": "posterior samples"}


def write_comparison(out: Path, env: str, command: str, seconds: float) -> Path:
    """Save facts about a comparison, and write ``README.md`` and its plots.

    Args:
        out: Path of the folder with ``results.json``.
        env: Name of the environment.
        command: Command of the comparison.
        seconds: Duration of this call, in seconds; the page has the sum over all calls.

    Returns:
        Path of the page.
    """
    about = out / "about.json"
    with error_context(about):
        previous = float(read_json(about)["seconds"]) if about.exists() else 0.0
    facts: dict[str, Any] = {
        "env": env,
        "command": command,
        "seconds": round(previous + seconds, 1),
        "hardware": hardware(),
    }
    write_json(about, facts)
    return write_page(out)


def write_page(out: Path) -> Path:
    """Write ``README.md`` and its plots from ``results.json`` and ``about.json``.

    Args:
        out: Path of the folder.

    Returns:
        Path of the page.

    Raises:
        ValueError: The results are of different episodes.
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
        f"# Comparison of memories of {facts['env']}\n",
        f"{len(results[0]['episodes'])} held-out episodes; {seeds} trainings of each variant with {jobs[0]['num_updates']:,} "
        f"updates of {jobs[0]['batch_size']} x {jobs[0]['seq_len']} steps. `{facts['command']}`; {facts['hardware']}; "
        f"{facts['seconds'] / 60:.0f} min. All figures are in `results.json`.\n",
        "NLL is -log p(next latent) in nats per frame. Lower is better, and it can be negative. The column std is the standard "
        f"deviation over seeds. {_interval_note(names, seeds)}\n",
    ]
    for kind in targets:
        rows = [row for row in results if row["job"]["latent_targets"] == kind]
        floor = float(np.mean(rows[0]["floor"]))
        parts += [f"## Likelihood of {TARGET_NAMES[kind]}\n"]
        if kind == "sample":
            parts += [
                f"The floor is the mean entropy of the posterior, {format_number(floor, 2)} nats per frame. No expected NLL is "
                "below it; the lowest possible one is not known.\n"
            ]
        parts += [_table(rows, models), _plot(out, rows, models, kind, floor)]
        if ablations:
            parts += ["### Ablations\n", _table(rows, ablations)]
        parts += _conclusion(rows, kind)
    parts += _calibration(out, results, targets)
    parts += _dreams(out, results, targets)
    with atomic(out / "README.md") as aside:
        aside.write_text("\n".join(parts), encoding="utf-8")
    return out / "README.md"


def _of(rows: Results, name: str) -> Results:
    return [row for row in rows if row["job"]["name"] == name]


def episodes(rows: Results, name: str) -> np.ndarray:
    """Return the NLL of each held-out episode, averaged over seeds."""
    return np.mean([row["nll"] for row in _of(rows, name)], axis=0)


def validate_pairs(rows: Results) -> None:
    """Raise an error if results cannot be paired by episode.

    Raises:
        ValueError: The results are of different episodes or of different data.
    """
    tested = [(row["job"].get("data"), row["episodes"]) for row in rows]
    if other := next((one for one in tested if one != tested[0]), None):
        raise ValueError(
            f"results must be of the same episodes, got episodes {tested[0][1]} of {tested[0][0]} and {other[1]} of {other[0]}"
        )


def difference(rows: Results, name: str, reference: str = REFERENCE) -> Interval:
    """Return the difference in NLL to the reference, paired by held-out episode and by seed.

    Args:
        rows: Results with one kind of targets.
        name: Name of the variant.
        reference: Name of the variant that it is compared with.

    Raises:
        ValueError: The results are of different episodes, or the variants have no common seed.
    """
    validate_pairs(rows)
    nll = [{row["job"]["seed"]: row["nll"] for row in _of(rows, model)} for model in (name, reference)]
    if not nll[0].keys() & nll[1].keys():
        raise ValueError(f"{name} and {reference} must have a common seed, got {list(nll[0])} and {list(nll[1])}")
    return interval(np.array([np.subtract(nll[0][seed], nll[1][seed]) for seed in nll[0] if seed in nll[1]]))


def _interval_note(names: list[str], seeds: int) -> str:
    """Return the explanation of the intervals of the differences."""
    if REFERENCE not in names or len(names) == 1:
        return ""
    paired = f"Differences to the {REFERENCE} are paired by episode and by seed (the same batches). Negative is better."
    if seeds < 2:
        return f"{paired} One training of each variant gives no interval."
    return (
        f"{paired} The 95 % intervals generalize to other trainings and other episodes of the same policy and VAE: they add "
        f"the variance over {seeds} seeds and that over episodes, each with Student's t (`agents/analysis/statistics.py`). "
        f"{len(names) - 1} comparisons with the {REFERENCE} are not corrected for their number: about one in twenty variants "
        "without a real difference appears significant."
    )


def terminations(rows: Results) -> tuple[int, int]:
    """Return the number of terminations among the held-out steps, and the number of these steps."""
    bins = rows[0]["termination_reliability"]
    return round(sum(frequency * count for _, frequency, count in bins)), sum(count for _, _, count in bins)


def _table(rows: Results, names: list[str]) -> str:
    lines = [
        "| Variant | Parameters | NLL (nats/frame) | NLL (nats/dim) | std | difference | reward RMSE | Brier | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        own = _of(rows, name)
        means = [float(np.mean(row["nll"])) for row in own]
        diverged = [row["status"] for row in own if row["status"] not in ("trained", "untrained")]
        change = ""
        if name != REFERENCE and _of(rows, REFERENCE):
            change = difference(rows, name).text()
        cells = [
            name + (f" ({len(diverged)} diverged)" if diverged else ""),
            f"{own[0]['parameters']:,}",
            format_number(float(np.mean(means)), 2),
            format_number(float(np.mean(means)) / own[0]["latent"], 3),
            format_number(float(np.std(means, ddof=1)), 2) if len(means) > 1 else "",
            change,
            format_number(float(np.mean([row["reward_rmse"] for row in own])), 3),
            f"{np.mean([row['termination_brier'] for row in own]):.5f}",
            f"{np.mean([row['seconds'] for row in own]):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    lines.append(
        f"\nThe standard deviation of the rewards is {first['reward_std']:.3f}. Predicting the constant rate of terminations "
        f"has a Brier score of {first['termination_base_brier']:.5f}: {terminations(rows)[0]:,} of the "
        f"{terminations(rows)[1]:,} held-out steps are terminations.\n"
    )
    return "\n".join(lines)


def _plot(out: Path, rows: Results, names: list[str], kind: str, floor: float) -> str:
    values = {name: [float(np.mean(row["nll"])) for row in _of(rows, name)] for name in names}
    lines = {"floor (posterior entropy)": floor} if kind == "sample" else {}
    video.write_png(out / f"nll-{kind}.png", plots.dots(values, "NLL (nats per frame)", lines))
    return f"![NLL of each training](nll-{kind}.png)\n"


def _conclusion(rows: Results, kind: str) -> list[str]:
    """Name the variants that are better, not different and worse, by the intervals alone."""
    names = [name for name in dict.fromkeys(row["job"]["name"] for row in rows) if name != REFERENCE]
    if not _of(rows, REFERENCE):
        return []
    better, same, worse, untested = list[str](), list[str](), list[str](), list[str]()
    for name in names:
        change = difference(rows, name)
        (untested if math.isnan(change.half) else {-1: better, 0: same, 1: worse}[change.sign]).append(name)
    if untested and not (better or same or worse):
        return [f"Differences to the {REFERENCE} on {TARGET_NAMES[kind]} are not tested (one training).\n"]
    return [
        f"Significantly better than the {REFERENCE} on {TARGET_NAMES[kind]}: {'; '.join(better) or 'none'}. "
        f"**No significant difference**: {'; '.join(same) or 'none'}. **Significantly worse**: "
        f"{'; '.join(worse) or 'none'}.{' Not tested (one training): ' + '; '.join(untested) + '.' if untested else ''}\n"
    ]


def _calibration(out: Path, results: Results, targets: list[str]) -> list[str]:
    parts = [
        "## Calibration\n",
        "One-step predictions at held-out steps. The columns marginals and directions are the mean distance of the probability "
        "integral transform from uniform, for the latent's dimensions and for 32 random directions; 0 is calibrated. The "
        "energy score measures the joint distribution; lower is better.\n",
        "| Targets | Variant | marginals | directions | energy score |\n|---|---|---|---|---|",
    ]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for kind in targets:
        rows = [row for row in results if row["job"]["latent_targets"] == kind and "calibration" in row]
        for name in DETAILED_VARIANTS:
            own = [row["calibration"] for row in _of(rows, name)]
            if own:
                numbers = (np.mean([row[key] for row in own]) for key in ("marginals", "projections", "energy_score"))
                marginals, directions, score = numbers
                parts.append(f"| {kind} | {name} | {marginals:.4f} | {directions:.4f} | {score:.4f} |")
                curves[f"{name}, {kind}"] = (LEVELS.tolist(), list(np.mean([row["coverage"] for row in own], axis=0)))
    chosen = {
        name: curve
        for name, curve in curves.items()
        if name.split(", ")[0] in ("RMDN", "FRMDN") and name.count(",") == 1
    }
    chosen["calibrated"] = (LEVELS.tolist(), LEVELS.tolist())
    video.write_png(out / "calibration.png", plots.curves(chosen, "probability", "fraction of events below"))
    return [*parts, "\n![Fraction of events below the predicted quantiles](calibration.png)\n"]


def _dreams(out: Path, results: Results, targets: list[str]) -> list[str]:
    parts = [
        "## Dreams against real episodes\n",
        "Dreams start in held-out states and use the real actions. The columns are the root mean squared error of a latent "
        "dimension after the number of steps, for one dream, for the best of 16 and for the mean of 16; the standard deviation "
        "of the 16; and the energy distance between dreamed and real latents. Pixels is the mean absolute error of a decoded "
        "dream, from 0 to 255. Persistence is the error of the initial latent. Dreams and real episodes share their start "
        "states, so perfect dreams have an energy distance below zero: use it only to compare variants. The real latents are "
        "means of q(z|x), and models of samples add its noise: do not compare the two kinds of targets here.\n",
        "| Targets | Variant | temperature | steps | one dream | best of 16 | mean of 16 | std | energy distance | pixels "
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
    plot = plots.curves(curves, "dreamed steps", "error of the mean of 16 dreams")
    video.write_png(out / "dreams.png", plot)
    return [*parts, "\n![Errors of the mean of 16 dreams at temperature 1](dreams.png)\n"]
