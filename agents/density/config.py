"""Every setting of a density of speech or images, and of its training; light to import, for the command line's sake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.config.validate import validate

PRESETS = Path(__file__).parent.parent / "presets" / "density"
IMAGES = ("mnist", "cifar10")
"""Kinds of corpora that are images; all others are speech."""
VARIATIONAL = ("vrnn", "vrnn-gmm")


@dataclass(frozen=True)
class DensityConfig:
    """A density of sequences, the corpus that it learns from, and its training.

    Args:
        data: kind and folder of the corpus: timit:FOLDER, blizzard:, accent:, audio: (any recordings), mnist:, cifar10:.
        model: "rmdn", "frmdn", "rnn-gauss" (an RMDN with one Gaussian), "vrnn" or "vrnn-gmm".
        hidden_size: width of the recurrent network.
        num_components: components of the Gaussian mixture; None: 20, or the one that rnn-gauss and vrnn have.
        rank: R of the precision D + U U^T (rmdn, frmdn, rnn-gauss).
        full: whether precisions are full matrices (rmdn, frmdn, rnn-gauss).
        num_layers: recurrent layers (rmdn, frmdn, rnn-gauss).
        num_couplings: couplings of the flow (frmdn).
        conditional: whether the flow sees the hidden state (frmdn).
        spline: whether the couplings are rational-quadratic splines (frmdn).
        latent_dim: size of the latent variable (vrnn, vrnn-gmm).
        width: units of the hidden layers (vrnn, vrnn-gmm).
        depth: hidden layers of each network (vrnn, vrnn-gmm).
        bptt_length: events that a gradient goes back through; None: all.
        num_updates: gradient steps.
        batch_size: sequences a step.
        learning_rate: peak learning rate.
        eval_every: updates between two looks at the held-out part.
        patience: stop after this many checks without a better held-out loss; None: never.
        dtype: "float32", or "bfloat16", which is faster where the machine has it.
        seed: of weights, batches and noise.
        segment_length: samples of a sequence of speech; 0: whole recordings; None: as the corpus is cut in the papers.
        frame: samples of an event of speech; None: 200.
        include_sa: of TIMIT, whether the two sentences that all speakers read are kept; None: they are.
        split_seed: of the choice of held-out (and test) recordings; None: 0.
        logit: of images, whether events are logits; None: they are not.
        pixelwise: of images, pixel by pixel instead of row by row; None: row by row.
    """

    data: str
    model: Literal["rmdn", "frmdn", "rnn-gauss", "vrnn", "vrnn-gmm"] = "frmdn"
    hidden_size: int = 256
    num_components: int | None = None
    rank: int = 0
    full: bool = False
    num_layers: int = 1
    num_couplings: int = 2
    conditional: bool = False
    spline: bool = False
    latent_dim: int = 64
    width: int = 256
    depth: int = 2
    bptt_length: int | None = None
    num_updates: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    eval_every: int = 100
    patience: int | None = 20
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 1
    segment_length: int | None = None
    frame: int | None = None
    include_sa: bool | None = None
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
        names = ["latent_dim", "width", "depth"] if self.model in VARIATIONAL else ["rank", "full", "num_layers"]
        names += ["num_couplings", "conditional", "spline"] if self.model == "frmdn" else []
        names += ["num_components"] if self.num_components is not None else []
        return {name: getattr(self, name) for name in names}

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Arguments of `worldmodel.corpora.open_corpus` that were given."""
        names = ("frame", "include_sa", "logit", "pixelwise")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.segment_length is not None:
            given["segment_length"] = self.segment_length or None
        given |= {"seed": self.split_seed} if self.split_seed is not None else {}
        return given


def kind_of(data: str) -> str:
    """Whether "mnist:FOLDER" and the like names speech or images."""
    return "image" if data.partition(":")[0] in IMAGES else "speech"


def validate_density(settings: DensityConfig) -> None:
    """Refuse settings that are out of range, or that the model does not have.

    Raises:
        ValueError: names the setting.
    """
    validate(settings)
    taken = settings.model_options
    for name in ("rank", "full", "conditional", "spline"):
        if getattr(settings, name) and name not in taken:
            raise ValueError(f"{name} is no setting of {settings.model}")
