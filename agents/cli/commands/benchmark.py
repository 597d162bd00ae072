"""The command ``worldmodel benchmark``: run the same settings with several seeds."""

from jsonargparse import Namespace
from rich.table import Table

from worldmodel.agents.cli.commands.common import ENV_ALIASES, settings_of, slug, validate_env
from worldmodel.agents.cli.commands.run import build_run
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers
from worldmodel.io.paths import folder_path


def build_benchmark(parser: Parser) -> None:
    """Run all stages with several seeds, one after the other: scores with intervals over training runs.

    All options of `worldmodel run` hold for each run. The same command continues a stopped one; more --seeds add runs.
    """
    build_run(parser)
    parser.add_argument("--seeds", type=int, default=5, help="Number of runs; their seeds count from --seed on.")


def benchmark(options: Namespace) -> None:
    """Run the seeds, and print the scores and the path of the page."""
    from worldmodel.agents.pipeline.benchmark import run_benchmark, score_rows
    from worldmodel.validation import validate_positive_int

    validate_positive_int(seeds=options.seeds)
    settings = settings_of(options, ENV_ALIASES.get(options.env_id, options.env_id))
    folder = folder_path(options.out or f"runs/{slug(options.env_id)}-{options.preset}-benchmark", "out")
    for env in dict.fromkeys((settings.evaluation_env, settings.rollout_env)):
        validate_env(env, settings.env_options)
    seeds = range(settings.seed, settings.seed + options.seeds)
    scores = run_benchmark(settings, folder, seeds)
    heads, rows = score_rows(scores)
    printed = Table(*heads, title=f"{settings.env}: {folder}", title_justify="left")
    for row in rows:
        printed.add_row(*row)
    answers.print(printed)
    page = folder / "benchmark.html"
    answers.print(f"Page: {page} (in a browser: {page.absolute().as_uri()})", markup=False)
