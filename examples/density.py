"""Densities of raw sound, RMDN and FRMDN, on plucked strings, and a sound sampled from one. A few minutes on two cores.

python examples/density.py                            # synthesizes plucked strings
python examples/density.py 1 runs/mine /data/songs    # or your own recordings

A folder with a training of another size is refused.
"""

import sys
import wave
from pathlib import Path

import numpy as np
import torch

from worldmodel import fit
from worldmodel.corpora import open_corpus
from worldmodel.registry import build

RATE, FRAME = 8_000, 100  # samples a second, and samples of an event


def pluck(rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """Return the sound of a plucked string: noise that is smoothed period by period (Karplus and Strong, 1983).

    Args:
        rng: Generator; it also draws the pitch.
        seconds: Duration in seconds.
    """
    string, periods = rng.uniform(-0.5, 0.5, rng.integers(40, 120)), []
    string -= string.mean()
    while sum(map(len, periods)) < seconds * RATE:
        periods.append(string)
        string = 0.498 * (string + np.roll(string, 1))
    sound = np.concatenate(periods)[: round(seconds * RATE)]
    return sound + 1e-3 * rng.standard_normal(len(sound))  # the density of digital silence has no bound


def write_wav(path: Path, sound: np.ndarray) -> None:
    """Write samples from -1 to 1 as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32_767).astype("<i2").tobytes())


def main(size: float = 1.0, folder: str = "runs/example-density", recordings: str | None = None) -> None:
    """Train two densities on the same sounds, compare them, and sample from the better one.

    Args:
        size: Factor on the amount of work.
        folder: Path of the output.
        recordings: Path of a folder of recordings. None: plucked strings.
    """
    out = Path(folder)
    if recordings is None:
        (out / "sounds").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        for number in range(max(40, round(200 * size))):
            write_wav(out / "sounds" / f"{number:03d}.wav", pluck(rng))

    # A sequence is half a second of sound; an event is 100 samples; 5 % of the files are the test part.
    corpus = open_corpus(f"audio:{recordings or out / 'sounds'}", segment_length=RATE // 2, frame=FRAME)
    batches = list(corpus.test.batches(16))
    frames = sum(int(batch.mask.sum()) for batch in batches)

    # Both have the same network and mixture; the FRMDN adds a flow. log p is exact for both.
    models, scores = {}, {}
    for name in ("rmdn", "frmdn"):
        models[name] = fit(
            build(name, event_dim=FRAME, hidden_size=128, num_components=5),
            corpus.splits,
            num_updates=max(2, round(600 * size)),
            batch_size=16, out=out / name,
        )  # fmt: skip
        with torch.no_grad():
            scores[name] = sum(float(models[name].log_prob(batch).sum()) for batch in batches) / frames
        print(f"{name}: log p = {scores[name]:.1f} nats per frame of {FRAME} samples, on test files")

    best = max(scores, key=scores.__getitem__)
    events = models[best].sample(2 * RATE // FRAME, generator=torch.Generator().manual_seed(1))
    write_wav(out / "drawn.wav", corpus.to_data(events)[0].numpy())
    print(f"two seconds sampled from the {best}: {out / 'drawn.wav'}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:])
