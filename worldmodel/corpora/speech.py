"""Raw speech: TIMIT, Blizzard 2013, the Speech Accent Archive, or any folder of audio files.

The setting is that of VRNN and FRMDN: 16 kHz, one channel; one mean and one standard deviation, of all samples of the
training part; frames of 200 samples, side by side; an incomplete frame at the end is dropped, and so is what is left
behind the last whole piece where recordings are cut into pieces. Sequences that are shorter than others are padded and
masked. The log-likelihood is in nats a sequence, of the standardised samples.

Nothing in the data bounds that number: where a recording holds digital silence, or fewer levels than single precision tells
apart, it rises to the model's own ceiling, 6.08 nats a sample (`worldmodel.sequences.precision_ceiling`), or more with a flow
or factors of the precision. State ``model.ceiling`` beside it (`SequenceDensity.ceiling`, `baselines.VRNN.ceiling`).

References:
    A Recurrent Latent Variable Model for Sequential Data (VRNN), Chung, Kastner, Dinh, Goel, Courville, Bengio, 2015,
    https://arxiv.org/abs/1506.02216;
    Flow-based Recurrent Mixture Density Network (FRMDN), Razavi, Hosseini, Behzad, 2020,
    https://arxiv.org/abs/2008.02144
"""

import os
import re
from pathlib import Path

from worldmodel.corpora.audio_files import inspect
from worldmodel.corpora.dataset import Corpus, random_split
from worldmodel.corpora.recordings import SAMPLE_RATE, Recording, Recordings, Segmentation, Standardization, audio_paths
from worldmodel.corpora.resampling import METHOD
from worldmodel.validation import validate_optional_positive_int, validate_positive_int

FRAME = 200
"""Samples of an event (VRNN)."""
SEGMENT_LENGTH = 8_000
"""Samples of a sequence of Blizzard: half a second, 40 frames (VRNN)."""
SPLIT_FRACTIONS = (0.05, 0.05)
"""Held out and test, of corpora that come without a split; 0.9 is left for training (VRNN)."""
TIMIT_VAL_FRACTION = 0.05
"""Of TIMIT's training speakers (VRNN, which does not say by what: here, whole speakers)."""
TIMIT_SENTENCES = (4_620, 1_680)
"""Of the whole corpus: training and test, SA sentences among them."""
UNIT = "nats a sequence, of samples standardised with the training part's mean and standard deviation"

_TIMIT_PATH = re.compile(
    r"(?:.*/)?(train|test)/dr\d/([a-z0-9]+)/([a-z0-9]+)\.(?:wav|sph|nist|flac)(?:\.wav)?", re.IGNORECASE
)


def timit(
    folder: Path,
    *,
    segment_length: int | None = None,
    frame: int = FRAME,
    seed: int = 0,
    include_sa: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """TIMIT: its own training and test speakers, a twentieth of the former held out; whole sentences.

    Args:
        folder: holds TRAIN/DR1/FCJF0/SA1.WAV and so on, at any depth and in any letter case.
        segment_length: samples of a sequence; None: whole sentences.
        frame: samples of an event.
        seed: of the choice of held-out speakers.
        include_sa: whether to keep the two sentences (SA1, SA2) that every speaker reads, in training as in test.
        cache: a JSON file that keeps mean and standard deviation.

    Raises:
        ValueError: files are missing or damaged.
    """
    cut = _segmentation(segment_length, frame)
    parts = _timit_parts(folder, cut, include_sa)
    speakers = {item.group for item in parts["train"]}
    if both := sorted(speakers & {item.group for item in parts["test"]}):
        raise ValueError(f"{folder} has speaker {both[0]} in TRAIN and in TEST")
    held_out, _ = random_split(speakers, [TIMIT_VAL_FRACTION], seed)
    everything = parts["train"] + parts["test"]
    counts = (len(parts["train"]), len(parts["test"]))
    found = (
        "complete"
        if not include_sa or counts == TIMIT_SENTENCES
        else f"not complete: {counts[0]} and {counts[1]} sentences"
    )
    protocol = (
        f"the corpus's own training and test speakers, {found}; {len(held_out)} of the training speakers (5 %) held out, "
        f"seed {seed}; SA sentences {'kept' if include_sa else 'left out'}; {_how(cut, everything)} (arXiv "
        f"1506.02216, 2008.02144)"
    )
    training = [item for item in parts["train"] if item.group not in held_out]
    validation = [item for item in parts["train"] if item.group in held_out]
    return _corpus("timit", protocol, [training, validation, parts["test"]], cut, cache)


def blizzard(
    folder: Path,
    *,
    segment_length: int | None = SEGMENT_LENGTH,
    frame: int = FRAME,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    name: str = "blizzard",
) -> Corpus:
    """Blizzard 2013, or any folder of recordings: pieces of half a second; 0.9, 0.05, 0.05 of the files.

    Args:
        folder: holds audio files, at any depth.
        segment_length: samples of a sequence; None: whole files.
        frame: samples of an event.
        seed: of the split.
        cache: a JSON file that keeps mean and standard deviation.
        name: of the corpus.

    Raises:
        ValueError: files are missing or damaged.
    """
    cut = _segmentation(segment_length, frame)
    paths = ((path.relative_to(folder).as_posix(), path) for path in audio_paths(folder))
    return _split(name, "files", [_recording(place, place, path, cut) for place, path in paths], cut, seed, cache)


def audio(
    folder: Path,
    *,
    segment_length: int | None = SEGMENT_LENGTH,
    frame: int = FRAME,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Any folder of recordings, as `blizzard`."""
    return blizzard(folder, segment_length=segment_length, frame=frame, seed=seed, cache=cache, name="audio")


def accent(
    folder: Path,
    *,
    segment_length: int | None = None,
    frame: int = FRAME,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """The Speech Accent Archive: whole recordings; 0.9, 0.05, 0.05 of the speakers.

    Args:
        folder: holds one recording of each speaker, whose name is the file's (english12.mp3), at any depth.
        segment_length: samples of a sequence; None: whole recordings.
        frame: samples of an event.
        seed: of the split.
        cache: a JSON file that keeps mean and standard deviation.

    Raises:
        ValueError: files are missing or damaged.
    """
    cut = _segmentation(segment_length, frame)
    paths = audio_paths(folder)
    recordings = [_recording(path.relative_to(folder).as_posix(), path.stem.lower(), path, cut) for path in paths]
    return _split("accent", "speakers", recordings, cut, seed, cache)


def _timit_parts(folder: Path, segmentation: Segmentation, include_sa: bool) -> dict[str, list[Recording]]:
    """Training and test recordings."""
    parts: dict[str, list[Recording]] = {"train": [], "test": []}
    for (part, speaker, sentence), path in _timit_paths(folder).items():
        if include_sa or not sentence.startswith("SA"):
            parts[part].append(_recording(f"{part}/{speaker}/{sentence}", speaker, path, segmentation))
    for part, recordings in parts.items():
        if not recordings:
            raise ValueError(f"{folder} must hold {part.upper()}/DR1/SPEAKER/SENTENCE.WAV and so on, got no such file")
    return parts


def _timit_paths(folder: Path) -> dict[tuple[str, str, str], Path]:
    """(train or test, speaker, sentence) -> file; of copies of a sentence (SA1.WAV, SA1.WAV.wav) the shorter name."""
    found: dict[tuple[str, str, str], Path] = {}
    for path in audio_paths(folder):
        match = _TIMIT_PATH.fullmatch((folder.absolute() / path.relative_to(folder)).as_posix())
        if match:
            key = (match[1].lower(), match[2].upper(), match[3].upper())
            if key not in found or len(path.name) < len(found[key].name):
                found[key] = path
    return dict(sorted(found.items()))


def _recording(name: str, group: str, path: Path, segmentation: Segmentation) -> Recording:
    sound = inspect(path)
    return Recording(name, group, sound, segmentation.num_used_samples(sound))


def _split(
    name: str,
    groups: str,
    recordings: list[Recording],
    segmentation: Segmentation,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> Corpus:
    """A corpus that comes without a split; recordings that are too short for a sequence take no part in it."""
    found = {recording.group for recording in recordings if recording.num_used_samples}
    if len(found) <= len(SPLIT_FRACTIONS):
        raise ValueError(
            f"{name} must hold at least {len(SPLIT_FRACTIONS) + 1} {groups} with a whole sequence, got {len(found)}"
        )
    held_out, test, training = random_split(found, SPLIT_FRACTIONS, seed)
    protocol = (
        f"{len(training)}, {len(held_out)} and {len(test)} {groups} (0.9, 0.05, 0.05) for training, held out and test, "
        f"seed {seed}; {_how(segmentation, recordings)} (arXiv 1506.02216, 2008.02144)"
    )
    parts = [[item for item in recordings if item.group in part] for part in (training, held_out, test)]
    return _corpus(name, protocol, parts, segmentation, cache)


def _corpus(
    name: str,
    protocol: str,
    parts: list[list[Recording]],
    segmentation: Segmentation,
    cache: str | os.PathLike[str] | None,
) -> Corpus:
    """A corpus of training, held-out and test recordings."""
    scale = Standardization([recording for recording in parts[0] if recording.num_used_samples], segmentation, cache)
    training, held_out, test = (
        Recordings(f"{name}, {label}", part, scale)
        for label, part in zip(("training", "held out", "test"), parts, strict=True)
    )
    return Corpus(
        name, "speech", segmentation.frame, segmentation.segment_length, UNIT, protocol, training, held_out, test, scale
    )


def _segmentation(segment_length: int | None, frame: int) -> Segmentation:
    validate_positive_int(frame=frame)
    validate_optional_positive_int(segment_length=segment_length)
    if segment_length is not None and segment_length % frame:
        raise ValueError(f"segment_length must be whole frames of {frame} samples, got {segment_length}")
    return Segmentation(frame, segment_length)


def _how(segmentation: Segmentation, recordings: list[Recording]) -> str:
    whole = (
        "whole recordings"
        if segmentation.segment_length is None
        else f"pieces of {segmentation.segment_length} samples, the rest of a file dropped"
    )
    short = sum(not recording.num_used_samples for recording in recordings)
    left_out = f", {short} files shorter than a sequence left out" if short else ""
    changed = sum(recording.resampled for recording in recordings if recording.num_used_samples)
    rates = f", {changed} files resampled to {SAMPLE_RATE} samples a second ({METHOD})" if changed else ""
    return f"{whole}, frames of {segmentation.frame} samples without overlap, an incomplete last frame dropped{left_out}{rates}"
