"""Files whose content is not what it should be are named in one line."""

import pytest

from worldmodel.checkpoints import understood


@pytest.mark.parametrize("stumble", [lambda: {}["x"], lambda: [] + 1, lambda: None.x, lambda: [][0], lambda: 1 / 0])
def test_what_goes_wrong_with_content_names_the_file(stumble):
    with pytest.raises(ValueError, match="some.json does not hold what it should"), understood("some.json"):
        stumble()


def test_what_is_said_well_already_stays():
    with pytest.raises(ValueError, match="^exactly this$"), understood("some.json"):
        raise ValueError("exactly this")
