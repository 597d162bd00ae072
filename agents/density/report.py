"""The report of a density: one HTML page with its learning curve, its numbers, and samples to hear or to see."""

import contextlib
import html
import wave
from pathlib import Path

import numpy as np

from agents import plots, video
from agents.density.config import DensityConfig
from agents.density.evaluation import Evaluation
from agents.density.samples import can_be_completed, coloured, complete_images, rows, sample_density, wav
from agents.density.training_summary import TrainingSummary, event_name
from agents.html import image, losses, rows_of, settings_section, write_page
from agents.progress import duration
from agents.run import Run
from worldmodel.corpora import Corpus

TEMPERATURES = (1.0, 0.8)
"""Of the samples on the page."""
SECONDS = 3.0
SOUNDS = 2
"""Number of real recordings, and of samples at each temperature."""
IMAGES = 36


def write_density_report(run: Run, settings: DensityConfig, evaluation: Evaluation, corpus: Corpus) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder; returns the page's path."""
    title = f"{settings.model} as a density of {settings.data.partition(':')[0]}"
    sections = (
        _numbers(evaluation), _curve(run, settings), _samples(run, settings, corpus),
        settings_section(settings),
    )  # fmt: skip
    return write_page(run.folder / "report.html", title, "".join(sections))


def _numbers(evaluation: Evaluation) -> str:
    speech = evaluation.corpus["kind"] == "speech"
    lines = ""
    for measure in evaluation.measures:
        cells = [f"{measure.mean:.4f}", f"{measure.stderr:.4f}", str(measure.n), str(measure.sequences)]
        cells += [f"{measure.frame:.3f} ± {measure.frame_stderr:.3f}"] if speech else []
        lines += f"<tr><td>{html.escape(measure.what)}</td>"
        lines += "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
    frame = "<th>nats a frame</th>" if speech else ""
    n = "recordings" if speech else "images"
    notes = [
        f"{' '.join(evaluation.notes)} {'Higher' if speech else 'Lower'} is better.",
        f"Protocol: {evaluation.corpus['protocol']}.",
        f"{evaluation.parameters:,} parameters; {evaluation.hardware}.",
    ]
    return (
        f"<h2>The {evaluation.part} part</h2><table><tr><th></th><th>mean</th><th>standard error</th>"
        f"<th>n ({n})</th><th>sequences</th>{frame}</tr>"
        f"{lines}</table>"
        + "".join(f"<p>{html.escape(finding)}</p>" for finding in evaluation.findings)
        + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    )


def _curve(run: Run, settings: DensityConfig) -> str:
    series = losses(rows_of(run.folder / "metrics.jsonl"), "loss")
    bound = ", a bound" if "vrnn" in settings.model else ""
    event = event_name(settings.kind, settings.pixelwise)
    plot = plots.curves(series, "update", f"-log p (nats a {event}{bound})")
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in run.timings().items())
    return f'<h2>Learning</h2>{image(plot, "learning curve")}<p class="note">Wall clock: {times}.</p>'


def _samples(run: Run, settings: DensityConfig, corpus: Corpus) -> str:
    """Real data of the test part, and beside them what the density draws."""
    show = _sounds if settings.kind == "speech" else _images
    learning = TrainingSummary.of(run.folder)
    which = f"Drawn with the weights of update {learning.best_update:,}. " if learning else ""
    return f'<h2>Samples</h2><p class="note">{which}First: data of the test part.</p>{show(run, corpus)}'


def _sounds(run: Run, corpus: Corpus) -> str:
    media, rate = run.folder / "media", corpus.normalizer.describe()["rate"]
    groups, shown = list[tuple[str, list[Path]]](), dict[str, np.ndarray]()
    real = corpus.test.sounds(SOUNDS, SECONDS)  # type: ignore[attr-defined]  # of `Recordings`
    groups.append(("test part", [_keep(media / f"real-{index}.wav", sound, rate) for index, sound in enumerate(real)]))
    for temperature in TEMPERATURES:
        drawn = sample_density(run.folder, SOUNDS, temperature, out=media, length=SECONDS)
        clipped = f"; {drawn.clipped:.2%} of the samples clipped" if drawn.clipped else ""
        words = f"temperature {temperature:g}; drawn at {drawn.speed:.3g} x real time, {SOUNDS} at once{clipped}"
        groups.append((words, drawn.paths))
    parts = []
    for words, paths in groups:
        sounds = "".join(f'<audio controls src="media/{path.name}"></audio> ' for path in paths)
        parts.append(f"<figure>{sounds}<figcaption>{words}</figcaption></figure>")
        shown |= {f"{words.partition(';')[0]}, {number + 1}": heard(path) for number, path in enumerate(paths)}
    plot = image(plots.sounds(shown, rate), "waveforms and spectrograms")
    caption = "Waveform (full scale is from -1 to 1) and spectrogram of each."
    return "".join(parts) + f"<figure>{plot}<figcaption>{caption}</figcaption></figure>"


def _keep(path: Path, sound: np.ndarray, rate: int) -> Path:
    """Write samples as a WAV file."""
    with contextlib.ExitStack() as files:
        whole = np.round(np.asarray(sound, np.float64) * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2")
        wav(files, path, rate).writeframesraw(whole.tobytes())
    return path


def heard(path: Path) -> np.ndarray:
    """The samples of a WAV file of ours."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


def _images(run: Run, corpus: Corpus) -> str:
    media = run.folder / "media"
    count = min(IMAGES, len(corpus.test))
    real = corpus.to_data(next(iter(corpus.test.batches(count))).event).numpy()
    video.write_png(media / "real.png", video.grid(rows(coloured(real))))
    shown = [("test part", media / "real.png")]
    for temperature in TEMPERATURES:
        shown.append(
            (f"temperature {temperature:g}", sample_density(run.folder, IMAGES, temperature, out=media).paths[0])
        )
    if can_be_completed(run.folder):
        words = "Test images: the upper half that was given, the lower half completed at temperature 1, the true image."
        shown.append((words, complete_images(run.folder, 12, out=media)))
    return "".join(
        f"<figure>{image(path.read_bytes(), words)}<figcaption>{words}</figcaption></figure>" for words, path in shown
    )
