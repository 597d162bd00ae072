"""Train any model with a ``loss(batch, generator)`` on any data that implement `batches.Data`, or on torch's datasets.

Start reading at `fit`, which builds a `worldmodel.training.trainer.Trainer` with its callbacks and its checkpoint.
"""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from worldmodel.batches import Data, Splits, to_device
from worldmodel.io.files import fingerprint
from worldmodel.io.paths import folder_path
from worldmodel.training import distributed
from worldmodel.training.callbacks import EarlyStopping, MetricsLog, ShowProgress, TensorBoard
from worldmodel.training.checkpoint import Checkpoint
from worldmodel.training.devices import resolve_device
from worldmodel.training.loaders import as_data
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.training.trainer import Trainer, TrainingCallback
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_seed

DTYPES = ("float32", "bfloat16")
MIN_INIT_EXAMPLES = 64
"""Smallest number of examples that initialize a model (such as `Memory.init_from_data`)."""

Model = TypeVar("Model", bound=nn.Module)


@shows_progress("train", "updates")
def fit(
    model: Model,
    data: Data | Dataset[Any] | DataLoader[Any],
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
    num_decays: int = 0,
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    tensorboard: bool = True,
    warm_start: bool = False,
    allow_new_data: bool = False,
    validation: Data | Dataset[Any] | DataLoader[Any] | None = None,
    callbacks: Sequence[TrainingCallback] = (),
    progress: Progress | bool = silent,
) -> Model:
    """Train ``model`` on ``data`` with Adam and keep the weights with the lowest loss on held-out episodes.

    Args:
        model: Module with ``loss(batch, generator) -> Loss`` (`VAE`, `Memory`, ...). It is trained in place. Its ``config``, if
            it has one, must be the same when a training resumes.
        data: Source of batches (`rollouts.Store.frames`, `rollouts.Store.sequences`, a corpus), a torch dataset with a length
            (`worldmodel.training.loaders.DatasetData`), or a DataLoader with its own batch size (`LoaderData` there). A batch
            is a tensor, or a tuple, a list, a dict or a NamedTuple of tensors, all with the example as their first axis. A
            part with the name ``mask`` is one for a valid step and zero for padding.
        num_updates: Number of gradient steps. If ``out`` has a training with fewer, that training is completed first. A
            second schedule then continues from its best weights, with a new optimizer, warm-up and cosine decay.
        batch_size: Number of examples (frames or sequences) per step, over all processes (`worldmodel.training.distributed`).
        learning_rate: Peak learning rate. A short warm-up precedes it; a cosine decay to a twentieth of it follows (or see
            ``num_decays``).
        max_grad_norm: Largest gradient norm; larger gradients are scaled down. None: ``model.max_grad_norm`` if the model has
            one (`VAE.max_grad_norm`); otherwise only spikes are clipped.
        seed: Seed of batches and noise.
        val_fraction: Fraction of the episodes that is held out for validation.
        split_seed: Seed of the choice of held-out episodes. None: ``seed``. Use one value for successive trainings on a
            growing store; otherwise a later training holds out episodes of an earlier training set.
        eval_every: Number of updates between two validations.
        patience: Number of validations without a lower held-out loss after which training stops. None: no early stopping.
        num_decays: Number of times that a used-up patience quarters the learning rate instead of stopping. It then decays by
            nothing else. 0: the cosine decay.
        out: Path of a folder for ``weights.safetensors``, ``metrics.jsonl``, TensorBoard's files and the training state.
            The same call with the same folder continues a stopped training, or returns a finished one at once. Ctrl-C
            saves after the current update; a killed process loses the updates since the last save.
        device: Device of the computation, as `resolve_device` takes it. None: ``WORLDMODEL_DEVICE``, or CUDA if available.
        dtype: Data type of the layers, "float32" or "bfloat16". Weights, densities and sums stay in single precision.
            bfloat16 is faster on GPUs and CPUs that support it.
        tensorboard: Whether to write TensorBoard's files into ``out``.
        warm_start: Whether to continue from the current weights of ``model``, without initialization from the data.
        allow_new_data: Whether a training in ``out`` may continue with other data, such as a store that has grown or was
            encoded again. A new schedule of ``num_updates`` updates then starts from its best weights. The form of the
            batches must be the same (`rollouts.store.datasets.Sequences.form`).
        validation: Held-out data. None: a part of ``data`` (``val_fraction``); a DataLoader cannot be split and needs them.
        callbacks: More callbacks (`worldmodel.training.callbacks`, such as `WandB`), called before the state is saved.
        progress: Function that is called as ``progress(update, num_updates, note)``, first at the update where training
            starts or continues. True: show a progress bar.

    Returns:
        ``model``, on its original device, in eval mode.

    Raises:
        ValueError: an argument is out of range, or ``out`` has a training with other settings or with more updates.
        TrainingDiverged: the loss or the gradient became NaN or infinite. ``model`` and ``out`` have the best weights so far.
    """
    assert isinstance(model, nn.Module)
    source = as_data(data) if validation is None else Splits(as_data(data), as_data(validation))
    settings = {
        "model": type(model).__name__,
        "model_config": getattr(model, "config", None),
        "num_updates": num_updates,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "val_fraction": val_fraction,
        "eval_every": eval_every,
        "patience": patience,
        "dtype": dtype,
        "data": source.identity,
    }
    optional = {
        "from": fingerprint(model) if warm_start else None,
        "split_seed": split_seed,
        "max_grad_norm": getattr(model, "max_grad_norm", None) if max_grad_norm is None else max_grad_norm,
        "num_decays": num_decays or None,
    }
    settings |= {name: value for name, value in optional.items() if value is not None}
    _validate(settings)
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    device = resolve_device(device)
    checkpoint = Checkpoint(None if out is None else folder_path(out, "out"), settings)
    saved = checkpoint.load(device, getattr(source, "form", {}) if allow_new_data else None)
    builtin = _callbacks(callback(progress), patience, num_decays, checkpoint.folder, tensorboard)
    model.to(device).train()
    trainer = Trainer(model, settings, device, checkpoint.folder, [*builtin, *callbacks, checkpoint])
    try:
        _train(trainer, checkpoint, source, saved, warm_start)
    finally:
        model.load_state_dict(trainer.best)
        model.to(home).eval()
    return model


def _callbacks(
    report: Progress, patience: int | None, num_decays: int, folder: Path | None, tensorboard: bool
) -> list[TrainingCallback]:
    """Return the callbacks that the arguments of `fit` ask for."""
    callbacks: list[TrainingCallback] = [ShowProgress(report)]
    if patience is not None:
        callbacks.append(EarlyStopping(patience, num_decays))
    if folder is not None:
        callbacks.append(MetricsLog(folder / "metrics.jsonl"))
    if folder is not None and tensorboard:
        callbacks.append(TensorBoard(folder / "tensorboard"))
    return callbacks


def _train(
    trainer: Trainer, checkpoint: Checkpoint, data: Data, saved: dict[str, Any] | None, warm_start: bool
) -> None:
    """Complete the schedule of the folder, then the one for more updates or for new data, if asked for."""
    if saved is not None:
        checkpoint.restore(saved, trainer)
    settings, state = trainer.settings, trainer.state
    before: dict[str, Any] = settings if saved is None else saved["settings"]
    new_data = before["data"] != settings["data"]
    more = settings["num_updates"] - (0 if new_data else before["num_updates"])
    if more or not state.finished:
        split_seed = settings.get("split_seed", settings["seed"])
        trainer.training, trainer.validation = data.split(settings["val_fraction"], split_seed)
        distributed.broadcast(trainer.model, trainer.num_processes)
    if saved is None:
        if not warm_start:
            _init_from_data(trainer)
        trainer.best = copy.deepcopy(trainer.model.state_dict())
    if not new_data and not (state.finished and more):
        checkpoint.settings["num_updates"] = before["num_updates"]  # until this schedule ends
        trainer.run()
    if more:
        trainer.continue_training((state.update if new_data else state.until) + more)
        checkpoint.set_num_updates(settings["num_updates"])
        trainer.run()
    distributed.barrier(trainer.num_processes)  # wait until the main process has written its files


def _validate(settings: Mapping[str, Any]) -> None:
    """Check the settings of a training.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    validate_positive_int(**{name: settings[name] for name in ("num_updates", "batch_size", "eval_every")})
    validate_optional_positive_int(patience=settings["patience"])
    num_decays = settings.get("num_decays", 0)
    if num_decays < 0:
        raise ValueError(f"num_decays must be at least 0, got {num_decays}")
    if num_decays and settings["patience"] is None:
        raise ValueError(f"num_decays needs patience, which finds a plateau, got {num_decays} with patience None")
    for name in ("seed", "split_seed"):
        if name in settings:
            validate_seed(settings[name], name)
    if not (settings["learning_rate"] > 0 and math.isfinite(settings["learning_rate"])):
        raise ValueError(f"learning_rate must be above zero, got {settings['learning_rate']}")
    if not 0 < settings["val_fraction"] < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {settings['val_fraction']}")
    if not settings.get("max_grad_norm", 1) > 0:
        raise ValueError(f"max_grad_norm must be a number above zero, got {settings['max_grad_norm']!r}")
    _, num_processes = distributed.init()
    if settings["batch_size"] < num_processes:
        raise ValueError(
            f"batch_size must be at least the number of processes, {num_processes}, got {settings['batch_size']}"
        )
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {settings['dtype']!r}")


def _init_from_data(trainer: Trainer) -> None:
    """Initialize a model that can be initialized from a first batch."""
    init_from_data = getattr(trainer.model, "init_from_data", None)
    if init_from_data is not None:
        size, rng = (
            max(trainer.settings["batch_size"], MIN_INIT_EXAMPLES),
            np.random.default_rng([trainer.settings["seed"], 0]),
        )
        init_from_data(to_device(trainer.training.batch(size, rng), trainer.device))
