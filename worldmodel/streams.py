"""Which random numbers are for what: streams that follow from one seed, so that no part of a story draws another's numbers."""

from enum import IntEnum


class Stream(IntEnum):
    """The second word of a seed sequence: ``np.random.default_rng([seed, Stream.SPLIT])``.

    Files that exist were made with these numbers: a new stream gets a new one.
    """

    BEGIN = 1
    """Where dreams begin."""
    ACT = 2
    """A policy's exploration, with the seed of its episode."""
    DREAM = 2
    """The dreams themselves, with the seed of a population's dreams, which is no episode's."""
    SPLIT = 3
    """What is for training and what for tests."""
    COLLECT = 5
    """Environment seeds of collected episodes."""
    KEEP = 6
    """The real moments that are kept beside a world model."""
    PLAY = 7
    """Environment seeds of the episodes that members of a generation live through, and of the page's."""
    ALONG = 8
    """The moments along the best lives' ways."""
