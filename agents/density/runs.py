"""What lies in the run folder of a density: its settings, its weights, its scale, and the way to its corpus."""

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agents.config.io import read_yaml
from agents.density.config import DensityConfig, kind_of, validate_density
from agents.shell import command
from worldmodel import SequenceDensity, migration
from worldmodel.baselines import VRNN
from worldmodel.corpora import Corpus, open_corpus
from worldmodel.corpora.audio_files import MAX_AMPLITUDE, SAMPLE_RATE_RANGE
from worldmodel.corpora.images import Dequantisation
from worldmodel.corpora.registry import CORPORA
from worldmodel.io import error_context, from_json, load_module, read_json
from worldmodel.migration import training_settings
from worldmodel.paths import expand, folder_path
from worldmodel.registry import build_density

LARGEST = 2**24
"""No image has more numbers."""


class SpeechScale(NamedTuple):
    """How events become speech."""

    rate: int
    """Samples a second."""
    frame: int
    """Samples of an event."""
    mean: float
    """Of full scale."""
    std: float
    """Of full scale."""


def load_density(folder: str | os.PathLike[str]) -> tuple[SequenceDensity | VRNN, DensityConfig]:
    """The learned model in eval mode, and the settings of its run.

    Raises:
        ValueError: the folder holds none; the message says how to make one.
    """
    run = folder_path(folder, "run")
    if not (run / "config.yaml").exists() or not (run / "weights.safetensors").exists():
        words = command("worldmodel", "density", "fit", "--data", "KIND:FOLDER", "--out", run)
        raise ValueError(f"{run} has no learned density yet: {words}")
    path = run / "config.yaml"
    settings = from_json(DensityConfig, migration.config_file(read_yaml(path)), path)
    with error_context(path, wrap_value_errors=True):
        validate_density(settings)
    with error_context(run / "settings.json", wrap_value_errors=True):
        described = training_settings(read_json(run / "settings.json"))["model_config"]
        with torch.device("meta"):
            build_density(described)
    return load_module(lambda: build_density(described), run / "weights.safetensors").eval(), settings


def load_scale(
    folder: str | os.PathLike[str], model: SequenceDensity | VRNN, kind: str
) -> SpeechScale | Dequantisation:
    """How the events of a learned density become sounds or images; the corpus itself is not needed.

    Raises:
        ValueError: what the run wrote down of its corpus is missing, out of range, or does not fit the model.
    """
    path = folder_path(folder, "run") / "corpus.json"
    with error_context(path, wrap_value_errors=True):
        about = read_json(path)
        if about["kind"] != kind:
            raise ValueError(f"kind must be {kind!r}, as in config.yaml, got {about['kind']!r}")
        found = _speech_scale(about, path) if kind == "speech" else _image_scale(about, path)
        event = found.frame if isinstance(found, SpeechScale) else found.event_dim
        if event != model.event_dim:
            raise ValueError(f"an event must have {model.event_dim} numbers, as the model's, got {event}")
    return found


def _speech_scale(about: dict[str, Any], path: Path) -> SpeechScale:
    scale = from_json(SpeechScale, about["scale"], path)
    if not SAMPLE_RATE_RANGE[0] <= scale.rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(f"rate must be from {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}, got {scale.rate}")
    if not abs(scale.mean) <= MAX_AMPLITUDE:
        raise ValueError(f"mean must be from -{MAX_AMPLITUDE:g} to {MAX_AMPLITUDE:g}, got {scale.mean}")
    if not 0 < scale.std <= MAX_AMPLITUDE:
        raise ValueError(f"std must be above zero and at most {MAX_AMPLITUDE:g}, got {scale.std}")
    return scale


def _image_scale(about: dict[str, Any], path: Path) -> Dequantisation:
    scale = from_json(Dequantisation, {name: about["scale"][name] for name in Dequantisation._fields}, path)
    sizes = (scale.height, scale.width, scale.channels)
    if min(sizes) < 1 or scale.channels not in (1, 3) or math.prod(sizes) > LARGEST:
        raise ValueError(f"height, width and channels (1 or 3) must be those of an image, got {sizes}")
    if about["dimensions"] != scale.dimensions:
        raise ValueError(
            f"dimensions must be {scale.dimensions}, as height x width x channels, got {about['dimensions']}"
        )
    for name, value in scale.describe().items():
        if about["scale"].get(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {about['scale'][name]}")
    return scale


def open_data(settings: DensityConfig, folder: Path) -> Corpus:
    """The corpus; the run keeps its mean and standard deviation, so that a long one is measured once."""
    cache = {"cache": folder / "scale.json"} if settings.kind == "speech" else {}
    return open_corpus(settings.data, **settings.corpus_options, **cache)


def open_moved(
    settings: DensityConfig, folder: str | os.PathLike[str], model: SequenceDensity | VRNN, data: str | None
) -> Corpus:
    """The corpus of a learned density where it lies now, or another one of its kind; None: where it was learned from.

    Raises:
        ValueError: the corpus is missing, is of another kind, or has events of another size.
    """
    if data is not None:
        if data.partition(":")[0] in CORPORA and (kind := kind_of(data)) != settings.kind:
            words = {"speech": "speech", "image": "images"}
            raise ValueError(f"{folder} is a density of {words[settings.kind]}, got {words[kind]}: {data}")
        settings = replace(settings, data=data)
    corpus = open_data(settings, expand(folder))
    if corpus.event_dim != model.event_dim:
        raise ValueError(
            f"{folder} is a density of events of {model.event_dim} numbers, those of {settings.data} have {corpus.event_dim}"
        )
    return corpus


def own_part(folder: str | os.PathLike[str], part: str, identity: str) -> str | None:
    """What a part of the corpus that a density was learned from is, where ``identity`` is not it.

    Raises:
        ValueError: the run's ``corpus.json`` is missing or damaged.
    """
    path = expand(folder) / "corpus.json"
    with error_context(path):
        own = str(read_json(path)["parts"][part]["identity"])
    known = identity if ", contents " in own else re.sub(r", contents \w+", "", identity)  # older runs know no contents
    return None if own == known else own
