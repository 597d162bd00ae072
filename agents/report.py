"""The report of a run: one HTML page with curves, pictures, films, scores, settings and times.

Start reading at `write_report`. Everything on the page comes from files in the run folder.
"""

import html
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import envs
from agents import pictures
from agents.agent import Agent
from agents.display import bar, duration
from agents.dream_pictures import FURTHEST, film, reward_plot, temperature_film, traversals, write_film
from agents.iterations import OWN
from agents.page import image, losses, rows_of, settings_section, write_page
from agents.run import Run
from agents.sections import read_sections
from agents.settings import RunSettings
from agents.yaml_files import flat
from rollouts.lockstep import play
from worldmodel import WorldModel
from worldmodel.starts import Starts

FILM_STEPS = 200
"""Steps of the films."""


def write_report(run: Run, settings: RunSettings) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder, and the agent into ``agent/``; returns the page's path."""
    world, reports = run.world(), run.reports()
    best = "game" if "game" in reports else "dream" if "dream" in reports else None
    if best:
        agent = Agent(world, run.controller(best))
        agent.save(run.folder / "agent")
        Starts.cut(run.latents(world), seed=settings.seed).save(run.folder / "agent")
        reports[best].save(run.folder / "agent" / "report.json")
    with bar("films and plots", "pictures") as progress:
        progress(0, 3, "")
        sections = [_scores(run), _curves(run)]
        progress(1, 3, "")
        sections.append(_pictures(run, world, settings, best))
        progress(2, 3, "")
        sections += [_times(run), settings_section(settings), _settings_of_iterations(run, settings)]
        progress(3, 3, "")
    title = f"{settings.env}: a world model"
    return write_page(run.folder / "report.html", title, "".join(sections))


def _scores(run: Run) -> str:
    reports = run.reports()
    if not reports:
        return ""
    rows = []
    for name, report in reports.items():
        flag = "" if report.flag_rate is None else f"{report.flag_rate:.0%}"
        numbers = "".join(
            f'<td class="number">{value}</td>'
            for value in (*(f"{v:.1f}" for v in (report.mean, report.std, report.stderr)), report.n, flag)
        )
        where = f"{html.escape(report.env)}, seeds {report.seeds[0]} to {report.seeds[-1]}"
        rows.append(f"<tr><td>{html.escape(name)}</td>{numbers}<td>{where}</td></tr>")
    plot = image(pictures.histogram({name: report.returns for name, report in reports.items()}), "returns")
    machines = sorted({report.hardware for report in reports.values()})
    return (
        "<h2>Scores</h2><table><tr><th>controller</th><th>mean</th><th>standard deviation</th><th>standard error</th>"
        f"<th>episodes</th><th>flag</th><th>played</th></tr>{''.join(rows)}</table>"
        '<p class="note">Whole episodes, with seeds that no training draws. '
        f"{html.escape('; '.join(machines))}.</p>{plot}"
    )


def _curves(run: Run) -> str:
    parts = ["<h2>Learning</h2>"]
    vae = rows_of(run.folder / "vae" / "metrics.jsonl")
    if vae:
        lines = losses(vae, "loss")
        parts.append(image(pictures.curves(lines, "update", "VAE loss (nats a frame)"), "VAE"))
    memory = rows_of(run.folder / "memory" / "metrics.jsonl")
    if memory:
        floor = posterior_entropy(run)
        parts.append(
            image(
                pictures.curves(
                    losses(memory, "nll"),
                    "update",
                    "-log p(next latent) (nats a frame)",
                    {"posterior entropy: the floor for sampled targets": floor} if math.isfinite(floor) else None,
                ),
                "memory",
            )
        )
    for where in ("dream", "game"):
        rows = rows_of(run.folder / f"evolve-{where}" / "metrics.jsonl")
        if rows:
            x = [row["generation"] for row in rows]
            hard = " in hard episodes" if "scouted" in rows[0] else ""
            series = {f"{name}{hard}": (x, [row[name] for row in rows]) for name in ("mean", "max")}
            tested = [row for row in rows if "check" in row]
            if tested:
                series["mean tested on fresh seeds"] = (
                    [row["generation"] for row in tested],
                    [row["check"] for row in tested],
                )
            label = "return in the dream" if where == "dream" else "return in the game"
            parts.append(image(pictures.curves(series, "generation", label), f"evolution, {where}"))
    return "".join(parts)


def posterior_entropy(run: Run) -> float:
    """Mean differential entropy of q(z|x) over the stored frames, in nats: no model of sampled targets goes below it."""
    world = run.world()
    latents = run.store().latents(world.vae)
    entropies = [latents.episode(index).entropy for index in range(len(latents))]
    return float(np.concatenate(entropies).mean()) if entropies else math.nan


def _settings_of_iterations(run: Run, settings: RunSettings) -> str:
    """What iterations had otherwise than the settings above, which are those of the newest."""
    lines = []
    for path in sorted((run.folder / "iterations").glob("*/settings.json")):
        own = flat(asdict(replace(settings, **read_sections(OWN, path))))
        other = [f"{name} {own[name]}" for name, value in flat(asdict(settings)).items() if own.get(name) != value]
        lines += [f"{path.parent.name}: {', '.join(other)}"] if other else []
    return f"<h2>Iterations with other settings</h2><pre>{html.escape(chr(10).join(lines))}</pre>" if lines else ""


def _pictures(run: Run, world: WorldModel, settings: RunSettings, best: str | None) -> str:
    media = run.folder / "media"
    frames = run.store().episode(0).frames
    shown = torch.from_numpy(frames[np.linspace(0, len(frames) - 1, 10).astype(int)])
    with torch.no_grad():
        rebuilt = world.show(world.see(shown))
    pictures.write_png(media / "reconstructions.png", pictures.grid([shown.numpy(), rebuilt]))
    parts = [
        "<h2>Pictures</h2><figure>",
        image((media / "reconstructions.png").read_bytes(), "reconstructions"),
        f"<figcaption>Above: frames of the game. Below: the same after the VAE's {world.latent} numbers.</figcaption></figure>",
    ]
    options = settings.env_options | settings.test_options
    env = envs.make(settings.env, **options)
    try:
        if best:
            after = settings.test.seed + settings.test.episodes  # a track that no test has
            episode = play(env, Agent(world, run.controller(best)), after, max_steps=FILM_STEPS)
        else:
            episode = run.store().episode(0)
    finally:
        env.close()
    latents = run.store().latents(world.vae)
    turned, which = traversals(world, latents.some())
    pictures.write_png(media / "traversals.png", turned)
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
            parts.append(f"<figure>{image(plot, 'rewards')}<figcaption>Rewards as the memory foretells them, one step "
                         "ahead, and as they were, summed over that episode.</figcaption></figure>")  # fmt: skip
    return "".join(parts)


def _film(name: str, caption: str) -> str:
    video = f'<video src="media/{name}.mp4" controls loop muted autoplay></video>'
    return f"<figure>{video}<figcaption>{caption}</figcaption></figure>"


def _times(run: Run) -> str:
    timings = run.timings()
    rows = "".join(f'<tr><td>{name}</td><td class="number">{duration(s)}</td></tr>' for name, s in timings.items())
    note = f"Steps: {run.store().steps:,} collected, {run.evolution_steps('dream'):,} dreamed, "
    note += f"{run.evolution_steps('game'):,} played."
    total = duration(sum(timings.values()))
    return f'<h2>Wall clock</h2><table>{rows}<tr><th>total</th><th>{total}</th></tr></table><p class="note">{note}</p>'
