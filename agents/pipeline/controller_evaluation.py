"""Evaluate the controllers of a run in the official environment, and summarize it. Start reading at `evaluate_controllers`."""

from collections.abc import Callable
from dataclasses import replace

from worldmodel import rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.verdicts import against_random
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.evaluation import Report, evaluate, reproduce_command
from worldmodel.agents.progress import bar, console, duration, print_verdict
from worldmodel.agents.runs.run_folder import Run
from worldmodel.rollouts.policy import policies
from worldmodel.rollouts.policy.policies import Policy


def evaluate_controllers(run: Run, settings: RunConfig) -> dict[str, Report]:
    """Evaluate every controller and the random policy on fresh seeds of the official environment."""
    players: dict[str, Callable[[], Agent | Policy]] = {"random": lambda: rollouts.uniform}
    for where, is_evolved in (
        ("dream", settings.dream.generations or settings.iterations),
        ("game", settings.game.generations),
    ):
        if is_evolved:
            players[where] = lambda where=where: Agent(run.world(), run.controller(where))  # type: ignore[misc]
    for name, make in players.items():
        path, player = run.folder / "tests" / f"{name}.json", make()
        if path.exists() and _is_report_of(Report.load(path), player, settings):
            continue
        with bar(f"evaluate {name}", "episodes") as progress:
            report = evaluate(
                player,
                settings.evaluation_env,
                settings.eval.episodes,
                settings.eval.seed,
                env_options=settings.env_options,
                max_steps=settings.eval.max_steps,
                policy_name=name,
                progress=progress,
                **settings.executor,
            )
        real, dreamed = (run.evolution_steps(where) for where in ("game", "dream"))
        if isinstance(player, Agent):
            words = [str(run.folder), "--where", name]
            report = replace(
                report,
                real_steps=run.store().steps
                + (real if name == "game" else 0)
                + sum(one.real_steps for one in run.earlier),
                dream_steps=dreamed if name == "dream" else 0,
                command=reproduce_command(words, report, {}, settings.eval.max_steps),
            )
        report.save(path)
        console.print(str(report), markup=False)
        if verdict := against_random(run, report):
            print_verdict(verdict)
    return run.reports()


def _is_report_of(report: Report, player: Agent | Policy, settings: RunConfig) -> bool:
    """Return whether a report is about this player and these episodes."""
    expected = (policies.policy_name(player), settings.eval.episodes, settings.eval.seed)
    return (report.agent, report.n, report.seeds[0]) == expected


def summary(run: Run) -> list[tuple[str, str]]:
    """Summarize a finished run as rows of (stage, time or score)."""
    timings = run.timings()
    rows = [(name, duration(seconds)) for name, seconds in [*timings.items(), ("total", sum(timings.values()))]]
    return rows + [(f"score, {name}", str(report)) for name, report in run.reports().items()]
