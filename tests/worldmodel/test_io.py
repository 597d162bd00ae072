"""Files whose content is not what it should be are named in one line."""

import errno
from pathlib import Path

import pytest

from worldmodel.io import atomic, error_context, write_bytes


@pytest.mark.parametrize("stumble", [lambda: {}["x"], lambda: [] + 1, lambda: None.x, lambda: [][0], lambda: 1 / 0])
def test_what_goes_wrong_with_content_names_the_file(stumble):
    with pytest.raises(ValueError, match="some.json"), error_context("some.json"):
        stumble()


def test_a_good_message_stays():
    with pytest.raises(ValueError, match="^exactly this$"), error_context("some.json"):
        raise ValueError("exactly this")


def test_what_may_not_be_written_is_named_as_it_was_meant(tmp_path, monkeypatch):
    """A disk that is read-only refuses the removal of what was never there, too."""

    def refuse(path, *rest, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as refused:
        write_bytes(tmp_path / "test.json", b"{}")
    assert refused.value.filename == str(tmp_path / "test.json")


def test_an_error_of_the_block_stays_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError, match="mine"), atomic(tmp_path / "test.json") as aside:
        aside.write_bytes(b"half")
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []
