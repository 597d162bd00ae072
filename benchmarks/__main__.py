"""Speed of everything that takes time, as ratios to a rival or limit measured in the same run.

python -m benchmarks [--write]      --write keeps the table in benchmarks/README.md
"""

import datetime
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import envs
import rollouts
from agents.evaluation import hardware
from envs.mario import start_machine
from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel
from worldmodel.batches import SequenceBatch

Row = tuple[str, float, str, str]
"""What, rate, unit, ratio to what."""


def rate(work: Callable[[], Any], units: int, seconds: float = 3.0) -> float:
    """Units a second of ``work``, after one call to warm up."""
    work()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        calls += 1
    return units * calls / (time.perf_counter() - began)


def playing(env: gymnasium.Env[Any, Any], steps: int = 50) -> Callable[[], None]:
    """Fifty steps of random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def work() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return work


def games() -> list[Row]:
    """Frames of the games a second, on one core."""
    official = rate(playing(gymnasium.make("CarRacing-v3", render_mode="rgb_array")), 50)
    rows = [("CarRacing-v3 of Gymnasium", official, "frames/s", "1")]
    ours = rate(playing(gymnasium.make("envs:FastCarRacing-v3")), 50)
    rows.append(("envs:FastCarRacing-v3, 96x96", ours, "frames/s", f"{ours / official:.1f}"))
    for id in ("CarRacing", "FastCarRacing"):
        for repeat in (1, 4):
            ours = rate(playing(envs.make(id, action_repeat=repeat)), 50 * repeat)
            rows.append((f"envs.make('{id}', action_repeat={repeat})", ours, "frames/s", f"{ours / official:.1f}"))
    physics: Any = envs.make("FastCarRacing", action_repeat=50)
    ours = rate(playing(physics, 4), 200)
    rows.append(("its physics alone (one picture in 50 frames)", ours, "frames/s", f"{ours / official:.1f}"))
    machine = start_machine()
    limit = rate(lambda: [machine.frame(0) for _ in range(100)], 100)
    rows.append(("the NES emulator alone", limit, "frames/s", "1"))
    ours = rate(playing(envs.make("SuperMarioBros-1-1")), 200)
    return [*rows, ("envs.make('SuperMarioBros-1-1')", ours, "frames/s", f"{ours / limit:.2f}")]


def dreams() -> list[Row]:
    """Dream steps a second; the limit is the LSTM alone."""
    rows: list[Row] = []
    world = WorldModel(VAE(), Memory(FRMDN(35, 32))).eval()
    starts = torch.randn(100, 32)
    lstm = torch.nn.LSTMCell(35, 256)
    for batch in (1, 64, 1024):
        x, state = torch.randn(batch, 35), (torch.zeros(batch, 256), torch.zeros(batch, 256))
        with torch.no_grad():
            limit = rate(lambda x=x, state=state: lstm(x, state), batch, 1.0)
        controllers = np.zeros((batch if batch < 64 else 64, 867))
        each = max(1, batch // 64)
        ours = rate(
            lambda c=controllers, n=each: rollouts.dream(world, c, starts, 50, n, threshold=2.0, burn_in=0), 50 * batch
        )
        rows.append((f"LSTM-256 alone, batch {batch}", limit, "steps/s", "1"))
        rows.append((f"rollouts.dream, batch {batch}", ours, "steps/s", f"{ours / limit:.2f}"))
    return rows


def learning() -> list[Row]:
    """Training steps a second."""
    rows: list[Row] = []
    batch = SequenceBatch(*(torch.randn(16, 32, n) for n in (32, 3, 32)), *(torch.ones(16, 32) for _ in range(3)))
    reference = 0.0
    for name, density in {"RMDN": RMDN(35, 32), "FRMDN": FRMDN(35, 32), "FRMDN, rank 2": FRMDN(35, 32, rank=2)}.items():
        memory = Memory(density)
        ours = rate(lambda memory=memory: memory.loss(batch).value.backward(), 1)
        reference = reference or ours
        rows.append((f"memory update, {name}, 16 x 32", ours, "updates/s", f"{ours / reference:.2f}"))
    vae, frames = VAE(), torch.zeros(32, 64, 64, 3, dtype=torch.uint8)
    rows.append(("VAE update, 32 frames", rate(lambda: vae.loss(frames).value.backward(), 1), "updates/s", ""))
    with torch.no_grad():
        encoding = rate(lambda: vae.encode(torch.zeros(128, 3, 64, 64)), 128)
    return [*rows, ("VAE encoding", encoding, "frames/s", "")]


def storing() -> list[Row]:
    """Collection with storage, and reading back."""
    with tempfile.TemporaryDirectory() as folder:
        env, seed = "CarRacing", iter(range(10**6))
        game = envs.make(env, action_repeat=4)
        bare = rate(lambda: rollouts.play(game, rollouts.uniform, 1, max_steps=50), 50)
        ours = rate(
            lambda: rollouts.collect(
                env, rollouts.uniform, 2, next(seed), out=Path(folder) / str(next(seed)), max_steps=50,
                env_options={"action_repeat": 4},
            ),
            100,
        )  # fmt: skip
        store = rollouts.Store(next(path for path in Path(folder).iterdir() if path.is_dir()))
        vae = VAE()
        sequences = store.sequences(vae)
        rng = np.random.default_rng(0)
        windows = rate(lambda: sequences.batch(32, rng), 32)
    return [
        ("playing CarRacing, repeat 4", bare, "steps/s", "1"),
        ("collecting the same into a store", ours, "steps/s", f"{ours / bare:.2f}"),
        ("windows of 32 encoded steps", windows, "windows/s", ""),
    ]


def main() -> None:
    """Print the table, and keep it if asked to."""
    rows = [*games(), *dreams(), *learning(), *storing()]
    lines = ["| What | Rate | Unit | Ratio |", "|---|---|---|---|"]
    lines += [f"| {what} | {number:,.0f} | {unit} | {ratio} |" for what, number, unit, ratio in rows]
    print("\n".join(lines))
    if "--write" in sys.argv:
        head = (
            "# Benchmarks\n\n`make bench` prints this table; `python -m benchmarks --write` keeps it here. Ratios are to the "
            "row above that has 1, measured in the same run.\n\n"
            f"{datetime.date.today()}, {hardware()}, torch {torch.__version__} with {torch.get_num_threads()} threads.\n\n"
        )
        (Path(__file__).parent / "README.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
