"""Measure updates per second of one, two and three simultaneous trainings of a small memory, for several OpenMP settings.

    python benchmarks/busy.py [--seconds 20]

Waiting OpenMP threads spin. If another process takes the core of one thread, all others wait for that thread.
`worldmodel` sets GOMP_SPINCOUNT=1000 before torch is loaded, unless the variable has a value.
"""

import argparse
import json
import os
import subprocess
import sys
import time

SETTINGS: dict[str, dict[str, str]] = {
    "torch's default": {"GOMP_SPINCOUNT": "300000"},  # the default of GNU OpenMP
    "default of worldmodel, GOMP_SPINCOUNT=1000": {},
    "OMP_WAIT_POLICY=PASSIVE": {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
TOGETHER = (1, 2, 3)


def train(seconds: float, start: float) -> float:
    """Train a memory and return its updates per second.

    Args:
        seconds: Time of the measurement.
        start: Unix time at which all processes start to measure.
    """
    import numpy as np
    import torch

    from worldmodel import FRMDN, Memory, seeded
    from worldmodel.batches import SequenceBatch

    with seeded(1):
        memory = Memory(FRMDN(35, 32, 64, 5))
    rng = np.random.default_rng(1)
    shapes = ((16, 32, 32), (16, 32, 3), (16, 32, 32), (16, 32), (16, 32))
    parts = [torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
    batch = SequenceBatch(*parts[:4], (parts[4] > 3).float(), torch.ones(16, 32))
    optimizer = torch.optim.Adam(memory.parameters(), fused=True)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        memory.loss(batch, torch.Generator().manual_seed(1)).value.backward()
        optimizer.step()

    for _ in range(3):
        update()
    while time.time() < start:
        time.sleep(0.01)
    start_time, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - start_time) < seconds:
        update()
        count += 1
    return count / elapsed


def measure(variables: dict[str, str], count: int, seconds: float) -> list[float]:
    """Return the updates per second of ``count`` simultaneous trainings, in descending order.

    Args:
        variables: Environment variables of the trainings.
        count: Number of trainings.
        seconds: Time of the measurement.
    """
    base = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    words = [sys.executable, __file__, "--seconds", str(seconds), "--start", str(time.time() + 15)]
    running = [subprocess.Popen(words, env=base | variables, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sorted((json.loads(process.communicate()[0]) for process in running), reverse=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="Number of seconds of each measurement (default: 20)."
    )
    parser.add_argument("--start", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        print(json.dumps(train(options.seconds, options.start)))
        return
    print(f"| Setting | {' | '.join(f'{count} at once' for count in TOGETHER)} | sum of 2 / 1 alone |")
    print(f"|---|{'---:|' * (len(TOGETHER) + 1)}")
    for name, variables in SETTINGS.items():
        rates = {count: measure(variables, count, options.seconds) for count in TOGETHER}
        cells = " | ".join(", ".join(f"{rate:.1f}" for rate in rates[count]) for count in TOGETHER)
        print(f"| {name} | {cells} | {sum(rates[2]) / rates[1][0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
