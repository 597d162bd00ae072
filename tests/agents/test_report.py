"""The report of a run."""

import json
import re

import numpy as np
import pytest

from tests import toys
from tests.agents.test_dream_video import episode, world
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts
from worldmodel.agents import Report
from worldmodel.agents.analysis import dream_video, report
from worldmodel.agents.analysis.diagnostics import MemoryDiagnostics
from worldmodel.agents.analysis.html import section, table
from worldmodel.agents.runs.iteration import num_training_episodes
from worldmodel.agents.runs.run_folder import REST, Run
from worldmodel.messages import format_number
from worldmodel.rollouts.policy.controllers import LinearController


def test_tables_have_no_empty_columns():
    html = table(["name", "flag", "n"], [["a", "", "1"], ["b", "", "2"]])
    assert "flag" not in html
    assert html.count("<td") == 4
    assert section("Nothing", "") == ""


def test_times_add_up_to_the_wall_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("worldmodel.agents.runs.run_folder.time.monotonic", lambda: now[0])
    run = Run(tmp_path)
    for _ in range(2):  # two sessions
        with run.session() as add_rest:
            now[0] += 1
            with run.stage("collect"):
                now[0] += 10
            add_rest()
    assert run.timings() == {"collect": 20, REST: 2}


def test_times_of_an_older_density_get_the_current_names(tmp_path):
    (tmp_path / "timings.json").write_text('{"learn": 12.5, "judge": 0.5}')
    assert Run(tmp_path).timings() == {"fit": 12.5, "evaluate": 0.5}


def test_scores_are_the_statistics_of_the_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(report.plots, "histogram", lambda *args, **options: b"")
    run, returns = Run(tmp_path), {"dream": [1.0, 3.0, 8.0], "game": [2.0, 2.0, 3.0]}
    for name, values in returns.items():
        Report("CartPole-v1", values, [1] * 3, [1, 2, 3], policy=name).save(tmp_path / "tests" / f"{name}.json")
    heads, *rows = re.findall("<tr>(.*?)</tr>", report._scores(run))
    names = re.findall("<th.*?>(.*?)</th>", heads)
    for row, (name, values) in zip(rows, returns.items(), strict=True):
        shown = dict(zip(names, re.findall("<td.*?>(.*?)</td>", row), strict=True))
        std = np.std(values, ddof=1)
        statistics = {"mean return": np.mean(values), "standard deviation": std, "standard error": std / 3**0.5}
        expected = {"controller": name, "episodes": "3"} | {
            key: format_number(value) for key, value in statistics.items()
        }
        assert {key: shown[key] for key in expected} == expected
    assert run.best == "dream"
    Report("CartPole-v1", [4.0], [1], [1]).save(tmp_path / "tests" / "game.json")  # an equal mean
    assert run.best == "game"
    assert Run(tmp_path / "new").best is None


def test_steps_of_evolution_include_evaluations_and_iterations(tmp_path):
    rows = {
        "evolve-dream": [{"steps": 5, "eval_steps": 2}, {"steps": 3}],
        "iterations/01/evolve-dream": [{"steps": 10}],
    }
    for folder, lines in (rows | {"evolve-game": [{"steps": 100}]}).items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Run(tmp_path).evolution_steps("dream") == 20


def test_training_episodes_are_those_before_the_iteration_that_trained_the_memory(tmp_path, monkeypatch):
    run = Run(tmp_path)
    for number, weights, episodes in ((1, b"one", 5), (2, b"two", 9), (3, b"two", 13)):  # the third has a copy
        folder = tmp_path / "iterations" / f"{number:02d}"
        (folder / "world").mkdir(parents=True)
        (folder / "world" / "memory.safetensors").write_bytes(weights)
        (folder / "episodes.json").write_text(json.dumps({"episodes": episodes}))
    run.world_folder.mkdir()
    monkeypatch.setattr(Run, "store", lambda run: range(20))
    for weights, count in ((b"one", 5), (b"two", 9), (b"of no iteration", 20)):
        (run.world_folder / "memory.safetensors").write_bytes(weights)
        assert num_training_episodes(run) == count


def test_controller_film_shows_the_game_and_the_dream():
    world_model, played = world(), episode()
    film = dream_video.controller_film(world_model, LinearController.for_world_model(world_model), played, 30)
    assert film.shape[2] == 2 * 256 + 8
    assert len(film) >= len(played) + 1  # the shorter one repeats its last frame
    np.testing.assert_array_equal(film[3, 16::4, :256:4], played.frames[3])
    first = world_model.decode(dream_video.encode_means(world_model, played)[:1])[0]
    np.testing.assert_allclose(film[0, 16::4, 264::4].astype(int), first, atol=1)


def test_reconstructions_show_varied_frames(tmp_path):
    world_model = world()
    store = rollouts.collect(toys.counter, rollouts.uniform, 3, seed=1, out=tmp_path)
    frames = dream_video.varied_frames(store, store.latents(world_model.vae), 6)
    values = frames[:, 0, 0, 0].tolist()
    assert len(set(values)) >= 3
    assert {0, 20} & set(values)
    assert dream_video.reconstructions(world_model, frames).shape == (2 * (3 * 64 + 2 * 2), 2 * (6 * 64 + 5 * 2), 3)


@pytest.mark.slow
def test_constant_frames_are_shown(tmp_path):
    world_model = WorldModel(VAE(latent_dim=3), Memory(FRMDN(4, 3, hidden_size=5))).eval()
    constant = toys.Rewarding(lambda seed, now: 0)
    played = rollouts.play(constant, rollouts.uniform, 1)
    assert (
        len(dream_video.controller_film(world_model, LinearController.for_world_model(world_model), played, 60))
        >= len(played) + 1
    )
    assert dream_video.write_film(tmp_path, "still", dream_video.film(world_model, played))[0].stat().st_size > 0
    store = rollouts.collect(toys.now_and_then, rollouts.uniform, 2, seed=1, out=tmp_path / "store")
    assert dream_video.varied_frames(store, store.latents(world_model.vae)).shape == (10, 64, 64, 3)
    assert dream_video.long_episode([5, 70, 9]) == 1
    assert dream_video.long_episode([5, 7, 6]) == 1
    assert dream_video.resolve_start_step(played.first(4)) == 2


@pytest.mark.parametrize("floor", [None, 12.5])
def test_the_floor_is_the_entropy_at_held_out_targets(tmp_path, monkeypatch, floor):
    """The diagnostics have an entropy only where the targets of the memory are samples."""
    lines = []
    (tmp_path / "memory").mkdir()
    rows = [{"update": 1, "train": {"nll": 2.0}, "held_out": {"nll": 3.0}}]
    (tmp_path / "memory" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = MemoryDiagnostics(3.0, 4.0, 5.0, floor, None, None, 0, None, None, 10, 1)
    monkeypatch.setattr(report, "diagnostics", lambda run: {"memory": measured})
    monkeypatch.setattr(report.plots, "curves", lambda *args, **options: lines.append(args[3]) or b"")
    report._curves(Run(tmp_path))
    assert [None if one is None else list(one.values()) for one in lines] == [None if floor is None else [floor]]
