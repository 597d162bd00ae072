"""From "timit:/path" to a corpus; and, where files are missing, where they are to be had. Nothing is downloaded."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from worldmodel.corpora import images, speech
from worldmodel.corpora.dataset import Corpus
from worldmodel.corpora.recordings import audio_paths
from worldmodel.paths import folder_path


class _Kind(NamedTuple):
    reader: Callable[..., Corpus | None]
    layout: str
    """What its folder must look like."""
    source: str
    """Where the files are to be had."""


AUDIO_LAYOUT = "audio files (WAV, SPHERE, FLAC, MP3), at any depth"
CORPORA = {
    "timit": _Kind(
        speech.timit,
        "TRAIN/DR1/FCJF0/SA1.WAV and so on, and TEST likewise, as on the original disc, in any letter case",
        "the Linguistic Data Consortium sells it as LDC93S1, https://catalog.ldc.upenn.edu/LDC93S1",
    ),
    "blizzard": _Kind(
        speech.blizzard,
        AUDIO_LAYOUT,
        "the Blizzard Challenge 2013 gives it out under a licence, https://www.cstr.ed.ac.uk/projects/blizzard/",
    ),
    "accent": _Kind(
        speech.accent,
        "a recording of each speaker, named after the speaker: english12.mp3 and so on",
        "the Speech Accent Archive of George Mason University, https://accent.gmu.edu/",
    ),
    "audio": _Kind(speech.audio, AUDIO_LAYOUT, "any recordings of your own will do"),
    "mnist": _Kind(
        images.mnist,
        "train-images-idx3-ubyte and t10k-images-idx3-ubyte, with .gz or without",
        "http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": _Kind(
        images.cifar10,
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary edition), or the same without .bin (Python edition)",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}


def open_corpus(name: str, **options: Any) -> Corpus:
    """Open a corpus that lies in a folder.

    Args:
        name: kind and folder, "timit:/data/TIMIT"; the kinds are timit, blizzard, accent, audio, mnist and cifar10.
        options: speech takes ``segment_length`` (samples of a sequence; None: whole recordings), ``frame`` (samples
            of an event), ``seed`` (of the split) and ``cache`` (a JSON file that keeps mean and standard deviation),
            TIMIT ``include_sa`` (False: without the sentences that all speakers read); images take ``logit`` and ``pixelwise``.
            See `worldmodel.corpora.speech` and `worldmodel.corpora.images`.

    Returns:
        The corpus; its samples stay on disk until a batch asks for them.

    Raises:
        ValueError: there is no such kind or option, or files are missing or damaged.
    """
    word, colon, place = name.partition(":")
    if not colon or word not in CORPORA or not place:
        raise ValueError(f"a corpus must be KIND:FOLDER with one of {', '.join(CORPORA)}, got {name!r}")
    kind, folder = CORPORA[word], folder_path(place, "the folder of KIND:FOLDER")
    takes = [option for option in inspect.signature(kind.reader).parameters if option not in ("folder", "name")]
    if foreign := sorted(options.keys() - set(takes)):
        raise ValueError(f"{word} takes the options {', '.join(takes)}, got {foreign[0]}")
    missing = ValueError(f"{folder} must hold {kind.layout}; nothing is downloaded: {kind.source}")
    if not folder.is_dir() or (kind.reader.__module__ == speech.__name__ and not audio_paths(folder)):
        raise missing
    corpus = kind.reader(folder, **options)
    if corpus is None:
        raise missing
    return corpus
