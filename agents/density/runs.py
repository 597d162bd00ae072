"""What lies in the run folder of a density: its settings, its weights, and the way to its corpus."""

import os
from pathlib import Path

import yaml

from agents.density.settings import Density, kind_of
from worldmodel import SequenceDensity
from worldmodel.baselines import VRNN
from worldmodel.builders import build_density
from worldmodel.checkpoints import load_weights, read_json, understood
from worldmodel.corpora import Corpus, open_corpus


def load_density(folder: str | os.PathLike[str]) -> tuple[SequenceDensity | VRNN, Density]:
    """The learned model in eval mode, and the settings of its run.

    Raises:
        ValueError: the folder holds none; the message says how to make one.
    """
    run = Path(folder)
    if not (run / "config.yaml").exists() or not (run / "weights.safetensors").exists():
        raise ValueError(f"{run} has no learned density yet: worldmodel density fit --data KIND:FOLDER --out {run}")
    try:
        settings = Density(**yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{run / 'config.yaml'} cannot be read: {str(error).splitlines()[0]}") from None
    with understood(run / "config.yaml"):
        kind_of(settings.data)
    with understood(run / "settings.json"):
        model = build_density(read_json(run / "settings.json")["model_settings"])
    load_weights(model, run / "weights.safetensors")
    return model.eval(), settings


def open_data(settings: Density, folder: Path) -> Corpus:
    """The corpus; the run keeps its mean and standard deviation, so that a long one is measured once."""
    cache = {"cache": folder / "scale.json"} if settings.kind == "speech" else {}
    return open_corpus(settings.data, **settings.corpus_options, **cache)
