"""What lies in the run folder of a density: its settings, its weights, and the way to its corpus."""

import os
from pathlib import Path

import torch

from agents.density.settings import Density, check_density
from agents.yaml_files import read_yaml
from worldmodel import SequenceDensity
from worldmodel.baselines import VRNN
from worldmodel.builders import build_density
from worldmodel.checkpoints import load_module, read_json, record_of, understood
from worldmodel.corpora import Corpus, open_corpus


def load_density(folder: str | os.PathLike[str]) -> tuple[SequenceDensity | VRNN, Density]:
    """The learned model in eval mode, and the settings of its run.

    Raises:
        ValueError: the folder holds none; the message says how to make one.
    """
    run = Path(folder)
    if not (run / "config.yaml").exists() or not (run / "weights.safetensors").exists():
        raise ValueError(f"{run} has no learned density yet: worldmodel density fit --data KIND:FOLDER --out {run}")
    path = run / "config.yaml"
    settings = record_of(Density, read_yaml(path), path)
    with understood(path, values=True):
        check_density(settings)
    with understood(run / "settings.json", values=True):
        described = read_json(run / "settings.json")["model_settings"]
        with torch.device("meta"):
            build_density(described)
    return load_module(lambda: build_density(described), run / "weights.safetensors").eval(), settings


def open_data(settings: Density, folder: Path) -> Corpus:
    """The corpus; the run keeps its mean and standard deviation, so that a long one is measured once."""
    cache = {"cache": folder / "scale.json"} if settings.kind == "speech" else {}
    return open_corpus(settings.data, **settings.corpus_options, **cache)
