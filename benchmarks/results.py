"""Save the scores of finished runs in ``docs/results``, and write the tables of README and docs/frmdn.md from them.

(time make demo) 2>&1 | tee /dev/stderr | grep ^real > runs/car-racing-quick/make-demo.txt
python -m benchmarks.results runs/car-racing-quick runs/car-racing-quick-seed-2 runs/mario-quick

A run folder with the suffix -seed-N is the same preset with another seed: only its controller evolved in dreams is kept.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from worldmodel.agents.comparison.report import difference, episodes
from worldmodel.agents.comparison.train import REFERENCE, VARIANTS
from worldmodel.agents.evaluation import Report
from worldmodel.agents.pipeline.benchmark import NAMES
from worldmodel.agents.progress import duration
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
CHECKED = "checked by `python -m benchmarks.pages --check` -->\n"
BEGIN, END = "<!-- results: written by `python -m benchmarks.results`, " + CHECKED, "<!-- end of results -->"
MEMORIES, MEMORIES_END = CHECKED, "<!-- end of memories -->"


def keep(folder: Path) -> None:
    """Copy the reports and timings of a finished run into ``docs/results``."""
    run = Run(folder)
    reports = run.reports()
    preset, suffix, seed = folder.name.partition("-seed-")
    if suffix:
        reports["dream"].save(RESULTS / preset / f"dream-seed-{seed}.json")
        return
    for name in NAMES:
        (RESULTS / folder.name / f"{name}.json").unlink(missing_ok=True)
        if name in reports:
            reports[name].save(RESULTS / folder.name / f"{name}.json")
    write_json(RESULTS / folder.name / "timings.json", run.timings())
    clock = folder / "make-demo.txt"
    if clock.exists():
        shutil.copy(clock, RESULTS / folder.name / clock.name)


def table() -> str:
    """Return the table of README from the files in ``docs/results``."""
    lines = ["| Game | Controller | Mean | Standard deviation | Standard error | n |", "|---|---|---|---|---|---|"]
    notes, conditions = [], dict[str, None]()
    for folder in sorted(RESULTS.iterdir()):
        if not (folder / "timings.json").exists():  # not the folder of a run
            continue
        for name, label in NAMES.items():
            if (folder / f"{name}.json").exists():
                report = Report.load(folder / f"{name}.json")
                numbers = f"{report.mean:.0f} | {report.std:.0f} | {report.stderr:.0f} | {report.n}"
                lines.append(f"| {report.env} | {label} | {numbers} |")
        each, others = "", sorted(folder.glob("dream-seed-*.json"))
        if others:
            means = [Report.load(path).mean for path in (folder / "dream.json", *others)]
            spread = float(np.std(means, ddof=1))
            numbers = f"{np.mean(means):.0f} | {spread:.0f} | {spread / len(means) ** 0.5:.0f} | {len(means)} runs"
            lines.append(f"| {report.env} | the same, training seeds 1 to {len(means)} | {numbers} |")
            each = f"; seeds: {', '.join(f'{mean:.0f}' for mean in means)}"
        seconds = sum(json.loads((folder / "timings.json").read_text(encoding="utf-8")).values())
        options = ", ".join(f"{key} {value}" for key, value in report.env_options.items())
        clock = folder / "make-demo.txt"
        whole = f"`make demo` {clock.read_text().split()[-1]}" if clock.exists() else duration(seconds)
        notes.append(f"- {report.env} ({options}): {whole}{each}.")
        conditions[f"Seeds {report.seeds[0]} to {report.seeds[-1]}; {report.hardware}."] = None
    return "\n".join([*lines, "", *notes, *(f"- {one}" for one in conditions), ""])


def memories() -> str:
    """Return the table of ``docs/frmdn.md`` from the comparisons in ``docs/results``: a row for each variant."""
    head, floors, rows = ["Variant"], ["floor"], dict[str, list[str]]()
    for folder in sorted(RESULTS.glob("memory-*")):
        results = [migration.comparison_result(row) for row in read_json(folder / "results.json")]
        env = json.loads((folder / "about.json").read_text(encoding="utf-8"))["env"]
        for latent_targets in ("mean", "sample"):
            trained = [row for row in results if row["job"]["latent_targets"] == latent_targets]
            head.append(f"{env}, {latent_targets}")
            floors.append(f"{np.mean(trained[0]['floor']):.2f}" if latent_targets == "sample" else "")
            rows.setdefault(REFERENCE, []).append(f"{episodes(trained, REFERENCE).mean():.2f}")
            for name in dict.fromkeys(row["job"]["name"] for row in trained):
                if name in VARIANTS and name != REFERENCE:
                    rows.setdefault(name, []).append(difference(trained, name).text())
    table = [head, ["---"] * len(head), floors, *([name, *cells] for name, cells in rows.items())]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in table), ""])


def put(path: Path, begin: str, table: str, end: str) -> None:
    """Write a table between two marks in a page."""
    path.write_text(replaced(path.read_text(encoding="utf-8"), begin, table, end, str(path)), encoding="utf-8")


def replaced(text: str, begin: str, table: str, end: str, page: str) -> str:
    """Return the text of a page with another table between two marks.

    Args:
        text: Text of the page.
        begin: Mark before the table.
        table: The new table.
        end: Mark after the table.
        page: Name of the page in messages.

    Raises:
        ValueError: The page lacks one of the marks.
    """
    before, mark, rest = text.partition(begin)
    _, other, after = rest.partition(end)
    if not (mark and other):
        raise ValueError(f"{page} must contain {begin.strip()!r} and then {end!r}")
    return before + begin + table + end + after


def write() -> None:
    """Write the tables into their pages."""
    put(ROOT / "README.md", BEGIN, table(), END)
    put(ROOT / "docs" / "frmdn.md", MEMORIES, memories(), MEMORIES_END)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        keep(Path(argument))
    write()
