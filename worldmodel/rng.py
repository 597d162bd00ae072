"""Name the independent random streams of one seed, and set torch's seed for a block."""

import contextlib
from collections.abc import Iterator
from enum import IntEnum, unique

import torch

from worldmodel.validation import validate_seed


@unique
class Stream(IntEnum):
    """The second word of a seed sequence: ``np.random.default_rng([seed, Stream.SPLIT])``.

    Existing rollouts, trainings and searches depend on these numbers. Do not change them; give a new stream a new number.
    Searches and trainings also use ``[seed, generation]`` and ``[seed, update]``. A seed sequence ignores zeros at the end:
    ``[seed, 2, 0]`` equals ``[seed, 2]``.
    """

    START_STATES = 1
    """Start states of dreams."""
    # One stream for both: another number would change every dream, and the stored records could not be compared bit for bit.
    NOISE = 2
    """Exploration noise of a policy, with the seed of the episode; sampling in dreams, with the seed of the population."""
    SPLIT = 3
    """Split into training and held-out data."""
    COLLECT = 5
    """Environment seeds of collected episodes."""
    KEPT_START_STATES = 6
    """Start states that are saved with a world model."""
    ENV_SEEDS = 7
    """Environment seeds of the episodes of a generation, and of the page."""
    STATE_RESETS = 8
    """State resets along the trajectories of the best episodes."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block, such as building a module, with torch's generator at ``seed``, and restore the generator afterwards.

    Raises:
        ValueError: the seed is out of range.
    """
    validate_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
