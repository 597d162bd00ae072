"""Build models from their names and settings, as files and command lines give them.

Start reading at `build`, which has the models of the papers by name. `build_density` and `build_memory` rebuild a model from
its ``config``.
"""

import os
from pathlib import Path
from typing import Any

from torch import nn

from worldmodel.baselines import VRNN, AutoregressiveRNN, PerDimensionRMDN
from worldmodel.mdn_rnn import FRMDN, RMDN
from worldmodel.memory import Memory
from worldmodel.sequences import SequenceDensity
from worldmodel.vae import BASE_CHANNELS, VAE
from worldmodel.vector_encoder import Encoder, VectorEncoder

DENSITIES = {"RMDN": RMDN, "FRMDN": FRMDN, "PerDimensionRMDN": PerDimensionRMDN, "AutoregressiveRNN": AutoregressiveRNN}
NETWORKS = {"rmdn": RMDN, "rnn-gauss": RMDN, "frmdn": FRMDN, "autoregressive": AutoregressiveRNN}
"""Networks of the papers' models, by name."""
MODEL_NAMES = (*NETWORKS, "vrnn", "vrnn-gmm")
DEFAULT_NUM_COMPONENTS = 20
"""Number of mixture components in the speech experiments of both papers."""
BYTES_PER_PARAMETER = 36
"""Memory per trained parameter, in bytes (see `validate_fits_in_ram`)."""
MAX_SIZE, MAX_LAYERS = 65_536, 256
"""Largest size, and largest number of layers, in a model."""


def build(
    name: str, event_dim: int, hidden_size: int = 256, bptt_length: int | None = None, **kwargs: Any
) -> SequenceDensity | VRNN:
    """Build a density of sequences with new weights from its name in the papers' tables.

    Args:
        name: "rmdn", "frmdn", "rnn-gauss" (an RMDN with one Gaussian), "autoregressive" (`AutoregressiveRNN`), "vrnn" (Gaussian
            outputs) or "vrnn-gmm".
        event_dim: D, size of an event.
        hidden_size: Number of hidden units of the recurrent network.
        bptt_length: Number of events that a gradient passes back through. None: all.
        kwargs: Other arguments of the model. ``num_components`` defaults to 1 for "rnn-gauss" and "vrnn", else
            to 20.

    Raises:
        ValueError: the name is unknown, ``num_components`` contradicts it, or a size exceeds the limits of `validated_sizes`.

    Example:
        >>> build("rnn-gauss", event_dim=28, hidden_size=64).density
        RMDN(input_size=28, output_size=28, hidden_size=64, num_components=1)

    References:
        Chung et al., A Recurrent Latent Variable Model for Sequential Data, 2015, https://arxiv.org/abs/1506.02216 (table 1).
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """
    if name not in MODEL_NAMES:
        raise ValueError(f"name must be one of {', '.join(MODEL_NAMES)}, got {name!r}")
    gaussian = name in ("rnn-gauss", "vrnn")
    num_components = kwargs.pop("num_components", 1 if gaussian else DEFAULT_NUM_COMPONENTS)
    if gaussian and num_components != 1:
        raise ValueError(f"num_components must be 1 for {name}, got {num_components}")
    validated_sizes({"event_dim": event_dim, "hidden_size": hidden_size, "num_components": num_components, **kwargs})
    if name.startswith("vrnn"):
        return VRNN(
            event_dim, hidden_size=hidden_size, num_components=num_components, bptt_length=bptt_length, **kwargs
        )
    return SequenceDensity(
        NETWORKS[name](event_dim, event_dim, hidden_size=hidden_size, num_components=num_components, **kwargs),
        bptt_length,
    )


def build_density(config: dict[str, Any]) -> SequenceDensity | VRNN:
    """Build a density of sequences with new weights from its ``config``.

    Raises:
        ValueError: no density has these settings.
    """
    config = dict(config)
    bptt_length = config.pop("bptt_length", None)  # not a size: chunks may be as long as a sequence
    config = validated_sizes(config)
    try:
        if config.get("density") == "VRNN":
            return VRNN(**{name: value for name, value in config.items() if name != "density"}, bptt_length=bptt_length)
        return SequenceDensity(build_mdn_rnn(config), bptt_length)
    except TypeError as error:
        raise ValueError(f"settings do not describe a density of sequences: {error}") from None


def build_vae(config: dict[str, Any]) -> Encoder:
    """Build a VAE or a `VectorEncoder` with new weights from its ``config``; older files have no ``standardize``."""
    if config.get("encoder") == "vector":
        return VectorEncoder(validated_sizes({"latent_dim": config["latent_dim"]})["latent_dim"])
    return VAE(**{"standardize": False, "base_channels": BASE_CHANNELS} | validated_sizes(config))


def build_memory(config: dict[str, Any]) -> Memory:
    """Build a memory with new weights from its ``config``."""
    config = validated_sizes(config)
    heads = {name: config.pop(name) for name in ("reward", "termination", "reward_weight") if name in config}
    return Memory(build_mdn_rnn(config), **heads)


def build_mdn_rnn(config: dict[str, Any]) -> RMDN | FRMDN:
    """Build one of `DENSITIES` with new weights; ``config["density"]`` is its name."""
    config = dict(config)
    kind = config.pop("density", None)
    if kind not in DENSITIES:
        raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {kind!r}")
    return DENSITIES[kind](**config)


def validate_fits_in_ram(model: nn.Module) -> None:
    """Check that this machine has enough memory to train a model, which may be on torch's device "meta".

    Training needs the weights, gradients, Adam's two averages and the best weights, and a copy of all but the gradients during
    a save, in single precision.

    Raises:
        ValueError: the memory is too small; the message has the required and the available size.
    """
    numbers = sum(parameter.numel() for parameter in model.parameters())
    free = _available_memory()
    if BYTES_PER_PARAMETER * numbers > free:
        raise ValueError(
            f"training a model of {numbers:,} parameters needs {BYTES_PER_PARAMETER * numbers / 1e9:,.1f} GB, "
            f"but {free / 1e9:,.1f} GB are available: use smaller sizes or events"
        )


def _available_memory() -> int:
    """Return the available memory in bytes."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def validated_sizes(config: Any) -> dict[str, Any]:
    """Check that sizes are below fixed limits, also if they are from a damaged or hostile file or from unusual data.

    `worldmodel.io.files.load_module` bounds the remaining memory use by the size of the weights.

    Raises:
        ValueError: a size exceeds its limit; the message names the setting.
    """
    config = dict(config)
    for name, value in config.items():
        most = MAX_LAYERS if name in ("num_layers", "num_couplings", "depth") else MAX_SIZE
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) > MAX_LAYERS or any(isinstance(n, int | float) and not abs(n) <= most for n in numbers):
            raise ValueError(f"{name} must be at most {most}, got {str(value)[:40]}")
    return config
