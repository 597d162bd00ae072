"""The loop of updates and validations, and the hooks of its callbacks.

Start reading at `Trainer.run`; `worldmodel.fit` builds the trainer and its callbacks. Random numbers depend on (seed, update)
alone. A training that was stopped and continued therefore takes the same steps as an uninterrupted one, on the same device.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Generator, Tensor, nn

from worldmodel.batches import Data, Loss, num_valid, to_device
from worldmodel.training import distributed
from worldmodel.training.loaders import training_batches
from worldmodel.training.signals import graceful_interrupt

SPIKE_FACTOR = 5.0
"""Gradient norms are clipped to this multiple of their running average."""
MAX_SKIPPED_UPDATES = 20
"""Number of consecutive NaN or infinite gradients at which training stops."""
MAX_VAL_BATCHES = 32
"""Largest number of held-out batches in one validation."""
PLATEAU_FACTOR = 0.25
"""What a plateau multiplies the learning rate by (`worldmodel.training.callbacks.EarlyStopping`)."""
COUNTS = ("update", "best_update", "stale", "skipped", "began", "until", "decays")
"""Fields of `TrainingState` that are whole numbers."""


class TrainingDiverged(ValueError):
    """The loss or the gradient became NaN or infinite; the best weights are kept."""


@dataclass
class TrainingState:
    """Progress of a training, besides the weights and the optimizer.

    Raises:
        ValueError: a number is negative or of the wrong type.
    """

    update: int = 0
    best: float = math.inf
    best_update: int = 0
    stale: int = 0
    norm: float = 0.0  # running average of the gradient norm
    skipped: int = 0  # number of consecutive updates with a NaN or infinite gradient
    finished: bool = False
    began: int = 0  # update at which this schedule started; above zero after a finished schedule
    until: int = 0  # update at which it ends; 0 in older files, which have one schedule
    decays: int = 0  # number of plateaus of this schedule, each of which has lowered the learning rate
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)  # of losses since the last validation, if stopped between two

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in COUNTS}
        for name, value in {**counts, "norm": self.norm}.items():
            if not isinstance(value, int if name in counts else int | float) or value < 0:
                raise ValueError(f"{name} = {str(value)[:40]}")
        if not isinstance(self.best, float) or not isinstance(self.finished, bool):
            raise ValueError("best or finished has the wrong type")


class TrainingCallback:
    """Hooks of a training for `worldmodel.fit`; each does nothing by default.

    Under torchrun every process calls them: ``trainer.is_main`` says whether this one writes files and messages.

    Example:
        >>> class PrintLoss(TrainingCallback):
        ...     def on_validation(self, trainer, row):
        ...         print(row["update"], row["held_out"]["loss"])
    """

    def on_start(self, trainer: "Trainer") -> None:
        """A schedule starts or continues, or it is already finished (``trainer.state.finished``)."""

    def on_update(self, trainer: "Trainer") -> None:
        """An update ended; ``trainer.mean_loss`` is the mean loss since the last validation."""

    def on_validation(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """A validation ended.

        Args:
            trainer: The training; ``trainer.stop()`` ends it.
            row: ``update``, and the losses of ``train`` (means since the last validation) and ``held_out``.
        """

    def on_interrupt(self, trainer: "Trainer") -> None:
        """Ctrl-C or SIGTERM ends the training after this update; the same call can continue it."""

    def on_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        """The schedule ended: finished (``error`` is None) or by an exception."""


class Trainer:
    """The loop of updates and validations.

    Args:
        model: Module with ``loss(batch, generator) -> Loss``, on ``device``.
        settings: Arguments of `worldmodel.fit` by name.
        device: Device of the computation.
        folder: Path of the folder of the training, or None.
        callbacks: Callbacks, in the order of their calls.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: dict[str, Any],
        device: torch.device,
        folder: Path | None,
        callbacks: Sequence[TrainingCallback],
    ) -> None:
        self.model: Any = model
        self.settings, self.device, self.folder, self.callbacks = settings, device, folder, callbacks
        self.rank, self.num_processes = distributed.init()
        self.is_main = self.rank == 0
        """Whether this process writes files and messages."""
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=settings["learning_rate"], fused=device.type in ("cpu", "cuda")
        )
        self.state = TrainingState(until=settings["num_updates"])
        self.best: dict[str, Tensor] = copy.deepcopy(model.state_dict())
        """Weights with the lowest held-out loss, at first the initial ones."""
        self.sums: dict[str, Tensor] = {}
        """Sums of the losses since the last validation."""
        self.stopped = False
        self.training: Data | Any = None
        self.validation: Data | Any = None
        """Held-out data. A finished training needs neither."""

    def stop(self) -> None:
        """End the schedule after this update, for a callback."""
        self.stopped = True

    def run(self) -> None:
        """Train until the end of the schedule, or until a callback stops it; a finished one ends at once.

        Raises:
            TrainingDiverged: the loss or the gradient became NaN or infinite.
        """
        self.stopped, error = False, None
        try:
            self._call("on_start")
            if not self.state.finished:
                self._run_schedule()
                self.state.finished = True
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._call("on_end", error)

    def _run_schedule(self) -> None:
        """Take the updates that are left."""
        state, settings = self.state, self.settings
        batches = training_batches(self.training, settings["batch_size"], settings["seed"], state.update)
        with graceful_interrupt(delay=True) as interrupt:
            while state.update < state.until and not self.stopped:
                self._update(next(batches))
                self._call("on_update")
                if not state.update % settings["eval_every"] or state.update == state.until:
                    self._validate()
                if interrupt.requested:
                    state.sums = {name: float(total) for name, total in self.sums.items()}
                    self._call("on_interrupt")
                    raise KeyboardInterrupt

    def continue_training(self, until: int) -> None:
        """Prepare another schedule from the best weights; evaluate them again, because the held-out data may have changed."""
        state = self.state
        self.model.load_state_dict(self.best)
        self.optimizer.state.clear()
        self.sums = {}
        state.began, state.until, state.finished = state.update, until, False
        state.stale, state.norm, state.skipped, state.decays = 0, 0.0, 0, 0
        loss = self.evaluate()["loss"]
        state.best = loss if math.isfinite(loss) else math.inf

    def loss(self, examples: Any, generator: Generator) -> Loss:
        """Return the model's loss, computed in the requested dtype."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings["dtype"] == "bfloat16"):
            return self.model.loss(examples, generator)

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

    @property
    def mean_loss(self) -> float:
        """Mean training loss since the last validation."""
        return float(self.sums["loss"]) / self._num_summed

    @property
    def _num_summed(self) -> int:
        """Number of updates since the last validation."""
        update, eval_every = self.state.update, self.settings["eval_every"]
        return update - max(self.state.began, (update - 1) // eval_every * eval_every)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _update(self, batch: Any) -> None:
        """Take one gradient step on this process's part of a batch; losses and gradients are averaged over processes."""
        state, seed = self.state, self.settings["seed"]
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        examples = to_device(distributed.shard(batch, self.rank, self.num_processes), self.device)
        loss = self.loss(examples, _generator(self.device, seed, state.update, self.rank))
        self.optimizer.zero_grad(set_to_none=True)
        share = distributed.batch_weight(examples, self.num_processes)
        (share * loss.value).backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        parts = {"loss": share * loss.value.detach(), **{name: share * part for name, part in loss.parts.items()}}
        distributed.all_reduce_mean([*gradients, *parts.values()], self.num_processes)
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(float(parts["loss"])):
            bad = [f"{name} = {float(part)}" for name, part in parts.items() if not math.isfinite(float(part))]
            self._diverged(
                f"the loss became {float(parts['loss'])} in update {state.update + 1} ({', '.join(bad[1:]) or 'in sum'})",
                "A smaller learning_rate, or data without NaN and extreme values, helps.",
            )
        if math.isfinite(norm):
            self._step(gradients, norm)
        else:  # skip this step: a single one must not end the training
            state.skipped += 1
            if state.skipped >= MAX_SKIPPED_UPDATES:
                self._diverged(
                    f"the gradient was not a number {MAX_SKIPPED_UPDATES} times in a row, up to update {state.update + 1}",
                    "A smaller learning_rate helps.",
                )
        state.update += 1
        self.sums = {name: self.sums.get(name, 0) + part for name, part in parts.items()}

    def _learning_rate(self) -> float:
        """Return the learning rate of the next update: warm-up, then a cosine decay, or with ``num_decays`` one by plateaus."""
        state, peak = self.state, self.settings["learning_rate"]
        update, num_updates = state.update - state.began, state.until - state.began
        warm = min(100, max(1, num_updates // 10))
        if update < warm:
            return peak * (update + 1) / warm
        if self.settings.get("num_decays"):
            return peak * PLATEAU_FACTOR**state.decays
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, num_updates - warm))))

    def _step(self, gradients: list[Tensor], norm: float) -> None:
        """Clip the gradients, and let the optimizer take its step."""
        state = self.state
        state.skipped = 0
        spike = SPIKE_FACTOR * state.norm if state.norm else norm
        limit = min(spike, self.settings.get("max_grad_norm", math.inf))
        if norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        state.norm = 0.98 * state.norm + 0.02 * min(norm, spike) if state.norm else norm
        self.optimizer.step()

    def _diverged(self, what: str, cure: str) -> NoReturn:
        kept = f"the weights of update {self.state.best_update} are kept"
        raise TrainingDiverged(f"{self.settings['model']}: {what}; {kept}. {cure}")

    def _validate(self) -> None:
        """Compute the held-out loss, and keep the weights if it is the lowest so far."""
        state, count = self.state, self._num_summed
        means = {name: float(total) / count for name, total in self.sums.items()}
        self.sums = {}
        held_out = self.evaluate()
        if held_out["loss"] < state.best:
            state.best, state.best_update, state.stale = held_out["loss"], state.update, 0
            self.best = copy.deepcopy(self.model.state_dict())
        else:
            state.stale += 1
        row = {"update": state.update, "train": means, "held_out": held_out}
        state.history.append(row)
        self._call("on_validation", row)


def _generator(device: torch.device, seed: int, update: int, rank: int = 0) -> Generator:
    """Return the generator of one update of one process."""
    words = [seed, update + 1, rank] if rank else [seed, update + 1]
    entropy = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return Generator(device).manual_seed(int(entropy >> np.uint64(1)))
