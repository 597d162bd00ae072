"""Cost of densities as the event grows: seconds of log_prob, its gradient and a sample, for low ranks and full matrices.

python -m benchmarks.scaling [--write]      --write keeps docs/results/scaling.json and docs/pictures/scaling.png
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agents.evaluation import hardware
from agents.video import write_png
from worldmodel.distributions import FullGaussianMixture, GaussianMixture

ROOT = Path(__file__).parent.parent
SIZES = (32, 100, 316, 1_000, 3_162, 10_000)
RANKS = (0, 4, 16)
BATCH, MIXTURES, LARGEST_FULL = 16, 5, 1_000


def seconds(work: Callable[[], Any], least: float = 0.3) -> float:
    """Seconds of one call, after one to warm up."""
    work()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < least:
        work()
        calls += 1
    return (time.perf_counter() - began) / calls


def measure(build: Callable[[], Any], size: int) -> dict[str, float]:
    """Seconds for a batch of 16 events with 5 components."""
    value = torch.randn(BATCH, size)

    def gradient() -> None:
        build().log_prob(value).sum().backward()

    with torch.no_grad():
        found = {"log_prob": seconds(lambda: build().log_prob(value)), "sample": seconds(lambda: build().sample())}
    return {**found, "gradient": seconds(gradient)}


def main() -> None:
    """Measure, print, and keep."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        shape = (BATCH, MIXTURES, size)
        logits, loc, log_precision = torch.zeros(BATCH, MIXTURES), torch.zeros(shape), torch.zeros(shape)
        leaves = [part.requires_grad_() for part in (logits, loc, log_precision)]
        for rank in RANKS:
            factor = (0.1 * torch.randn(*shape, rank)).requires_grad_() if rank else None
            found = measure(lambda p=leaves, f=factor: GaussianMixture(*p, f), size)
            rows.append({"size": size, "kind": f"rank {rank}", **found})
            print(rows[-1], flush=True)
        if size <= LARGEST_FULL:
            below = (0.01 * torch.randn(*shape[:-1], size * (size - 1) // 2)).requires_grad_()
            found = measure(lambda p=leaves, b=below: FullGaussianMixture(*p, b), size)
            rows.append({"size": size, "kind": "full", **found})
            print(rows[-1], flush=True)
    if "--write" in sys.argv:
        content = {"hardware": hardware(), "batch": BATCH, "mixtures": MIXTURES, "threads": 1, "rows": rows}
        path = ROOT / "docs" / "results" / "scaling.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_png(ROOT / "docs" / "pictures" / "scaling.png", plot(rows))


def plot(rows: list[dict[str, Any]]) -> bytes:
    """Three log-log plots side by side."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, what in zip(figure.subplots(1, 3, sharey=True), ("log_prob", "gradient", "sample"), strict=True):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            mine = [row for row in rows if row["kind"] == kind]
            axes.loglog([row["size"] for row in mine], [row[what] for row in mine], marker=".", label=kind)
        axes.set(title=what, xlabel="D")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds, batch of 16, K = 5")
    figure.axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
