"""Keep the scores of finished runs in ``docs/results`` and write README's table from them.

(time make demo) 2>&1 | tee /dev/stderr | grep real > runs/car-racing-quick/make-demo.txt
python -m benchmarks.results runs/car-racing-quick runs/mario-quick
"""

import json
import shutil
import sys
from pathlib import Path

from agents.display import duration
from agents.evaluation import Report
from agents.run import Run
from worldmodel.checkpoints import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "checked by tests/test_readme.py -->\n", "<!-- end of results -->"
NAMES = {"random": "random actions", "dream": "evolved in dreams", "game": "evolved in the game"}


def keep(folder: Path) -> None:
    """Copy a finished run's tests and timings."""
    run = Run(folder)
    reports = run.reports()
    for name, report in reports.items():
        if name in NAMES:
            report.save(RESULTS / folder.name / f"{name}.json")
    write_json(RESULTS / folder.name / "timings.json", run.timings())
    clock = folder / "make-demo.txt"
    if clock.exists():
        shutil.copy(clock, RESULTS / folder.name / clock.name)


def table() -> str:
    """README's table, from the files in ``docs/results``."""
    lines = ["| Game | Controller | Mean | Standard deviation | Standard error | n |", "|---|---|---|---|---|---|"]
    notes = []
    for folder in sorted(RESULTS.iterdir()):
        if not folder.is_dir():
            continue
        for name, words in NAMES.items():
            if (folder / f"{name}.json").exists():
                report = Report.load(folder / f"{name}.json")
                numbers = f"{report.mean:.0f} | {report.std:.0f} | {report.stderr:.0f} | {report.n}"
                lines.append(f"| {report.env} | {words} | {numbers} |")
        seconds = sum(json.loads((folder / "timings.json").read_text(encoding="utf-8")).values())
        options = ", ".join(f"{key} {value}" for key, value in report.env_options.items())
        clock = folder / "make-demo.txt"
        whole = f" (`make demo`: {clock.read_text().split()[-1]})" if clock.exists() else ""
        notes.append(
            f"- {report.env} with {options}: {duration(seconds)}{whole}; seeds {report.seeds[0]} to {report.seeds[-1]}; "
            f"{report.hardware}."
        )
    return "\n".join([*lines, "", *notes, ""])


def write() -> None:
    """Put the table into README."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        keep(Path(argument))
    write()
