"""A seed out of range gives an error with the range, and nothing is written."""

import pytest

from tests.command_line import refused
from worldmodel.agents.config.schema import EvalConfig, RunConfig
from worldmodel.agents.config.validate import validate
from worldmodel.agents.evaluation import evaluate
from worldmodel.validation import TEST_SEEDS

COMMANDS = {
    "run": ["run", "CartPole-v1", "--preset", "quick", "--out", "new"],
    "collect": ["collect", "CartPole-v1", "--out", "new"],
    "train vae": ["train", "vae", "new"],
    "train memory": ["train", "memory", "new"],
    "evolve": ["evolve", "new", "--where", "dream"],
    "evaluate": ["evaluate", "new"],
    "evaluate pretrained": ["evaluate", "car-racing", "--pretrained"],
    "dream": ["dream", "new"],
    "dream pretrained": ["dream", "car-racing", "--pretrained"],
    "density fit": ["density", "fit", "--data", "mnist:new", "--out", "new"],
    "density sample": ["density", "sample", "new"],
}


@pytest.mark.parametrize("seed", ["1.5", str(2**63), "nan", "x"])
def test_a_seed_is_a_whole_number_in_its_range(seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, *COMMANDS["evaluate"], f"--eval.seed={seed}")
    assert "seed" in message and "2**" in message and seed in message


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_names_the_seed_and_its_range(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flag = "--eval.seed" if command.startswith("evaluate") else "--seed"
    message = refused(capsys, *COMMANDS[command], f"{flag}=-1")
    assert "seed" in message and "2**" in message and "-1" in message
    assert not list(tmp_path.iterdir())


def test_a_run_with_a_bad_evaluation_seed_is_refused_before_it_starts(tmp_path, capsys):
    words = ["run", "CartPole-v1", "--preset", "quick", "--out", str(tmp_path / "new")]
    assert "eval.seed" in refused(capsys, *words, "--eval.seed", str(TEST_SEEDS))
    assert not (tmp_path / "new").exists()


def test_settings_and_python_have_the_same_range_of_seeds():
    with pytest.raises(ValueError, match="eval.seed"):
        validate(RunConfig("CartPole-v1", eval=EvalConfig(episodes=2, seed=TEST_SEEDS - 1)))
    with pytest.raises(ValueError, match="seed"):
        evaluate("random", "CartPole-v1", episodes=2, seed=TEST_SEEDS - 1)
    validate(RunConfig("CartPole-v1", seed=0, eval=EvalConfig(episodes=2, seed=TEST_SEEDS - 2)))
