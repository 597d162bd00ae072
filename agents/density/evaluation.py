"""Evaluation of a density of speech or images: log-likelihoods of whole sequences and their standard errors.

Start reading at `evaluate_model`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import SequenceDensity
from worldmodel.agents.analysis.statistics import t_quantile
from worldmodel.agents.density.gaussian import Gaussian
from worldmodel.agents.evaluation import hardware
from worldmodel.baselines import VRNN
from worldmodel.batches import to_device
from worldmodel.corpora import Corpus
from worldmodel.io.files import write_json
from worldmodel.training.devices import resolve_device
from worldmodel.training.progress import Progress, silent

BATCH_SIZE = 32
"""Number of sequences in a batch of the evaluation. The noise of a VRNN depends on it."""
EXACT = "log p, exact"
BOUND = "lower bound of log p (ELBO, one sample of z)"
IMPORTANCE = "importance estimate of log p"
REFERENCE, LENGTH = "reference density", "number of frames"


@dataclass(frozen=True)
class Measure:
    """One measure: the mean over the sequences of a part.

    Args:
        what: Name of the measure: "log p, exact", or the bound of log p.
        mean: Mean over sequences, in the unit of the evaluation.
        stderr: Standard error of ``mean``, clustered by file; None for one file.
        n: Number of files (recordings or images).
        sequences: Number of sequences; a recording that is cut into segments has several.
        frame: Sum over all sequences divided by their number of frames, in nats per frame; None for images.
        frame_stderr: Standard error of ``frame``, clustered by file; None for images and for one file.
        values: Value of each sequence.
    """

    what: str
    mean: float
    stderr: float | None
    n: int
    sequences: int
    frame: float | None
    frame_stderr: float | None
    values: tuple[float, ...]

    def text(self, frame: bool = False) -> str:
        """Return the mean (or with ``frame`` the value a frame) and ± its standard error, if there is one."""
        value, stderr, digits = (self.frame, self.frame_stderr, 3) if frame else (self.mean, self.stderr, 4)
        return f"{value:.{digits}f}{_plus_minus(stderr if self.n > 1 else None, digits)}"


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a density on one part of its corpus, with all that a report needs beside the numbers.

    Args:
        part: Part of the corpus: "test", "held_out" or "train".
        measures: Exact log-likelihood; for a VRNN, a lower bound and an importance estimate.
        unit: Unit of the means.
        ceiling: Upper bound of a likelihood of speech by the clamp of precisions and the couplings, in nats per frame. None:
            unbounded, or images.
        quantization_limit: Likelihood of speech above which a density resolves 16-bit levels, in nats per frame. None:
            images.
        model: Name of the model.
        parameters: Number of parameters of the model.
        corpus: Description by `worldmodel.corpora.Corpus.describe`.
        hardware: Description of this machine.
        training_identity: Identity of this part of the training corpus, if the evaluation is on another corpus; else None.
        gaussian: Mean of the reference density (`agents.density.gaussian`), in the same unit.
        gain: Difference of the last measure to the reference density; positive is better.
        gain_stderr: Standard error of ``gain``, clustered by file; None for one file.
        training_summary: Sentences about the training (`agents.density.training_summary`).
    """

    part: str
    measures: tuple[Measure, ...]
    unit: str
    ceiling: float | None
    quantization_limit: float | None
    model: str
    parameters: int
    corpus: dict[str, Any]
    hardware: str
    training_identity: str | None = None
    gaussian: float | None = None
    gain: float | None = None
    gain_stderr: float | None = None
    training_summary: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        for measure in self.measures:
            unit = self.unit.partition(",")[0]
            line = f"{self.model}, {self.part}: {measure.text()} {unit} ({self.count(measure)})"
            if measure.frame is not None:
                line += f"; {measure.text(frame=True)} nats per frame"
            lines.append(f"{line}; {measure.what}")
        return "\n".join([*lines, *self.findings, *self.notes])

    def count(self, measure: Measure) -> str:
        """Format the number of files and, if it differs, the number of sequences."""
        files = "recordings" if self.corpus["kind"] == "speech" else "images"
        pieces = f", {measure.sequences} sequences" if measure.sequences != measure.n else ""
        return f"n = {measure.n} {files}{pieces}"

    @property
    def findings(self) -> list[str]:
        """Conclusions: the comparison with the reference density (a t test), and the sentences about the training."""
        if self.gaussian is None or self.gain is None:
            return list(self.training_summary)
        n = self.measures[-1].n
        stderr = self.gain_stderr if n > 1 else None  # older files have 0 for one file
        if stderr is None:
            verdict = "With one file, which has no standard error, not known to be better"
        elif abs(self.gain) <= t_quantile(0.975, n - 1) * stderr:
            verdict = "Not significantly better"
        else:
            verdict = "Better" if self.gain > 0 else "WORSE"
        bound = "" if self.measures[-1].what == EXACT else " (by the lower bound)"
        unit = self.unit.partition(",")[0]
        return [
            f"{verdict}{bound} than one independent Gaussian for each dimension of an event ({self.gaussian:.4f} {unit}): "
            f"difference {self.gain:+.4f}{_plus_minus(stderr, 4)} (positive: better).",
            *self.training_summary,
        ]

    @property
    def notes(self) -> list[str]:
        """Notes on the unit, the ceiling and, if it is not the training corpus, the corpus."""
        files = (
            "one file has no standard error"
            if self.measures[-1].n == 1
            else "± is the standard error of the mean over files"
        )
        notes = [f"In {self.unit}; {files}."]
        if self.quantization_limit is not None:
            ceiling = "none" if self.ceiling is None else f"{self.ceiling:.1f} nats per frame"
            notes.append(
                f"Ceiling by the model's precision: {ceiling}. Above {self.quantization_limit:.1f} nats per frame a density "
                "resolves 16-bit levels."
            )
        if self.training_identity is not None:
            identity = self.corpus["parts"][self.part]["identity"]
            notes.append(
                f"Evaluated on another corpus than its training corpus: {identity} instead of {self.training_identity}."
            )
        return notes

    def save(self, path: Path, **extra: Any) -> Path:
        """Write the evaluation and ``extra`` as JSON, without the values of single sequences; return the path."""
        plain = asdict(self)
        for measure in plain["measures"]:
            del measure["values"]
        write_json(path, plain | extra)
        return path


def evaluate_model(
    model: SequenceDensity | VRNN,
    name: str,
    corpus: Corpus,
    part: str,
    samples: int,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a model on one part of its corpus, in single precision; only sums over sequences are in double precision.

    Args:
        model: The density.
        name: Name of the model for the report.
        corpus: The corpus, which defines the unit.
        part: Part of the corpus: "test", "held_out" or "train".
        samples: Number of latent samples for the importance estimate of a VRNN.
        progress: Callback ``progress(sequences, total, "")``.

    Returns:
        The evaluation.

    Raises:
        ValueError: a log-likelihood is not finite, or the corpus does not match its stored mean and standard deviation.
    """
    speech, files = corpus.kind == "speech", getattr(corpus, part).file_indices
    scale = corpus.normalizer.describe()  # first: raises an error if the stored mean and std are of other recordings
    model.to(resolve_device())
    try:
        values_of = _values(model, corpus, part, samples, progress)
    finally:
        model.cpu()
    lengths, reference = values_of.pop(LENGTH), values_of.pop(REFERENCE)
    difference = (list(values_of.values())[-1] - reference) * (1 if speech else -1)
    ceiling = model.ceiling * corpus.event_dim
    return Evaluation(
        part,
        tuple(_measure(what, values, files, lengths if speech else None) for what, values in values_of.items()),
        corpus.unit,
        ceiling if speech and math.isfinite(ceiling) else None,
        scale["ceiling"] * corpus.event_dim if speech else None,
        name,
        sum(parameter.numel() for parameter in model.parameters()),
        corpus.describe(),
        hardware(),
        gaussian=float(reference.mean()),
        gain=float(difference.mean()),
        gain_stderr=_stderr(difference, files),
    )


def _values(
    model: SequenceDensity | VRNN, corpus: Corpus, part: str, samples: int, progress: Progress
) -> dict[str, np.ndarray]:
    """Return the values of all sequences by the name of the measure, of the reference density, and their lengths."""
    data, reference, done = getattr(corpus, part), Gaussian(corpus.train), 0
    measured: dict[str, list[np.ndarray]] = {}
    progress(0, len(data), "")
    for number, batch in enumerate(data.batches(BATCH_SIZE)):
        moved = to_device(batch, resolve_device())
        densities = (*_log_likelihoods(model, moved, samples, number), (REFERENCE, reference.log_prob(batch)))
        values_of = {what: _in_unit(values, corpus) for what, values in densities}
        for what, values in {**values_of, LENGTH: batch.mask.sum(dim=1).double()}.items():
            if not torch.isfinite(values).all():
                first = done + int((~torch.isfinite(values)).nonzero()[0, 0])
                raise ValueError(
                    f"{what} of sequence {first} of the {part} part of {corpus.name} is not a finite number"
                )
            measured.setdefault(what, []).append(values.numpy())
        done += len(batch.mask)
        progress(done, len(data), "")
    return {what: np.concatenate(values) for what, values in measured.items()}


def _in_unit(values: torch.Tensor, corpus: Corpus) -> torch.Tensor:
    """Convert nats of whole sequences to the unit of the corpus, in double precision."""
    values = values.cpu().double()
    return values if corpus.kind == "speech" else corpus.bits(values)


@torch.no_grad()
def _log_likelihoods(
    model: SequenceDensity | VRNN, batch: Any, samples: int, number: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and the values (batch,) of each measure; ``number`` seeds the noise of a VRNN."""
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
    """Return the measure of the values of all sequences; ``frames`` is the number of frames of each, for speech."""
    frame, frame_stderr = None, None
    if frames is not None:
        frame = float(values.sum() / frames.sum())
        frame_stderr = _stderr(values, files, frames)
    n, stderr = len(np.unique(files)), _stderr(values, files)
    return Measure(what, float(values.mean()), stderr, n, len(values), frame, frame_stderr, tuple(values.tolist()))


def _stderr(values: np.ndarray, files: np.ndarray, sizes: np.ndarray | None = None) -> float | None:
    """Return the standard error of the ratio sum(values) / sum(sizes), clustered by file; None for a single file.

    It is std(r) / (sqrt(n) mean(S)) with the residual r_f = V_f - S_f sum(V) / sum(S) of each of n files, where V_f and S_f
    are the sums of the values and sizes of file f.

    Args:
        values: Value of each sequence.
        files: Index of the file of each sequence.
        sizes: Size of each sequence. None: 1.
    """
    sizes = np.ones(len(values)) if sizes is None else sizes
    _, clusters = np.unique(files, return_inverse=True)
    if clusters.max() < 1:
        return None
    total, size = np.bincount(clusters, values), np.bincount(clusters, sizes)
    residuals = total - size * total.sum() / size.sum()
    return float(residuals.std(ddof=1)) / math.sqrt(len(residuals)) / float(size.mean())


def _plus_minus(stderr: float | None, digits: int) -> str:
    """Format a standard error after its mean."""
    return "" if stderr is None else f" ± {stderr:.{digits}f}"
