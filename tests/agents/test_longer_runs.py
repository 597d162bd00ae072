"""Larger numbers of episodes, updates and generations continue a run; smaller ones are refused, old searches are archived."""

import json
import shutil
from types import MappingProxyType

import numpy as np
import pytest

from worldmodel.agents.cli.main import main
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint, read_json, read_jsonl

SMALL_COUNTS = {
    "collect.episodes": 4,
    "vae.num_updates": 4,
    "memory.num_updates": 4,
    "dream.generations": 1,
    "game.generations": 1,
}
OTHER_SETTINGS = {
    **{
        "workers": 1,
        "iterations": 0,
        "collect.max_steps": 12,
        "vae.latent_dim": 4,
        "memory.hidden_size": 8,
        "dream.population": 3,
        "dream.num_rollouts": 2,
    },
    **{"dream.horizon": 5, "game.population": 3, "game.episodes": 1, "game.eval_episodes": 1, "game.max_steps": 12},
    **{"eval.episodes": 1, "eval.max_steps": 12, "vae.batch_size": 4, "memory.batch_size": 4, "memory.seq_len": 8},
}


def run_pipeline(out, more=MappingProxyType({})):
    words = [
        word for name, value in (SMALL_COUNTS | OTHER_SETTINGS | more).items() for word in (f"--{name}", str(value))
    ]
    return main(["run", "CartPole-v1", "--preset", "quick", *words, "--out", str(out)])


pytestmark = [pytest.mark.usefixtures("no_report"), pytest.mark.slow]


@pytest.fixture(scope="module")
def small(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("longer") / "run"
    assert run_pipeline(out) == 0
    return out


@pytest.fixture
def run(small, tmp_path):
    return Run(shutil.copytree(small, tmp_path / "run"))


def updates(run, part):
    return read_jsonl(run.folder / part / "metrics.jsonl")[-1]["update"]


def generations(run, where):
    return len(read_jsonl(run.folder / f"evolve-{where}" / "metrics.jsonl"))


def fitness_of(run, where):
    with np.load(run.folder / f"evolve-{where}" / "state.npz") as saved:
        return json.loads(str(saved["about"]))["settings"]["fitness"]


def assert_stages_match(run):
    """Assert that each stage uses the last result of the stage before."""
    world = run.world()
    assert fingerprint(world.vae) == fingerprint(run.vae())
    assert fitness_of(run, "dream")["world"] == fitness_of(run, "game")["world"] == fingerprint(world)
    data = {part: read_json(run.folder / part / "settings.json")["data"] for part in ("vae", "memory")}
    assert fingerprint(run.vae()) in str(data["memory"])
    assert all(part["store"] == run.store().identity for part in data.values())


def test_larger_counts_continue_all_stages_and_archive_old_searches(run, tmp_path, capsys):
    before = {where: run.controller(where).parameters for where in ("dream", "game")}
    more = {"collect.episodes": 6, "vae.num_updates": 6, "memory.num_updates": 5}
    more |= {"dream.generations": 2, "game.generations": 2}
    assert run_pipeline(run.folder, more) == 0
    assert len(run.store()) == 6 and updates(run, "vae") == 4 + 6 and updates(run, "memory") == 4 + 5
    assert generations(run, "dream") == generations(run, "game") == 2
    assert_stages_match(run)
    messages = capsys.readouterr().err
    for where in ("dream", "game"):
        archived = run.folder / "earlier" / f"evolve-{where}-1"
        assert str(archived) in messages.replace("\n", "")
        archive = Run(run.folder / "earlier")
        shutil.copytree(archived, archive.folder / f"evolve-{where}")
        assert archive.controller(where).parameters.equal(before[where])
    weights = (run.folder / "memory" / "weights.safetensors").read_bytes()
    assert run_pipeline(run.folder, more) == 0  # nothing is left to do
    assert (run.folder / "memory" / "weights.safetensors").read_bytes() == weights
    assert not (run.folder / "earlier" / "evolve-dream-2").exists()


def test_more_generations_alone_continue_the_searches(run):
    first = read_jsonl(run.folder / "evolve-dream" / "metrics.jsonl")[0]
    assert run_pipeline(run.folder, {"dream.generations": 3, "game.generations": 2}) == 0
    assert generations(run, "dream") == 3 and generations(run, "game") == 2
    assert read_jsonl(run.folder / "evolve-dream" / "metrics.jsonl")[0] == first
    assert not (run.folder / "earlier").exists()


def test_more_memory_updates_alone_leave_the_vae_unchanged(run):
    vae_weights = (run.folder / "vae" / "weights.safetensors").read_bytes()
    assert run_pipeline(run.folder, {"memory.num_updates": 7}) == 0
    assert updates(run, "memory") == 7 and (run.folder / "vae" / "weights.safetensors").read_bytes() == vae_weights
    assert_stages_match(run)


@pytest.mark.parametrize("name", ["collect.episodes", "vae.num_updates", "memory.num_updates"])
def test_smaller_counts_are_refused_before_anything_changes(run, name, capsys):
    config = (run.folder / "config.yaml").read_text()
    assert run_pipeline(run.folder, {name: 2}) == 2
    assert f"{name} = 4" in capsys.readouterr().err
    assert (run.folder / "config.yaml").read_text() == config


@pytest.mark.parametrize("part", ["vae", "memory"])
def test_train_commands_continue_and_refuse_other_settings(run, part, capsys):
    words, setting = ["train", part, str(run.folder)], f"--{part}.num_updates"
    assert main([*words, setting, "7"]) == 0  # all other settings are those of the run
    assert updates(run, part) == 7
    before = (run.folder / part / "stage.json").read_bytes()
    assert main([*words, setting, "3"]) == 2
    assert "updates = 7" in capsys.readouterr().err
    assert main([*words, "--training.learning_rate", "0.5"]) == 2
    assert main([*words, "--seed", "9"]) == 2
    assert main([*words, "--preset", "quick"]) == 2
    assert (run.folder / part / "stage.json").read_bytes() == before
    assert main(words) == 0  # nothing is left to do
    assert updates(run, part) == 7
    (run.folder / part / "stage.json").unlink()  # as in runs of older versions
    assert main(words) == 0
    assert main([*words, setting, "8"]) == 0
    assert updates(run, part) == 8
    if part == "memory":
        assert main([*words, setting, "8", "--memory.seq_len", "9"]) == 2
    else:  # a search with the older world model prints a hint
        search = [
            "--preset",
            "quick",
            "--workers",
            "1",
            "--dream.population",
            "3",
            "--dream.num_rollouts",
            "2",
            "--dream.horizon",
            "5",
        ]
        assert main(["evolve", str(run.folder), "--where", "dream", *search, "--dream.generations", "1"]) == 0
        changed = fingerprint(run.vae()) != fingerprint(run.world().vae)  # the best weights may be the older ones
        assert ("train memory" in capsys.readouterr().err) == changed


@pytest.mark.parametrize("content", ["{", "{}", '{"vae": {"latent_dim": "x"}}', '{"vae": {"size": 3}}'])
def test_damaged_settings_of_a_training_are_one_line(run, capsys, content):
    path = run.folder / "vae" / "stage.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "vae", str(run.folder)])
    assert stopped.value.code == 2
    assert str(path) in capsys.readouterr().err.replace("\n", "")


def test_an_interrupted_longer_run_equals_an_uninterrupted_one(run, tmp_path, monkeypatch):
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    more = {"vae.num_updates": 8, "memory.num_updates": 8}
    assert run_pipeline(run.folder, more) == 0
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    from worldmodel.agents.pipeline import stages

    for name in ("train_memory", "evolve_dream"):
        with monkeypatch.context() as patch:
            patch.setattr(stages, name, stop)
            assert run_pipeline(other.folder, more) == 130
    assert run_pipeline(other.folder, more) == 0
    for path in ("vae/weights.safetensors", "memory/weights.safetensors", "evolve-game/controller.safetensors"):
        assert (run.folder / path).read_bytes() == (other.folder / path).read_bytes()


def stop(*given, **named):
    raise KeyboardInterrupt
