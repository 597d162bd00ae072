"""Speech and images as sequences of events (`worldmodel.batches.EventBatch`), for density models that know no actions.

Start reading at `worldmodel.corpora.corpus`; `open_corpus` makes a corpus of a folder.
"""

from worldmodel.corpora.corpus import Corpus, Parts
from worldmodel.corpora.opening import open_corpus

__all__ = ["Corpus", "Parts", "open_corpus"]
