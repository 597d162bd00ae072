"""One undisturbed run for the tests that damage copies of it."""

import json

import pytest

from tests.trust import runs


@pytest.fixture(scope="session")
def undisturbed_run(tmp_path_factory):
    """The parent folder of a tiny run, ``run``, and the paths of its file operations in order."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code = runs.run_in_process(runs.run_pipeline, folder, str(folder / "log.json"))
    assert code == 0, (folder / "output.txt").read_text()[-2000:]
    return folder, json.loads((folder / "log.json").read_text())


@pytest.fixture
def run_copy(undisturbed_run, tmp_path, monkeypatch):
    """A copy of the undisturbed run, in ``run`` of the current folder; commands may write to it."""
    runs.copy(undisturbed_run[0] / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"
