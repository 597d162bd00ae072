"""Searches from a dream's controller and from zero: pairs, frames, and medians."""

import pytest

from benchmarks import warm_start
from benchmarks.warm_start import frames_to, main, table
from worldmodel.agents.cli.main import main as command
from worldmodel.io.files import read_json


def row(start, seed, *evaluations):
    pairs = [{"frames": frames, "return": value} for frames, value in evaluations]
    return {"start": start, "seed": seed, "frames_before": 9_000, "evaluations": pairs, "hardware": "a machine"}


def test_frames_are_those_of_the_first_evaluation_that_reaches_a_return():
    one = row("zeros", 1, (10, 400), (20, 800), (30, 600))
    assert frames_to(one, 500) == frames_to(one, 700) == 20
    assert frames_to(one, 850) == float("inf")


def test_the_table_has_medians_and_says_never():
    rows = [row("zeros", seed, (10_000, 400), (20_000, best)) for seed, best in ((1, 510), (2, 720), (3, 640))]
    rows += [row("dream", seed, (10_000, best)) for seed, best in ((1, 900), (2, 710), (3, 860))]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(rows).splitlines()[2:4]]
    assert lines[0] == ["zeros", "3", "20,000", "never", "never", "623"]
    assert lines[1] == ["dream", "3", "10,000", "10,000", "10,000", "823"]


@pytest.mark.slow
def test_pairs_of_searches_are_run_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(warm_start, "RESULT", tmp_path / "warm-start.json")
    for name, value in {"GENERATIONS": 2, "POPULATION": 3, "EPISODES": 1, "EVAL_EVERY": 1, "EVAL_EPISODES": 2}.items():
        monkeypatch.setattr(warm_start, name, value)
    run = tmp_path / "run"
    words = [
        "--preset",
        "quick",
        "--workers",
        "1",
        "--iterations",
        "0",
        "--collect.episodes",
        "4",
        "--vae.num_updates",
        "2",
    ]
    words += [
        "--memory.num_updates",
        "2",
        "--memory.hidden_size",
        "4",
        "--dream.generations",
        "1",
        "--game.generations",
        "0",
    ]
    words += ["--eval.episodes", "1", "--eval.max_steps", "9", "--out", str(run)]
    assert command(["run", "CartPole-v1", *words]) == 0
    for _ in range(2):
        main(["run", str(run), "--seeds", "1", "--workers", "1"])
    rows = read_json(tmp_path / "warm-start.json")
    assert [(one["start"], one["seed"]) for one in rows] == [("dream", 1), ("zeros", 1)]
    assert all([len(one["evaluations"]) == 2 for one in rows])
    assert all(one["evaluations"][0]["frames"] < one["evaluations"][1]["frames"] for one in rows)
    assert rows[0]["frames_before"] > rows[1]["frames_before"] == 0
