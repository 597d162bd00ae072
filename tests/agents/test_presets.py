"""Presets and --where mean the same in every command."""

import json

import pytest

from tests.command_line import refused
from worldmodel.agents.cli.main import build_parser
from worldmodel.agents.runs.run_folder import Run

ENVS = {
    "car-racing": "FastCarRacing",
    "mario": "SuperMarioBros-1-1",
    "doom-take-cover": "DoomTakeCover",
    "CartPole-v1": "CartPole-v1",
}
"""The game of `run`, and the environment in the metadata of its store."""


def parsed(*words):
    options = build_parser(list(words)).parse_args(list(words))
    return options.train.memory if words[:2] == ("train", "memory") else options[words[0]]


def folder_of(game, path):
    """A run folder whose store is of an environment."""
    (path / "rollouts").mkdir()
    (path / "rollouts" / "metadata.json").write_text(json.dumps({"env": ENVS[game]}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("game", "preset"),
    [
        ("car-racing", "quick"),
        ("mario", "standard"),
        ("CartPole-v1", "paper"),
        ("mario", "quick"),
        ("doom-take-cover", "quick"),
    ],
)
def test_stages_have_the_defaults_of_the_pipeline(game, preset, tmp_path):
    folder = folder_of(game, tmp_path)
    pipeline = parsed("run", game, "--preset", preset)
    for env in {game, ENVS[game]}:
        collect = parsed("collect", env, "--preset", preset)
        assert collect.collect == pipeline.collect
        assert collect.env_options == pipeline.env_options
        assert parsed("run", env, "--preset", preset).game == pipeline.game
    vae = build_parser(words := ["train", "vae", folder, "--preset", preset]).parse_args(words).train.vae
    assert vae.vae == pipeline.vae
    memory = parsed("train", "memory", folder, "--preset", preset)
    assert memory.memory == pipeline.memory
    evolve = parsed("evolve", folder, "--preset", preset)
    assert (evolve.game, evolve.dream, evolve.controller) == (pipeline.game, pipeline.dream, pipeline.controller)
    evaluation = parsed("evaluate", folder, "--preset", preset)
    assert evaluation.eval == pipeline.eval
    dream = parsed("dream", folder, "--preset", preset)
    assert dream.num_rollouts == pipeline.dream.num_rollouts or preset != "quick"


def test_options_override_a_preset(tmp_path):
    folder = folder_of("car-racing", tmp_path)
    assert parsed("evolve", folder, "--preset", "quick", "--game.generations", "3").game.generations == 3
    assert parsed("train", "memory", folder, "--memory.num_updates", "7", "--preset", "quick").memory.num_updates == 7
    words = ("evaluate", "--pretrained", "car-racing", "--preset", "quick")
    assert parsed(*words).eval.episodes == parsed("run", "car-racing", "--preset", "quick").eval.episodes


@pytest.mark.parametrize("words", ["collect CartPole-v1", "train vae x", "evaluate x"])
def test_an_unknown_preset_is_refused(words, capsys):
    assert "quick" in refused(capsys, *words.split(), "--preset", "quik")


def test_where_has_one_default(tmp_path, capsys):
    for command in ("evolve", "evaluate", "dream"):
        assert parsed(command, str(tmp_path)).where is None
    for folders, where in (((), "game"), (("dream",), "dream"), (("dream", "game"), "game")):
        for name in folders:
            (tmp_path / f"evolve-{name}").mkdir(exist_ok=True)
        assert Run(tmp_path).evolved == where
        other = "dream" if where == "game" else "game"
        words = ["evolve", str(tmp_path), f"--{other}.generations", "2", "--preset", "quick"]
        assert f"--where {where}" in refused(capsys, *words)
