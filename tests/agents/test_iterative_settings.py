"""Iterations that go on from the one before: eye, memories and controller; and where their lives end."""

import hashlib
import json
import shutil

import numpy as np
import pytest

import agents.iterative_training
from agents.cli import main
from agents.run import Run
from tests.agents.test_iterative_training import ITERATED, rows, told
from worldmodel.io import fingerprint, read_json, write_json
from worldmodel.start_states import StartStates

FURTHER = ["--iterate.ensemble_size", "2", "--iterate.disagreement_penalty", "1", "--iterate.init_from", "last"]
FURTHER += ["--iterate.memory_updates", "3", "--iterate.vae_updates", "3", "--iterate.vae_every", "1"]
FURTHER += ["--iterate.recent_episodes", "2", "--iterate.recent_fraction", "0.75", "--iterate.param_noise", "0.1"]
FURTHER += [
    "--collect.max_idle_steps",
    "30",
    "--memory.terminate_on_stall",
    "true",
    "--memory.pad_episode_ends",
    "true",
]
FURTHER += ["--dream.termination_hazard_ratio", "2", "--dream.use_expected_continuation", "true"]


def test_a_world_that_was_lost_is_not_learned_again_in_silence(further, tmp_path, capsys):
    shutil.copytree(further, tmp_path / "run")
    (tmp_path / "run" / "iterations" / "02" / "world-1" / "world" / "config.json").unlink()
    assert main([*ITERATED, *FURTHER, "--iterations", "3", "--out", str(tmp_path / "run")]) == 2
    assert "world-1" in capsys.readouterr().err


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def further(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("further") / "run"
    told(out, 2, *FURTHER)
    return out


def test_eye_memory_and_controller_go_on_from_the_iteration_before(further):
    first, second = (Run(further / "iterations" / name) for name in ("01", "02"))
    memory = read_json(second.folder / "memory" / "settings.json")
    assert memory["from"] == fingerprint(first.world().memory)
    assert memory["num_updates"] == 3
    assert read_json(second.folder / "vae" / "settings.json")["from"] == fingerprint(Run(further).vae())
    assert fingerprint(second.world().vae) != fingerprint(first.world().vae)
    with np.load(second.folder / "evolve-dream" / "state.npz") as saved:
        start = json.loads(str(saved["about"]))["settings"]["start"]
    parameters = first.controller("dream").parameters.double().numpy()
    assert start == hashlib.sha256(parameters.tobytes()).hexdigest()[:16]


def test_what_goes_on_learns_most_from_the_newest_and_explores_around_its_controller(further):
    store = Run(further).store()
    policies = [part["policy"] for part in store.metadata["policy_changes"]]
    assert [name.endswith("-exploration-0.2-spread-0.1") for name in policies] == [False, True, False, True]
    assert store.metadata["max_idle_steps"] == 30
    homes = [further / "iterations" / name / "world-1" / "memory" / "settings.json" for name in ("01", "02")]
    assert ["weighted" in read_json(path)["data"] for path in homes] == [False, True]


def test_the_starts_that_are_kept_are_seen_by_the_eye_that_is_kept(further):
    run = Run(further)
    latents = run.store().latents(run.world().vae)
    seen = np.concatenate([latents.episode(index).mean for index in range(len(latents))]).astype(np.float32)
    for start in StartStates.load(run.world_folder).mean[:8, 0].float().numpy():
        assert np.abs(seen - start).max(axis=1).min() < 1e-6


@pytest.mark.slow
def test_the_best_agent_goes_on_as_it_is_and_the_worlds_learn(tmp_path):
    out, kept = tmp_path / "run", ["--iterate.vae_updates", "0"]
    told(out, 2, *FURTHER, *kept)
    written = out / "iterations" / "01" / "iteration.json"
    write_json(written, read_json(written) | {"episode_mean": 1e6})  # the first was best, and the second learned on
    told(out, 3, *FURTHER, *kept, "--iterate.init_from", "best")
    best = Run(out / "iterations" / "01")
    second, third = (Run(out / "iterations" / name) for name in ("02", "03"))
    assert fingerprint(third.world()) == fingerprint(best.world())
    with np.load(third.folder / "evolve-dream" / "state.npz") as saved:
        start = json.loads(str(saved["about"]))["settings"]["start"]
    parameters = best.controller("dream").parameters.double().numpy()
    assert start == hashlib.sha256(parameters.tobytes()).hexdigest()[:16]
    for which in ("world-1", "world-2"):
        last = Run(second.folder / which).world().memory
        assert read_json(third.folder / which / "memory" / "settings.json")["from"] == fingerprint(last)


def test_an_agent_of_an_older_eye_does_not_go_on_beside_newer_memories(further, tmp_path, capsys):
    out = shutil.copytree(further, tmp_path / "run")
    written = out / "iterations" / "01" / "iteration.json"
    write_json(written, read_json(written) | {"episode_mean": 1e6})
    words = [*ITERATED, *FURTHER, "--iterate.vae_updates", "0", "--iterate.init_from", "best"]
    assert main([*words, "--iterations", "3", "--out", str(out)]) == 2
    assert "iterate.init_from" in capsys.readouterr().err


def test_memories_learn_where_lives_end_and_dreams_end_sooner(further):
    parts = ("memory", "iterations/01/world-1/memory", "iterations/02/memory", "iterations/02/world-2/memory")
    for part in parts:
        data = read_json(further / part / "settings.json")["data"]
        assert "patience 30" in data
        assert "overhanging" in data
    with np.load(further / "iterations" / "02" / "evolve-dream" / "state.npz") as saved:
        assert (
            json.loads(str(saved["about"]))["settings"]["fitness"].items()
            >= {"hazard_ratio": 2, "weigh_ends": True}.items()
        )


def test_dreams_happen_in_other_memories_than_the_agents_own(further):
    for name in ("01", "02"):
        home = further / "iterations" / name
        marks = {fingerprint(Run(home / part).world().memory) for part in (".", "world-1", "world-2")}
        assert len(marks) == 3
        with np.load(home / "evolve-dream" / "state.npz") as saved:
            fitness = json.loads(str(saved["about"]))["settings"]["fitness"]
        assert set(fitness["worlds"]) < marks
        assert fitness["caution"] == 1
    assert all(one["disagreement"] > 0 for one in rows(further))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_vae", "_evolve", "_play", "_write_result"])
def test_a_stop_of_what_goes_on_changes_nothing(further, tmp_path, monkeypatch, step):
    class Stop(Exception):
        pass

    original, calls = getattr(agents.iterative_training, step), []

    def stopping(*args):
        calls.append(step)
        if len(calls) == (4 if step == "_vae" else 2):
            raise Stop
        return original(*args)

    monkeypatch.setattr(agents.iterative_training, step, stopping)
    with pytest.raises(Stop):
        told(tmp_path / "run", 2, *FURTHER)
    monkeypatch.undo()
    told(tmp_path / "run", 2, *FURTHER)
    assert rows(tmp_path / "run") == rows(further)


def test_dreams_begin_in_the_newest_episodes(further):
    for name in ("01", "02"):
        with np.load(further / "iterations" / name / "evolve-dream" / "state.npz") as saved:
            starts = json.loads(str(saved["about"]))["settings"]["fitness"]["starts"]
        count = read_json(further / "iterations" / name / "episodes.json")["episodes"]
        assert starts.startswith(f"2 of the first {count} episodes of ")
