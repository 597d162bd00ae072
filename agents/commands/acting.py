"""Commands about controllers: evolve them, and test them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from agents.checks import check_search
from agents.commands.common import (
    Common,
    add_preset,
    add_run,
    add_where,
    check_env,
    env_of,
    env_words,
    game_asked,
    game_of,
    preset_of,
    preset_words,
    settings_of,
    slug,
)
from agents.display import answers, say_next, say_verdict
from agents.parser import Parser
from agents.settings import FAST, Controlling, DreamEvolving, GameEvolving, Testing


def build_evolve(parser: Parser) -> None:
    """Evolve a controller on a run folder's world model, in dreams or in the real game."""
    add_run(parser)
    add_where(parser, "where to evolve: game or dream")
    add_preset(parser)
    parser.add_argument("--env", type=str | None, default=None, help="the game (default: that of the rollouts)")
    parser.add_class_arguments(Controlling, "controller")
    parser.add_class_arguments(GameEvolving, "game")
    parser.add_class_arguments(DreamEvolving, "dream")
    parser.add_class_arguments(Common)


def evolve(options: Namespace) -> None:
    """Evolve."""
    from agents import story
    from agents.run import Run
    from rollouts.fitness import validate_state_resets
    from rollouts.workers import validate_backend

    run = Run(Path(options.run))
    validate_backend(options.backend, options.workers)
    kinds: dict[str, type] = {"game": GameEvolving, "dream": DreamEvolving}
    where = options.where or run.evolved
    settings: Any = settings_of(kinds[where], options[where])
    other = "dream" if where == "game" else "game"
    usual = vars(kinds[other]()) | preset_of(env_of([options.run]), options.preset or "").get(other, {})
    given = [name for name, value in usual.items() if options[other][name] != value]
    if given and not options.config:
        raise ValueError(f"--{other}.{given[0]} does nothing with --where {where}")
    controller = settings_of(Controlling, options.controller)
    check_search(vars(settings), f"{where}.")
    with run.existing().locked():
        if where == "dream":
            story.evolve_dream(run, settings, options.seed, controller)
            if options.env or not env_words(run):
                env, env_options = game_of(run, options.env)
                common = (options.seed, options.workers, env_options, options.backend)
                story.compare_dream(run, FAST.get(env, env), settings, *common)
        else:
            env, env_options = game_of(run, options.env)
            env = FAST.get(env, env)
            validate_state_resets(env, env_options, settings.moments)
            common = (options.seed, options.workers, env_options, options.backend)
            story.evolve_game(run, env, settings, controller, *common)
    answers.print(f"Controller in {run.folder / ('evolve-' + where)}", markup=False)
    say_next("worldmodel", "evaluate", run.folder, "--where", where, *env_words(run), *preset_words(options))


def build_evaluate(parser: Parser) -> None:
    """Test a run folder's controller on whole episodes of the real game, with seeds never used in training."""
    add_run(parser, agents=True)
    add_where(parser, "which controller: game or dream")
    add_preset(parser)
    parser.add_argument("--env", type=str | None, default=None, help="the game (default: that of the rollouts)")
    parser.add_argument(
        "--env_options", type=dict[str, Any], default={}, help="of envs.make, over the stored ones, as JSON"
    )
    parser.add_class_arguments(Testing)
    parser.add_argument("--workers", type=int, default=2, help="processes that play the game")
    parser.add_argument("--backend", type=str, default="loky", help="where they are: loky, ray or ray://HOST:PORT")


def evaluate(options: Namespace) -> None:
    """Evaluate."""
    from agents.agent import Agent
    from agents.display import bar
    from agents.evaluation import evaluate as test
    from agents.evaluation import repeating
    from agents.pretrained import found
    from agents.run import Run
    from agents.verdicts import against_random
    from rollouts.workers import validate_backend

    validate_backend(options.backend, options.workers)
    place = found(options.run, options.pretrained)
    settings = settings_of(Testing, options)
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
    check_env(env, env_options | options.env_options)
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
    report = replace(report, command=repeating(words, report, options.env_options, settings.max_steps))
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
            say_verdict(verdict, answers)
        say_next("worldmodel", "play", place.folder, *env_words(place))
