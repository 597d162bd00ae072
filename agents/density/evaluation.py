"""What a density of speech or images is worth: log-likelihoods of whole sequences, with what belongs beside them.

Start reading at `evaluate_model`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.density.gaussian import Gaussian
from agents.evaluation import hardware
from worldmodel import SequenceDensity, distributed
from worldmodel.baselines import VRNN
from worldmodel.batches import to_device
from worldmodel.corpora import Corpus
from worldmodel.io import write_json
from worldmodel.progress import Progress, silent

BATCH = 32
"""Sequences that are judged at once; a VRNN's noise depends on it."""
EXACT = "log p, exact"
BOUND = "lower bound of log p (ELBO, one sample of z)"
IMPORTANCE = "importance estimate of log p"


@dataclass(frozen=True)
class Measure:
    """One number: the mean over the sequences of a part.

    Args:
        what: "log p, exact", or which bound of it.
        mean: over sequences, in the evaluation's unit.
        stderr: its standard error, files being what is drawn.
        n: number of files (recordings or images).
        sequences: number of sequences; a recording that is cut into pieces has several.
        frame: of speech, nats a frame: all sequences' sum over all their frames.
        frame_stderr: its standard error, files being what is drawn.
        values: of each sequence.
    """

    what: str
    mean: float
    stderr: float
    n: int
    sequences: int
    frame: float | None
    frame_stderr: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a density is worth on one part of its corpus; everything that a number needs beside it.

    Args:
        part: "test", "held_out" or "train".
        measures: the exact log-likelihood; or of a VRNN a bound and an importance estimate.
        unit: of the means.
        ceiling: of speech, nats a frame that the clamp of precisions and the couplings allow; None: unbounded.
        levels: of speech, nats a frame at which a density begins to tell 16-bit levels apart.
        model: name.
        parameters: how many.
        corpus: `worldmodel.corpora.Corpus.describe`.
        hardware: this machine.
        own: identity of this part of the corpus that the density was learned from, where it was judged on another one.
        gaussian: mean of the simplest density (`agents.density.gaussian`), in the same unit.
        better: by how much the last measure is better than that; below zero: worse.
        better_stderr: its standard error, files being what is drawn.
        learned: sentences on the training (`agents.density.training_summary`).
    """

    part: str
    measures: tuple[Measure, ...]
    unit: str
    ceiling: float | None
    levels: float | None
    model: str
    parameters: int
    corpus: dict[str, Any]
    hardware: str
    own: str | None = None
    gaussian: float | None = None
    better: float | None = None
    better_stderr: float | None = None
    learned: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        for measure in self.measures:
            unit = self.unit.partition(",")[0]
            line = (
                f"{self.model}, {self.part}: {measure.mean:.4f} ± {measure.stderr:.4f} {unit} ({self.count(measure)})"
            )
            if measure.frame is not None:
                line += f"; {measure.frame:.3f} ± {measure.frame_stderr:.3f} nats a frame"
            lines.append(f"{line}; {measure.what}")
        return "\n".join([*lines, *self.findings, *self.notes])

    def count(self, measure: Measure) -> str:
        """How many files, and how many sequences of them, were judged."""
        files = "recordings" if self.corpus["kind"] == "speech" else "images"
        pieces = f", {measure.sequences} sequences" if measure.sequences != measure.n else ""
        return f"n = {measure.n} {files}{pieces}"

    @property
    def findings(self) -> list[str]:
        """What the numbers mean: the result beside the simplest density, and the training."""
        if self.gaussian is None or self.better is None or self.better_stderr is None:
            return list(self.learned)
        sure = abs(self.better) > 2 * self.better_stderr and self.measures[-1].n > 1
        words = "No better" if not sure or not self.better else "Better" if self.better > 0 else "WORSE"
        words = (
            words if self.measures[-1].n > 1 else "With one file, which has no standard error, not known to be better"
        )
        bound = "" if self.measures[-1].what == EXACT else ", by its lower bound,"
        unit = self.unit.partition(",")[0]
        return [
            f"{words}{bound} than one Gaussian for each number of an event, which has {self.gaussian:.4f} {unit}: "
            f"difference {self.better:+.4f} ± {self.better_stderr:.4f} (above zero: better).",
            *self.learned,
        ]

    @property
    def notes(self) -> list[str]:
        """What has to be said beside the numbers."""
        notes = [f"In {self.unit}; ± is the standard error of the mean over files."]
        if self.levels is not None:
            most = "not bounded" if self.ceiling is None else f"at most {self.ceiling:.1f} nats a frame"
            notes.append(
                f"Ceiling: {most} by the model's precision; above {self.levels:.1f} a density tells 16-bit levels apart."
            )
        if self.own is not None:
            judged = self.corpus["parts"][self.part]["identity"]
            notes.append(
                f"Another corpus than the one that it was learned from: judged on {judged}; its own is {self.own}."
            )
        return notes

    def save(self, path: Path, **more: Any) -> Path:
        """Write everything but the single sequences' values as JSON."""
        plain = asdict(self)
        for measure in plain["measures"]:
            del measure["values"]
        write_json(path, plain | more)
        return path


def evaluate_model(
    model: SequenceDensity | VRNN,
    name: str,
    corpus: Corpus,
    part: str,
    samples: int,
    progress: Progress = silent,
) -> Evaluation:
    """Judge a model on a part of its corpus, in single precision; sums are in double.

    Args:
        model: the density.
        name: of the model, for the report.
        corpus: with its unit.
        part: "test", "held_out" or "train".
        samples: of a VRNN's latents, for its importance estimate.
        progress: called as ``progress(sequences, all of them, "")``.
    """
    data, speech = getattr(corpus, part), corpus.kind == "speech"
    gaussian, simple = Gaussian(corpus.train), list[np.ndarray]()
    scale = corpus.normalizer.describe()  # first of all: recordings may be others than those that it was kept for
    device = distributed.device()
    model.to(device)
    found: dict[str, list[np.ndarray]] = {}
    frames: list[np.ndarray] = []
    progress(0, len(data), "")
    try:
        for batch in data.batches(BATCH):
            for what, values in _log_likelihoods(model, to_device(batch, device), samples, len(frames)):
                values = _in_unit(values, corpus)
                if not torch.isfinite(values).all():
                    first = sum(map(len, frames)) + int((~torch.isfinite(values)).nonzero()[0, 0])
                    raise ValueError(
                        f"{what} of sequence {first} of the {part} part of {corpus.name} is not a finite number"
                    )
                found.setdefault(what, []).append(values.numpy())
            simple.append(_in_unit(gaussian.log_prob(batch), corpus).numpy())
            frames.append(batch.mask.sum(dim=1).double().numpy())
            progress(sum(map(len, frames)), len(data), "")
    finally:
        model.cpu()
    lengths, files = np.concatenate(frames), data.file_indices
    measured = {what: np.concatenate(parts) for what, parts in found.items()}
    gain = (list(measured.values())[-1] - np.concatenate(simple)) * (1 if speech else -1)
    ceiling = model.ceiling * corpus.event_dim
    return Evaluation(
        part,
        tuple(_measure(what, values, files, lengths if speech else None) for what, values in measured.items()),
        corpus.unit,
        ceiling if speech and math.isfinite(ceiling) else None,
        scale["ceiling"] * corpus.event_dim if speech else None,
        name,
        sum(parameter.numel() for parameter in model.parameters()),
        corpus.describe(),
        hardware(),
        gaussian=float(np.concatenate(simple).mean()),
        better=float(gain.mean()),
        better_stderr=_stderr(gain, files),
    )


def _in_unit(values: torch.Tensor, corpus: Corpus) -> torch.Tensor:
    values = values.cpu().double()
    return values if corpus.kind == "speech" else corpus.bits(values)


@torch.no_grad()
def _log_likelihoods(
    model: SequenceDensity | VRNN, batch: Any, samples: int, number: int
) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(model, SequenceDensity):
        yield EXACT, model.log_prob(batch)
    else:
        generator = torch.Generator(batch.event.device).manual_seed(number)
        yield BOUND, model.elbo(batch, generator)
        yield (
            f"{IMPORTANCE} ({samples} samples of z; a lower bound, too)",
            model.iwae_bound(batch, samples, generator),
        )


def _measure(what: str, values: np.ndarray, files: np.ndarray, frames: np.ndarray | None) -> Measure:
    frame, frame_stderr = None, None
    if frames is not None:
        frame = float(values.sum() / frames.sum())
        frame_stderr = _stderr(values, files, frames)
    n, stderr = len(np.unique(files)), _stderr(values, files)
    return Measure(what, float(values.mean()), stderr, n, len(values), frame, frame_stderr, tuple(values.tolist()))


def _stderr(values: np.ndarray, files: np.ndarray, sizes: np.ndarray | None = None) -> float:
    """Standard error of sum(values) / sum(sizes), files being what is drawn; sizes: of each value, 1 unless given."""
    sizes = np.ones(len(values)) if sizes is None else sizes
    _, of = np.unique(files, return_inverse=True)
    if of.max() < 1:
        return 0.0
    total, size = np.bincount(of, values), np.bincount(of, sizes)
    rest = total - size * total.sum() / size.sum()  # of a ratio of means
    return float(rest.std(ddof=1)) / math.sqrt(len(rest)) / float(size.mean())
