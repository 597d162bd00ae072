"""From names and settings to models: what a file or a command line says, and the module that it stands for.

Start reading at `build`, which knows the models of the papers by name; `build_density` and `build_memory` make a model of its
``settings``.
"""

from typing import Any

from worldmodel.baselines import VRNN, PerDimensionRMDN
from worldmodel.density import FRMDN, RMDN
from worldmodel.memory import Memory
from worldmodel.sequences import SequenceDensity

DENSITIES = {"RMDN": RMDN, "FRMDN": FRMDN, "PerDimensionRMDN": PerDimensionRMDN}
NAMES = ("rmdn", "frmdn", "rnn-gauss", "vrnn", "vrnn-gmm")
MIXTURES = 20
"""Components of the mixtures in the speech experiments of both papers."""


def build(name: str, event: int, hidden: int = 256, truncate: int | None = None, **more: Any) -> SequenceDensity | VRNN:
    """Build a density of sequences, with fresh weights, by the name it has in the papers' tables.

    Args:
        name: "rmdn", "frmdn"; "rnn-gauss": an RMDN with one Gaussian; "vrnn" with Gaussian outputs, or "vrnn-gmm".
        event: D, the size of an event.
        hidden: width of the recurrent network.
        truncate: events a gradient goes back through; None: all.
        more: any other argument of `RMDN`, `FRMDN` or `VRNN`; ``mixtures`` is 20 unless it is said, or the name says one.

    Raises:
        ValueError: there is no such name, or ``mixtures`` contradicts it.

    Example:
        >>> build("rnn-gauss", event=28, hidden=64).density
        RMDN(
          outputs=28, mixtures=1, rank=0
          (lstm): LSTM(28, 64, batch_first=True)
          (head): Linear(in_features=64, out_features=57, bias=True)
        )

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


def build_memory(settings: dict[str, Any]) -> Memory:
    """Build a memory, with fresh weights, from its ``settings``."""
    settings = checked_sizes(settings)
    reward, termination = settings.pop("reward", True), settings.pop("termination", True)
    return Memory(build_recurrent(settings), reward=reward, termination=termination)


def build_recurrent(settings: dict[str, Any]) -> RMDN | FRMDN:
    """Build an `RMDN`, `FRMDN` or `PerDimensionRMDN`, with fresh weights, from its name, "density", and its settings."""
    settings = dict(settings)
    kind = settings.pop("density", None)
    if kind not in DENSITIES:
        raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {kind!r}")
    return DENSITIES[kind](**settings)


def checked_sizes(settings: Any) -> dict[str, Any]:
    """Refuse settings that a hostile or damaged file could use to allocate without bound."""
    settings = dict(settings)
    for name, value in settings.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, int | float) and not abs(number) <= 65_536 for number in numbers):
            raise ValueError(f"{name} is beyond any sensible size: {value!r}")
    return settings
