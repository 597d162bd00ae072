"""The report of a density: one HTML page with the learning curve, the results and samples.

Start reading at `write_density_report`.
"""

import contextlib
import html
from pathlib import Path

import numpy as np

from worldmodel.agents.analysis import plots, video
from worldmodel.agents.analysis.html import figure, image, losses, settings_section, table, write_page
from worldmodel.agents.density.config import DensityConfig
from worldmodel.agents.density.evaluation import Evaluation
from worldmodel.agents.density.samples import (
    can_be_completed,
    coloured,
    complete_images,
    continue_speech,
    open_wav,
    sample_density,
    square,
    to_pcm,
)
from worldmodel.agents.density.training_summary import TrainingSummary
from worldmodel.agents.progress import duration
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.corpora import Corpus, audio_files
from worldmodel.rollouts import pictures

TEMPERATURES = (1.0, 0.8)
"""Sampling temperatures of the samples on the page."""
SECONDS = 3.0
"""Length of a sample of speech on the page, in seconds."""
SOUNDS = 5
"""Number of real recordings, of samples of speech at each temperature, and of continued recordings."""
IMAGES = 64
"""Number of real images, and of sampled images at each temperature."""


def write_density_report(run: Run, settings: DensityConfig, evaluation: Evaluation, corpus: Corpus) -> Path:
    """Write ``report.html`` and ``media/`` into the run folder; return the path of the page."""
    title = f"{settings.model} as a density of {settings.data.partition(':')[0]}"
    sections = (
        _results(evaluation), _curve(run, settings), f"<h2>Samples</h2>{samples(run.folder, run.folder / 'media', corpus)}",
        settings_section(settings),
    )  # fmt: skip
    return write_page(run.folder / "report.html", title, "".join(sections))


def _results(evaluation: Evaluation) -> str:
    """Format the results as a table with notes."""
    speech = evaluation.corpus["kind"] == "speech"
    rows = []
    for measure in evaluation.measures:
        stderr = "" if measure.stderr is None or measure.n == 1 else f"{measure.stderr:.4f}"
        numbers = [f"{measure.mean:.4f}", stderr, str(measure.n), str(measure.sequences)]
        rows.append([html.escape(measure.what), *numbers, measure.text(frame=True) if speech else ""])
    heads = ["", "mean", "standard error", f"n ({'recordings' if speech else 'images'})", "sequences", "nats per frame"]
    notes = [
        f"{' '.join(evaluation.notes)} {'Higher' if speech else 'Lower'} is better.",
        f"Protocol: {evaluation.corpus['protocol']}.",
        f"{evaluation.parameters:,} parameters; {evaluation.hardware}.",
    ]
    return (
        f"<h2>The {evaluation.part} part</h2>{table(heads, rows)}"
        + "".join(f"<p>{html.escape(finding)}</p>" for finding in evaluation.findings)
        + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    )


def _curve(run: Run, settings: DensityConfig) -> str:
    """Format the plot of the losses and the wall-clock times."""
    series = losses(rows_of(run.folder / "metrics.jsonl"), "loss")
    bound = ", a bound" if "vrnn" in settings.model else ""
    plot = plots.curves(series, "update", f"-log p (nats per {settings.event_name}{bound})")
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in run.timings().items())
    return f'<h2>Training</h2>{image(plot, "learning curve")}<p class="note">Wall clock: {times}.</p>'


def samples(folder: Path, media: Path, corpus: Corpus) -> str:
    """Write data of the test part and samples of a density; return HTML that shows them.

    Args:
        folder: Path of the run folder of `agents.density.fit_density`.
        media: Path of the folder for pictures and sounds, beside the page.
        corpus: Corpus of the run.
    """
    write = _speech_samples if corpus.kind == "speech" else _image_samples
    summary = TrainingSummary.from_run(folder)
    which = f"Sampled with the weights of update {summary.best_update:,}. " if summary else ""
    return f'<p class="note">{which}Data of the test part come first.</p>{write(folder, media, corpus)}'


def _speech_samples(folder: Path, media: Path, corpus: Corpus) -> str:
    """Write WAV files of real recordings and of samples; format their players, waveforms and spectrograms."""
    rate = corpus.normalizer.describe()["rate"]
    groups, shown = list[tuple[str, list[Path]]](), dict[str, np.ndarray]()
    real = corpus.test.sounds(SOUNDS, SECONDS)  # type: ignore[attr-defined]  # of `Recordings`
    groups.append(
        ("test part", [_write_wav(media / f"real-{index}.wav", sound, rate) for index, sound in enumerate(real)])
    )
    for temperature in TEMPERATURES:
        drawn = sample_density(folder, SOUNDS, temperature, out=media, length=SECONDS)
        clipped = f"; {drawn.clipped:.2%} of the audio samples clipped" if drawn.clipped else ""
        caption = f"temperature {temperature:g}; {drawn.speed:.3g} x real time for {SOUNDS} samples at once{clipped}"
        groups.append((caption, drawn.paths))
    size = max(round(SECONDS / 3 * rate / corpus.event_dim), 1) * corpus.event_dim
    given = size / rate
    if count := len(corpus.test.starts(SOUNDS, size)):  # type: ignore[attr-defined]  # of `Recordings`
        continued = continue_speech(folder, count, out=media, length=SECONDS - given, given=given)
        groups.append((f"test recordings, continued after {given:.2g} s at temperature 1", continued.paths))
    parts = []
    for caption, paths in groups:
        players = "".join(f'<audio controls src="{media.name}/{path.name}"></audio> ' for path in paths)
        parts.append(figure(players, caption))
        shown |= {f"{caption.partition(';')[0]}, {number + 1}": _read_wav(path) for number, path in enumerate(paths)}
    plot = image(plots.sounds(shown, rate), "waveforms and spectrograms")
    caption = "Waveform (full scale from -1 to 1) and spectrogram of each sample."
    return "".join(parts) + figure(plot, caption)


def _write_wav(path: Path, sound: np.ndarray, rate: int) -> Path:
    """Write audio samples, full scale from -1 to 1, as a 16-bit WAV file; return its path."""
    with contextlib.ExitStack() as files:
        open_wav(files, path, rate).writeframesraw(to_pcm(sound).tobytes())
    return path


def _read_wav(path: Path) -> np.ndarray:
    """Read the audio samples of a WAV file; full scale is from -1 to 1."""
    audio = audio_files.inspect(path)
    return audio_files.read(audio, 0, audio.num_samples)


def _image_samples(folder: Path, media: Path, corpus: Corpus) -> str:
    """Write pictures of real images, of samples and of completed images; format them as figures."""
    count = min(IMAGES, len(corpus.test))
    real = corpus.to_data(next(iter(corpus.test.batches(count))).event).numpy()
    video.write_png(media / "real.png", pictures.grid(square(coloured(real))))
    shown = [("test part", media / "real.png")]
    for temperature in TEMPERATURES:
        shown.append((f"temperature {temperature:g}", sample_density(folder, IMAGES, temperature, out=media).paths[0]))
    if can_be_completed(folder):
        caption = "Rows: given upper halves of test images, images completed at temperature 1, true images."
        shown.append((caption, complete_images(folder, 12, out=media)))
    return "".join(figure(image(path.read_bytes(), caption), caption) for caption, path in shown)
