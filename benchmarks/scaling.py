"""Measure the cost of mixtures against the event size: log_prob, gradient and sample, for low ranks and full matrices.

python -m benchmarks.scaling [--write]      --write saves docs/results/scaling.json and docs/pictures/scaling.png
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from worldmodel.agents.analysis.video import write_png
from worldmodel.agents.evaluation import hardware
from worldmodel.distributions import FullGaussianMixture, GaussianMixture

ROOT = Path(__file__).parent.parent
SIZES = (32, 100, 316, 1_000, 3_162, 10_000)
RANKS = (0, 4, 16)
BATCH_SIZE, NUM_COMPONENTS, MAX_FULL_SIZE = 16, 5, 1_000


def seconds(work: Callable[[], Any], min_seconds: float = 0.3) -> float:
    """Return the mean seconds of a call, after one warm-up call; calls repeat for at least ``min_seconds``."""
    work()
    start_time, calls = time.perf_counter(), 0
    while time.perf_counter() - start_time < min_seconds:
        work()
        calls += 1
    return (time.perf_counter() - start_time) / calls


def measure(build: Callable[[], Any], size: int) -> dict[str, float]:
    """Return the seconds of log_prob, sample and gradient for a batch of 16 events.

    Args:
        build: Function that builds the mixture.
        size: Number of dimensions of an event.
    """
    value = torch.randn(BATCH_SIZE, size)

    def gradient() -> None:
        build().log_prob(value).sum().backward()

    with torch.no_grad():
        found = {"log_prob": seconds(lambda: build().log_prob(value)), "sample": seconds(lambda: build().sample())}
    return {**found, "gradient": seconds(gradient)}


def main() -> None:
    """Measure and print all sizes; ``--write`` saves the results."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        shape = (BATCH_SIZE, NUM_COMPONENTS, size)
        logits, loc, log_precision = torch.zeros(BATCH_SIZE, NUM_COMPONENTS), torch.zeros(shape), torch.zeros(shape)
        leaves = [part.requires_grad_() for part in (logits, loc, log_precision)]
        for rank in RANKS:
            factor = (0.1 * torch.randn(*shape, rank)).requires_grad_() if rank else None
            found = measure(lambda p=leaves, f=factor: GaussianMixture(*p, f, validate_args=False), size)
            rows.append({"size": size, "kind": f"rank {rank}", **found})
            print(rows[-1], flush=True)
        if size <= MAX_FULL_SIZE:
            tril = (0.01 * torch.randn(*shape[:-1], size * (size - 1) // 2)).requires_grad_()
            found = measure(lambda p=leaves, t=tril: FullGaussianMixture(*p, t, validate_args=False), size)
            rows.append({"size": size, "kind": "full", **found})
            print(rows[-1], flush=True)
    if "--write" in sys.argv:
        content = {
            "hardware": hardware(),
            "batch": BATCH_SIZE,
            "num_components": NUM_COMPONENTS,
            "threads": 1,
            "rows": rows,
        }
        path = ROOT / "docs" / "results" / "scaling.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_png(ROOT / "docs" / "pictures" / "scaling.png", plot(rows))


def plot(rows: list[dict[str, Any]]) -> bytes:
    """Return a PNG with three log-log plots of seconds against size."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, what in zip(figure.subplots(1, 3, sharey=True), ("log_prob", "gradient", "sample"), strict=True):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            points = [row for row in rows if row["kind"] == kind]
            axes.loglog([row["size"] for row in points], [row[what] for row in points], marker=".", label=kind)
        axes.set(title=what, xlabel="D")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds, batch of 16, K = 5")
    figure.axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
