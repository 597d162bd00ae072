"""The command that compares memories."""

import json
import shlex
from pathlib import Path

from jsonargparse import Namespace

from agents.commands.common import add_run
from agents.parser import Parser
from agents.progress import answers, late_bar
from worldmodel.paths import folder_path


def build_compare(parser: Parser) -> None:
    """Compare memories on a run folder's rollouts: likelihood, calibration, dreams beside reality, ablations.

    The run needs rollouts and a trained VAE. Every variant is trained on the same episodes with the same budget; a fifth of
    the episodes is never trained on. The same command goes on where it was stopped.
    """
    add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help="folder of the report (default: RUN/compare)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--num_updates", type=int, default=3_000, help="gradient steps of each training")
    parser.add_argument("--batch_size", type=int, default=16, help="sequences a step")
    parser.add_argument("--seq_len", type=int, default=32, help="steps of a sequence")
    parser.add_argument("--ablations", type=bool, default=True, help="whether to train the ablations, too")
    parser.add_argument(
        "--variants", type=list[str] | None, default=None, help="names of the variants to train (default: all)"
    )
    parser.add_argument(
        "--latent_targets", type=list[str], default=["mean", "sample"], help="next latents: mean, sample"
    )
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")


def compare(options: Namespace) -> None:
    """Compare."""
    import time

    from agents.comparison import train
    from agents.comparison.report import write_comparison
    from agents.run import Run

    run = Run(Path(options.run)).existing()
    known = train.VARIANTS | (train.ABLATIONS if options.ablations else {})
    names = options.variants or list(known)
    for word, allowed in (
        *((name, known) for name in names),
        *((name, train.TARGETS) for name in options.latent_targets),
    ):
        if word not in allowed:
            raise ValueError(f"{word!r} is none of {'; '.join(allowed)}")
    out, began = folder_path(options.out or run.folder / "compare", "out"), time.monotonic()
    chosen, targets = {name: known[name] for name in names}, tuple(dict.fromkeys(options.latent_targets))
    sizes = (options.seeds, options.num_updates, options.batch_size, options.seq_len)
    counts = f"{len(chosen)} variants x {options.seeds} seeds x {len(targets)} targets"
    counts += f" = {len(chosen) * options.seeds * len(targets)} trainings"
    with late_bar("compare memories", "trainings", counts) as progress:
        train.compare(run, out, chosen, *sizes, targets, options.workers, progress)
    page = write_comparison(out, run.store().env, _command(options), time.monotonic() - began)
    answers.print(f"Report: {page}", markup=False)


def _command(options: Namespace) -> str:
    """What repeats a comparison: its seeds and updates, and all that is not by default."""
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
