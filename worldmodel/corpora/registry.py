"""Kinds of corpora by name, and the opening of a corpus such as "timit:/path".

Nothing is downloaded; if files are missing, the error names their source. Start reading at `open_corpus`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from worldmodel.corpora import images, speech
from worldmodel.corpora.dataset import Corpus
from worldmodel.corpora.recordings import audio_paths
from worldmodel.io.paths import folder_path


class _CorpusKind(NamedTuple):
    """A kind of corpus.

    Args:
        reader: Function that opens the corpus in a folder.
        layout: Description of the files in the folder.
        source: Source of the files.
    """

    reader: Callable[..., Corpus | None]
    layout: str
    source: str


AUDIO_LAYOUT = "audio files (WAV, SPHERE, FLAC, MP3), at any depth"
"""Layout of a folder of recordings."""
CORPORA = {
    "timit": _CorpusKind(
        speech.timit,
        "TRAIN/DR1/FCJF0/SA1.WAV and so on, and TEST likewise, as on the original disc, in any letter case",
        "the Linguistic Data Consortium, LDC93S1, https://catalog.ldc.upenn.edu/LDC93S1",
    ),
    "blizzard": _CorpusKind(
        speech.blizzard,
        AUDIO_LAYOUT,
        "the Blizzard Challenge 2013, under a license, https://www.cstr.ed.ac.uk/projects/blizzard/",
    ),
    "accent": _CorpusKind(
        speech.accent,
        "one recording for each speaker, with the speaker's name: english12.mp3 and so on",
        "the Speech Accent Archive of George Mason University, https://accent.gmu.edu/",
    ),
    "prompts": _CorpusKind(
        speech.prompts,
        "a folder for each speaker, with prompts as audio files: en_US_f_Allison/agent-pass.g722 and so on",
        "Debian's packages asterisk-core-sounds-{en,es,fr,it,ru}-g722, in /usr/share/asterisk/sounds (CC BY-SA)",
    ),
    "audio": _CorpusKind(partial(speech.blizzard, name="audio"), AUDIO_LAYOUT, "any recordings of your own"),
    "mnist": _CorpusKind(
        images.mnist,
        "train-images-idx3-ubyte and t10k-images-idx3-ubyte, with .gz or without",
        "http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": _CorpusKind(
        images.cifar10,
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary edition), or the same without .bin (Python edition)",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}
"""Kinds of corpora."""


def open_corpus(name: str, **options: Any) -> Corpus:
    """Open the corpus in a folder.

    Args:
        name: Kind and folder, such as "timit:/data/TIMIT". The kinds are timit, blizzard, accent, prompts, audio, mnist
            and cifar10.
        options: Options of the kind. Speech: ``segment_length`` (number of samples in a sequence; None: whole recordings),
            ``frame`` (number of samples in an event), ``seed`` (random seed of the split) and ``cache`` (path of a JSON file
            that stores mean and standard deviation). Prompts: also ``test_speaker``. TIMIT: also ``include_sa`` (whether to
            include the sentences that all speakers read). Images: ``logit`` and ``pixelwise``. See `worldmodel.corpora.speech`
            and `worldmodel.corpora.images`.

    Returns:
        The corpus. Samples of speech stay on disk until a batch needs them.

    Raises:
        ValueError: the kind or an option does not exist, or files are missing or damaged.
    """
    kind_name, colon, path = name.partition(":")
    if not colon or kind_name not in CORPORA or not path:
        raise ValueError(f"a corpus must be KIND:FOLDER with KIND one of {', '.join(CORPORA)}, got {name!r}")
    kind, folder = CORPORA[kind_name], folder_path(path, "the folder of KIND:FOLDER")
    accepted = [option for option in inspect.signature(kind.reader).parameters if option not in ("folder", "name")]
    if unknown := sorted(options.keys() - set(accepted)):
        raise ValueError(f"{kind_name} accepts the options {', '.join(accepted)}, got {unknown[0]}")
    missing = ValueError(f"{folder} must have {kind.layout}. Nothing is downloaded; source: {kind.source}")
    if not folder.is_dir() or (kind_name not in ("mnist", "cifar10") and not audio_paths(folder)):
        raise missing
    corpus = kind.reader(folder, **options)
    if corpus is None:
        raise missing
    return corpus
