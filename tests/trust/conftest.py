"""One undisturbed story for all that spoil copies of it."""

import json

import pytest

from tests.trust import runs


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """The folder below which a tiny story was told into ``run``, with the files in the order in which it wrote to them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code = runs.sit(runs.run_pipeline, folder, str(folder / "log.json"))
    assert code == 0, (folder / "said.txt").read_text()[-2000:]
    return folder, json.loads((folder / "log.json").read_text())


@pytest.fixture
def copied(told, tmp_path, monkeypatch):
    """A copy of the story's run, in ``run`` of the current folder; what a command would write in it is its own."""
    runs.copy(told[0] / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"
