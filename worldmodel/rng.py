"""Name the independent random streams of one seed."""

from enum import IntEnum, unique


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
