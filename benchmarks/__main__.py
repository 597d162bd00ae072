"""Measure speeds, as ratios to a reference measured in the same run.

Start reading at `PARTS`.

python -m benchmarks [--only PART] [--write]      --write saves the table in benchmarks/README.md
"""

import argparse
import datetime
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import torch

from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, envs, rollouts
from worldmodel.agents.evaluation import hardware
from worldmodel.batches import SequenceBatch
from worldmodel.envs.mario.nes_py_backend import make_backend
from worldmodel.io.files import write_bytes
from worldmodel.registry import build
from worldmodel.rollouts.collect import episode_seed
from worldmodel.rollouts.store.shards import Reader, read_shard, shard_bytes

Row = tuple[str, float, str, str]
"""What was measured, its rate, the unit, and the ratio to the last reference; a reference has "1"."""


def rate(work: Callable[[], Any], units: int, seconds: float = 3.0) -> float:
    """Return the number of units per second of ``work``, after one warm-up call.

    Args:
        work: Function to measure.
        units: Number of units in a call.
        seconds: Minimum time of the measurement.
    """
    work()
    start_time, calls = time.perf_counter(), 0
    while time.perf_counter() - start_time < seconds:
        work()
        calls += 1
    return units * calls / (time.perf_counter() - start_time)


def random_steps(env: gymnasium.Env[Any, Any], steps: int = 50) -> Callable[[], None]:
    """Return a function that takes ``steps`` steps of random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def work() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return work


def games() -> list[Row]:
    """Measure frames of the games per second, on one core."""
    official = rate(random_steps(gymnasium.make("CarRacing-v3", render_mode="rgb_array")), 50)
    rows = [("CarRacing-v3 of Gymnasium, 96x96", official, "frames/s", "1")]
    ours = rate(random_steps(gymnasium.make("worldmodel.envs:worldmodel/FastCarRacing-v3")), 50)
    rows.append(("worldmodel.envs:worldmodel/FastCarRacing-v3, 96x96", ours, "frames/s", f"{ours / official:.1f}"))
    if importlib.util.find_spec("envpool"):
        import envpool

        pool = envpool.make("CarRacing-v3", env_type="gymnasium", num_envs=1)
        pool.reset()
        theirs = rate(lambda: [pool.step(np.zeros((1, 3))) for _ in range(50)], 50)
        rows.append(("envpool's CarRacing (other tracks and pixels)", theirs, "frames/s", f"{theirs / official:.1f}"))
    for id in ("CarRacing", "FastCarRacing"):
        for repeat in (1, 4):
            ours = rate(random_steps(envs.make(id, action_repeat=repeat)), 50 * repeat)
            rows.append(
                (f"envs.make('{id}', action_repeat={repeat}), 64x64", ours, "frames/s", f"{ours / official:.1f}")
            )
    physics: Any = envs.make("FastCarRacing", action_repeat=50)
    ours = rate(random_steps(physics, 4), 200)
    rows.append(
        ("physics of FastCarRacing alone (renders one frame in 50)", ours, "frames/s", f"{ours / official:.1f}")
    )
    nes_py, backend = make_backend("nes-py"), make_backend()
    limit = rate(lambda: [nes_py.frame_advance(0) for _ in range(100)], 100)
    rows.append(("emulator of nes-py alone", limit, "frames/s", "1"))
    for words, draw in (("every frame rendered", True), ("no frame rendered", False)):
        ours = rate(lambda draw=draw: [backend.frame_advance(0, draw) for _ in range(500)], 500)
        rows.append((f"Numba emulator alone, {words}", ours, "frames/s", f"{ours / limit:.1f}"))
    for kind, repeat in (("nes-py", 4), ("numba", 4), ("numba", 8)):
        mario = envs.make("SuperMarioBros-1-1", backend=kind, action_repeat=repeat)
        ours = rate(random_steps(mario), 50 * repeat)
        words = f"envs.make('SuperMarioBros-1-1', backend='{kind}', action_repeat={repeat})"
        rows.append((words, ours, "frames/s", f"{ours / limit:.2f}"))
    state = backend.save()
    return [
        *rows,
        (
            "saving a snapshot of Super Mario",
            rate(lambda: [backend.save() for _ in range(100)], 100, 1),
            "snapshots/s",
            "",
        ),
        (
            "loading a snapshot of Super Mario",
            rate(lambda: [backend.load(state) for _ in range(100)], 100, 1),
            "snapshots/s",
            "",
        ),
    ]


def collecting() -> list[Row]:
    """Measure environment steps per second on all cores, first with random actions and then with a world model."""
    rows: list[Row] = []
    game = envs.make("FastCarRacing")
    seeds = [episode_seed(1, index) for index in range(4, 36)]  # the same episodes are collected below
    start_time = time.perf_counter()
    for seed in seeds:
        rollouts.play(game, rollouts.uniform, seed, max_steps=500)
    bare = 500 * len(seeds) / (time.perf_counter() - start_time)
    rows.append(("episodes of FastCarRacing, not stored, 1 core", bare, "steps/s", "1"))
    with tempfile.TemporaryDirectory() as folder:
        for workers in range(1, (os.cpu_count() or 1) + 1):
            out = Path(folder) / str(workers)

            def collect(episodes: int, out: Path = out, workers: int = workers) -> None:
                rollouts.collect(
                    "FastCarRacing", rollouts.uniform, episodes, 1, workers, out, max_steps=500, episodes_per_shard=4
                )

            collect(4 * workers)  # workers start and import modules
            start_time = time.perf_counter()
            collect(64 * workers)
            ours = 60 * workers * 500 / (time.perf_counter() - start_time)
            rows.append((f"rollouts.collect of the same, {workers} workers", ours, "steps/s", f"{ours / bare:.2f}"))
        world = WorldModel(VAE(), Memory(FRMDN(35, 32))).eval()
        population = np.random.default_rng(0).normal(0, 0.1, (32, 867))
        for repeat, num_envs in ((1, 1), (1, 4), (1, 8), (1, 16), (2, 8), (4, 8)):
            fitness = rollouts.EnvFitness(
                "FastCarRacing",
                world,
                2,
                os.cpu_count() or 1,
                num_envs,
                max_steps=200,
                env_options={"action_repeat": repeat},
            )
            fitness(population[:8], 0)
            start_time = time.perf_counter()
            steps = fitness(population, 1).steps
            ours = steps * repeat / (time.perf_counter() - start_time)
            what = f"rollouts.EnvFitness, repeat {repeat}, {num_envs} environments each in {os.cpu_count()} workers"
            rows.append((what, ours, "frames/s", f"{ours / bare:.2f}"))
    return rows


def dreams() -> list[Row]:
    """Measure dream steps per second; the reference is the LSTM alone."""
    rows: list[Row] = []
    world = WorldModel(VAE(), Memory(FRMDN(35, 32))).eval()
    assert world.memory.termination_head is not None
    with torch.no_grad():
        world.memory.termination_head.bias.fill_(-100.0)  # all dreams have the same length
    start_states = torch.randn(100, 32)
    lstm = torch.nn.LSTMCell(35, 256)
    for batch in (1, 64, 1024):
        x, state = torch.randn(batch, 35), (torch.zeros(batch, 256), torch.zeros(batch, 256))
        with torch.no_grad():
            limit = rate(lambda x=x, state=state: lstm(x, state), batch, 1.0)
        controllers = np.zeros((batch if batch < 64 else 64, 867))
        each = max(1, batch // 64)
        ours = rate(
            lambda c=controllers, n=each: rollouts.dream(world, c, start_states, 50, n, burn_in=0),
            50 * batch,
        )
        rows.append((f"LSTM-256 alone, batch {batch}", limit, "steps/s", "1"))
        rows.append((f"rollouts.dream, batch {batch}", ours, "steps/s", f"{ours / limit:.2f}"))
    fast = rate(  # warmed up by rate
        lambda: rollouts.dream(world, controllers, start_states, 50, each, burn_in=0, compile=True), 50 * batch
    )
    rows.append((f"the same, compiled, batch {batch}", fast, "steps/s", f"{fast / limit:.2f}"))
    return rows


class Plain(torch.nn.Module):
    """An MDN-RNN with the distributions of torch, as in the most used PyTorch replication of World Models."""

    def __init__(
        self, latent_dim: int = 32, action_dim: int = 3, hidden_size: int = 256, num_components: int = 5
    ) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(latent_dim + action_dim, hidden_size, batch_first=True)
        self.head = torch.nn.Linear(hidden_size, (2 * latent_dim + 1) * num_components + 2)
        self.sizes = (latent_dim * num_components, latent_dim * num_components, num_components, 1, 1)

    def loss(self, batch: SequenceBatch) -> torch.Tensor:
        """Return the sum of the mixture, reward and termination losses."""
        h, _ = self.lstm(torch.cat((batch.latent, batch.action), dim=-1))
        loc, scale, logits, reward, termination = self.head(h).split(self.sizes, dim=-1)
        k = logits.shape[-1]
        normal = torch.distributions.Normal(loc.unflatten(-1, (k, -1)), scale.unflatten(-1, (k, -1)).exp())
        log_prob = normal.log_prob(batch.next_latent.unsqueeze(-2)).sum(dim=-1)
        nll = -torch.logsumexp(logits.log_softmax(dim=-1) + log_prob, dim=-1).mean()
        reward_loss = torch.nn.functional.mse_loss(reward[..., 0], batch.reward)
        termination_loss = torch.nn.functional.binary_cross_entropy_with_logits(termination[..., 0], batch.terminated)
        return nll + reward_loss + termination_loss


def gradient_step(module: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a function that takes one gradient step with Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return work


def speaking() -> list[Row]:
    """Measure the seconds of 16 kHz speech that densities sample per second, frame by frame, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in ("rmdn", "frmdn", "vrnn"):
        for batch in (1, 16):
            model = build(name, event_dim=200).eval()
            ours = rate(lambda m=model, b=batch: m.sample(80, batch=b), batch, 1.0)  # 80 frames last one second
            rows.append((f"sampling speech, {name}, batch {batch}", ours, "x real time", ""))
    torch.set_num_threads(threads)
    return rows


def learning() -> list[Row]:
    """Measure training updates per second with Adam, on encoded frames; the reference is the LSTM alone."""
    rows: list[Row] = []
    for size, length in ((16, 32), (100, 500)):
        shapes = [(size, length, n) for n in (32, 3, 32)] + [(size, length)] * 2
        parts = [torch.randn(shape) for shape in shapes]
        batch = SequenceBatch(*parts[:4], torch.zeros(size, length), torch.ones(size, length))
        inputs, lstm = torch.cat((batch.latent, batch.action), dim=-1), torch.nn.LSTM(35, 256, batch_first=True)
        limit = rate(gradient_step(lstm, lambda m=lstm, x=inputs: m(x)[0].square().mean()), 1)
        rows.append((f"LSTM-256 alone, update of {size}x{length}", limit, "updates/s", "1"))
        plain = Plain()
        ours = rate(gradient_step(plain, lambda m=plain, b=batch: m.loss(b)), 1)
        rows.append((f"MDN-RNN with torch.distributions, {size}x{length}", ours, "updates/s", f"{ours / limit:.2f}"))
        kinds = {
            "RMDN": RMDN(35, 32),
            "FRMDN": FRMDN(35, 32),
            "FRMDN, rank 4": FRMDN(35, 32, rank=4),
            "RMDN, full": RMDN(35, 32, full=True),
            "FRMDN, spline": FRMDN(35, 32, spline=True),
        }
        for name, density in kinds.items():
            if size > 16 and name not in ("RMDN", "FRMDN"):
                continue
            memory = Memory(density)
            ours = rate(gradient_step(memory, lambda m=memory, b=batch: m.loss(b).value), 1)
            rows.append((f"memory update, {name}, {size}x{length}", ours, "updates/s", f"{ours / limit:.2f}"))
    vae = VAE()
    for size in (32, 64):
        frames = torch.randint(0, 255, (size, 64, 64, 3), dtype=torch.uint8)
        ours = rate(gradient_step(vae, lambda f=frames: vae.loss(f).value), size)
        rows.append((f"VAE training, batch {size}", ours, "frames/s", "1"))

        def half(frames: torch.Tensor = frames) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return vae.loss(frames).value

        faster = rate(gradient_step(vae, half), size)
        rows.append(("the same in bfloat16", faster, "frames/s", f"{faster / ours:.2f}"))
    with torch.no_grad():
        pictures = torch.zeros(16, 3, 64, 64).to(memory_format=torch.channels_last)
        rows.append(("VAE encoding", rate(lambda: vae.encode(pictures), 16), "frames/s", ""))
        latents = torch.zeros(16, 32)
        rows.append(("VAE decoding", rate(lambda: vae.decode(latents), 16), "frames/s", ""))
    return rows


def storing() -> list[Row]:
    """Measure the writing and reading of CarRacing frames in chunks of 16, on one core."""
    episode = rollouts.play(envs.make("FastCarRacing"), rollouts.smooth_random, 3, max_steps=800)
    rows: list[Row] = []
    reference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, options in {
            "no compression": {},
            "LZF": {"compression": "lzf"},
            "gzip 1 (HDF5's zlib)": {"compression": "gzip", "compression_opts": 1},
        }.items():
            path, shape = Path(folder) / "other.h5", (16, 64, 64, 3)

            def write(path: Path = path, shape: Any = shape, options: Any = options) -> None:
                with h5py.File(path, "w") as file:
                    file.create_dataset("frames", data=episode.frames, chunks=shape, **options)

            def read(path: Path = path) -> None:
                with h5py.File(path) as file:
                    file["frames"][:]

            write_rate, read_rate = rate(write, len(episode.frames), 1), rate(read, len(episode.frames), 1)
            reference = reference or write_rate
            size = path.stat().st_size / len(episode.frames)
            what = f"writing frames, {name}, {size:,.0f} bytes each"
            rows.append((what, write_rate, "frames/s", f"{write_rate / reference:.2f}"))
            rows.append((f"reading frames, {name}", read_rate, "frames/s", f"{read_rate / reference:.2f}"))
        content = shard_bytes([episode])
        path = Path(folder) / "000000.h5"
        write_rate = rate(lambda: write_bytes(path, shard_bytes([episode])), len(episode.frames), 1)
        shard, reader = read_shard(path), Reader()
        read_rate = rate(lambda: reader.episode(shard, 0), len(episode.frames), 1)
        size = len(content) / len(episode.frames)
        what = f"writing frames, our shards (gzip by ISA-L, synced), {size:,.0f} bytes each"
        rows.append((what, write_rate, "frames/s", f"{write_rate / reference:.2f}"))
        rows.append(("reading frames, our shards", read_rate, "frames/s", f"{read_rate / reference:.2f}"))
        store = rollouts.collect("FastCarRacing", rollouts.smooth_random, 8, 1, 1, Path(folder) / "store")
        rng = np.random.default_rng(0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        sequences = store.sequences(VAE())
        encoded = rate(lambda: sequences.batch(32, rng), 32)
        torch.set_num_threads(threads)
    return [*rows, ("random windows of 32 encoded steps", encoded, "windows/s", "")]


PARTS = {part.__name__: part for part in (games, collecting, storing, dreams, speaking, learning)}
PAGE = Path(__file__).parent / "README.md"


def main() -> None:
    """Print the table, and save it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="Part to measure; --write leaves the other rows unchanged.")
    parser.add_argument("--write", action="store_true", help="Save the table in benchmarks/README.md.")
    options = parser.parse_args()
    rows = [row for name, part in PARTS.items() if options.only in (None, name) for row in part()]
    lines = [f"| {what} | {number:,.0f} {unit} | {ratio} |" for what, number, unit, ratio in rows]
    print("\n".join([*HEAD, *lines]))
    if not options.write:
        return
    before, machine = PAGE.read_text(encoding="utf-8"), f"{datetime.date.today()}, {hardware()}"
    if options.only:
        new = tuple(f"| {what} |" for what, *_ in rows)
        table = before.partition(HEAD[1] + "\n")[2].splitlines()
        lines = [*(line for line in table if not line.startswith(new)), *lines]
        intro = before.partition(HEAD[0])[0]
    else:
        intro = (
            "# Benchmarks\n\n`make bench` prints this table; `python -m benchmarks --write` saves it here. A ratio is to the "
            "last row above with ratio 1, measured in the same run.\n\n"
            f"{machine}, torch {torch.__version__} with {torch.get_num_threads()} threads.\n\n"
        )
    PAGE.write_text(intro + "\n".join([*HEAD, *lines]) + "\n", encoding="utf-8")


HEAD = ("| What | Rate | Ratio |", "|---|---|---|")


if __name__ == "__main__":
    main()
