"""The report of a run: one HTML page with curves, pictures, films, scores, settings and times.

Start reading at `write_report`. Everything on the page comes from files in the run folder.
"""

import contextlib
import html
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

import envs
from agents import plots, video
from agents.agent import Agent
from agents.config.io import flat
from agents.config.provenance import versions
from agents.config.schema import RunConfig
from agents.config.sections import read_sections
from agents.dream_video import (
    FURTHEST,
    driving_film,
    film,
    long_episode,
    reconstructions,
    reward_plot,
    temperature_film,
    traversals,
    varied_frames,
    write_film,
)
from agents.html import image, losses, rows_of, section, settings_section, table, write_page
from agents.iterative_training import PER_ITERATION
from agents.progress import bar, duration
from agents.run import Run
from agents.shell import command
from agents.verdicts import Verdict, against_random, verdicts, weakest
from rollouts.episode import Episode
from rollouts.runner import play
from worldmodel import WorldModel
from worldmodel.formatting import format_number
from worldmodel.start_states import StartStates

FILM_STEPS = 200
"""Steps of the films."""
PLAYERS = {"dream": "evolved in dreams", "game": "evolved in the game"}


def write_report(run: Run, settings: RunConfig, add_rest: Callable[[], None] = lambda: None) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder, and the best agent into ``agent/``; returns the page's path.

    ``add_rest`` is called before times are read: what `agents.run.Run.session` yields.
    """
    with run.stage("report"), bar("films and plots", "pictures") as progress:
        world, known = run.world(), verdicts(run)
        best = best_controller(run)
        if best:
            Agent(world, run.controller(best)).save(run.folder / "agent")
            StartStates.from_episodes(run.latents(world), seed=settings.seed).save(run.folder / "agent")
            run.reports()[best].save(run.folder / "agent" / "report.json")
        progress(0, 3, "")
        films, episode = _driving(run, world, settings, best)
        progress(1, 3, "")
        sections = [section("Scores", _scores(run), unfolded=True), section("Parts", _parts(known), unfolded=True)]
        sections.append(section("Learning", _curves(run)))
        progress(2, 3, "")
        sections.append(section("Pictures", _pictures(run, world, episode)))
        progress(3, 3, "")
    add_rest()
    sections += [section("Wall clock", _times(run)), settings_section(settings)]
    sections.append(section("Iterations with other settings", _settings_of_iterations(run, settings)))
    opening = _about(run, settings) + "".join(films[:1]) + _sentences(run, settings, known, best) + "".join(films[1:])
    return write_page(run.folder / "report.html", f"{settings.env}: a world model", opening + "".join(sections))


def best_controller(run: Run) -> str | None:
    """Where the controller with the higher mean return in the test was evolved; None: none was tested."""
    tested = {name: report.mean for name, report in run.reports().items() if name in PLAYERS}
    return max(tested, key=lambda name: (tested[name], name)) if tested else None


def _about(run: Run, settings: RunConfig) -> str:
    """Date, command and versions."""
    again = command("worldmodel", "run", settings.env, "--config", run.folder / "config.yaml", "--out", run.folder)
    date = time.strftime("%Y-%m-%d %H:%M")
    return f'<p class="note">{date}. <code>{html.escape(again)}</code><br>{html.escape(versions())}</p>'


def _sentences(run: Run, settings: RunConfig, known: Sequence[Verdict], best: str | None) -> str:
    """What was run, how good the best controller is, and what the weakest part is."""
    store, reports = run.store(), run.reports()
    generations = {"dreams": settings.dream.generations, "the game": settings.game.generations}
    evolved = " and ".join(f"in {where} ({count} generations)" for where, count in generations.items() if count)
    sentences = [
        f"A world model learned from {len(store):,} episodes ({store.steps:,} steps) of {store.env}"
        + (f"; controllers were evolved {evolved}." if evolved else ".")
    ]
    level, others = "good", list(known)
    if best:
        report, verdict = reports[best], against_random(run, reports[best])
        mean = format_number(report.mean)
        words = f"The best controller, {PLAYERS[best]}, has a mean return of {mean} in {report.n} test episodes"
        level = verdict.level if verdict else "good"
        sentences.append(f"{words}, {verdict.text}." if verdict else f"{words}.")
        others = [one for one in known if one != verdict]  # the sentence above says that one
    weak = weakest(others)
    none = "No other part failed its test." if level != "good" else "No part failed its test."
    sentences.append(f"The weakest part is the {weak}." if weak else none)
    levels = ["good", *([level] if best else []), weak.level if weak else "good"]
    return "".join(
        f'<p class="{kind}">{html.escape(sentence)}</p>' for kind, sentence in zip(levels, sentences, strict=True)
    )


def _parts(known: Sequence[Verdict]) -> str:
    """What each part is worth."""
    rows = [[html.escape(one.part), f'<span class="{one.level}">{html.escape(one.text)}</span>'] for one in known]
    return table(["", ""], rows) if rows else ""


def _scores(run: Run) -> str:
    reports = run.reports()
    if not reports:
        return ""
    rows = []
    for name, report in reports.items():
        numbers = [format_number(value) for value in (report.mean, report.std, report.stderr)]
        flag = "" if report.flag_rate is None else f"{report.flag_rate:.0%}"
        where = f"{report.env}, seeds {report.seeds[0]} to {report.seeds[-1]}"
        compared = against_random(run, report)
        words = "" if compared is None else f'<span class="{compared.level}">{compared.text.partition(":")[0]}</span>'
        rows.append([html.escape(name), *numbers, str(report.n), flag, words, html.escape(where)])
    heads = [
        "controller",
        "mean",
        "standard deviation",
        "standard error",
        "episodes",
        "flag",
        "against random",
        "played",
    ]
    returns = {name: report.returns for name, report in reports.items()}
    plot = image(plots.histogram(returns, title="Returns of test episodes"), "returns")
    machines = "; ".join(sorted({report.hardware for report in reports.values()}))
    note = f"Whole episodes, with seeds that no training draws. {machines}."
    return f'{table(heads, rows)}<p class="note">{html.escape(note)}</p>{plot}'


def _driving(run: Run, world: WorldModel, settings: RunConfig, best: str | None) -> tuple[list[str], Episode]:
    """Films of controllers in the game and in their own dreams, the best one first; and the best one's episode."""
    if best is None:
        lengths = run.store().lengths
        return [], run.store().episode(long_episode(lengths)).first(FILM_STEPS)
    films, episodes = [], []
    env = envs.make(settings.env, **settings.env_options | settings.eval_env_options)
    after = settings.eval.seed + settings.eval.episodes  # an episode that no test has
    with contextlib.closing(env):
        for name in dict.fromkeys([best, *(["dream"] if "dream" in run.reports() else [])]):
            controller = run.controller(name)
            episode = play(env, Agent(world, controller), after, max_steps=FILM_STEPS)
            episodes.append(episode)
            shots = driving_film(world, controller, episode, FILM_STEPS)
            write_film(run.folder / "media", f"driving-{name}", shots)
            what = "The best controller, " if name == best else "The controller "
            films.append(
                _film(f"driving-{name}", f"{what}{PLAYERS[name]}. Left: the game. Right: its own dream of it.")
            )
    return films, episodes[0]


def _curves(run: Run) -> str:
    parts = []
    vae = rows_of(run.folder / "vae" / "metrics.jsonl")
    if vae:
        lines = losses(vae, "loss")
        parts.append(image(plots.curves(lines, "update", "loss (nats a frame)", title="Training of the VAE"), "VAE"))
    memory = rows_of(run.folder / "memory" / "metrics.jsonl")
    if memory:
        floor = posterior_entropy(run)
        parts.append(
            image(
                plots.curves(
                    losses(memory, "nll"),
                    "update",
                    "-log p(next latent) (nats a frame)",
                    {"posterior entropy: the floor for sampled targets": floor} if math.isfinite(floor) else None,
                    title="Training of the memory",
                ),
                "memory",
            )
        )
    for where in ("dream", "game"):
        rows = rows_of(run.folder / f"evolve-{where}" / "metrics.jsonl")
        if rows:
            x = [row["generation"] for row in rows]
            hard = " in hard episodes" if "hard_episodes" in rows[0] else ""
            series = {f"{name}{hard}": (x, [row[name] for row in rows]) for name in ("mean", "max")}
            tested = [row for row in rows if "eval" in row]
            if tested:
                series["mean tested on fresh seeds"] = (
                    [row["generation"] for row in tested],
                    [row["eval"] for row in tested],
                )
            label = "return in the dream" if where == "dream" else "return in the game"
            parts.append(
                image(
                    plots.curves(series, "generation", label, title=f"Evolution: {PLAYERS[where]}"),
                    f"evolution, {where}",
                )
            )
    return "".join(parts)


def posterior_entropy(run: Run) -> float:
    """Mean differential entropy of q(z|x) over the stored frames, in nats: no model of sampled targets goes below it."""
    world = run.world()
    latents = run.store().latents(world.vae)
    entropies = [latents.episode(index).entropy for index in range(len(latents))]
    return float(np.concatenate(entropies).mean()) if entropies else math.nan


def _settings_of_iterations(run: Run, settings: RunConfig) -> str:
    """What iterations had otherwise than the settings above, which are those of the newest."""
    lines = []
    for path in sorted((run.folder / "iterations").glob("*/settings.json")):
        own = flat(asdict(replace(settings, **read_sections(PER_ITERATION, path))))
        other = [f"{name} {own[name]}" for name, value in flat(asdict(settings)).items() if own.get(name) != value]
        lines += [f"{path.parent.name}: {', '.join(other)}"] if other else []
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>" if lines else ""


def _pictures(run: Run, world: WorldModel, episode: Episode) -> str:
    media, store = run.folder / "media", run.store()
    latents = store.latents(world.vae)
    video.write_png(media / "reconstructions.png", reconstructions(world, varied_frames(store, latents)))
    parts = [
        "<figure>",
        image((media / "reconstructions.png").read_bytes(), "reconstructions"),
        "<figcaption>Frames that differ much. Above: the game. Middle: the same after the VAE's "
        f"{world.latent_dim} numbers. Below: their difference; black is none.</figcaption></figure>",
    ]
    turned, which = traversals(world, latents.posterior_means())
    video.write_png(media / "traversals.png", turned)
    parts += [
        "<figure>",
        image((media / "traversals.png").read_bytes(), "latent traversals"),
        f"<figcaption>What single latents stand for: each row turns one of them ({', '.join(map(str, which))}) from "
        f"{-FURTHEST:g} to {FURTHEST:g} standard deviations around its mean; the others stay.</figcaption></figure>",
    ]
    if len(episode) >= 2:
        write_film(media, "dream-beside-reality", film(world, episode))
        write_film(media, "temperatures", temperature_film(world, episode))
        parts += [
            _film("dream-beside-reality", "Left: the game. Middle: its reconstruction. Right: the dream, which saw only "
                  "the first frame and the steps before it, and from then on only the actions."),
            _film("temperatures", "The same moment, actions and luck, dreamed at several temperatures."),
        ]  # fmt: skip
        if plot := reward_plot(world, episode):
            parts.append(f"<figure>{image(plot, 'rewards')}<figcaption>Rewards as the memory predicts them, one step "
                         "ahead, and as they were, summed over that episode.</figcaption></figure>")  # fmt: skip
    return "".join(parts)


def _film(name: str, caption: str) -> str:
    video = f'<video src="media/{name}.mp4" controls loop muted autoplay></video>'
    return f"<figure>{video}<figcaption>{caption}</figcaption></figure>"


def _times(run: Run) -> str:
    timings = run.timings()
    rows = [[html.escape(name), duration(seconds)] for name, seconds in timings.items()]
    rows.append(["<b>total</b>", f"<b>{duration(sum(timings.values()))}</b>"])
    note = f"Steps: {run.store().steps:,} collected, {run.evolution_steps('dream'):,} dreamed, "
    note += f"{run.evolution_steps('game'):,} played. Not counted: starting Python, and the time between sittings."
    return f'{table(["", ""], rows)}<p class="note">{note}</p>'
