"""The command ``worldmodel evaluate``: evaluate a controller in the real environment."""

import json
import re
from dataclasses import replace
from typing import Any

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    BETTER,
    add_preset,
    add_run,
    add_settings,
    add_where,
    env_and_options,
    env_words,
    game_asked,
    settings_of,
    slug,
    validate_env,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, next_hint, print_verdict


def build_evaluate(parser: Parser) -> None:
    """Evaluate a controller on whole episodes of the real environment, with seeds that training never uses."""
    add_run(parser, agents=True)
    what = "Controller to evaluate: game, dream or clone (`worldmodel train controller`)."
    add_where(parser, f"{what} {BETTER}", "clone")
    add_preset(parser)
    parser.add_argument(
        "--env", type=str | None, default=None, help="Id of the environment. None: the official one of the rollouts."
    )
    parser.add_argument(
        "--env_options",
        type=dict[str, Any],
        default={},
        help="Arguments of envs.make, as JSON, on top of those of the rollouts.",
    )
    parser.add_argument(
        "--film",
        action="store_true",
        help="Write films (MP4) of the best, the median and the worst episode beside the report.",
    )
    add_settings(parser, "eval", "workers")


def evaluate(options: Namespace) -> None:
    """Evaluate, print the score and save the report."""
    from worldmodel.agents import evaluation
    from worldmodel.agents.agent import Agent
    from worldmodel.agents.analysis.verdicts import against_random
    from worldmodel.agents.pretrained import resolve_agent
    from worldmodel.agents.progress import bar
    from worldmodel.agents.runs.run_folder import Run
    from worldmodel.rollouts.executors.workers import validate_backend

    executor, settings = (given := settings_of(options, "")).executor, given.eval
    validate_backend(**executor)
    source = resolve_agent(options.run, options.pretrained)
    words = [options.run, *["--pretrained"] * options.pretrained]
    if isinstance(source, Run):
        name = options.where or source.best or source.evolved
        agent = Agent(source.world(), source.controller(name))
        env, env_options = env_and_options(source, options.env, official=True)
        words += ["--where", name]
    else:
        agent, name = source.agent(), "agent"
        env, env_options = game_asked(options.env, source.env, source.folder), source.env_options
    words += ["--env", options.env] if options.env else []
    validate_env(env, env_options | options.env_options)
    out = source.folder if isinstance(source, Run) else source.out
    label = re.sub(r"[^\w.]+", "-", json.dumps(options.env_options)).rstrip("-")
    cut = f"-max-{settings.max_steps}" if settings.max_steps else ""  # keeps the file of an evaluation without a limit
    path = out / "tests" / f"{name}-{slug(env)}-{settings.seed}-{settings.episodes}{label}{cut}.json"
    films = path.with_suffix("")
    with bar(f"evaluate in {env}", "episodes") as progress:
        report = evaluation.evaluate(
            agent,
            env,
            settings.episodes,
            settings.seed,
            env_options=env_options | options.env_options,
            max_steps=settings.max_steps,
            policy_name=name,
            progress=progress,
            film=films if options.film else None,
            **executor,
        )
    again = evaluation.reproduce_command(words, report, options.env_options, settings.max_steps)
    report = replace(report, command=again)
    answers.print(str(report), markup=False)  # before saving, which fails on a full disk
    conditions = [f"env_options {json.dumps(report.env_options)}"] if report.env_options else []
    conditions += [f"at most {settings.max_steps} steps an episode"] if settings.max_steps else []
    if conditions:
        answers.print(f"with {', '.join(conditions)}", markup=False)
    report.save(path)
    for written in (path, *(sorted(films.glob("*.mp4")) if options.film else ())):
        answers.print(str(written), markup=False)
    if isinstance(source, Run):
        if verdict := against_random(source, report):
            print_verdict(verdict, answers)
        next_hint("worldmodel", "play", source.folder, *env_words(source))
