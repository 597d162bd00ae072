"""Random streams: the numbers that files were made with."""

from rollouts.collect import episode_seed
from worldmodel.rng import Stream


def test_numbers_stay_what_they_are():
    found = {name: int(stream) for name, stream in Stream.__members__.items()}
    assert found == {"BEGIN": 1, "ACT": 2, "DREAM": 2, "SPLIT": 3, "COLLECT": 5, "KEEP": 6, "PLAY": 7, "ALONG": 8}
    assert [episode_seed(3, index) for index in (0, 1)] == [826769125, 386964894]
