"""Speech and images as sequences of events (`worldmodel.batches.EventBatch`), for densities without actions.

Start reading at `worldmodel.corpora.dataset`. `open_corpus` opens the corpus in a folder.
"""

from worldmodel.batches import Splits
from worldmodel.corpora.dataset import Corpus
from worldmodel.corpora.registry import open_corpus

__all__ = ["Corpus", "Splits", "open_corpus"]
