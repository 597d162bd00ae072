"""Iterated dreams: each iteration plays, learns and dreams again; a stop between any two steps changes nothing."""

import json

import numpy as np
import pytest

import agents.iterations
from agents.cli import main
from agents.run import Run
from tests.agents.test_story import SMALL
from worldmodel.checkpoints import read_json

ITERATED = ["run", "CartPole-v1", *SMALL, "--game.generations", "0", "--iterate.episodes", "2"]


def told(out, iterations):
    assert main([*ITERATED, "--iterations", str(iterations), "--out", str(out)]) == 0


def rows(out):
    return read_json(out / "iterations" / "summary.json")["rows"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("iterations") / "run"
    told(out, 2)
    return out


def test_each_iteration_adds_its_episodes_and_says_what_it_came_to(finished):
    run = Run(finished)
    store, said = run.store(), rows(finished)
    assert len(store) == 16 + 2 * 4
    assert [one["number"] for one in said] == [1, 2]
    assert [part["first"] for part in store.metadata["further"]] == [16, 18, 20, 22]
    for number, one in enumerate(said):
        played = store.returns[16 + 4 * number :][:2]
        assert one["episode_mean"] == pytest.approx(np.mean(played))
        assert one["n"] == 2
        assert one["gap"] == pytest.approx(one["dream"] - one["real"])
    assert said[-1]["real_steps"] == store.steps
    best = max(said, key=lambda one: one["episode_mean"])["number"]
    home = finished / "iterations" / f"{best:02d}"
    for name in ("world/memory.safetensors", "evolve-dream/controller.safetensors"):
        assert (home / name).read_bytes() == (finished / name).read_bytes()
    first, second = ((finished / "iterations" / n / "world" / "memory.safetensors").read_bytes() for n in ("01", "02"))
    assert first != second


def test_the_report_counts_what_was_really_lived(finished):
    report = Run(finished).reports()["dream"]
    assert report.real_steps == Run(finished).store().steps
    lines = [path.read_text().splitlines() for path in finished.glob("iterations/*/evolve-dream/metrics.jsonl")]
    assert report.dream_steps == sum(json.loads(line)["steps"] for part in lines for line in part)


def test_more_iterations_go_on_and_a_finished_run_is_told_at_once(finished, tmp_path):
    told(tmp_path / "run", 1)
    told(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    before = (finished / "world" / "memory.safetensors").read_bytes()
    assert before == (tmp_path / "run" / "world" / "memory.safetensors").read_bytes()
    told(finished, 2)
    assert (finished / "world" / "memory.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_world", "_dream", "_play", "_record"])
def test_a_stop_before_any_step_of_an_iteration_changes_nothing(finished, tmp_path, monkeypatch, step):
    class Stop(Exception):
        pass

    original, calls = getattr(agents.iterations, step), []

    def stopping(*args):
        calls.append(step)
        if len(calls) == 2:
            raise Stop
        return original(*args)

    monkeypatch.setattr(agents.iterations, step, stopping)
    with pytest.raises(Stop):
        told(tmp_path / "run", 2)
    monkeypatch.undo()
    told(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    name = "world/memory.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
