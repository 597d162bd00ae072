"""The command ``worldmodel compare``: compare memories."""

import json
import shlex
from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import add_device, add_run
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, bar
from worldmodel.io.paths import folder_path


def build_compare(parser: Parser) -> None:
    """Compare memories on a run folder's rollouts: likelihood, calibration, dreams, ablations.

    The run needs rollouts and a trained VAE. All variants train on the same episodes with the same number of updates; a
    fifth of the episodes is held out. The same command continues a stopped comparison.
    """
    add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help="Path of the report's folder. None: RUN/compare.")
    parser.add_argument(
        "--seeds", type=int, default=3, help="Number of trainings of each variant, with different seeds."
    )
    parser.add_argument("--num_updates", type=int, default=3_000, help="Number of gradient steps of each training.")
    parser.add_argument("--batch_size", type=int, default=16, help="Number of sequences in a batch.")
    parser.add_argument("--seq_len", type=int, default=32, help="Number of steps in a sequence.")
    parser.add_argument("--ablations", type=bool, default=True, help="Whether to train the ablations, too.")
    parser.add_argument(
        "--variants", type=list[str] | None, default=None, help="Names of the variants to train. None: all."
    )
    parser.add_argument(
        "--latent_targets",
        type=list[str],
        default=["mean", "sample"],
        help="Training targets: mean (of the VAE's posterior), sample (drawn from it), or both.",
    )
    add_device(parser)
    parser.add_argument("--workers", type=int, default=2, help="Number of trainings that run at the same time.")


def compare(options: Namespace) -> None:
    """Compare memories and write the report."""
    import time

    from worldmodel.agents.comparison import train
    from worldmodel.agents.comparison.report import write_comparison
    from worldmodel.agents.runs.run_folder import Run

    run = Run(Path(options.run)).existing()
    known = train.VARIANTS | (train.ABLATIONS if options.ablations else {})
    names = options.variants or list(known)
    for word, allowed in (
        *((name, known) for name in names),
        *((name, train.TARGETS) for name in options.latent_targets),
    ):
        if word not in allowed:
            raise ValueError(f"{word!r} is not one of {'; '.join(allowed)}")
    out, began = folder_path(options.out or run.folder / "compare", "out"), time.monotonic()
    chosen, latent_targets = {name: known[name] for name in names}, tuple(dict.fromkeys(options.latent_targets))
    sizes = (options.seeds, options.num_updates, options.batch_size, options.seq_len)
    counts = f"{len(chosen)} variants x {options.seeds} seeds x {len(latent_targets)} targets"
    with bar(f"compare memories: {counts}", "trainings") as progress:
        train.compare(run, out, chosen, *sizes, latent_targets, options.workers, progress)
    page = write_comparison(out, run.store().env, _command(options), time.monotonic() - began)
    answers.print(f"Report: {page}", markup=False)


def _command(options: Namespace) -> str:
    """Return the command that repeats a comparison: with its seeds, updates, and all options that are not the default."""
    build_compare(parser := Parser())
    words, defaults = ["worldmodel", "compare", options.run], parser.get_defaults()
    for name in (
        "seeds",
        "num_updates",
        "batch_size",
        "seq_len",
        "ablations",
        "variants",
        "latent_targets",
        "out",
        "workers",
    ):
        value = options[name]
        if name in ("seeds", "num_updates") or value != defaults[name]:
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)
