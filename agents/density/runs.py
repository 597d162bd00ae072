"""Files of a density's run folder: settings, weights, normalization constants and the identity of its corpus.

Start reading at `load_density`.
"""

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel import SequenceDensity
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.density.config import DensityConfig, corpus_kind, validate_density
from worldmodel.agents.shell import command
from worldmodel.baselines import VRNN
from worldmodel.corpora import Corpus, open_corpus
from worldmodel.corpora.audio_files import MAX_AMPLITUDE, SAMPLE_RATE_RANGE
from worldmodel.corpora.images import Dequantisation
from worldmodel.corpora.registry import CORPORA
from worldmodel.io import migration
from worldmodel.io.files import error_context, from_json, read_json
from worldmodel.io.paths import expand, folder_path
from worldmodel.registry import build_density
from worldmodel.training.checkpoint import load_trained

MAX_IMAGE_VALUES = 2**24
"""Largest number of values of an image."""


class SpeechScale(NamedTuple):
    """Constants that convert events to speech.

    Args:
        rate: Number of samples a second.
        frame: Number of samples in an event.
        mean: Mean of the samples; full scale is from -1 to 1.
        std: Standard deviation of the samples; full scale is from -1 to 1.
    """

    rate: int
    frame: int
    mean: float
    std: float


def load_density(folder: str | os.PathLike[str]) -> tuple[SequenceDensity | VRNN, DensityConfig]:
    """Load the trained model, in eval mode, and the settings of its run.

    Raises:
        ValueError: the folder has no trained density, and the message names the command that trains one; or a file is damaged.
    """
    run = folder_path(folder, "run")
    if not (run / "config.yaml").exists() or not (run / "weights.safetensors").exists():
        fit = command("worldmodel", "density", "fit", "--data", "KIND:FOLDER", "--out", run)
        raise ValueError(f"{run} has no trained density; train one with {fit}")
    path = run / "config.yaml"
    settings = from_json(DensityConfig, migration.config_file(read_yaml(path)), path)
    with error_context(path, wrap_value_errors=True):
        validate_density(settings)
    return load_trained(run, build_density), settings


def load_scale(
    folder: str | os.PathLike[str], model: SequenceDensity | VRNN, kind: str
) -> SpeechScale | Dequantisation:
    """Load the constants that convert the events of a density to speech or images; the corpus itself is not needed.

    Raises:
        ValueError: ``corpus.json`` is missing, has values out of range, or does not match the model.
    """
    path = folder_path(folder, "run") / "corpus.json"
    with error_context(path, wrap_value_errors=True):
        corpus = migration.corpus(read_json(path))
        if corpus["kind"] != kind:
            raise ValueError(f"kind must be {kind!r}, as in config.yaml, got {corpus['kind']!r}")
        scale = _speech_scale(corpus, path) if kind == "speech" else _image_scale(corpus, path)
        event_dim = scale.frame if isinstance(scale, SpeechScale) else scale.event_dim
        if event_dim != model.event_dim:
            raise ValueError(f"an event must have {model.event_dim} dimensions, as in the model, got {event_dim}")
    return scale


def _speech_scale(corpus: dict[str, Any], path: Path) -> SpeechScale:
    """Read and validate the constants of speech."""
    scale = from_json(SpeechScale, corpus["scale"], path)
    if not SAMPLE_RATE_RANGE[0] <= scale.rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(f"rate must be from {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}, got {scale.rate}")
    if not abs(scale.mean) <= MAX_AMPLITUDE:
        raise ValueError(f"mean must be from -{MAX_AMPLITUDE:g} to {MAX_AMPLITUDE:g}, got {scale.mean}")
    if not 0 < scale.std <= MAX_AMPLITUDE:
        raise ValueError(f"std must be above zero and at most {MAX_AMPLITUDE:g}, got {scale.std}")
    return scale


def _image_scale(corpus: dict[str, Any], path: Path) -> Dequantisation:
    """Read and validate the constants of images."""
    scale = from_json(Dequantisation, {name: corpus["scale"][name] for name in Dequantisation._fields}, path)
    sizes = (scale.height, scale.width, scale.channels)
    if min(sizes) < 1 or scale.channels not in (1, 3) or math.prod(sizes) > MAX_IMAGE_VALUES:
        raise ValueError(f"height, width and channels (1 or 3) must be the size of an image, got {sizes}")
    if corpus["dimensions"] != scale.dimensions:
        raise ValueError(
            f"dimensions must be {scale.dimensions} = height x width x channels, got {corpus['dimensions']}"
        )
    for name, value in scale.describe().items():
        if corpus["scale"].get(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {corpus['scale'][name]}")
    return scale


def open_run_corpus(settings: DensityConfig, folder: Path) -> Corpus:
    """Open the corpus; for speech, the run folder stores its mean and standard deviation, so that they are computed once."""
    cache = {"cache": folder / "scale.json"} if settings.kind == "speech" else {}
    return open_corpus(settings.data, **settings.corpus_options, **cache)


def open_matching_corpus(
    settings: DensityConfig, folder: str | os.PathLike[str], model: SequenceDensity | VRNN, data: str | None
) -> Corpus:
    """Open the corpus of a density, which may have moved, or another corpus of the same kind.

    Args:
        settings: Settings of the run.
        folder: Path of the run folder.
        model: The trained model.
        data: KIND:FOLDER of the corpus. None: that of the run.

    Raises:
        ValueError: the corpus is missing, is of another kind, or has events of another size.
    """
    if data is not None:
        if data.partition(":")[0] in CORPORA and (kind := corpus_kind(data)) != settings.kind:
            names = {"speech": "speech", "image": "images"}
            raise ValueError(f"{folder} is a density of {names[settings.kind]}, got {names[kind]}: {data}")
        settings = replace(settings, data=data)
    corpus = open_run_corpus(settings, expand(folder))
    if corpus.event_dim != model.event_dim:
        raise ValueError(
            f"{settings.data} must have events of {model.event_dim} dimensions, as {folder}, got {corpus.event_dim}"
        )
    return corpus


def original_identity(folder: str | os.PathLike[str], part: str, identity: str) -> str | None:
    """Return the identity of a part of the training corpus, or None if it is ``identity``.

    Raises:
        ValueError: the run's ``corpus.json`` is missing or damaged.
    """
    path = expand(folder) / "corpus.json"
    with error_context(path):
        original = str(read_json(path)["parts"][part]["identity"])
    # runs of older versions stored no digest of the contents
    comparable = identity if ", contents " in original else re.sub(r", contents \w+", "", identity)
    return None if original == comparable else original
