"""Raw speech: TIMIT, Blizzard 2013, the Speech Accent Archive, or any folder of audio files.

The preprocessing is that of VRNN and FRMDN: 16 kHz, one channel, one mean and one standard deviation of all samples of the
training part, and frames of 200 samples without overlap. An incomplete last frame is dropped, and so is an incomplete last
segment. Shorter sequences are padded and masked. The log-likelihood is in nats per sequence, of the standardized samples. Start
reading at `timit`.

The data do not bound this number. For digital silence, or fewer levels than single precision resolves, it rises to the model's
ceiling: 6.08 nats per sample (`worldmodel.sequences.precision_ceiling`), or more with a flow or factors of the precision.
Report ``model.ceiling`` beside it (`SequenceDensity.ceiling`, `baselines.VRNN.ceiling`).

References:
    A Recurrent Latent Variable Model for Sequential Data (VRNN), Chung, Kastner, Dinh, Goel, Courville, Bengio, 2015,
    https://arxiv.org/abs/1506.02216;
    Flow-based Recurrent Mixture Density Network (FRMDN), Razavi, Hosseini, Behzad, 2020,
    https://arxiv.org/abs/2008.02144.
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
"""Number of samples in an event (VRNN)."""
SEGMENT_LENGTH = 8_000
"""Number of samples in a sequence of Blizzard: half a second, 40 frames (VRNN)."""
SPLIT_FRACTIONS = (0.05, 0.05)
"""Held-out and test fractions of corpora without a split of their own; 0.9 is for training (VRNN)."""
TIMIT_VAL_FRACTION = 0.05
"""Held-out fraction of TIMIT's training data (VRNN). The paper does not name the unit; here it is the speaker."""
TIMIT_SENTENCES = (4_620, 1_680)
"""Number of training and test sentences of the complete corpus, SA sentences included."""
TONES = {"beep", "beeperr", "ascending-2tone", "descending-2tone"}
"""Names of prompts without speech."""
UNIT = "nats a sequence, of samples standardised with the training part's mean and standard deviation"
"""Unit of the likelihood."""

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
    """Open TIMIT: whole sentences, its own training and test speakers, and a twentieth of the training speakers held out.

    Args:
        folder: Path of the folder with TRAIN/DR1/FCJF0/SA1.WAV and so on, at any depth and in any letter case.
        segment_length: Number of samples in a sequence. None: whole sentences.
        frame: Number of samples in an event.
        seed: Random seed of the held-out speakers.
        include_sa: Whether to include the two sentences (SA1, SA2) that every speaker reads, in training and test.
        cache: Path of a JSON file that stores mean and standard deviation. None: memory only.

    Raises:
        ValueError: an argument is out of range, or files are missing or damaged.
    """
    segmentation = _segmentation(segment_length, frame)
    parts = _timit_parts(folder, segmentation, include_sa)
    speakers = {item.group for item in parts["train"]}
    if shared := sorted(speakers & {item.group for item in parts["test"]}):
        raise ValueError(f"{folder} must have a speaker in TRAIN or in TEST, got {shared[0]} in both")
    held_out, _ = random_split(speakers, [TIMIT_VAL_FRACTION], seed)
    recordings = parts["train"] + parts["test"]
    counts = (len(parts["train"]), len(parts["test"]))
    completeness = (
        "complete"
        if not include_sa or counts == TIMIT_SENTENCES
        else f"not complete: {counts[0]} and {counts[1]} sentences"
    )
    protocol = (
        f"the corpus's own training and test speakers, {completeness}; {len(held_out)} of the training speakers (5 %) held "
        f"out, seed {seed}; SA sentences {'kept' if include_sa else 'left out'}; {_describe(segmentation, recordings)} (arXiv "
        f"1506.02216, 2008.02144)"
    )
    training = [item for item in parts["train"] if item.group not in held_out]
    validation = [item for item in parts["train"] if item.group in held_out]
    return _corpus("timit", protocol, [training, validation, parts["test"]], segmentation, cache)


def blizzard(
    folder: Path,
    *,
    segment_length: int | None = SEGMENT_LENGTH,
    frame: int = FRAME,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    name: str = "blizzard",
) -> Corpus:
    """Open Blizzard 2013, or any folder of recordings: segments of half a second; 0.9, 0.05, 0.05 of the files.

    Args:
        folder: Path of the folder with audio files, at any depth.
        segment_length: Number of samples in a sequence. None: whole files.
        frame: Number of samples in an event.
        seed: Random seed of the split.
        cache: Path of a JSON file that stores mean and standard deviation. None: memory only.
        name: Name of the corpus.

    Raises:
        ValueError: an argument is out of range, or files are missing or damaged.
    """
    segmentation = _segmentation(segment_length, frame)
    paths = ((path.relative_to(folder).as_posix(), path) for path in audio_paths(folder))
    return _split(
        name, "files", [_recording(file, file, path, segmentation) for file, path in paths], segmentation, seed, cache
    )


def accent(
    folder: Path,
    *,
    segment_length: int | None = None,
    frame: int = FRAME,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Open the Speech Accent Archive: whole recordings; 0.9, 0.05, 0.05 of the speakers.

    Args:
        folder: Path of the folder with one recording for each speaker, with the speaker's name (english12.mp3), at any depth.
        segment_length: Number of samples in a sequence. None: whole recordings.
        frame: Number of samples in an event.
        seed: Random seed of the split.
        cache: Path of a JSON file that stores mean and standard deviation. None: memory only.

    Raises:
        ValueError: an argument is out of range, or files are missing or damaged.
    """
    segmentation = _segmentation(segment_length, frame)
    paths = audio_paths(folder)
    recordings = [
        _recording(path.relative_to(folder).as_posix(), path.stem.lower(), path, segmentation) for path in paths
    ]
    return _split("accent", "speakers", recordings, segmentation, seed, cache)


def prompts(
    folder: Path,
    *,
    segment_length: int | None = SEGMENT_LENGTH,
    frame: int = FRAME,
    seed: int = 0,
    test_speaker: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Open the recorded prompts of a telephone system: a folder for each speaker, with the same prompts in each language.

    Training uses segments, held-out and test parts use whole prompts. A prompt is in one part for all speakers. With
    ``test_speaker``, all prompts of this speaker are the test part, and the other speakers have training and held-out parts.
    Silence and tones are left out.

    Args:
        folder: Path of the folder with speakers' folders, such as en_US_f_Allison/agent-pass.g722; links are left out.
        segment_length: Number of samples in a sequence of the training part. None: whole prompts.
        frame: Number of samples in an event.
        seed: Random seed of the split.
        test_speaker: Name of the folder of the test part's speaker. None: test prompts of all speakers.
        cache: Path of a JSON file that stores mean and standard deviation. None: memory only.

    Raises:
        ValueError: an argument is out of range, or files are missing or damaged.
    """
    training, whole = _segmentation(segment_length, frame), _segmentation(None, frame)
    paths = {path.relative_to(folder): path for path in audio_paths(folder) if _is_prompt(path.relative_to(folder))}
    texts = {name: Path(*name.parts[1:]).with_suffix("").as_posix() for name in paths}  # the same for all speakers
    speakers = sorted({name.parts[0] for name in paths})
    if test_speaker is not None and (test_speaker not in speakers or len(speakers) < 2):
        raise ValueError(f"test_speaker must be one of at least two, {', '.join(speakers)}, got {test_speaker!r}")
    if test_speaker is None:
        held_out, test, _ = random_split(texts.values(), SPLIT_FRACTIONS, seed)
        words = f"0.9, 0.05, 0.05 of the prompts of {len(speakers)} speakers, a prompt in one part for all, seed {seed}"
    else:
        (held_out, _), test = random_split(texts.values(), SPLIT_FRACTIONS[:1], seed), set[str]()
        words = f"test speaker {test_speaker}; 0.95, 0.05 of the prompts of the others for training and held out, seed {seed}"
    parts: dict[str, list[Recording]] = {"train": [], "held_out": [], "test": []}
    for name, text in texts.items():
        speaker = name.parts[0]
        part = "test" if speaker == test_speaker or text in test else "held_out" if text in held_out else "train"
        cut = training if part == "train" else whole
        parts[part].append(_recording(name.as_posix(), speaker, paths[name], cut))
    scale = Standardization([item for item in parts["train"] if item.num_used_samples], training, cache)
    described = _describe(training, parts["train"])
    protocol = f"{words}; {described} for training, whole prompts for held out and test (arXiv 1506.02216)"
    first = Recordings("prompts, training", parts["train"], scale)
    second, third = (
        Recordings(f"prompts, {label}", parts[name], scale, whole)
        for name, label in (("held_out", "held out"), ("test", "test"))
    )
    return Corpus("prompts", "speech", frame, segment_length, UNIT, protocol, first, second, third, scale)


def _is_prompt(path: Path) -> bool:
    """Return whether a file below a folder of prompts is speech of a speaker."""
    *folders, name = path.with_suffix("").parts
    return bool(folders) and "silence" not in folders and name not in TONES


def _timit_parts(folder: Path, segmentation: Segmentation, include_sa: bool) -> dict[str, list[Recording]]:
    """Return the training and test recordings."""
    parts: dict[str, list[Recording]] = {"train": [], "test": []}
    for (part, speaker, sentence), path in _timit_paths(folder).items():
        if include_sa or not sentence.startswith("SA"):
            parts[part].append(_recording(f"{part}/{speaker}/{sentence}", speaker, path, segmentation))
    for part, recordings in parts.items():
        if not recordings:
            raise ValueError(f"{folder} must have files {part.upper()}/DR1/SPEAKER/SENTENCE.WAV, got none")
    return parts


def _timit_paths(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Map (train or test, speaker, sentence) to a file; of two copies (SA1.WAV, SA1.WAV.wav), to the shorter name."""
    paths: dict[tuple[str, str, str], Path] = {}
    for path in audio_paths(folder):
        match = _TIMIT_PATH.fullmatch((folder.absolute() / path.relative_to(folder)).as_posix())
        if match:
            key = (match[1].lower(), match[2].upper(), match[3].upper())
            if key not in paths or len(path.name) < len(paths[key].name):
                paths[key] = path
    return dict(sorted(paths.items()))


def _recording(name: str, group: str, path: Path, segmentation: Segmentation) -> Recording:
    """Read the header of a file and return its recording."""
    header = inspect(path)
    return Recording(name, group, header, segmentation.num_used_samples(header))


def _split(
    name: str,
    groups: str,
    recordings: list[Recording],
    segmentation: Segmentation,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> Corpus:
    """Split a corpus without a split of its own; recordings that are too short for a sequence are left out."""
    split_groups = {recording.group for recording in recordings if recording.num_used_samples}
    if len(split_groups) <= len(SPLIT_FRACTIONS):
        raise ValueError(
            f"{name} must have at least {len(SPLIT_FRACTIONS) + 1} {groups} with a whole sequence, got {len(split_groups)}"
        )
    held_out, test, training = random_split(split_groups, SPLIT_FRACTIONS, seed)
    protocol = (
        f"{len(training)}, {len(held_out)} and {len(test)} {groups} (0.9, 0.05, 0.05) for training, held out and test, "
        f"seed {seed}; {_describe(segmentation, recordings)} (arXiv 1506.02216, 2008.02144)"
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
    """Return the corpus of training, held-out and test recordings."""
    scale = Standardization([recording for recording in parts[0] if recording.num_used_samples], segmentation, cache)
    training, held_out, test = (
        Recordings(f"{name}, {label}", part, scale)
        for label, part in zip(("training", "held out", "test"), parts, strict=True)
    )
    return Corpus(
        name, "speech", segmentation.frame, segmentation.segment_length, UNIT, protocol, training, held_out, test, scale
    )


def _segmentation(segment_length: int | None, frame: int) -> Segmentation:
    """Validate the sizes and return the segmentation."""
    validate_positive_int(frame=frame)
    validate_optional_positive_int(segment_length=segment_length)
    if segment_length is not None and segment_length % frame:
        raise ValueError(f"segment_length must be a multiple of the frame of {frame} samples, got {segment_length}")
    return Segmentation(frame, segment_length)


def _describe(segmentation: Segmentation, recordings: list[Recording]) -> str:
    """Describe the segmentation, and count the recordings that are left out or resampled."""
    whole = (
        "whole recordings"
        if segmentation.segment_length is None
        else f"segments of {segmentation.segment_length} samples, the rest of a file dropped"
    )
    num_short = sum(not recording.num_used_samples for recording in recordings)
    left_out = f", {num_short} files shorter than a sequence left out" if num_short else ""
    num_resampled = sum(recording.resampled for recording in recordings if recording.num_used_samples)
    rates = f", {num_resampled} files resampled to {SAMPLE_RATE} samples a second ({METHOD})" if num_resampled else ""
    return f"{whole}, frames of {segmentation.frame} samples without overlap, an incomplete last frame dropped{left_out}{rates}"
