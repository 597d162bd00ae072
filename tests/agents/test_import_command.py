"""An imported run trains, dreams and is inspected; what needs its unknown environment says so in one line."""

import numpy as np
import pytest

from tests import toys
from tests.command_line import exit_code, refused
from tests.rollouts.formats import npz, write_files
from worldmodel import rollouts
from worldmodel.agents.runs.run_folder import Run

SMALL = {
    "train vae": ["--vae.num_updates", "2", "--vae.latent_dim", "2"],
    "train memory": ["--memory.num_updates", "2", "--memory.hidden_size", "4"],
    "evolve": ["--where", "dream", "--dream.generations", "1", "--dream.population", "4", "--dream.horizon", "5"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_files(rollouts.collect(toys.dot_to_target, rollouts.uniform, 6, seed=1), npz, folder)
    return folder


def test_an_imported_run_goes_through_every_stage(source, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert exit_code("import", str(source), "--out", run) == 0
    shown = capsys.readouterr()
    assert "6 episodes, 72 steps" in shown.out and "import" in shown.err
    assert (tmp_path / "run" / "contact-sheet.png").read_bytes()[:4] == b"\x89PNG"
    for name, options in SMALL.items():
        assert exit_code(*name.split(), run, *options) == 0, capsys.readouterr().err
    assert exit_code("inspect", run) == 0
    capsys.readouterr()
    for words in (
        ("evaluate", run),
        ("evolve", run, "--where", "game", "--game.generations", "1"),
    ):
        assert "--env" in refused(capsys, *words)
    assert Run(tmp_path / "run").world().action_dim == 1
    assert exit_code("import", str(source), "--out", run) == 0  # done already
    other = tmp_path / "other.npz"
    np.savez(other, frames=np.zeros((3, 64, 64, 3), np.uint8), actions=[0, 1])
    assert "rollouts" in refused(capsys, "import", str(other), "--out", run)


def test_vectors_have_no_contact_sheet(tmp_path, capsys):
    np.savez(source := tmp_path / "vectors.npz", frames=np.zeros((4, 2), np.float32), actions=[0, 1, 0])
    assert exit_code("import", str(source), "--out", str(tmp_path / "run")) == 0
    assert "contact-sheet" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "contact-sheet.png").exists()


def test_wrong_words_are_refused(source, tmp_path, capsys):
    for words, named in (
        (("import", str(source)), "out"),
        (("import", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")), "source"),
        (("import", str(source), "--out", str(tmp_path / "run"), "--env", "Nothing-v9"), "Nothing-v9"),
        (("import", str(source), "--out", str(tmp_path / "run"), "--num_actions", "0"), "num_actions"),
        (("import", str(source), "--out", str(source)), "out"),
    ):
        assert named in refused(capsys, *words)
