"""Densities of speech and images: training, evaluation and sampling on one run folder.

Start reading at `agents.density.fitting`. ``worldmodel density`` calls these functions::

    from worldmodel.agents.density import DensityConfig, evaluate_density, fit_density, sample_density

    fit_density(DensityConfig("timit:/data/TIMIT", model="frmdn", num_updates=2_000), "runs/speech")
    print(evaluate_density("runs/speech", part="held_out"))
    sample_density("runs/speech", count=4, temperature=0.9, length=10)

Names are imported on first use, as in `agents`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.agents.density.config import DensityConfig
    from worldmodel.agents.density.evaluation import Evaluation, Measure
    from worldmodel.agents.density.fitting import evaluate_density, fit_density
    from worldmodel.agents.density.runs import load_density
    from worldmodel.agents.density.samples import complete_images, continue_speech, sample_density, stream_speech

_HOMES = {
    "DensityConfig": "config",
    "Evaluation": "evaluation",
    "Measure": "evaluation",
    "complete_images": "samples",
    "continue_speech": "samples",
    "evaluate_density": "fitting",
    "fit_density": "fitting",
    "load_density": "runs",
    "sample_density": "samples",
    "stream_speech": "samples",
}
__all__ = [
    "DensityConfig",
    "Evaluation",
    "Measure",
    "complete_images",
    "continue_speech",
    "evaluate_density",
    "fit_density",
    "load_density",
    "sample_density",
    "stream_speech",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"worldmodel.agents.density.{_HOMES[name]}"), name)
