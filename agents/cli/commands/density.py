"""The commands ``worldmodel density``: fit, evaluate and sample densities of speech and images.

They call `agents.density`, which offers the same in Python.
"""

import os
import sys
from typing import Literal

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import Preset, add_device, scan_argv
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.validate import validate
from worldmodel.agents.density.config import PRESETS, DensityConfig, corpus_kind
from worldmodel.agents.progress import answers, bar, next_hint, quiet_other_processes
from worldmodel.io.paths import expand, folder_path


def build_fit(parser: Parser) -> None:
    """Train a density of speech or images, evaluate it on the test part, and write a report.

    The same command continues a stopped training. Nothing is downloaded: FOLDER must hold the files of the corpus.

      worldmodel density fit --data timit:/data/TIMIT --model frmdn --preset quick --out runs/speech
      worldmodel density fit --data mnist:/data/MNIST --model vrnn --num_updates 2000 --out runs/digits
    """
    parser.add_argument(
        "--out", type=str | None, default=None, help="Path of the run folder. None: runs/density-KIND-MODEL."
    )
    parser.add_argument(
        "--preset",
        type=Preset,
        default="standard",
        help="Preset that sets the defaults: quick (minutes), standard (hours) or paper (the published sizes).",
    )
    parser.add_argument(
        "--config", action="config", help="Path of a YAML file with settings, such as a run's config.yaml."
    )
    add_device(parser)
    parser.add_class_arguments(DensityConfig)


def fit(options: Namespace) -> None:
    """Train a density, print its evaluation and write the report."""
    settings = DensityConfig(**{name: options[name] for name in DensityConfig.__dataclass_fields__})
    validate(settings)
    from worldmodel.agents.density import fit_density

    quiet_other_processes()
    folder = folder_path(options.out or f"runs/density-{settings.data.partition(':')[0]}-{settings.model}", "out")
    with bar("fit a density", "updates") as progress:
        evaluation = fit_density(settings, folder, progress)
    answers.print(f"{evaluation}\nReport: {folder / 'report.html'}", markup=False)
    next_hint("worldmodel", "density", "sample", folder)


def build_evaluate(parser: Parser) -> None:
    """Evaluate a trained density: the mean log-likelihood of whole sequences, its standard error, and n.

    The unit is nats per sequence and nats per frame for speech, and bits per dimension for images. A VRNN has two lower bounds;
    the tighter one is the importance estimate.

      worldmodel density evaluate runs/speech
      worldmodel density evaluate runs/digits --part held_out --samples 64
    """
    _add_run(parser)
    parser.add_argument(
        "--part", type=Literal["test", "held_out", "train"], default="test", help="Part of the corpus to evaluate on."
    )
    parser.add_argument(
        "--samples", type=int, default=16, help="Number of latent samples for the importance estimate (vrnn, vrnn-gmm)."
    )
    add_device(parser)


def evaluate(options: Namespace) -> None:
    """Evaluate a density, and print and save the result."""
    from worldmodel.agents.density import evaluate_density

    with bar("evaluate a density", "sequences") as progress:
        evaluation = evaluate_density(options.run, options.part, options.samples, options.data, progress)
    path = evaluation.save(expand(options.run) / f"evaluation-{options.part}.json")
    answers.print(f"{evaluation}\n{path}", markup=False)


def build_sample(parser: Parser) -> None:
    """Draw samples from a trained density: WAV files of speech, or one picture of images.

    WAV files are written while they are drawn, so that a sample of any length fits into memory. With --complete, the density
    draws the lower halves of test images, or continues the first second of test recordings.

      worldmodel density sample runs/speech --length 10 --temperature 0.9
      worldmodel density sample runs/digits --count 64
      worldmodel density sample runs/digits --complete
      worldmodel density sample runs/speech --stream | aplay --format S16_LE --rate 16000
    """
    _add_run(parser)
    parser.add_argument(
        "--count", type=int, default=4, help="Number of samples, or of test images or recordings to complete."
    )
    parser.add_argument(
        "--length",
        type=float | None,
        default=None,
        help="Length of a sample: seconds of speech (None: 5), or number of rows of an image (None: all).",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="Sampling temperature, above zero. Lower is less random."
    )
    parser.add_argument("--seed", type=int, default=1, help="Random seed.")
    parser.add_argument(
        "--complete",
        action="store_true",
        help="Draw the lower halves of test images, or continue the first second of test recordings, instead of whole samples.",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="Write one sample of speech to standard output while it is drawn, as 16-bit PCM; without --length, without end.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="Path of the output folder. None: RUN/samples.")
    add_device(parser)


def sample(options: Namespace) -> None:
    """Draw samples, or complete test images, and print the paths of the files."""
    from worldmodel.agents.density import complete_images, continue_speech, load_density, sample_density
    from worldmodel.agents.density.training_summary import TrainingSummary

    if options.stream:
        _stream(options)
        return
    common = (options.count, options.temperature, options.seed, options.out)
    if options.complete and load_density(options.run)[1].kind == "image":
        if options.length is not None:
            raise ValueError("length cannot be used with --complete, which completes whole images")
        path = complete_images(options.run, *common, options.data)
        answers.print(f"{path} (rows: given half, completed image, true image)", markup=False)
        return
    with bar("draw samples", "events") as progress:
        if options.complete:
            drawn = continue_speech(options.run, *common, options.length, options.data, progress=progress)
        else:
            drawn = sample_density(options.run, *common, options.length, progress)
    if training := TrainingSummary.from_run(options.run):
        answers.print(
            f"sampled with the weights of update {training.best_update:,} of {training.last_update:,}", markup=False
        )
    for path in drawn.paths:
        answers.print(str(path), markup=False)
    if drawn.speed is not None:
        speed = f"{drawn.speed:.3g} x real time for {options.count} samples at once"
        clipped = f"; {drawn.clipped:.2%} of the audio samples clipped" if drawn.clipped else ""
        answers.print(speed + clipped, markup=False)


def _stream(options: Namespace) -> None:
    """Write a sample of speech to standard output until it ends or the reader does."""
    from worldmodel.agents.density import stream_speech

    if options.complete or options.out is not None:
        raise ValueError("--stream writes to standard output: it takes neither --complete nor --out")
    if sys.stdout.isatty():
        raise ValueError("--stream writes sound to standard output: pipe it to a player such as aplay, or to a file")
    try:
        for frame in stream_speech(options.run, options.temperature, options.seed, options.length):
            sys.stdout.buffer.write(frame)
            sys.stdout.buffer.flush()
    except BrokenPipeError:  # the player has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python can flush at exit


def preset(parser: Parser, words: list[str]) -> None:
    """Set the defaults to the preset for speech or images, as ``--data`` says."""
    _, found = scan_argv(parser, words, {"--preset": "standard", "--data": ""})
    path = PRESETS / f"{corpus_kind(found['--data'])}.{found['--preset']}.yaml"
    parser.set_defaults(read_yaml(path) if path.exists() else {})


def _add_run(parser: Parser) -> None:
    """Add the run folder and ``--data``."""
    parser.add_argument("run", type=str, help="Path of the run folder of `worldmodel density fit`.")
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="Kind and folder of the corpus, KIND:FOLDER, if it has moved or is another one. None: that of the run.",
    )
