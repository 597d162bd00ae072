"""The report of a density: one HTML page with its learning curve, its numbers, and samples to hear or to see."""

import html
from pathlib import Path

from agents import pictures
from agents.density.evaluation import Evaluation
from agents.density.samples import can_be_completed, complete_images, sample_density
from agents.density.settings import Density
from agents.display import duration
from agents.page import image, losses, rows_of, settings_section, write_page
from agents.run import Run

TEMPERATURES = (1.0, 0.8)
"""Of the samples on the page."""
SECONDS = 3.0
IMAGES = 36


def write_density_report(run: Run, settings: Density, evaluation: Evaluation) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder; returns the page's path."""
    title = f"{settings.model} as a density of {settings.data.partition(':')[0]}"
    sections = (_numbers(evaluation), _curve(run, settings), _samples(run, settings), settings_section(settings))
    return write_page(run.folder / "report.html", title, "".join(sections))


def _numbers(evaluation: Evaluation) -> str:
    speech = evaluation.corpus["kind"] == "speech"
    rows = ""
    for measure in evaluation.measures:
        cells = [f"{measure.mean:.4f}", f"{measure.stderr:.4f}", str(measure.n)]
        cells += [f"{measure.frame:.3f} ± {measure.frame_stderr:.3f}"] if speech else []
        rows += f"<tr><td>{html.escape(measure.what)}</td>"
        rows += "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
    frame = "<th>nats a frame</th>" if speech else ""
    notes = [
        f"{' '.join(evaluation.notes)} {'Higher' if speech else 'Lower'} is better.",
        f"Protocol: {evaluation.corpus['protocol']}.",
        f"{evaluation.parameters:,} parameters; {evaluation.hardware}.",
    ]
    return (
        f"<h2>The {evaluation.part} part</h2><table><tr><th></th><th>mean</th><th>standard error</th><th>n</th>{frame}</tr>"
        f"{rows}</table>" + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    )


def _curve(run: Run, settings: Density) -> str:
    series = losses(rows_of(run.folder / "metrics.jsonl"), "loss")
    bound = ", a bound" if "vrnn" in settings.model else ""
    event = "frame" if settings.kind == "speech" else "pixel" if settings.pixelwise else "row"
    plot = pictures.curves(series, "update", f"-log p (nats a {event}{bound})")
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in run.timings().items())
    return f'<h2>Learning</h2>{image(plot, "learning curve")}<p class="note">Wall clock: {times}.</p>'


def _samples(run: Run, settings: Density) -> str:
    media, parts = run.folder / "media", ["<h2>Samples</h2>"]
    for temperature in TEMPERATURES:
        if settings.kind == "speech":
            drawn = sample_density(run.folder, 2, temperature, out=media, length=SECONDS)
            sounds = "".join(f'<audio controls src="media/{path.name}"></audio> ' for path in drawn.paths)
            clipped = f"; {drawn.clipped:.2%} of the samples clipped" if drawn.clipped else ""
            caption = f"temperature {temperature:g}; drawn at {drawn.speed:.3g} x real time, two at once{clipped}"
        else:
            path = sample_density(run.folder, IMAGES, temperature, out=media).paths[0]
            sounds, caption = image(path.read_bytes(), "samples"), f"temperature {temperature:g}"
        parts.append(f"<figure>{sounds}<figcaption>{caption}</figcaption></figure>")
    if settings.kind == "image" and can_be_completed(run.folder):
        path = complete_images(run.folder, 12, out=media)
        caption = (
            "Test images: the upper half that was given, the lower half completed at temperature 1, the true image."
        )
        parts.append(f"<figure>{image(path.read_bytes(), 'completions')}<figcaption>{caption}</figcaption></figure>")
    return "".join(parts)
