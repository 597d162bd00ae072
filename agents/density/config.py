"""Settings of a density of speech or images and of its training. This module imports no torch, for a fast command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worldmodel.agents.config.fields import NOT_NEGATIVE, about, described, setting
from worldmodel.agents.config.validate import validate

PRESETS = Path(__file__).parent.parent / "presets" / "density"
"""Path of the folder with the preset files."""
IMAGES = ("mnist", "cifar10")
"""Kinds of corpora that are images; all others are speech."""
VARIATIONAL = ("vrnn", "vrnn-gmm")
"""Models with a latent variable."""


@described
@dataclass(frozen=True)
class DensityConfig:
    """A density of sequences, its corpus and its training."""

    data: str = field(
        metadata=about(
            """Kind and folder of the corpus, KIND:FOLDER. The kinds are timit, blizzard, accent, prompts, audio (any
            recordings), mnist and cifar10."""
        )
    )
    model: Literal["rmdn", "frmdn", "rnn-gauss", "autoregressive", "vrnn", "vrnn-gmm"] = setting(
        "frmdn",
        """Density: "rmdn", "frmdn", "rnn-gauss" (an RMDN with one Gaussian), "autoregressive" (an LSTM that also predicts
        the dimensions of an event one after the other), "vrnn" or "vrnn-gmm".""",
    )
    hidden_size: int = setting(256, "Number of recurrent units in a layer.")
    num_components: int | None = setting(
        None, "Number of components of the Gaussian mixture. None: 20, or 1 for rnn-gauss and vrnn."
    )
    rank: int = setting(
        0, "Rank R of U in the precision matrix D + U U^T (rmdn, frmdn, rnn-gauss). 0: diagonal.", NOT_NEGATIVE
    )
    full: bool = setting(False, "Whether to use full precision matrices (rmdn, frmdn, rnn-gauss).")
    num_layers: int = setting(1, "Number of recurrent layers (rmdn, frmdn, rnn-gauss).")
    num_couplings: int = setting(2, "Number of coupling layers of the flow (frmdn).", NOT_NEGATIVE)
    conditional: bool = setting(False, "Whether to condition the flow on the hidden state (frmdn).")
    spline: bool = setting(False, "Whether to use rational-quadratic spline couplings instead of affine ones (frmdn).")
    alternating: bool = setting(
        True,
        """Whether the couplings split an event into odd and even dimensions instead of halves, so that neighbouring samples
        or pixels predict each other (frmdn).""",
    )
    whiten: bool = setting(
        False, "Whether the density is over whitened events, by a fixed linear map (rmdn, frmdn, rnn-gauss)."
    )
    latent_dim: int = setting(64, "Number of latent dimensions (vrnn, vrnn-gmm).")
    width: int = setting(
        256, "Number of units in a hidden layer of the feedforward networks (vrnn, vrnn-gmm, autoregressive)."
    )
    depth: int = setting(2, "Number of hidden layers of each feedforward network (vrnn, vrnn-gmm).")
    bptt_length: int | None = setting(
        None, "Number of events per chunk of truncated back-propagation through time. None: whole sequences."
    )
    num_updates: int = setting(10_000, "Number of gradient steps.")
    batch_size: int = setting(32, "Number of sequences in a batch.")
    learning_rate: float = setting(1e-3, "Peak learning rate.")
    eval_every: int = setting(100, "Number of updates between two validations on the held-out part.")
    patience: int | None = setting(
        20, "Number of validations without a lower held-out loss after which training stops. None: never."
    )
    num_decays: int = setting(
        0,
        """Number of times that a used-up patience quarters the learning rate instead of stopping. 0: a cosine decay over
        num_updates.""",
        NOT_NEGATIVE,
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        """Floating-point type of training: "float32" or "bfloat16" (faster where the hardware supports it).""",
    )
    seed: int = setting(1, "Random seed of the weights, the batches and the noise.")
    segment_length: int | None = setting(
        None, "Number of samples in a sequence of speech. 0: whole recordings. None: as in the papers.", NOT_NEGATIVE
    )
    frame: int | None = setting(None, "Number of samples in an event of speech. None: 200.")
    include_sa: bool | None = setting(
        None, "Whether to include the two sentences that all speakers of TIMIT read. None: true."
    )
    test_speaker: str | None = setting(None, "Speaker of the test part of prompts. None: test prompts of all speakers.")
    split_seed: int | None = setting(None, "Random seed of the split into parts, for speech. None: 0.")
    logit: bool | None = setting(None, "Whether the events of images are logits. None: false.")
    pixelwise: bool | None = setting(None, "Whether an event of images is a pixel instead of a row. None: false.")

    @property
    def kind(self) -> str:
        """Kind of the data: "speech" or "image"."""
        return corpus_kind(self.data)

    @property
    def event_name(self) -> str:
        """Name of an event: "frame", "pixel" or "row"."""
        return "frame" if self.kind == "speech" else "pixel" if self.pixelwise else "row"

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of `worldmodel.registry.build` for this model."""
        names = ["rank", "full", "num_layers", "whiten"]
        if self.model in VARIATIONAL:
            names = ["latent_dim", "width", "depth"]
        elif self.model == "autoregressive":
            names = ["width"]
        names += ["num_couplings", "conditional", "spline", "alternating"] if self.model == "frmdn" else []
        names += ["num_components"] if self.num_components is not None else []
        return {name: getattr(self, name) for name in names}

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Arguments of `worldmodel.corpora.open_corpus`, without those that are None."""
        names = ("frame", "include_sa", "test_speaker", "logit", "pixelwise")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.segment_length is not None:
            given["segment_length"] = self.segment_length or None
        given |= {"seed": self.split_seed} if self.split_seed is not None else {}
        return given


def corpus_kind(data: str) -> str:
    """Return "image" if KIND:FOLDER names a corpus of images, else "speech"."""
    return "image" if data.partition(":")[0] in IMAGES else "speech"


def validate_density(settings: DensityConfig) -> None:
    """Check that the settings are in range and that the model has them.

    Raises:
        ValueError: a setting is out of range, or the model does not have it; the message names the setting.
    """
    validate(settings)
    options = settings.model_options
    for name in ("rank", "full", "conditional", "spline", "whiten"):
        if getattr(settings, name) and name not in options:
            raise ValueError(f"{name} is not a setting of the model {settings.model}")
