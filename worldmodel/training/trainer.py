"""Train any model with a ``loss(batch, generator)`` on any data that implement `batches.Data`.

Start reading at `fit`; `worldmodel.training.checkpoint` writes its folder. Random numbers depend on (seed, update) alone. A
training that was stopped and continued therefore takes the same steps as an uninterrupted one, on the same device.
"""

import contextlib
import copy
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from worldmodel.batches import Data, Loss, num_valid, to_device
from worldmodel.io.files import fingerprint
from worldmodel.io.paths import folder_path
from worldmodel.training import distributed
from worldmodel.training.checkpoint import TrainingCheckpoint, TrainingState
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.training.signals import graceful_interrupt
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_seed

DTYPES = ("float32", "bfloat16")
SPIKE_FACTOR = 5.0
"""Gradient norms are clipped to this multiple of their running average."""
MAX_SKIPPED_UPDATES = 20
"""Number of consecutive NaN or infinite gradients at which training stops."""
MIN_INIT_EXAMPLES = 64
"""Smallest number of examples that initialize a model (such as `Memory.init_from_data`)."""
SAVE_SECONDS = 10.0
"""Shortest time between two saves of the training state, in seconds."""
MAX_VAL_BATCHES = 32
"""Largest number of held-out batches in one validation."""

Model = TypeVar("Model", bound=nn.Module)


class TrainingDiverged(ValueError):
    """The loss or the gradient became NaN or infinite; the best weights are kept."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block, such as building a module, with torch's generator at ``seed``, and restore the generator afterwards.

    Raises:
        ValueError: the seed is out of range.
    """
    validate_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@shows_progress("train", "updates")
def fit(
    model: Model,
    data: Data,
    *,
    num_updates: int = 2_000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    max_grad_norm: float | None = None,
    seed: int = 0,
    val_fraction: float = 0.1,
    split_seed: int | None = None,
    eval_every: int = 100,
    patience: int | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    tensorboard: bool = True,
    warm_start: bool = False,
    allow_new_data: bool = False,
    progress: Progress | bool = silent,
) -> Model:
    """Train ``model`` on ``data`` with Adam and keep the weights with the lowest loss on held-out episodes.

    Args:
        model: Module with ``loss(batch, generator) -> Loss`` (`VAE`, `Memory`, ...). It is trained in place.
        data: Source of batches (`rollouts.Store.frames`, `rollouts.Store.sequences`, a corpus).
        num_updates: Number of gradient steps. If ``out`` has a training with fewer, that training is completed first. A
            second schedule then continues from its best weights, with a new optimizer, warm-up and cosine decay.
        batch_size: Number of examples (frames or sequences) per step, over all processes (`worldmodel.training.distributed`).
        learning_rate: Peak learning rate. A short warm-up precedes it; a cosine decay to a twentieth of it follows.
        max_grad_norm: Largest gradient norm; larger gradients are scaled down. None: ``model.max_grad_norm`` if the model has
            one (`VAE.max_grad_norm`); otherwise only spikes are clipped.
        seed: Seed of batches and noise.
        val_fraction: Fraction of the episodes that is held out for validation.
        split_seed: Seed of the choice of held-out episodes. None: ``seed``. Use one value for successive trainings on a
            growing store; otherwise a later training holds out episodes of an earlier training set.
        eval_every: Number of updates between two validations.
        patience: Number of validations without a lower held-out loss after which training stops. None: no early stopping.
        out: Path of a folder for ``weights.safetensors``, ``metrics.jsonl``, TensorBoard's files and the training state.
            The same call with the same folder continues a stopped training, or returns a finished one at once. Ctrl-C
            saves after the current update; a killed process loses the updates since the last save.
        device: Device of the computation. None: CUDA if available, else the CPU.
        dtype: Data type of the layers, "float32" or "bfloat16". Weights, densities and sums stay in single precision.
            bfloat16 is faster on GPUs and CPUs that support it.
        tensorboard: Whether to write TensorBoard's files into ``out``.
        warm_start: Whether to continue from the current weights of ``model``, without initialization from the data.
        allow_new_data: Whether a training in ``out`` may continue with other data, such as a store that has grown or was
            encoded again. A new schedule of ``num_updates`` updates then starts from its best weights. The form of the
            batches must be the same (`rollouts.store.datasets.Sequences.form`).
        progress: Function that is called as ``progress(update, num_updates, note)``, first at the update where training
            starts or continues. True: show a progress bar.

    Returns:
        ``model``, on its original device, in eval mode.

    Raises:
        ValueError: an argument is out of range, or ``out`` has a training with other settings or with more updates.
        TrainingDiverged: the loss or the gradient became NaN or infinite. ``model`` and ``out`` have the best weights so far.
    """
    report = callback(progress)
    assert isinstance(model, nn.Module)
    max_grad_norm = getattr(model, "max_grad_norm", None) if max_grad_norm is None else max_grad_norm
    settings = {
        "model": type(model).__name__,
        "model_config": model.config,
        "num_updates": num_updates,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "val_fraction": val_fraction,
        "eval_every": eval_every,
        "patience": patience,
        "dtype": dtype,
        "data": data.identity,
    }
    optional = {
        "from": fingerprint(model) if warm_start else None,
        "split_seed": split_seed,
        "max_grad_norm": max_grad_norm,
    }
    settings |= {name: value for name, value in optional.items() if value is not None}
    _validate(settings)
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    rank, size = distributed.init()
    device = torch.device(device or distributed.device())
    if batch_size < size:
        raise ValueError(f"batch_size must be at least the number of processes, {size}, got {batch_size}")
    checkpoint = TrainingCheckpoint(None if out is None else folder_path(out, "out"), settings, tensorboard)
    saved = checkpoint.load(device, getattr(data, "form", {}) if allow_new_data else None)
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=device.type in ("cpu", "cuda"))
    state, best = checkpoint.restore(saved, model, optimizer)
    before: dict[str, Any] = dict(settings if saved is None else saved["settings"])
    other = before["data"] != settings["data"]
    more = num_updates if other else num_updates - before["num_updates"]
    try:
        if state.finished and not more:
            checkpoint.save_best(best)  # restores a lost or damaged file of weights
            report(state.update, state.update, f"already finished at update {state.update}")
        else:
            training, validation = data.split(val_fraction, seed if split_seed is None else split_seed)
            distributed.broadcast(model, size)
            if saved is None:
                if not warm_start:
                    _init_from_data(model, training, batch_size, seed, device)
                best = copy.deepcopy(model.state_dict())
            loop = _Trainer(model, optimizer, training, validation, settings, device, rank, size)
            if not (state.finished or other):
                checkpoint.settings["num_updates"] = before["num_updates"]  # until this schedule ends
                best = loop.run(state, best, checkpoint, report)
            if more:
                until = (state.update if other else state.until) + more
                loop.continue_training(state, best, until)
                checkpoint.set_num_updates(num_updates)
                best = loop.run(state, best, checkpoint, report)
        distributed.barrier(size)  # wait until the main process has written its files
    finally:
        checkpoint.close()
        model.load_state_dict(best)
        model.to(home).eval()
    return model


def _validate(settings: Mapping[str, Any]) -> None:
    """Check the settings of a training.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    validate_positive_int(**{name: settings[name] for name in ("num_updates", "batch_size", "eval_every")})
    validate_optional_positive_int(patience=settings["patience"])
    for name in ("seed", "split_seed"):
        if name in settings:
            validate_seed(settings[name], name)
    if not (settings["learning_rate"] > 0 and math.isfinite(settings["learning_rate"])):
        raise ValueError(f"learning_rate must be above zero, got {settings['learning_rate']}")
    if not 0 < settings["val_fraction"] < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {settings['val_fraction']}")
    if not settings.get("max_grad_norm", 1) > 0:
        raise ValueError(f"max_grad_norm must be a number above zero, got {settings['max_grad_norm']!r}")
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {settings['dtype']!r}")


def _init_from_data(model: nn.Module, training: Data, batch_size: int, seed: int, device: torch.device) -> None:
    """Initialize a model that can be initialized from a first batch."""
    init_from_data = getattr(model, "init_from_data", None)
    if init_from_data is not None:
        first = training.batch(max(batch_size, MIN_INIT_EXAMPLES), np.random.default_rng([seed, 0]))
        init_from_data(to_device(first, device))


@dataclass
class _Trainer:
    """The loop of updates and validations."""

    model: Any
    optimizer: torch.optim.Optimizer
    training: Data
    validation: Data
    settings: dict[str, Any]
    device: torch.device
    rank: int
    size: int

    def run(
        self, state: TrainingState, best: dict[str, Tensor], checkpoint: TrainingCheckpoint, progress: Progress
    ) -> dict[str, Tensor]:
        until, eval_every = state.until, self.settings["eval_every"]
        patience = self.settings["patience"]
        sums = {name: torch.tensor(value, device=self.device) for name, value in state.sums.items()}
        state.sums = {}
        began = f"resumed at update {state.update}, " if state.update else ""
        try:
            with graceful_interrupt(delay=True) as stop:
                while state.update < until and (patience is None or state.stale < patience):
                    parts = self.update(state)
                    sums = {name: sums.get(name, 0) + part for name, part in parts.items()}
                    count = state.update - max(state.began, (state.update - 1) // eval_every * eval_every)
                    note = f"loss {float(sums['loss']) / count:.4g}"
                    progress(state.update, until, began + (f"{checkpoint.note}, {note}" if checkpoint.note else note))
                    began = ""
                    if not state.update % eval_every or state.update == until:
                        means = {name: float(total) / count for name, total in sums.items()}
                        sums = {}
                        best = self.validate(state, best, means, checkpoint)
                    if stop.requested:
                        state.sums = {name: float(total) for name, total in sums.items()}
                        checkpoint.save(self.model, self.optimizer, state, best)
                        raise KeyboardInterrupt
        except TrainingDiverged:
            checkpoint.save_best(best)
            raise
        state.finished = True
        checkpoint.save_best(best)
        checkpoint.save(self.model, self.optimizer, state, best)
        return best

    def continue_training(self, state: TrainingState, best: dict[str, Tensor], until: int) -> None:
        """Start another schedule at the best weights; evaluate them again, because the held-out data may have changed."""
        self.model.load_state_dict(best)
        self.optimizer.state.clear()
        state.began, state.until, state.finished = state.update, until, False
        state.stale, state.norm, state.skipped, state.sums = 0, 0.0, 0, {}
        loss = self.evaluate()["loss"]
        state.best = loss if math.isfinite(loss) else math.inf

    def update(self, state: TrainingState) -> dict[str, Tensor]:
        """Take one gradient step; return the loss and its parts, averaged over processes."""
        update, batch, seed = state.update, self.settings["batch_size"], self.settings["seed"]
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(
                update - state.began, state.until - state.began, self.settings["learning_rate"]
            )
        drawn = distributed.shard(
            self.training.batch(batch, np.random.default_rng([seed, update])), self.rank, self.size
        )
        examples = to_device(drawn, self.device)
        loss = self.loss(examples, _generator(self.device, seed, update, self.rank))
        self.optimizer.zero_grad(set_to_none=True)
        share = distributed.batch_weight(examples, self.size)
        (share * loss.value).backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        parts = {"loss": share * loss.value.detach(), **{name: share * part for name, part in loss.parts.items()}}
        distributed.all_reduce_mean([*gradients, *parts.values()], self.size)
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(value := float(parts["loss"])):
            bad = [f"{name} = {float(parts[name])}" for name in loss.parts if not math.isfinite(float(parts[name]))]
            raise TrainingDiverged(
                f"the loss of {self.settings['model']} became {value} in update {update + 1} "
                f"({', '.join(bad) or 'in sum'}); the weights of update {state.best_update} are kept. "
                "A smaller learning_rate, or data without NaN and extreme values, helps."
            )
        if not math.isfinite(norm):  # skip this step: a single one must not end the training
            state.skipped += 1
            if state.skipped >= MAX_SKIPPED_UPDATES:
                raise TrainingDiverged(
                    f"the gradient of {self.settings['model']} was not a number {MAX_SKIPPED_UPDATES} times "
                    f"in a row, up to update "
                    f"{update + 1}; the weights of update {state.best_update} are kept. A smaller learning_rate helps."
                )
        else:
            state.skipped = 0
            spike = SPIKE_FACTOR * state.norm if state.norm else norm
            limit = min(spike, self.settings.get("max_grad_norm", math.inf))
            if norm > limit:
                for gradient in gradients:
                    gradient.mul_(limit / norm)
            state.norm = 0.98 * state.norm + 0.02 * min(norm, spike) if state.norm else norm
            self.optimizer.step()
        state.update += 1
        return parts

    def loss(self, examples: Any, generator: Generator) -> Loss:
        """Return the model's loss, computed in the requested dtype."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings["dtype"] == "bfloat16"):
            return self.model.loss(examples, generator)

    def validate(
        self, state: TrainingState, best: dict[str, Tensor], means: dict[str, float], checkpoint: TrainingCheckpoint
    ) -> dict[str, Tensor]:
        """Compute the held-out loss, update the best weights, log, and save if due; return the best weights."""
        held_out = self.evaluate()
        if held_out["loss"] < state.best:
            state.best, state.best_update, state.stale = held_out["loss"], state.update, 0
            best = copy.deepcopy(self.model.state_dict())
        else:
            state.stale += 1
        row = {"update": state.update, "train": means, "held_out": held_out}
        state.history.append(row)
        checkpoint.log(row)
        if checkpoint.is_due(SAVE_SECONDS):
            checkpoint.save(self.model, self.optimizer, state, best)
        return best

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the mean loss and its parts over a fixed pass through held-out batches, with fixed noise.

        A batch is weighted by its number of valid steps or examples, so that means over them do not depend on the batching. The
        loss of a VAE does: free bits bound the mean KL divergence of a batch, and the noise is drawn per batch.
        """
        self.model.eval()
        totals: dict[str, float] = {}
        count = 0
        generator = _generator(self.device, self.settings["seed"], -1)
        for examples in itertools.islice(self.validation.batches(self.settings["batch_size"]), MAX_VAL_BATCHES):
            loss, events = self.loss(to_device(examples, self.device), generator), num_valid(examples)
            for name, part in {"loss": loss.value, **loss.parts}.items():
                totals[name] = totals.get(name, 0.0) + events * float(part)
            count += events
        self.model.train()
        return {name: total / max(count, 1) for name, total in totals.items()}


def _learning_rate(update: int, num_updates: int, peak: float) -> float:
    warm = min(100, max(1, num_updates // 10))
    if update < warm:
        return peak * (update + 1) / warm
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, num_updates - warm))))


def _generator(device: torch.device, seed: int, update: int, rank: int = 0) -> Generator:
    """Return the generator of one update of one process."""
    words = [seed, update + 1, rank] if rank else [seed, update + 1]
    entropy = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return Generator(device).manual_seed(int(entropy >> np.uint64(1)))
