"""The command ``worldmodel evaluate``."""

import json
import re
from dataclasses import replace
from typing import Any

from jsonargparse import Namespace

from agents.commands.common import (
    add_preset,
    add_run,
    add_where,
    env_words,
    game_asked,
    game_of,
    settings_of,
    slug,
    validate_env,
)
from agents.config.schema import EvalConfig
from agents.parser import Parser
from agents.progress import answers, next_hint, print_verdict


def build_evaluate(parser: Parser) -> None:
    """Test a run folder's controller on whole episodes of the real game, with seeds never used in training."""
    add_run(parser, agents=True)
    add_where(parser, "which controller: game or dream")
    add_preset(parser)
    parser.add_argument("--env", type=str | None, default=None, help="the game (default: that of the rollouts)")
    parser.add_argument(
        "--env_options", type=dict[str, Any], default={}, help="of envs.make, over the stored ones, as JSON"
    )
    parser.add_class_arguments(EvalConfig, "eval")
    parser.add_argument("--workers", type=int, default=2, help="processes that play the game")
    parser.add_argument("--backend", type=str, default="loky", help="where they are: loky, ray or ray://HOST:PORT")


def evaluate(options: Namespace) -> None:
    """Evaluate."""
    from agents.agent import Agent
    from agents.evaluation import evaluate as test
    from agents.evaluation import reproduce_command
    from agents.pretrained import resolve_agent
    from agents.progress import bar
    from agents.run import Run
    from agents.verdicts import against_random
    from rollouts.workers import validate_backend

    validate_backend(options.backend, options.workers)
    place = resolve_agent(options.run, options.pretrained)
    settings = settings_of(EvalConfig, options.eval, "eval.")
    words = [options.run, *["--pretrained"] * options.pretrained]
    if isinstance(place, Run):
        name = options.where or place.evolved
        agent = Agent(place.world(), place.controller(name))
        env, env_options = game_of(place, options.env, official=True)
        words += ["--where", name]
    else:
        agent, name = place.agent(), "agent"
        env, env_options = game_asked(options.env, place.env, place.folder), place.env_options
    words += ["--env", options.env] if options.env else []
    validate_env(env, env_options | options.env_options)
    with bar(f"test in {env}", "episodes") as progress:
        report = test(
            agent,
            env,
            settings.episodes,
            settings.seed,
            workers=options.workers,
            env_options=env_options | options.env_options,
            max_steps=settings.max_steps,
            policy_name=name,
            backend=options.backend,
            progress=progress,
        )
    report = replace(report, command=reproduce_command(words, report, options.env_options, settings.max_steps))
    out = place.folder if isinstance(place, Run) else place.out
    label = re.sub(r"[^\w.]+", "-", json.dumps(options.env_options)).rstrip("-")
    cut = f"-max-{settings.max_steps}" if settings.max_steps else ""  # no whole test's file is written over
    path = out / "tests" / f"{name}-{slug(env)}-{settings.seed}-{settings.episodes}{label}{cut}.json"
    answers.print(str(report), markup=False)  # before a disk that is full could lose it
    how = [f"env_options {json.dumps(report.env_options)}"] if report.env_options else []
    how += [f"episodes cut at {settings.max_steps} steps"] if settings.max_steps else []
    if how:
        answers.print(f"with {', '.join(how)}", markup=False)
    report.save(path)
    answers.print(str(path), markup=False)
    if isinstance(place, Run):
        if verdict := against_random(place, report):
            print_verdict(verdict, answers)
        next_hint("worldmodel", "play", place.folder, *env_words(place))
