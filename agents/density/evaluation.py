"""What a density of speech or images is worth: log-likelihoods of whole sequences, with what belongs beside them.

Start reading at `judge`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.evaluation import hardware
from worldmodel import SequenceDensity, parallel
from worldmodel.baselines import VRNN
from worldmodel.batches import to_device
from worldmodel.checkpoints import write_json
from worldmodel.corpora import Corpus
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
        stderr: its standard error.
        n: sequences.
        frame: of speech, nats a frame: all sequences' sum over all their frames.
        frame_stderr: its standard error, sequences being what is drawn.
        values: of each sequence.
    """

    what: str
    mean: float
    stderr: float
    n: int
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

    def __str__(self) -> str:
        lines = []
        for measure in self.measures:
            unit = self.unit.partition(",")[0]
            line = f"{self.model}, {self.part}: {measure.mean:.4f} ± {measure.stderr:.4f} {unit} (n = {measure.n})"
            if measure.frame is not None:
                line += f"; {measure.frame:.3f} ± {measure.frame_stderr:.3f} nats a frame"
            lines.append(f"{line}; {measure.what}")
        return "\n".join([*lines, *self.notes])

    @property
    def notes(self) -> list[str]:
        """What has to be said beside the numbers."""
        notes = [f"In {self.unit}; ± is the standard error of the mean over sequences."]
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


def judge(
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
    scale = corpus.scale.describe()  # first of all: recordings may be others than those that it was kept for
    device = parallel.device()
    model.to(device)
    found: dict[str, list[np.ndarray]] = {}
    frames: list[np.ndarray] = []
    progress(0, len(data), "")
    try:
        for batch in data.batches(BATCH):
            for what, values in _log_likelihoods(model, to_device(batch, device), samples, len(frames)):
                values = values.cpu().double() if speech else corpus.bits(values.cpu().double())
                if not torch.isfinite(values).all():
                    first = sum(map(len, frames)) + int((~torch.isfinite(values)).nonzero()[0, 0])
                    raise ValueError(
                        f"{what} of sequence {first} of the {part} part of {corpus.name} is not a finite number"
                    )
                found.setdefault(what, []).append(values.numpy())
            frames.append(batch.mask.sum(dim=1).double().numpy())
            progress(sum(map(len, frames)), len(data), "")
    finally:
        model.cpu()
    lengths = np.concatenate(frames)
    ceiling = model.ceiling * corpus.event
    return Evaluation(
        part,
        tuple(_measure(what, np.concatenate(parts), lengths if speech else None) for what, parts in found.items()),
        corpus.unit,
        ceiling if speech and math.isfinite(ceiling) else None,
        scale["ceiling"] * corpus.event if speech else None,
        name,
        sum(parameter.numel() for parameter in model.parameters()),
        corpus.describe(),
        hardware(),
    )


@torch.no_grad()
def _log_likelihoods(
    model: SequenceDensity | VRNN, batch: Any, samples: int, number: int
) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(model, SequenceDensity):
        yield EXACT, model.log_prob(batch)
    else:
        generator = torch.Generator(batch.event.device).manual_seed(number)
        yield BOUND, model.bound(batch, generator)
        yield (
            f"{IMPORTANCE} ({samples} samples of z; a lower bound, too)",
            model.importance_sampled(batch, samples, generator),
        )


def _measure(what: str, values: np.ndarray, frames: np.ndarray | None) -> Measure:
    n, frame, frame_stderr = len(values), None, None
    if frames is not None:
        frame = float(values.sum() / frames.sum())
        frame_stderr = _stderr(values - frame * frames) / float(frames.mean())  # of a ratio of means
    return Measure(what, float(values.mean()), _stderr(values), n, frame, frame_stderr, tuple(values.tolist()))


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
