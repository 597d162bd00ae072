"""Measure one GPU in at most 8 minutes: steps of dreams, updates of trainings, memory, time to a stated loss, kernels.

It needs torch, numpy, jaxtyping, rich, safetensors and tqdm, builds nothing, and runs in a checkout that is not installed: its
data are dreams of the pretrained CarRacing world. Without a GPU it measures tiny sizes on the processor and says what it could
not measure.

python -m benchmarks.gpu [--out FILE.json]      --write saves docs/results/gpu.json
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_training import (
    DENSITY_GAIN,
    PIXEL_R2,
    SOURCE,
    Dreamed,
    Frames,
    Reached,
    dream_data,
    frames_of,
    train_memory,
    train_vae,
)
from worldmodel import FRMDN, VAE, Memory, WorldModel
from worldmodel.imagination import imagine, sample_noise
from worldmodel.io.files import write_json
from worldmodel.rng import seeded
from worldmodel.training.devices import device_name
from worldmodel.world_model import WorldState

RESULT = Path(__file__).parent.parent / "docs" / "results" / "gpu.json"
GRAPH_STEPS = 8
"""Number of steps of a dream that one CUDA graph replays."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    hidden_size: int
    dreams: Sequence[int]
    sequences: Sequence[int]
    frames: Sequence[int]
    episodes: int
    steps: int
    product: int
    seconds: float
    updates: int


FULL = Sizes(256, (1_024, 8_192, 65_536, 262_144), (32, 256, 2_048), (32, 256, 2_048), 512, 128, 8_192, 1.5, 20_000)
TINY = Sizes(16, (4, 16), (4,), (4,), 10, 12, 64, 0.02, 4)


class Bench:
    """Measurements on one device.

    Args:
        device: Device of all computations.
        sizes: Sizes.
    """

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes, self.is_gpu = device, sizes, device.type == "cuda"
        self.rows: list[dict[str, Any]] = []
        self.kernels: dict[str, list[dict[str, Any]]] = {}
        self.not_measured: list[str] = []
        self.peaks: dict[torch.dtype, float] = {}
        self.source = WorldModel.load(SOURCE).to(device).eval()

    def add(self, what: str, value: float, unit: str, **more: Any) -> None:
        """Add and print a row."""
        self.rows.append({"what": what, "value": value, "unit": unit, **more})
        extra = "".join(f", {name} {number:.3g}" for name, number in more.items())
        print(f"| {what} | {value:,.3g} {unit}{extra} |", flush=True)

    def seconds(self, work: Callable[[], Any], warm_up: int = 3) -> float:
        """Return the seconds of one call, the mean over ``sizes.seconds``."""
        for _ in range(warm_up):
            work()
        self.synchronize()
        start_time, calls = time.perf_counter(), 0
        while time.perf_counter() - start_time < self.sizes.seconds:
            work()
            calls += 1
            if calls % 8 == 1:  # else the queue of the GPU grows without end
                self.synchronize()
        self.synchronize()
        return (time.perf_counter() - start_time) / calls

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def reset_memory(self) -> None:
        """Forget the peak of the memory's use."""
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict[str, float]:
        """Return the peak of the memory's use since `reset_memory`, in GB; nothing without a GPU."""
        return {"GB": torch.cuda.max_memory_allocated() / 1e9} if self.is_gpu else {}

    def attempt(self, what: str, work: Callable[[], Any]) -> None:
        """Run a part; what fails, such as a batch that does not fit, is listed as not measured."""
        try:
            work()
        except (RuntimeError, ImportError, OSError, AssertionError) as error:
            self.not_measured.append(f"{what}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}")
            print(self.not_measured[-1], flush=True)

    def profile(self, what: str, work: Callable[[], Any]) -> None:
        """Keep the ten operations or kernels that take the most time."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if self.is_gpu else []
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(3):
                work()
            self.synchronize()
        own = "self_device_time_total" if self.is_gpu else "self_cpu_time_total"
        events = [event for event in profiler.key_averages() if getattr(event, own) > 0]
        total = sum(getattr(event, own) for event in events) or 1.0
        events.sort(key=lambda event: -float(getattr(event, own)))
        self.kernels[what] = [
            {"name": event.key[:100], "share": getattr(event, own) / total, "calls": event.count // 3}
            for event in events[:10]
        ]


def measure_peak(bench: Bench) -> None:
    """Measure matrix products: the limit of all shares."""
    size = bench.sizes.product
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
        bench.peaks[dtype] = 2 * size**3 / bench.seconds(lambda a=a, b=b: a @ b)
        bench.add(f"matrix product, {size} x {size}, {name(dtype)}", bench.peaks[dtype] / 1e12, "TFLOP/s")


def published_world(bench: Bench) -> WorldModel:
    """Return an untrained world model of the published sizes for CarRacing: 32 latents, 256 units, 5 components."""
    with seeded(0):
        memory = Memory(FRMDN(input_size=35, output_size=32, hidden_size=bench.sizes.hidden_size))
        return WorldModel(VAE(), memory).to(bench.device).eval()


def measure_dreams(bench: Bench) -> None:
    """Measure steps of dreams per second with a linear controller on the latent and the hidden state."""
    world = published_world(bench)
    with seeded(1):
        controller = nn.Linear(world.num_features, world.action_dim).to(bench.device)
    modes: dict[str, Callable[[int], Callable[[], Any]]] = {"eager": lambda batch: eager(world, controller, batch)}
    if bench.is_gpu:
        modes["CUDA graph"] = lambda batch: graphed(world, controller, batch)[0]
        modes["compiled"] = lambda batch: eager(world, controller, batch, compile=True)
    else:
        bench.not_measured += ["dreams in CUDA graphs and compiled: no GPU", "memory use: no GPU"]
    for mode, build in modes.items():
        for batch in bench.sizes.dreams[-1:] if mode == "compiled" else bench.sizes.dreams:  # compiling takes a minute
            label = f"dreams, {mode}, {batch:,} at once"
            bench.attempt(label, partial(measure_steps, bench, label, build, batch))
    with torch.no_grad():
        bench.profile("dream", eager(world, controller, bench.sizes.dreams[-1]))
        if bench.is_gpu:
            bench.attempt("graphs against eager steps", lambda: compare_graph(bench, world, controller))


@torch.no_grad()
def measure_steps(bench: Bench, label: str, build: Callable[[int], Callable[[], Any]], batch: int) -> None:
    """Measure the steps of one kind of dreams."""
    bench.reset_memory()
    seconds = bench.seconds(build(batch))
    bench.add(label, batch * GRAPH_STEPS / seconds, "steps/s", **bench.memory())


def policy_of(world: WorldModel, controller: nn.Linear) -> Callable[[WorldState], Tensor]:
    """Return a policy on the latent and the hidden state."""
    return lambda state: world.squash(controller(torch.cat((state.latent, state.hidden), dim=-1)))


def eager(world: WorldModel, controller: nn.Linear, batch: int, compile: bool = False) -> Callable[[], Any]:
    """Return a function that goes on with ``batch`` dreams for `GRAPH_STEPS` steps."""
    start = WorldState(torch.zeros(batch, world.latent_dim, device=world.device), world.initial(batch))
    noise, policy = sample_noise(world, batch), policy_of(world, controller)
    steps = imagine(world, start, policy, noise, compile=compile)

    def advance() -> Tensor:
        return torch.stack([next(steps).step.reward for _ in range(GRAPH_STEPS)]).sum(dim=0)

    return advance


def graphed(world: WorldModel, controller: nn.Linear, batch: int) -> tuple[Callable[[], Any], Tensor]:
    """Return a function that replays `GRAPH_STEPS` steps as one CUDA graph, and the returns that it writes."""
    policy = policy_of(world, controller)
    state = WorldState(torch.zeros(batch, world.latent_dim, device=world.device), world.initial(batch))
    returns = torch.zeros(batch, device=world.device)

    def advance() -> None:
        after, total = state, torch.zeros_like(returns)
        for _, imagined in zip(
            range(GRAPH_STEPS), imagine(world, state, policy, sample_noise(world, batch)), strict=False
        ):
            after, total = imagined.state, total + imagined.step.reward
        for old, new in zip(tensors(state), tensors(after), strict=True):
            old.copy_(new)
        returns.copy_(total)

    stream = torch.cuda.Stream()  # warms up on a stream of its own, as capturing wants it
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            advance()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        advance()
    return graph.replay, returns


def tensors(state: WorldState) -> list[Tensor]:
    """Return the tensors of a state."""
    return [state.latent, *state.memory]


def compare_graph(bench: Bench, world: WorldModel, controller: nn.Linear) -> None:
    """Compare the mean return of replayed graphs with that of eager steps, in standard errors of the difference."""
    batch = bench.sizes.dreams[-2]
    (replay, returns), advance = graphed(world, controller, batch), eager(world, controller, batch)
    for _ in range(4):
        replay()
        expected = advance()
    error = (returns.var() / batch + expected.var() / batch).sqrt().clamp(min=1e-12)
    difference = float((returns.mean() - expected.mean()).abs() / error)
    bench.add("dreams: mean return of graphs against eager steps", difference, "standard errors")


def measure_training(bench: Bench, data: Dreamed, frames: Frames) -> None:
    """Measure updates of a memory of the published sizes and of the VAE, in single precision and bfloat16."""
    world, rng = published_world(bench), np.random.default_rng(0)
    models: list[tuple[str, nn.Module, Dreamed | Frames, Sequence[int], int]] = [
        ("FRMDN", world.memory, data, bench.sizes.sequences, data.seq_len),
        ("VAE", world.vae, frames, bench.sizes.frames, 1),
    ]
    for what, model, source, sizes, length in models:
        for dtype in (torch.float32, torch.bfloat16):
            for size in sizes:
                label = f"{what} update, {name(dtype)}, {size:,}" + (f" x {length}" if length > 1 else "")
                update = update_of(model.train(), source.batch(size, rng), dtype)
                bench.attempt(label, partial(measure_update, bench, label, update, model, size * length, dtype))
        bench.profile(f"{what} update", update)


def update_of(model: Any, batch: Any, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a function that takes one update on a batch; its learning rate is zero, so that all updates are alike."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    device = next(model.parameters()).device.type

    def update() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model.loss(batch, None).value
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return update


def measure_update(
    bench: Bench, label: str, update: Callable[[], Any], model: nn.Module, num_frames: int, dtype: torch.dtype
) -> None:
    """Measure one kind of update."""
    bench.reset_memory()
    flops = flops_of(update, model, num_frames)
    seconds = bench.seconds(update)
    share = flops / seconds / bench.peaks[dtype]
    bench.add(label, num_frames / seconds, "frames/s", share_of_peak=share, **bench.memory())


def flops_of(update: Callable[[], Any], model: nn.Module, rows: int) -> int:
    """Return the floating-point operations of matrix products and convolutions in one update.

    torch's counter does not see inside an LSTM, whose backward pass has twice the products of its forward pass.
    """
    with FlopCounterMode(display=False) as counter:
        update()
    layers = [module for module in model.modules() if isinstance(module, nn.LSTM)]
    weights = sum(part.numel() for layer in layers for part in layer.parameters() if part.ndim == 2)
    return int(counter.get_total_flops()) + 3 * 2 * rows * weights


def measure_goals(bench: Bench, data: Dreamed, frames: Frames) -> None:
    """Train a VAE and a memory until they reach a stated score on held-out dreams."""
    world, updates = published_world(bench), bench.sizes.updates
    goals: list[tuple[str, float, Callable[[], Reached]]] = [
        ("VAE to an R2 of held-out pixels of", PIXEL_R2, lambda: train_vae(world.vae, frames, updates)),
        (
            "FRMDN to a share of the gain over one Gaussian of",
            DENSITY_GAIN,
            lambda: train_memory(world.memory, bench.source.memory, data, updates),
        ),
    ]
    for what, goal, train in goals:
        reached = train()
        verdict = "" if reached.score >= goal else " (NOT reached)"
        bench.add(f"{what} {goal}{verdict}", reached.seconds, "s", updates=reached.updates, score=reached.score)


def name(dtype: torch.dtype) -> str:
    """Return the name of a dtype."""
    return str(dtype).removeprefix("torch.")


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure all parts, print their rows, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--write", action="store_true", help="save docs/results/gpu.json")
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.write and device.type != "cuda":
        parser.error("--write keeps figures of a GPU, and torch finds none")
    start_time = time.perf_counter()
    bench = Bench(device, FULL if device.type == "cuda" else TINY)
    if not bench.is_gpu:
        print("no GPU: tiny sizes on the processor, which say nothing about a GPU")
    torch.set_float32_matmul_precision("high")
    data = dream_data(bench.source, bench.sizes.episodes, bench.sizes.steps)
    frames = frames_of(bench.source, data)
    parts: dict[str, Callable[[], None]] = {
        "matrix products": lambda: measure_peak(bench),
        "dreams": lambda: measure_dreams(bench),
        "trainings": lambda: measure_training(bench, data, frames),
        "trainings to a loss": lambda: measure_goals(bench, data, frames),
    }
    for what, part in parts.items():
        bench.attempt(what, part)
    results = {
        "command": "python -m benchmarks.gpu",
        "hardware": f"{device_name(device)}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "seconds": time.perf_counter() - start_time,
        "rows": bench.rows,
        "kernels": bench.kernels,
        "not_measured": bench.not_measured,
    }
    for path in [*([given.out] if given.out else ()), *([RESULT] if given.write else ())]:
        write_json(path, results)
    return results


if __name__ == "__main__":
    main()
