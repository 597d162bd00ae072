"""Iterations that continue the VAE, the memories and the controller of the previous one, and the ends of their episodes."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.agents.test_iterative_training import ITERATED, rows, run_iterations
from worldmodel.agents.cli.main import main
from worldmodel.agents.pipeline import iteration_models, iterative_training
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint, read_json, write_json
from worldmodel.start_states import StartStates

CONTINUED = ["--iterate.ensemble_size", "2", "--iterate.init_from", "last"]
CONTINUED += ["--iterate.memory_updates", "3", "--iterate.vae_updates", "3"]
CONTINUED += ["--iterate.recent_episodes", "2", "--iterate.param_noise", "0.1", "--dream.termination_hazard_ratio", "2"]
CONTINUED += ["--collect.max_idle_steps", "30", "--memory.pad_episode_ends", "true", "--memory.stall_delay", "0"]


@pytest.mark.slow
def test_a_lost_ensemble_member_is_an_error(continued, tmp_path, capsys):
    shutil.copytree(continued, tmp_path / "run")
    (tmp_path / "run" / "iterations" / "02" / "world-1" / "world" / "config.json").unlink()
    assert main([*ITERATED, *CONTINUED, "--iterations", "3", "--out", str(tmp_path / "run")]) == 2
    assert "world-1" in capsys.readouterr().err


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def continued(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("resumed") / "run"
    run_iterations(out, 2, *CONTINUED)
    return out


@pytest.mark.slow
def test_vae_memory_and_controller_continue_from_the_previous_iteration(continued):
    first, second = (Run(continued / "iterations" / name) for name in ("01", "02"))
    memory = read_json(second.folder / "memory" / "settings.json")
    assert memory["from"] == fingerprint(first.world().memory)
    assert memory["num_updates"] == 3
    assert read_json(second.folder / "vae" / "settings.json")["from"] == fingerprint(Run(continued).vae())
    assert fingerprint(second.world().vae) != fingerprint(first.world().vae)
    with np.load(second.folder / "evolve-dream" / "state.npz") as saved:
        start = json.loads(str(saved["about"]))["settings"]["start"]
    parameters = first.controller("dream").parameters.double().numpy()
    assert start == hashlib.sha256(parameters.tobytes()).hexdigest()[:16]


@pytest.mark.slow
def test_continued_iterations_weight_recent_episodes_and_explore(continued):
    store = Run(continued).store()
    policies = [part["policy"] for part in store.metadata["policy_changes"]]
    assert [name.endswith("-exploration-0.2-spread-0.1") for name in policies] == [False, True, False, True]
    assert store.metadata["max_idle_steps"] == 30
    settings_paths = [continued / "iterations" / name / "world-1" / "memory" / "settings.json" for name in ("01", "02")]
    assert [read_json(path)["data"]["weights"] is not None for path in settings_paths] == [False, True]


@pytest.mark.slow
def test_saved_start_states_are_encoded_by_the_saved_vae(continued):
    run = Run(continued)
    latents = run.store().latents(run.world().vae)
    encoded = np.concatenate([latents.episode(index).mean for index in range(len(latents))]).astype(np.float32)
    for start_state in StartStates.load(run.world_folder).mean[:8, 0].float().numpy():
        assert np.abs(encoded - start_state).max(axis=1).min() < 1e-6


@pytest.mark.slow
def test_the_best_agent_continues_unchanged_and_the_ensemble_trains(tmp_path):
    out, options = tmp_path / "run", ["--iterate.vae_updates", "0"]
    run_iterations(out, 2, *CONTINUED, *options)
    result_path = out / "iterations" / "01" / "iteration.json"
    # The first iteration is best, and the second trained further.
    write_json(result_path, read_json(result_path) | {"episode_mean": 1e6})
    run_iterations(out, 3, *CONTINUED, *options, "--iterate.init_from", "best")
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


@pytest.mark.slow
def test_an_agent_with_an_older_vae_is_refused_beside_newer_memories(continued, tmp_path, capsys):
    out = shutil.copytree(continued, tmp_path / "run")
    result_path = out / "iterations" / "01" / "iteration.json"
    write_json(result_path, read_json(result_path) | {"episode_mean": 1e6})
    words = [*ITERATED, *CONTINUED, "--iterate.vae_updates", "0", "--iterate.init_from", "best"]
    assert main([*words, "--iterations", "3", "--out", str(out)]) == 2
    assert "iterate.init_from" in capsys.readouterr().err


@pytest.mark.slow
def test_memories_train_on_episode_ends_and_dreams_end_sooner(continued):
    parts = ("memory", "iterations/01/world-1/memory", "iterations/02/memory", "iterations/02/world-2/memory")
    for part in parts:
        data = read_json(continued / part / "settings.json")["data"]
        assert (data["terminate_on_stall"], data["pad_episode_ends"]) == (30, True)
    with np.load(continued / "iterations" / "02" / "evolve-dream" / "state.npz") as saved:
        assert (
            json.loads(str(saved["about"]))["settings"]["fitness"].items()
            >= {"termination_hazard_ratio": 2, "use_expected_continuation": True}.items()
        )


@pytest.mark.slow
def test_dreams_use_other_memories_than_the_agent(continued):
    for name in ("01", "02"):
        iteration_dir = continued / "iterations" / name
        fingerprints = {fingerprint(Run(iteration_dir / part).world().memory) for part in (".", "world-1", "world-2")}
        assert len(fingerprints) == 3
        with np.load(iteration_dir / "evolve-dream" / "state.npz") as saved:
            fitness = json.loads(str(saved["about"]))["settings"]["fitness"]
        assert set(fitness["ensemble"]) < fingerprints
    assert all(one["disagreement"] > 0 for one in rows(continued))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_vae", "_evolve", "_play", "_write_result"])
def test_interrupted_continued_iterations_equal_uninterrupted_ones(continued, tmp_path, monkeypatch, step):
    class Stop(Exception):
        pass

    module = iteration_models if step == "_vae" else iterative_training
    original, calls = getattr(module, step), []

    def stopping(*args):
        calls.append(step)
        if len(calls) == 2:
            raise Stop
        return original(*args)

    monkeypatch.setattr(module, step, stopping)
    with pytest.raises(Stop):
        run_iterations(tmp_path / "run", 2, *CONTINUED)
    monkeypatch.undo()
    run_iterations(tmp_path / "run", 2, *CONTINUED)
    assert rows(tmp_path / "run") == rows(continued)


@pytest.mark.slow
def test_dreams_start_in_recent_episodes(continued):
    for name in ("01", "02"):
        with np.load(continued / "iterations" / name / "evolve-dream" / "state.npz") as saved:
            start_states = json.loads(str(saved["about"]))["settings"]["fitness"]["start_states"]
        count = read_json(continued / "iterations" / name / "episodes.json")["episodes"]
        assert (start_states["recent"], start_states["episodes"]) == (2, count)
