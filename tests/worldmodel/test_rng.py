"""Random streams: the numbers that files were made with."""

from rollouts.collect import episode_seed
from worldmodel.rng import Stream


def test_numbers_stay_what_they_are():
    found = {name: int(stream) for name, stream in Stream.__members__.items()}
    assert found == {
        "START_STATES": 1,
        "POLICY": 2,
        "DREAM": 2,
        "SPLIT": 3,
        "COLLECT": 5,
        "KEPT_START_STATES": 6,
        "ENV_SEEDS": 7,
        "STATE_RESETS": 8,
    }
    assert [episode_seed(3, index) for index in (0, 1)] == [826769125, 386964894]
