"""Which random numbers are for what: the streams that follow from one seed, by name."""

from enum import IntEnum


class Stream(IntEnum):
    """The second word of a seed sequence: ``np.random.default_rng([seed, Stream.SPLIT])``.

    Rollouts, trainings and searches that exist were made with these numbers, so they stay what they are; a new stream gets a
    new one. A search and a training draw from ``[seed, generation]`` and ``[seed, update]`` beside them. To a seed sequence a
    zero at the end is no word: ``[seed, 2, 0]`` is ``[seed, 2]``.
    """

    START_STATES = 1
    """Where dreams begin."""
    POLICY = 2
    """A policy's exploration, with the seed of its episode."""
    DREAM = 2
    """The dreams themselves. The same number as `ACT`: the seed of a population's dreams is no episode's."""
    SPLIT = 3
    """What is for training and what for tests."""
    COLLECT = 5
    """Environment seeds of collected episodes."""
    KEPT_START_STATES = 6
    """The real moments that are kept beside a world model."""
    ENV_SEEDS = 7
    """Environment seeds of the episodes that members of a generation live through, and of the page's."""
    STATE_RESETS = 8
    """The moments along the best lives' ways."""
