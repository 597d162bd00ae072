"""Report of a run: one HTML page with scores, diagnostics, learning curves, images, videos, settings and times.

Start reading at `write_report`. All data on the page come from files in the run folder.
"""

import contextlib
import html
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from worldmodel import WorldModel, envs
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis import plots, video
from worldmodel.agents.analysis.diagnostics import cards, diagnostics
from worldmodel.agents.analysis.dream_video import (
    FURTHEST,
    controller_film,
    film,
    long_episode,
    reconstructions,
    reward_plot,
    temperature_film,
    traversals,
    varied_frames,
    write_film,
)
from worldmodel.agents.analysis.episode_film import learning_rows
from worldmodel.agents.analysis.html import figure, image, losses, section, settings_section, table, write_page
from worldmodel.agents.analysis.report_card import table_of
from worldmodel.agents.analysis.verdicts import Verdict, against_random, verdicts, weakest
from worldmodel.agents.config.io import flat
from worldmodel.agents.config.provenance import versions
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import PER_ITERATION, read_sections
from worldmodel.agents.progress import bar, duration
from worldmodel.agents.runs.iteration import iteration_run, num_training_episodes
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.agents.shell import command
from worldmodel.messages import format_number
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.pictures import png
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.runner import play
from worldmodel.start_states import StartStates

FILM_STEPS = 200
"""Largest number of steps of the videos."""
SUCCESSIVE = 8
"""Largest number of successive controllers whose episodes are shown."""
ORIGINS = {"dream": "evolved in dreams", "game": "evolved in the game"}


def write_report(run: Run, settings: RunConfig, add_rest: Callable[[], None] = lambda: None) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder, and the best agent into ``agent/``.

    Args:
        run: Run.
        settings: Settings of the run.
        add_rest: Callback of `Run.session` that adds the time outside stages. It is called before the times are read.

    Returns:
        Path of the page.
    """
    with run.stage("report"), bar("videos and plots", "parts") as progress:
        world, results = run.world(), verdicts(run)
        best = run.best
        if best:
            Agent(world, run.controller(best)).save(run.folder / "agent")
            StartStates.from_episodes(run.latents(world), seed=settings.seed).save(run.folder / "agent")
            run.reports()[best].save(run.folder / "agent" / "report.json")
        progress(0, 3, "")
        videos, episode = _controller_videos(run, world, settings, best)
        progress(1, 3, "")
        sections = [section("Scores", _scores(run), unfolded=True)]
        sections.append(section("Diagnostics", _diagnostics(results), unfolded=True))
        sections.append(section("Report card of the world model", _cards(run)))
        sections.append(section("Learning curves", _curves(run)))
        sections.append(section("Episodes during evolution", _learning(run, settings)))
        progress(2, 3, "")
        sections.append(section("Images and videos", _images(run, world, episode)))
        progress(3, 3, "")
    add_rest()
    sections += [section("Wall clock", _times(run)), settings_section(settings)]
    sections.append(section("Settings of earlier iterations", _settings_of_iterations(run, settings)))
    opening = _provenance(run, settings) + "".join(videos[:1]) + _summary(run, settings, results, best)
    opening += "".join(videos[1:])
    return write_page(run.folder / "report.html", f"World model of {settings.env}", opening + "".join(sections))


def _provenance(run: Run, settings: RunConfig) -> str:
    """Return the date, the command and the versions."""
    reproduce = command("worldmodel", "run", settings.env, "--config", run.folder / "config.yaml", "--out", run.folder)
    date = time.strftime("%Y-%m-%d %H:%M")
    return f'<p class="note">{date}. <code>{html.escape(reproduce)}</code><br>{html.escape(versions())}</p>'


def _summary(run: Run, settings: RunConfig, results: Sequence[Verdict], best: str | None) -> str:
    """Return sentences about the data, the best controller and the weakest part."""
    store, reports = run.store(), run.reports()
    generations = {"dreams": settings.dream.generations, "the game": settings.game.generations}
    evolved = " and ".join(f"in {where} ({count} generations)" for where, count in generations.items() if count)
    count = num_training_episodes(run)
    sentences = [
        f"The world model is trained on {count:,} episodes ({sum(store.lengths[:count]):,} steps) of {store.env}."
        + (f" Controllers are evolved {evolved}." if evolved else "")
    ]
    level, others = "good", list(results)
    if best:
        report, verdict = reports[best], against_random(run, reports[best])
        mean = format_number(report.mean)
        score = f"The best controller ({ORIGINS[best]}) has a mean return of {mean} in {report.n} test episodes"
        level = verdict.level if verdict else "good"
        sentences.append(f"{score}, {verdict.text}." if verdict else f"{score}.")
        others = [one for one in results if one != verdict]  # the sentence above contains this verdict
    weak = weakest(others)
    no_weak = "No other part failed its test." if level != "good" else "No part failed its test."
    sentences.append(f"The weakest part is the {weak}." if weak else no_weak)
    levels = ["good", *([level] if best else []), weak.level if weak else "good"]
    return "".join(
        f'<p class="{kind}">{html.escape(sentence)}</p>' for kind, sentence in zip(levels, sentences, strict=True)
    )


def _diagnostics(results: Sequence[Verdict]) -> str:
    """Return a table of the verdicts."""
    rows = [[html.escape(one.part), f'<span class="{one.level}">{html.escape(one.text)}</span>'] for one in results]
    return table(["part", "result"], rows) if rows else ""


def _cards(run: Run) -> str:
    """Return a table of the report cards, and a plot of the drift of the newest one."""
    found = cards(run)
    heads, *rows = table_of(found)
    page = table(heads, [[html.escape(cell) for cell in row] for row in rows])
    if drift := next(reversed(found.values())).drift:
        x = [row.horizon for row in drift]
        names = {"mean": "mean of dreams", "dream": "one dream", "persistence": "persistence", "other": "other episode"}
        series = {text: (x, [getattr(row, name) for row in drift]) for name, text in names.items()}
        plot = plots.curves(series, "steps in open loop", "explained variance of latents", {"mean latent": 0.0})
        page += figure(image(plot, "drift of dreams"), f"Dreams under the real actions ({next(reversed(found))}).")
    return page


def _scores(run: Run) -> str:
    """Return a table and a plot of the evaluations."""
    reports = run.reports()
    if not reports:
        return ""
    rows = []
    for name, report in reports.items():
        numbers = [format_number(value) for value in (report.mean, report.std, report.stderr)]
        flag = "" if report.flag_rate is None else f"{report.flag_rate:.0%}"
        environment = f"{report.env}, seeds {report.seeds[0]} to {report.seeds[-1]}"
        verdict = against_random(run, report)
        result = "" if verdict is None else f'<span class="{verdict.level}">{verdict.text.partition(":")[0]}</span>'
        rows.append([html.escape(name), *numbers, str(report.n), flag, result, html.escape(environment)])
    heads = [
        "controller",
        "mean return",
        "standard deviation",
        "standard error",
        "episodes",
        "flag rate",
        "comparison with random",
        "environment and seeds",
    ]
    returns = {name: report.returns for name, report in reports.items()}
    plot = image(plots.histogram(returns, title="Returns of the test episodes"), "returns of the test episodes")
    machines = "; ".join(sorted({report.hardware for report in reports.values()}))
    note = f"Returns of complete test episodes. Training does not use their seeds. Hardware: {machines}."
    return f'{table(heads, rows)}<p class="note">{html.escape(note)}</p>{plot}'


def _controller_videos(run: Run, world: WorldModel, settings: RunConfig, best: str | None) -> tuple[list[str], Episode]:
    """Write videos of the evaluated controllers in the game and in dreams.

    Returns:
        The figures, with the best controller first, and its episode. Without an evaluation: no figures, and a stored episode.
    """
    if best is None:
        lengths = run.store().lengths
        return [], run.store().episode(long_episode(lengths)).first(FILM_STEPS)
    figures, episodes = [], []
    env = envs.make(settings.evaluation_env, **settings.env_options)
    seed = settings.eval.seed + settings.eval.episodes  # the first seed after the test episodes
    with contextlib.closing(env):
        for name in dict.fromkeys([best, *(["dream"] if "dream" in run.reports() else [])]):
            controller = run.controller(name)
            episode = play(env, Agent(world, controller), seed, max_steps=FILM_STEPS)
            episodes.append(episode)
            frames = controller_film(world, controller, episode, FILM_STEPS)
            write_film(run.folder / "media", f"controller-{name}", frames)
            title = "Best controller" if name == best else "Controller"
            caption = f"{title} ({ORIGINS[name]}). Left: the game. Right: its dream from the same first frame."
            figures.append(_video_figure(f"controller-{name}", caption))
    return figures, episodes[0]


def _curves(run: Run) -> str:
    """Return plots of the trainings and evolutions."""
    parts = []
    vae = rows_of(run.folder / "vae" / "metrics.jsonl")
    if vae:
        lines = losses(vae, "loss")
        plot = plots.curves(lines, "update", "loss (nats per frame)", title="Training of the VAE")
        parts.append(image(plot, "training of the VAE"))
    memory = rows_of(run.folder / "memory" / "metrics.jsonl")
    if memory:
        measured = diagnostics(run).get("memory")
        floor = None if measured is None else measured.posterior_entropy
        parts.append(
            image(
                plots.curves(
                    losses(memory, "nll"),
                    "update",
                    "-log p(next latent) (nats per frame)",
                    None if floor is None else {"posterior entropy, the floor for sampled targets": floor},
                    title="Training of the memory",
                ),
                "training of the memory",
            )
        )
    if iterations := rows_of(run.folder / "iterations" / "metrics.jsonl"):
        x = [row["number"] for row in iterations]
        names = {"dream": "in dreams", "real": "in the game", "episode_mean": "in the game, complete episodes"}
        series = {text: (x, [row[name] for row in iterations]) for name, text in names.items()}
        title = "Best controller of each iteration: returns from the same states"
        parts.append(image(plots.curves(series, "iteration", "return", title=title), "returns over iterations"))
    for where in ("dream", "game"):
        rows = rows_of(run.folder / f"evolve-{where}" / "metrics.jsonl")
        if rows:
            x = [row["generation"] for row in rows]
            hard = " of hard episodes" if "hard_episodes" in rows[0] else ""
            series = {f"{name}{hard}": (x, [row[name] for row in rows]) for name in ("mean", "max")}
            evaluated = [row for row in rows if "eval" in row]
            if evaluated:
                series["eval on new seeds"] = (
                    [row["generation"] for row in evaluated],
                    [row["eval"] for row in evaluated],
                )
            label = "return in the dream" if where == "dream" else "return in the game"
            parts.append(
                image(
                    plots.curves(series, "generation", label, title=f"Controller {ORIGINS[where]}"),
                    f"evolution in the {where}",
                )
            )
    return "".join(parts)


def _learning(run: Run, settings: RunConfig) -> str:
    """Return a table with frames of an episode of the same seed, for controllers of successive generations or iterations."""
    controllers = successive_controllers(run)
    if len(controllers) < 2:
        return ""
    seed = settings.eval.seed + settings.eval.episodes  # the first seed after the test episodes
    rows = learning_rows(controllers, settings.rollout_env, settings.env_options, seed, FILM_STEPS)
    cells = [
        [row.name, format_number(row.episode_return), str(row.steps), image(png(row.picture), row.name)] for row in rows
    ]
    note = (
        f"Episodes of {settings.rollout_env} with seed {seed}, of at most {FILM_STEPS} steps: frames at the same steps."
    )
    return f'{table(["controller", "return", "steps", "frames"], cells)}<p class="note">{html.escape(note)}</p>'


def successive_controllers(run: Run) -> dict[str, tuple[WorldModel, Controller]]:
    """Return controllers of iterations and generations with their world models, in their order, evenly spaced."""
    found: list[tuple[str, Run, Path]] = []
    for path in sorted(run.folder.glob("iterations/[0-9]*/iteration.json")):
        one = iteration_run(run, int(path.parent.name))
        found.append((f"iteration {int(path.parent.name)}", one, one.search("dream") / "controller.safetensors"))
    for where in ("dream", "game"):
        for path in sorted((run.search(where) / "means").glob("*.safetensors")):
            found.append((f"{where}, generation {int(path.stem)}", run, path))
    chosen = sorted({round(index) for index in np.linspace(0, len(found) - 1, SUCCESSIVE)}) if found else []
    return {found[index][0]: (found[index][1].world(), Controller.load(found[index][2])) for index in chosen}


def _settings_of_iterations(run: Run, settings: RunConfig) -> str:
    """Return the settings of earlier iterations that differ from those of the latest iteration."""
    lines = []
    for path in sorted((run.folder / "iterations").glob("*/settings.json")):
        values = flat(asdict(replace(settings, **read_sections(PER_ITERATION, path))))
        latest = flat(asdict(settings))
        changed = [f"{name} {values[name]}" for name, value in latest.items() if values.get(name) != value]
        lines += [f"{path.parent.name}: {', '.join(changed)}"] if changed else []
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>" if lines else ""


def _images(run: Run, world: WorldModel, episode: Episode) -> str:
    """Write images and videos of the world model; returns their figures."""
    media, store = run.folder / "media", run.store()
    latents = store.latents(world.vae)
    video.write_png(media / "reconstructions.png", reconstructions(world, varied_frames(store, latents)))
    caption = (
        "Reconstructions. Top: frames of the game. Middle: their reconstructions from "
        f"{world.latent_dim} latent numbers. Bottom: absolute error (black is zero)."
    )
    parts = [figure(image((media / "reconstructions.png").read_bytes(), "reconstructions"), caption)]
    picture, dimensions = traversals(world, latents.posterior_means())
    video.write_png(media / "traversals.png", picture)
    caption = (
        f"Latent traversals. Each row varies one latent dimension ({', '.join(map(str, dimensions))}) from "
        f"{-FURTHEST:g} to {FURTHEST:g} standard deviations around its mean. The other dimensions are constant."
    )
    parts.append(figure(image((media / "traversals.png").read_bytes(), "latent traversals"), caption))
    if len(episode) >= 2:
        write_film(media, "dream-beside-reality", film(world, episode))
        write_film(media, "temperatures", temperature_film(world, episode))
        parts += [
            _video_figure("dream-beside-reality", "Left: the game. Middle: its reconstruction. Right: the dream. Its input "
                          "is the real steps up to the first frame, and then only the actions."),
            _video_figure("temperatures", "The game, and dreams at several temperatures from the same state, with the same "
                          "actions and random numbers."),
        ]  # fmt: skip
        if plot := reward_plot(world, episode):
            caption = "Cumulative rewards of the same episode: one-step predictions of the memory, and real rewards."
            parts.append(figure(image(plot, "rewards"), caption))
    return "".join(parts)


def _video_figure(name: str, caption: str) -> str:
    """Return a figure with a video of ``media/``."""
    video = f'<video src="media/{name}.mp4" controls loop muted autoplay></video>'
    return figure(video, caption)


def _times(run: Run) -> str:
    """Return a table of the time of each stage, and the number of steps."""
    timings = run.timings()
    rows = [[html.escape(name), duration(seconds)] for name, seconds in timings.items()]
    rows.append(["<b>total</b>", f"<b>{duration(sum(timings.values()))}</b>"])
    note = f"Steps: {run.store().steps:,} collected, {run.evolution_steps('dream'):,} in dreams during evolution, "
    note += f"{run.evolution_steps('game'):,} in the game during evolution. The times exclude the start of Python "
    note += "and the time between interrupted sessions."
    return f'{table(["stage", "time"], rows)}<p class="note">{note}</p>'
