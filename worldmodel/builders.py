"""From names and settings to models: what a file or a command line says, and the module that it stands for.

Start reading at `build`, which knows the models of the papers by name; `build_density` and `build_memory` make a model of its
``settings``.
"""

import os
from pathlib import Path
from typing import Any

from torch import nn

from worldmodel.baselines import VRNN, PerDimensionRMDN
from worldmodel.density import FRMDN, RMDN
from worldmodel.memory import Memory
from worldmodel.sequences import SequenceDensity
from worldmodel.vae import VAE

DENSITIES = {"RMDN": RMDN, "FRMDN": FRMDN, "PerDimensionRMDN": PerDimensionRMDN}
NAMES = ("rmdn", "frmdn", "rnn-gauss", "vrnn", "vrnn-gmm")
MIXTURES = 20
"""Components of the mixtures in the speech experiments of both papers."""
BYTES = 36
"""Of memory, for each parameter that is learned."""
LARGEST, DEEPEST = 65_536, 256
"""No model has more of anything, nor more layers of anything."""


def build(name: str, event: int, hidden: int = 256, truncate: int | None = None, **more: Any) -> SequenceDensity | VRNN:
    """Build a density of sequences, with fresh weights, by the name it has in the papers' tables.

    Args:
        name: "rmdn", "frmdn"; "rnn-gauss": an RMDN with one Gaussian; "vrnn" with Gaussian outputs, or "vrnn-gmm".
        event: D, the size of an event.
        hidden: width of the recurrent network.
        truncate: events a gradient goes back through; None: all.
        more: any other argument of `RMDN`, `FRMDN` or `VRNN`; ``mixtures`` is 20 unless it is said, or the name says one.

    Raises:
        ValueError: there is no such name, ``mixtures`` contradicts it, or a size is beyond `checked_sizes`.

    Example:
        >>> build("rnn-gauss", event=28, hidden=64).density
        RMDN(inputs=28, outputs=28, hidden=64, mixtures=1)

    References:
        Chung et al., A Recurrent Latent Variable Model for Sequential Data, 2015, https://arxiv.org/abs/1506.02216 (table 1).
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    gaussian = name in ("rnn-gauss", "vrnn")
    mixtures = more.pop("mixtures", 1 if gaussian else MIXTURES)
    if gaussian and mixtures != 1:
        raise ValueError(f"mixtures must be 1 for {name}, got {mixtures}")
    checked_sizes({"event": event, "hidden": hidden, "mixtures": mixtures, **more})
    if name.startswith("vrnn"):
        return VRNN(event, hidden=hidden, mixtures=mixtures, truncate=truncate, **more)
    kind = FRMDN if name == "frmdn" else RMDN
    return SequenceDensity(kind(event, event, hidden=hidden, mixtures=mixtures, **more), truncate)


def build_density(settings: dict[str, Any]) -> SequenceDensity | VRNN:
    """Build a density of sequences, with fresh weights, from its ``settings``.

    Raises:
        ValueError: no density has these settings.
    """
    settings = dict(settings)
    truncate = settings.pop("truncate", None)  # no size of anything: pieces may be as long as a sequence
    settings = checked_sizes(settings)
    try:
        if settings.get("density") == "VRNN":
            return VRNN(**{name: value for name, value in settings.items() if name != "density"}, truncate=truncate)
        return SequenceDensity(build_recurrent(settings), truncate)
    except TypeError as error:
        raise ValueError(f"settings do not describe a density of sequences: {error}") from None


def build_vae(settings: dict[str, Any]) -> VAE:
    """Build a VAE, with fresh weights, from its ``settings``; those of older files do not name ``standardize``."""
    return VAE(**{"standardize": False} | checked_sizes(settings))


def build_memory(settings: dict[str, Any]) -> Memory:
    """Build a memory, with fresh weights, from its ``settings``."""
    settings = checked_sizes(settings)
    heads = {name: settings.pop(name) for name in ("reward", "termination", "reward_weight") if name in settings}
    return Memory(build_recurrent(settings), **heads)


def build_recurrent(settings: dict[str, Any]) -> RMDN | FRMDN:
    """Build an `RMDN`, `FRMDN` or `PerDimensionRMDN`, with fresh weights, from its name, "density", and its settings."""
    settings = dict(settings)
    kind = settings.pop("density", None)
    if kind not in DENSITIES:
        raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {kind!r}")
    return DENSITIES[kind](**settings)


def check_memory(model: nn.Module) -> None:
    """Refuse a model that this machine cannot learn; it may be one without memory, on torch's device "meta".

    Raises:
        ValueError: says what learning takes: weights, gradients, Adam's two averages, the best weights, and all but the
            gradients once more when they are saved; in single precision.
    """
    numbers = sum(parameter.numel() for parameter in model.parameters())
    free = _free()
    if BYTES * numbers > free:
        raise ValueError(
            f"a model of {numbers:,} parameters takes {BYTES * numbers / 1e9:,.1f} GB to learn, "
            f"{free / 1e9:,.1f} GB are free: smaller sizes, or smaller events"
        )


def _free() -> int:
    """Bytes of memory that a process can have without others losing theirs."""
    told = Path("/proc/meminfo")
    lines = told.read_text(encoding="ascii").splitlines() if told.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def checked_sizes(settings: Any) -> dict[str, Any]:
    """Refuse sizes that no model has, whether a damaged or hostile file asks for them or data of an odd shape.

    What is left is bounded by the weights that are there (`worldmodel.checkpoints.load_module`).

    Raises:
        ValueError: names the setting.
    """
    settings = dict(settings)
    for name, value in settings.items():
        most = DEEPEST if name in ("layers", "couplings", "depth") else LARGEST
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) > DEEPEST or any(isinstance(n, int | float) and not abs(n) <= most for n in numbers):
            raise ValueError(f"{name} is beyond any sensible size, {most}: {str(value)[:40]}")
    return settings
