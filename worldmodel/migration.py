"""Names that older versions wrote into files, and their names of today."""

from collections.abc import Mapping
from typing import Any


def renamed(old: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same content under the names of today; names that are not in ``names`` stay."""
    return {names.get(name, name): value for name, value in old.items()}


VAE_SETTINGS = {"latent": "latent_dim", "emphasis": "hud_loss_weight"}
"""Arguments of `worldmodel.VAE`, in ``config.json`` of a world model and ``settings.json`` of a training."""

MEMORY_SETTINGS = {
    "inputs": "input_size",
    "outputs": "output_size",
    "hidden": "hidden_size",
    "mixtures": "num_components",
    "layers": "num_layers",
    "couplings": "num_couplings",
}
"""Arguments of `worldmodel.Memory` and its density, in the same files."""

SEQUENCE_DENSITY_SETTINGS = MEMORY_SETTINGS | {"event": "event_dim", "latent": "latent_dim", "truncate": "bptt_length"}
"""Arguments of `worldmodel.SequenceDensity` and `worldmodel.baselines.VRNN`, in ``settings.json`` of a training."""

TRAINING_SETTINGS = {
    "model_settings": "model_config",
    "updates": "num_updates",
    "batch": "batch_size",
    "lr": "learning_rate",
    "held_out": "val_fraction",
    "check_every": "eval_every",
    "precision": "dtype",
}
"""Arguments of `worldmodel.fit`, in ``settings.json`` and ``resume.pt`` of a training."""

CORPUS_OPTIONS = {"piece": "segment_length", "sa": "include_sa"}
"""Options of `worldmodel.corpora.open_corpus`."""


def training_settings(old: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, with its model's, under the names of today."""
    settings = renamed(old, TRAINING_SETTINGS)
    if isinstance(model := settings.get("model_config"), Mapping):
        settings["model_config"] = renamed(model, VAE_SETTINGS | SEQUENCE_DENSITY_SETTINGS)
    return settings
