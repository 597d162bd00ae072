"""Make two corpora for comparisons of densities: synthetic speech, and digits of fonts. Neither is committed.

Start reading at `make_speech` and `make_digits`.

**espeak-16k**: 91 voices of espeak-ng (7 English accents x 13 variants, each with its own pitch and speed). Each voice speaks
13 seconds of sentences from a small grammar at 16 kHz. Each voice has its own file, so a split by files is a split by voices.
Synthetic pauses are digital silence, where the density has no bound. White noise of 0.001 of full scale is therefore added.
Debian: espeak-ng.

**font-digits**: ten digits in every font of the system and of matplotlib, with random rotation, size, shift and thickness.
The images are 28 x 28 bytes in the file format of MNIST. A fifth of the font families is the test part. The training images
are ordered by family, so the held-out tenth at the end has its own families, except for one family that is divided.
Debian: fonts-dejavu fonts-liberation fonts-freefont-ttf fonts-urw-base35 fonts-lato fonts-open-sans fonts-roboto.
"""

import shutil
import struct
import subprocess
import tempfile
import wave
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from worldmodel.corpora.audio_files import inspect
from worldmodel.corpora.resampling import num_samples, resample
from worldmodel.io.files import atomic, write_bytes, write_json

RATE = 16_000
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
NOISE = 1e-3
"""Standard deviation of the noise that is added to the speech, as a fraction of full scale."""
WORDS = {
    "who": "the old sailor, my sister, a young doctor, the king, our neighbour, the tall girl, every student, the black cat",
    "does": "found, painted, carried, forgot, admired, followed, described, sold, repaired, watched",
    "what": "a silver key, the broken clock, seven letters, the quiet river, a map of the island, her bicycle, fresh bread",
    "where": "near the harbour, on a hill, under the bridge, in the garden, behind the church, at the market, by the sea",
    "when": "yesterday, in winter, before sunrise, after the storm, on Thursday, a year ago, at noon",
}
FOREIGN = ("cmex", "cmsy", "cmmi", "stixsiz", "stixnonuni", "d050000l", "symbol", "dingbat", "emoji", "lastresort")
"""Parts of the names of fonts whose digits are symbols."""
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
TEST_EACH = 8
"""Ratio of images per training font to images per test font: the importance estimate of a VRNN is slow."""
SIDE, TIMES = 28, 4
"""Side of an image in pixels, and the factor by which digits are drawn larger before the image is reduced."""


def make_speech(folder: Path, minutes: float = 20.0, voices: int = 91, seed: int = 0) -> None:
    """Write ``folder/NUMBER-VOICE.wav`` for each voice, and ``about.json``.

    Args:
        folder: Path of the corpus.
        minutes: Total duration in minutes.
        voices: Number of voices.
        seed: Random seed.

    Raises:
        ValueError: espeak-ng is not installed.
    """
    if shutil.which("espeak-ng") is None:
        raise ValueError("espeak-16k needs espeak-ng: apt-get install espeak-ng")
    rng = np.random.default_rng(seed)
    chosen = [f"{ACCENTS[n % len(ACCENTS)]}+{VARIANTS[n // len(ACCENTS) % len(VARIANTS)]}" for n in range(voices)]
    samples = round(minutes * 60 * RATE / voices)
    for number, voice in enumerate(chosen):
        pitch, pace = int(rng.integers(25, 75)), int(rng.integers(130, 190))
        path = folder / f"{number:03d}-{voice.replace('+', '-')}.wav"
        spoken = np.zeros(0, np.float32)
        while len(spoken) < samples:
            spoken = np.concatenate([spoken, _say(_sentence(rng), voice, pitch, pace)])
        sound = spoken[:samples] + NOISE * rng.standard_normal(samples)
        _write_wav(path, sound)
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout.split(
        " Data"
    )[0]
    about = {"synthesiser": version.strip(), "voices": chosen, "minutes": minutes, "noise": NOISE, "seed": seed}
    write_json(folder / "about.json", about)


def _sentence(rng: np.random.Generator) -> str:
    """Return a random sentence."""
    who, does, what, where, when = (str(rng.choice(words.split(", "))) for words in WORDS.values())
    order = f"{when}, {who} {does} {what} {where}" if rng.random() < 0.5 else f"{who} {does} {what} {where} {when}"
    return order.capitalize() + "."


def _say(sentence: str, voice: str, pitch: int, pace: int) -> np.ndarray:
    """Return a spoken sentence at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(pace), "-w", str(path), sentence]
        subprocess.run(command, check=True, capture_output=True)
        sound = inspect(path)
        return resample(sound, RATE, 0, num_samples(sound, RATE))


def _write_wav(path: Path, sound: np.ndarray) -> None:
    """Write samples in [-1, 1] as 16-bit PCM."""
    with atomic(path) as temporary, wave.open(str(temporary), "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        writer.writeframes(np.round(sound * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2").tobytes())


def make_digits(folder: Path, images: int = 24_000, seed: int = 0) -> None:
    """Write the four files of MNIST, and ``about.json`` with the fonts.

    Args:
        folder: Path of the corpus.
        images: Approximate number of training images.
        seed: Random seed.

    Raises:
        ValueError: There are too few fonts.
    """
    families = _families()
    if len(families) < 5:
        raise ValueError(
            f"font-digits needs at least 5 families of fonts, found {len(families)}: apt-get install fonts-lato"
        )
    rng = np.random.default_rng(seed)
    names = [sorted(families)[place] for place in rng.permutation(len(families))]
    cut = max(len(names) // 5, 1)
    parts = {"t10k": names[:cut], "train": names[cut:]}
    each = max(round(images / (10 * sum(map(len, families.values())))), 1)
    times = {"train": each, "t10k": max(each // TEST_EACH, 1)}
    about: dict[str, Any] = {"seed": seed, "distortions of each digit": times}
    for part, chosen in parts.items():
        pixels, labels = [], []
        for path in (path for name in chosen for path in families[name]):
            for digit in range(10):
                pixels += [_draw(str(digit), path, rng) for _ in range(times[part])]
                labels += [digit] * times[part]
        about[part] = {
            "images": len(pixels),
            "fonts": {name: [path.name for path in families[name]] for name in chosen},
        }
        write_bytes(folder / f"{part}-images-idx3-ubyte", _idx(np.stack(pixels)))
        write_bytes(folder / f"{part}-labels-idx1-ubyte", _idx(np.array(labels, np.uint8)))
    write_json(folder / "about.json", about)


def _families() -> dict[str, list[Path]]:
    """Return the paths of the fonts of each family, for fonts with ten different digits."""
    import matplotlib

    places = [*(Path(place).expanduser() for place in FONTS), Path(matplotlib.get_data_path()) / "fonts" / "ttf"]
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(path for place in places if place.is_dir() for path in place.rglob("*.[to]tf")):
        if any(word in path.stem.lower() for word in FOREIGN):
            continue
        try:
            font = ImageFont.truetype(str(path), 20)
            shapes = {bytes(font.getmask(text)) for text in (*"0123456789", "\U0010fffd")}
        except (OSError, ValueError):
            continue
        if len(shapes) == 11:  # ten digits, and the sign for a missing character
            family = str(font.getname()[0]).split()[0]
            found["Computer" if family.startswith("cm") else family].setdefault(path.name, path)
    return {family: sorted(fonts.values()) for family, fonts in found.items()}


def _draw(digit: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    """Return the image of a digit, white on black, with a small random shift from the centre."""
    side = SIDE * TIMES
    font = ImageFont.truetype(str(path), int(side * rng.uniform(0.62, 0.82)))
    picture = Image.new("L", (side, side))
    ImageDraw.Draw(picture).text((side / 2, side / 2), digit, fill=255, font=font, anchor="mm")
    thickness = int(rng.integers(-1, 3))
    if thickness > 0:
        picture = picture.filter(ImageFilter.MaxFilter(2 * thickness + 1))
    elif thickness < 0:
        thinner = picture.filter(ImageFilter.MinFilter(3))
        picture = (
            thinner if np.asarray(thinner).sum() > np.asarray(picture).sum() / 2 else picture
        )  # thin fonts keep their thickness
    shift = (int(rng.integers(-TIMES, TIMES + 1)), int(rng.integers(-TIMES, TIMES + 1)))
    picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, translate=shift)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def _idx(values: np.ndarray) -> bytes:
    """Return an array in the file format of MNIST: zero, zero, type 8 (bytes), the number of axes, and their sizes."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
