"""Commands that fit, evaluate and sample densities of speech and images.

A thin layer over `agents.density`, which is the same in Python.
"""

from typing import Literal

from jsonargparse import Namespace

from agents.commands.common import scan_argv, set_preset
from agents.config.schema import Preset
from agents.density.config import PRESETS, DensityConfig, kind_of, validate_density
from agents.parser import Parser
from agents.progress import answers, late_bar, next_hint, quiet_other_processes
from worldmodel.paths import expand, folder_path


def build_fit(parser: Parser) -> None:
    """Learn a density of speech or images, judge it on the test part, and report.

    The same command continues a training that was stopped. Nothing is downloaded: the folder holds the corpus's files.

      worldmodel density fit --data timit:/data/TIMIT --model frmdn --preset quick --out runs/speech
      worldmodel density fit --data mnist:/data/MNIST --model vrnn --num_updates 2000 --out runs/digits
    """
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/density-KIND-MODEL)")
    parser.add_argument(
        "--preset", type=Preset, default="standard", help="quick: minutes; standard: hours; paper: the published sizes"
    )
    parser.add_argument("--config", action="config", help="a YAML file with settings, such as a run's config.yaml")
    parser.add_class_arguments(DensityConfig)


def fit(options: Namespace) -> None:
    """Fit."""
    settings = DensityConfig(**{name: options[name] for name in DensityConfig.__dataclass_fields__})
    validate_density(settings)
    from agents.density import fit_density

    quiet_other_processes()
    folder = folder_path(options.out or f"runs/density-{settings.data.partition(':')[0]}-{settings.model}", "out")
    with late_bar("learn a density", "updates") as progress:
        evaluation = fit_density(settings, folder, progress)
    answers.print(f"{evaluation}\nReport: {folder / 'report.html'}", markup=False)
    next_hint("worldmodel", "density", "sample", folder)


def build_evaluate(parser: Parser) -> None:
    """Judge a learned density: the mean log-likelihood of whole sequences, its standard error, and n.

    Speech: nats a sequence and nats a frame. Images: bits a dimension. Of a VRNN the lower bound, and a tighter one.

      worldmodel density evaluate runs/speech
      worldmodel density evaluate runs/digits --part held_out --samples 64
    """
    _add_run(parser)
    parser.add_argument("--part", type=Literal["test", "held_out", "train"], default="test", help="of the corpus")
    parser.add_argument("--samples", type=int, default=16, help="of the VRNN's latents, for its importance estimate")


def evaluate(options: Namespace) -> None:
    """Evaluate."""
    from agents.density import evaluate_density

    with late_bar("judge a density", "sequences") as progress:
        found = evaluate_density(options.run, options.part, options.samples, options.data, progress)
    path = found.save(expand(options.run) / f"evaluation-{options.part}.json")
    answers.print(f"{found}\n{path}", markup=False)


def build_sample(parser: Parser) -> None:
    """Draw from a learned density: WAV files, or a picture of images.

    Samples are written as they are drawn, so that any length fits into memory. Images can be completed from their upper halves.

      worldmodel density sample runs/speech --length 10 --temperature 0.9
      worldmodel density sample runs/digits --count 64
      worldmodel density sample runs/digits --complete
    """
    _add_run(parser)
    parser.add_argument("--count", type=int, default=4, help="samples")
    parser.add_argument("--length", type=float | None, default=None, help="seconds (default: 5), or rows of an image")
    parser.add_argument("--temperature", type=float, default=1.0, help="above zero; lower is surer")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--complete", action="store_true", help="complete the lower halves of test images")
    parser.add_argument("--out", type=str | None, default=None, help="folder (default: RUN/samples)")


def sample(options: Namespace) -> None:
    """Sample."""
    from agents.density import complete_images, sample_density
    from agents.density.training_summary import TrainingSummary

    common = (options.count, options.temperature, options.seed, options.out)
    if options.complete:
        if options.length is not None:
            raise ValueError("length is no setting of --complete: whole images are completed")
        path = complete_images(options.run, *common, options.data)
        answers.print(f"{path} (above: given; middle: completed; below: the image)", markup=False)
        return
    with late_bar("draw samples", "events") as progress:
        drawn = sample_density(options.run, *common, options.length, progress)
    if learning := TrainingSummary.of(options.run):
        answers.print(
            f"drawn with the weights of update {learning.best_update:,} of {learning.last_update:,}", markup=False
        )
    for path in drawn.paths:
        answers.print(str(path), markup=False)
    if drawn.speed is not None:
        words = f"{drawn.speed:.3g} x real time, {options.count} at once"
        clipped = f"; {drawn.clipped:.2%} of the samples clipped" if drawn.clipped else ""
        answers.print(words + clipped, markup=False)


def preset(parser: Parser, words: list[str]) -> None:
    """Presets of the kind of ``--data``."""
    _, found = scan_argv(words, {"--preset": "standard", "--data": ""})
    set_preset(parser, PRESETS / f"{kind_of(found['--data'])}.{found['--preset']}.yaml")


def _add_run(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the run folder of worldmodel density fit")
    parser.add_argument(
        "--data", type=str | None, default=None, help="KIND:FOLDER, where the corpus moved since, or another one"
    )
