"""Every setting of a density of speech or images, and of its training; light to import, for the command line's sake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.checks import check
from worldmodel.migration import CORPUS_OPTIONS, SEQUENCE_DENSITY_SETTINGS, renamed

PRESETS = Path(__file__).parent.parent / "presets" / "density"
IMAGES = ("mnist", "cifar10")
"""Kinds of corpora that are images; all others are speech."""
VARIATIONAL = ("vrnn", "vrnn-gmm")


@dataclass(frozen=True)
class Density:
    """A density of sequences, the corpus that it learns from, and its training.

    Args:
        data: kind and folder of the corpus: timit:FOLDER, blizzard:, accent:, audio: (any recordings), mnist:, cifar10:.
        model: "rmdn", "frmdn", "rnn-gauss" (an RMDN with one Gaussian), "vrnn" or "vrnn-gmm".
        hidden: width of the recurrent network.
        mixtures: components of the Gaussian mixture; None: 20, or the one that rnn-gauss and vrnn have.
        rank: R of the precision D + U U^T (rmdn, frmdn, rnn-gauss).
        full: whether precisions are full matrices (rmdn, frmdn, rnn-gauss).
        layers: recurrent layers (rmdn, frmdn, rnn-gauss).
        couplings: couplings of the flow (frmdn).
        conditional: whether the flow sees the hidden state (frmdn).
        spline: whether the couplings are rational-quadratic splines (frmdn).
        latent: size of the latent variable (vrnn, vrnn-gmm).
        width: units of the hidden layers (vrnn, vrnn-gmm).
        depth: hidden layers of each network (vrnn, vrnn-gmm).
        truncate: events that a gradient goes back through; None: all.
        updates: gradient steps.
        batch: sequences a step.
        lr: peak learning rate.
        check_every: updates between two looks at the held-out part.
        patience: stop after this many checks without a better held-out loss; None: never.
        precision: "float32", or "bfloat16", which is faster where the machine has it.
        seed: of weights, batches and noise.
        piece: samples of a sequence of speech; 0: whole recordings; None: as the corpus is cut in the papers.
        frame: samples of an event of speech; None: 200.
        sa: of TIMIT, whether the two sentences that all speakers read are kept; None: they are.
        split_seed: of the choice of held-out (and test) recordings; None: 0.
        logit: of images, whether events are logits; None: they are not.
        pixelwise: of images, pixel by pixel instead of row by row; None: row by row.
    """

    data: str
    model: Literal["rmdn", "frmdn", "rnn-gauss", "vrnn", "vrnn-gmm"] = "frmdn"
    hidden: int = 256
    mixtures: int | None = None
    rank: int = 0
    full: bool = False
    layers: int = 1
    couplings: int = 2
    conditional: bool = False
    spline: bool = False
    latent: int = 64
    width: int = 256
    depth: int = 2
    truncate: int | None = None
    updates: int = 10_000
    batch: int = 32
    lr: float = 1e-3
    check_every: int = 100
    patience: int | None = 20
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 1
    piece: int | None = None
    frame: int | None = None
    sa: bool | None = None
    split_seed: int | None = None
    logit: bool | None = None
    pixelwise: bool | None = None

    @property
    def kind(self) -> str:
        """Of the corpus: "speech" or "image"."""
        return kind_of(self.data)

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of `worldmodel.registry.build` that this model takes."""
        names = ["latent", "width", "depth"] if self.model in VARIATIONAL else ["rank", "full", "layers"]
        names += ["couplings", "conditional", "spline"] if self.model == "frmdn" else []
        names += ["mixtures"] if self.mixtures is not None else []
        return renamed({name: getattr(self, name) for name in names}, SEQUENCE_DENSITY_SETTINGS)

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Arguments of `worldmodel.corpora.open_corpus` that were given."""
        names = ("frame", "sa", "logit", "pixelwise")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.piece is not None:
            given["piece"] = self.piece or None
        given |= {"seed": self.split_seed} if self.split_seed is not None else {}
        return renamed(given, CORPUS_OPTIONS)


def kind_of(data: str) -> str:
    """Whether "mnist:FOLDER" and the like names speech or images."""
    return "image" if data.partition(":")[0] in IMAGES else "speech"


def check_density(settings: Density) -> None:
    """Refuse settings that are out of range, or that the model does not have.

    Raises:
        ValueError: names the setting.
    """
    check(settings)
    taken = settings.model_options
    for name in ("rank", "full", "conditional", "spline"):
        if getattr(settings, name) and name not in taken:
            raise ValueError(f"{name} is no setting of {settings.model}")
