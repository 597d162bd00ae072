"""Random streams keep their ids and seeds, because saved files depend on them."""

from worldmodel.rng import Stream
from worldmodel.rollouts.collect import episode_seed


def test_stream_ids_and_episode_seeds_are_fixed():
    ids = {name: int(stream) for name, stream in Stream.__members__.items()}
    assert ids == {
        "START_STATES": 1,
        "NOISE": 2,
        "SPLIT": 3,
        "COLLECT": 5,
        "KEPT_START_STATES": 6,
        "ENV_SEEDS": 7,
        "STATE_RESETS": 8,
    }
    assert [episode_seed(3, index) for index in (0, 1)] == [826769125, 386964894]
